"""`itera eval` from a checkpoint and a text to a result file."""

import math
import random
import shutil

import pytest

from itera_lite.checkpoint.folder import load_checkpoint
from itera_lite.commands.evaluate import evaluate
from itera_lite.commands.train import train
from itera_lite.data.corpus import load_documents
from itera_lite.data.prepare import prepare
from itera_lite.engine import Model
from itera_lite.errors import CheckpointError, IteraError, UsageError
from itera_lite.evaluate.bits import score_documents
from itera_lite.evaluate.documents import read_documents, sample_documents, shuffled
from itera_lite.export.gguf import export_gguf
from itera_lite.records import Evaluation
from tests.train.small import make_small


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
    assert Evaluation.read(tmp_path / f"{name}_eval.json") == record
    assert record.bpb == pytest.approx(record.loss / math.log(2) * record.tokens / record.bytes)
    assert record.tokens == record.bytes + record.documents  # tokens are bytes
    assert record.ppl == pytest.approx(math.exp(record.loss))
    assert record.baselines.keys() - {"ppmd", "zpaq"} == {"xz", "bz2", "kneser_ney"}
    assert record.word_ppl is None
    assert "32 tokens" in record.policy
    assert record.provenance.versions["torch"]
    printed = capsys.readouterr().out
    assert f"{record.bpb:.4f}  bits per byte" in printed and "kneser_ney" in printed


def test_words_are_counted_for_wikitext(tiny_pair, tmp_path, monkeypatch):
    articles = [" = A = \n \n the <unk> ran . \n \n", " = B = \n \n it sat . \n \n"]
    for split in ("train", "valid", "test"):
        folder = tmp_path / "data" / "wikitext-2"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{split}.txt").write_text("".join(a.replace("ran", split) for a in articles))
    monkeypatch.setenv("ITERA_DATA", str(tmp_path / "data"))
    folder = tiny_pair["transformer_test"]
    record = evaluate(folder, data="wikitext-2", split="test", results=tmp_path, baselines=False)
    assert record.words == (3 + 4) + (3 + 3) + 8  # and eight line ends
    assert record.baselines == {}
    nats = record.loss * record.tokens
    assert record.word_ppl == pytest.approx(math.exp(nats / record.words))


def test_data_and_window_of_the_training_are_the_default(corpus, tmp_path, monkeypatch):
    make_small(monkeypatch)
    where = {"checkpoints": tmp_path, "results": tmp_path}
    options = {"seq_len": 48, "batch_size": 2, "vocab_size": 257, "workers": 1, "quiet": True}
    train(str(corpus), model="itera", name="mine", tokens="200", **options, **where)
    record = evaluate(tmp_path / "mine", results=tmp_path, baselines=False)
    assert (record.source, record.seq_len) == (str(corpus), 48)
    model, tokenizer = load_checkpoint(tmp_path / "mine")
    valid = load_documents(str(corpus)).splits["valid"]
    assert record.bpb == pytest.approx(
        score_documents(model, tokenizer, valid, seq_len=48).bpb, rel=1e-4
    )


@pytest.mark.parametrize("size", [None, 10, 300, 10**6])
def test_the_documents_of_a_prepared_set_are_those_of_the_text(size, tiny_pair, corpus):
    """All of them, or the same random choice in the same order."""
    texts = load_documents(str(corpus)).splits["train"]
    dataset = prepare(str(corpus), tokenizer=load_checkpoint(tiny_pair["itera_lite_test"])[1])
    wanted = texts if size is None else sample_documents(texts, size)
    assert read_documents(dataset, "train", size) == wanted


def test_a_sample_says_that_it_is_one(tiny_pair, corpus, tmp_path, capsys):
    record = evaluate(
        tiny_pair["itera_lite_test"],
        data=str(corpus),
        split="train",
        max_bytes=200,
        results=tmp_path,
        baselines=False,
    )
    assert record.sampled and record.bytes <= 200
    assert "random choice" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"data": None}, UsageError, "--data"),
        ({"split": "tset"}, UsageError, "split='tset'"),
        ({"seq_len": 0}, UsageError, "--seq-len 0"),
        ({"workers": 0}, UsageError, "--workers 0"),
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
    assert Evaluation.read(tmp_path / "r" / "itera_lite_test_eval.json") == record
    assert record.baselines["xz"].bpb > 0 and record.bytes <= 1000

    monkeypatch.setenv("ITERA_CACHE", str(tmp_path / "cache"))
    evaluate(folder, data=str(corpus), results=tmp_path / "r", max_bytes="1KB")
    (kept,) = (tmp_path / "cache").glob("baselines-*")
    for damaged in ("", "[]", '{"xz": {"bpb": 1}}', "[" * 50_000):
        kept.write_text(damaged)
        again = evaluate(folder, data=str(corpus), results=tmp_path / "r", max_bytes="1KB")
        assert again.baselines == record.baselines


@pytest.mark.parametrize("error", [RuntimeError("by a bug"), KeyboardInterrupt()])
def test_a_score_is_shown_whatever_comes_after_it(
    error, tiny_pair, corpus, tmp_path, monkeypatch, capsys
):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("itera_lite.records.Record.write", fail)
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
        assert record.model.name == "mine" and (results / "mine_eval.json").exists()
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


def test_documents_are_chosen_in_the_order_of_the_standard_library() -> None:
    """Scores of earlier versions are of the same choice."""
    for n in (0, 1, 2, 25, 3_000):
        assert list(shuffled(n)) == random.Random(0).sample(range(n), n)
