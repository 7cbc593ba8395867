"""`itera eval` from a checkpoint and a text to a result file."""

import json
import math
import shutil

import pytest

from itera_lite.checkpoint.folder import load_checkpoint
from itera_lite.commands.evaluate import evaluate
from itera_lite.engine import Model
from itera_lite.errors import CheckpointError, IteraError, UsageError
from itera_lite.evaluate.bits import score_documents
from itera_lite.export.gguf import export_gguf


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    for i in range(30):
        text = f"Story {i}. The fox number {i} ran over {i * 7} hills.\nIt was late.\n"
        (folder / f"{i:02}.txt").write_text(text)
    return folder


@pytest.fixture
def gguf_file(tmp_path):
    (path := tmp_path / "model.gguf").write_bytes(b"GGUF")
    return path


@pytest.mark.parametrize("name", ["itera_lite_test", "transformer_test"])
def test_writes_what_it_measured(name, tiny_pair, corpus, tmp_path, capsys):
    record = evaluate(tiny_pair[name], data=str(corpus), results=tmp_path, seq_len=32)
    assert json.loads((tmp_path / f"{name}_eval.json").read_text()) == record
    assert record["bpb"] == pytest.approx(
        record["loss"] / math.log(2) * record["tokens"] / record["bytes"]
    )
    assert record["tokens"] == record["bytes"] + record["documents"]  # tokens are bytes
    assert record["ppl"] == pytest.approx(math.exp(record["loss"]))
    assert set(record["baselines"]) == {"xz", "bz2", "kneser_ney"}
    assert record["word_ppl"] is None
    assert "32 tokens" in record["policy"]
    assert record["provenance"]["versions"]["torch"]
    printed = capsys.readouterr().out
    assert f"{record['bpb']:.4f}  bits per byte" in printed and "kneser_ney" in printed


def test_words_are_counted_for_wikitext(tiny_pair, tmp_path, monkeypatch):
    articles = [" = A = \n \n the <unk> ran . \n \n", " = B = \n \n it sat . \n \n"]
    for split in ("train", "valid", "test"):
        folder = tmp_path / "data" / "wikitext-2"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{split}.txt").write_text("".join(a.replace("ran", split) for a in articles))
    monkeypatch.setenv("ITERA_DATA", str(tmp_path / "data"))
    folder = tiny_pair["transformer_test"]
    record = evaluate(folder, data="wikitext-2", split="test", results=tmp_path, baselines=False)
    assert record["words"] == (3 + 4) + (3 + 3) + 8  # and eight line ends
    assert record["baselines"] == {}
    nats = record["loss"] * record["tokens"]
    assert record["word_ppl"] == pytest.approx(math.exp(nats / record["words"]))


def test_data_and_window_of_the_training_are_the_default(tiny_pair, corpus, tmp_path):
    name = "itera_lite_test"
    summary = {"dataset": {"name": "corpus", "spec": str(corpus)}, "train": {"seq_len": 48}}
    (tmp_path / f"{name}_summary.json").write_text(json.dumps(summary))
    record = evaluate(tiny_pair[name], results=tmp_path, baselines=False)
    assert (record["data"], record["seq_len"]) == (str(corpus), 48)
    model, tokenizer = load_checkpoint(tiny_pair[name])
    from itera_lite.data.corpus import load_documents

    valid = load_documents(str(corpus)).splits["valid"]
    assert record["bpb"] == pytest.approx(
        score_documents(model, tokenizer, valid, seq_len=48).bpb, rel=1e-4
    )


