"""Peers compute what our model computes, and those that are missing are named."""

import pytest
import torch

from itera_lite.bench import runtimes
from itera_lite.bench.runtimes import Llama, Torch
from itera_lite.bench.speed import find_peers, prompt_rows
from itera_lite.checkpoint.folder import load_checkpoint
from itera_lite.errors import MissingExtra
from itera_lite.export.gguf import export_gguf

PROMPT = list(range(40, 60))


def test_every_peer_has_our_logits(tiny_pair):
    folders = list(tiny_pair.values())
    found, missing = find_peers(folders, "cpu", threads=1, context=64), runtimes.missing()
    kinds = {"transformers", "llama.cpp", "engine"} - missing.keys()
    assert missing.keys() <= {"llama.cpp"}
    assert {(peer.peer, peer.checkpoint) for peer in found} == {
        (k, i) for k in kinds for i in (0, 1)
    }
    for peer in found:
        assert peer.name == f"{peer.peer}:{folders[peer.checkpoint].name}"
        ours = Torch(load_checkpoint(folders[peer.checkpoint])[0])
        for batch in (1, 2) if peer.runtime.batches else (1, 1):  # again: each prompt begins anew
            same_logits(ours, peer.runtime, prompt_rows(PROMPT, batch, 20))


@torch.inference_mode()
def same_logits(ours, peer, rows):
    expected, logits = ours.read(rows), peer.read(rows)
    for token in (7, 8, 9):
        assert logits.shape == expected.shape
        torch.testing.assert_close(logits, expected, atol=2e-3, rtol=1e-3)
        ids = torch.full((len(rows),), token)
        expected, logits = ours.step(ids), peer.step(ids)
    torch.testing.assert_close(logits, expected, atol=2e-3, rtol=1e-3)


def test_a_peer_that_reads_one_text_refuses_more(tiny_pair):
    found = find_peers(list(tiny_pair.values())[:1], "cpu", threads=1, context=64)
    single = [peer for peer in found if not peer.runtime.batches]
    assert "engine" in [peer.peer for peer in single]
    for peer in single:
        with pytest.raises(ValueError, match="2 texts"):
            peer.runtime.read(prompt_rows(PROMPT, 2, 20))


def test_missing_packages_are_named_with_their_extra(tiny_pair, monkeypatch, tmp_path):
    monkeypatch.setattr(runtimes, "find_spec", lambda name: None)
    folders = list(tiny_pair.values())
    found, missing = find_peers(folders, "cpu", threads=1, context=64), runtimes.missing()
    assert [peer.peer for peer in found] == ["engine", "engine"]
    assert "itera-lite[peers]" in missing["transformers"]
    assert "itera-lite[llama]" in missing["llama.cpp"]
    with pytest.raises(MissingExtra, match=r"itera-lite\[peers\]"):
        runtimes.load_transformers(folders[0])
    with pytest.raises(MissingExtra, match=r"itera-lite\[llama\]"):
        Llama(tmp_path / "model.gguf", 64)


def test_on_a_gpu_those_of_the_processor_are_left_out():
    missing = runtimes.missing("cuda")
    assert "cuda" in missing["engine"] and "cuda" in missing["llama.cpp"]


@torch.inference_mode()
def test_llama_cpp_writes_and_has_the_logits_of_every_position(tiny_pair, tmp_path):
    pytest.importorskip("llama_cpp")
    folder = tiny_pair["transformer_test"]
    file = export_gguf(folder, "f32", tmp_path / "model.gguf").path
    peer, (model, tokenizer) = Llama(file, 64), load_checkpoint(folder)
    written = [[peer.write(40, seed) for seed in seeds] for seeds in ((1, 1, 1), range(8))]
    assert len(set(written[0])) == 1 < len(set(written[1])) and min(written[1]) > 0
    ids = [tokenizer.eot_id, *PROMPT]
    want = model(torch.tensor([ids]))[0]
    torch.testing.assert_close(torch.tensor(peer.logits(ids)), want, atol=2e-3, rtol=1e-3)
    peer.close()
