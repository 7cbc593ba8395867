"""Peers compute what our model computes, and those that are missing are named."""

import pytest
import torch

from itera_lite.bench import llama, peers
from itera_lite.bench.measure import IteraRunner, prompt_rows
from itera_lite.bench.peers import find_peers, unavailable_peers
from itera_lite.checkpoint.folder import load_checkpoint
from itera_lite.errors import MissingExtra

PROMPT = list(range(40, 60))


def test_every_peer_has_our_logits(tiny_pair):
    folders = list(tiny_pair.values())
    found, missing = find_peers(folders, device="cpu", threads=1, context=64)
    kinds = {"transformers", "llama.cpp", "engine"} - missing.keys()
    assert missing.keys() <= {"llama.cpp"}
    assert {(peer.kind, peer.of) for peer in found} == {(k, i) for k in kinds for i in (0, 1)}
    for peer in found:
        assert peer.runner.name == f"{peer.kind}:{folders[peer.of].name}"
        ours = IteraRunner("ours", load_checkpoint(folders[peer.of])[0].eval())
        for batch in (1, 2) if peer.batches else (1, 1):  # again: each prompt begins anew
            same_logits(ours, peer.runner, prompt_rows(PROMPT, batch, 20))


@torch.inference_mode()
def same_logits(ours, peer, rows):
    (expected, our_state), (logits, state) = ours.prefill(rows), peer.prefill(rows)
    for token in (7, 8, 9):
        assert logits.shape == expected.shape
        torch.testing.assert_close(logits, expected, atol=2e-3, rtol=1e-3)
        ids = torch.full((len(rows),), token)
        expected, our_state = ours.step(ids, our_state)
        logits, state = peer.step(ids, state)
    torch.testing.assert_close(logits, expected, atol=2e-3, rtol=1e-3)


def test_a_peer_that_reads_one_text_refuses_more(tiny_pair):
    found, _ = find_peers(list(tiny_pair.values())[:1], device="cpu", threads=1, context=64)
    single = [peer for peer in found if not peer.batches]
    assert "engine" in [peer.kind for peer in single]
    for peer in single:
        with pytest.raises(ValueError, match="2 texts"):
            peer.runner.prefill(prompt_rows(PROMPT, 2, 20))


def test_missing_packages_are_named_with_their_extra(tiny_pair, monkeypatch, tmp_path):
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    monkeypatch.setattr(llama, "find_spec", lambda name: None)
    folders = list(tiny_pair.values())
    found, missing = find_peers(folders, device="cpu", threads=1, context=64)
    assert [peer.kind for peer in found] == ["engine", "engine"]
    assert "itera-lite[peers]" in missing["transformers"]
    assert "itera-lite[llama]" in missing["llama.cpp"]
    with pytest.raises(MissingExtra, match=r"itera-lite\[peers\]"):
        peers.load_transformers(folders[0])
    with pytest.raises(MissingExtra, match=r"itera-lite\[llama\]"):
        llama.LlamaCpp(tmp_path / "model.gguf", context=64)


def test_on_a_gpu_those_of_the_processor_are_left_out():
    missing = unavailable_peers("cuda")
    assert "cuda" in missing["engine"] and "cuda" in missing["llama.cpp"]