def test_a_sample_says_that_it_is_one(tiny_pair, corpus, tmp_path, capsys):
    record = evaluate(
        tiny_pair["itera_lite_test"],
        data=str(corpus),
        split="train",
        max_bytes=200,
        results=tmp_path,
        baselines=False,
    )
    assert record["sampled"] and record["bytes"] <= 200
    assert "random choice" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"data": None}, UsageError, "--data"),
        ({"split": "tset"}, UsageError, "split='tset'"),
        ({"seq_len": 0}, UsageError, "--seq-len 0"),
        ({"threads": 0}, UsageError, "--threads 0"),
        ({"checkpoint": "nowhere"}, CheckpointError, "nowhere"),
    ],
)
def test_wrong_use_is_said(options, error, message, tiny_pair, corpus, tmp_path):
    wanted = {"checkpoint": tiny_pair["itera_lite_test"], "data": str(corpus), **options}
    with pytest.raises(error, match=message):
        evaluate(wanted.pop("checkpoint"), **wanted, results=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_score_is_not_lost_with_the_cache(tiny_pair, corpus, tmp_path, monkeypatch, capsys):
    """Where the baselines can't be kept, or are damaged, the result is shown and written."""
    (blocked := tmp_path / "file").write_text("no folder")
    folder = tiny_pair["itera_lite_test"]
    monkeypatch.setenv("ITERA_CACHE", str(blocked / "cache"))
    record = evaluate(folder, data=str(corpus), results=tmp_path / "r", max_bytes="1KB")
    out, err = capsys.readouterr()
    assert "note: the baselines aren't kept" in err and "bits per byte" in out
    assert json.loads((tmp_path / "r" / "itera_lite_test_eval.json").read_text()) == record
    assert record["baselines"]["xz"]["bpb"] > 0 and record["bytes"] <= 1000

    monkeypatch.setenv("ITERA_CACHE", str(tmp_path / "cache"))
    evaluate(folder, data=str(corpus), results=tmp_path / "r", max_bytes="1KB")
    (kept,) = (tmp_path / "cache").glob("baselines-*")
    for damaged in ("", "[]", '{"xz": {"bpb": 1}}', "[" * 50_000):
        kept.write_text(damaged)
        again = evaluate(folder, data=str(corpus), results=tmp_path / "r", max_bytes="1KB")
        assert again["baselines"] == record["baselines"]


@pytest.mark.parametrize("error", [RuntimeError("by a bug"), KeyboardInterrupt()])
def test_a_score_is_shown_whatever_comes_after_it(
    error, tiny_pair, corpus, tmp_path, monkeypatch, capsys
):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("itera_lite.commands.evaluate.write_json", fail)
    with pytest.raises(type(error)):
        evaluate(tiny_pair["itera_lite_test"], data=str(corpus), results=tmp_path, baselines=False)
    assert "bits per byte" in capsys.readouterr().out


def test_results_that_cannot_be_written_are_said_before_the_work(tiny_pair, tmp_path):
    (blocked := tmp_path / "file").write_text("no folder")
    with pytest.raises(IteraError, match=r"_eval\.json' can't be written: .*Nothing was computed"):
        evaluate(tiny_pair["itera_lite_test"], data="nowhere", results=blocked / "r")
    (tmp_path / "itera_lite_test_eval.json").mkdir()
    with pytest.raises(IteraError, match="it is a folder"):
        evaluate(tiny_pair["itera_lite_test"], data="nowhere", results=tmp_path)


def test_the_folder_one_stands_in_has_a_name(tiny_pair, corpus, tmp_path, monkeypatch):
    folder = shutil.copytree(tiny_pair["itera_lite_test"], tmp_path / "mine")
    (folder / "inner").mkdir()
    for place, given in ((folder, "."), (folder / "inner", ".."), (folder.parent, "mine/")):
        monkeypatch.chdir(place)
        results = tmp_path / "r" / given.strip("/")
        record = evaluate(given, data=str(corpus), results=results, baselines=False)
        assert record["name"] == "mine" and (results / "mine_eval.json").exists()
        made = export_gguf(given, "f32", results / "model.gguf")
        assert Model.load(made.path)._engine.name == "mine"


def test_what_eval_does_not_take(gguf_file, tiny_pair, corpus, tmp_path):
    with pytest.raises(UsageError, match="itera score TEXT --checkpoint FILE"):
        evaluate(gguf_file, data=str(corpus), results=tmp_path)
    text = tmp_path / "itera_lite_test_eval.json"
    text.write_text('{"text": "mine"}')
    with pytest.raises(UsageError, match="the text itself"):
        evaluate(tiny_pair["itera_lite_test"], data=str(text), results=tmp_path)
    assert text.read_text() == '{"text": "mine"}'
    for summary in ('{"dataset": {"spec": "-"}}', "[]", '{"dataset": null, "train": 3}', "{"):
        (tmp_path / "itera_lite_test_summary.json").write_text(summary)
        with pytest.raises(UsageError, match="--data"):
            evaluate(tiny_pair["itera_lite_test"], results=tmp_path)
