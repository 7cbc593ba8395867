"""Check the record of an evaluation, and what an evaluation refuses."""

import math

import pytest
import torch

from itera_lite.checkpoint.folder import load_checkpoint
from itera_lite.data.prepare import prepare
from itera_lite.errors import CheckpointError, OutputError, UsageError
from itera_lite.evaluate import evaluate as module
from itera_lite.evaluate.bits import score_documents
from itera_lite.evaluate.documents import read_documents, sample_documents
from itera_lite.evaluate.evaluate import evaluate_model, policy, prepared
from itera_lite.workers import Workers


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    for i in range(12):
        (folder / f"{i:02}.txt").write_text(f"Story {i}. The fox number {i} ran {i * 7} miles.\n")
    return str(folder)


@pytest.fixture(autouse=True)
def plain_operations(monkeypatch):
    """Use PyTorch's own operations: the fused ones take a minute to compile.

    Other tests check that both compute the same.
    """
    monkeypatch.setattr(module.ops, "enable", lambda: "not in this test")


@pytest.fixture(scope="module")
def parts(tiny_pair, corpus):
    model, tokenizer = load_checkpoint(tiny_pair["transformer_test"])
    return model, prepare(corpus, tokenizer=tokenizer)


def test_the_record_holds_what_was_scored(parts, corpus):
    model, dataset = parts
    with Workers(1) as workers:
        found = evaluate_model(
            "mine", model, dataset, corpus, "train", None, window=16, workers=workers
        )
    documents = list(dataset.documents("train"))
    score = score_documents(model, dataset.tokenizer, documents, seq_len=16)
    assert (found.bpb, found.loss, found.ppl) == pytest.approx((score.bpb, score.loss, score.ppl))
    assert (found.tokens, found.bytes, found.accuracy) == (
        score.tokens, score.bytes, score.accuracy,
    )  # fmt: skip
    assert [end for end, _ in found.by_position] == [*score.by_position]
    for (_, loss), (nats, n) in zip(found.by_position, score.by_position.values(), strict=True):
        assert loss == pytest.approx(nats / n)
    assert (found.model.name, found.source, found.split) == ("mine", corpus, "train")
    assert (found.documents, found.sampled, found.seq_len) == (len(documents), False, 16)
    assert (found.words, found.word_ppl, found.baselines) == (None, None, {})
    assert found.policy == policy(16)
    assert found.fused_operations is False
    assert found.provenance.machine.threads == 1


def test_the_record_says_whether_operations_were_fused(parts, corpus, monkeypatch):
    model, dataset = parts
    monkeypatch.setattr(module.ops, "enable", lambda: None)
    with Workers(2) as workers:
        found = evaluate_model(
            "mine", model, dataset, corpus, "valid", None, window=16, workers=workers
        )
    assert found.fused_operations is True
    assert found.provenance.machine.threads == 2


def test_a_part_of_the_documents_and_no_more_than_the_model_reads(parts, corpus):
    model, dataset = parts
    with Workers(1) as workers:
        found = evaluate_model(
            "mine", model, dataset, corpus, "train", 100, window=10**6, workers=workers
        )
    assert found.sampled and 0 < found.bytes <= 100
    assert found.seq_len == model.config.max_seq_len == 512


def test_the_beginning_of_the_only_document_is_a_part(parts, tmp_path):
    model, dataset = parts
    (file := tmp_path / "one.txt").write_text("A line of text.\n" * 100)
    one = prepare(str(file), tokenizer=dataset.tokenizer)
    with Workers(1) as workers:
        found = evaluate_model(
            "mine", model, one, str(file), "valid", 5, window=16, workers=workers
        )
    assert (found.documents, found.bytes, found.sampled) == (1, 5, True)


def test_what_is_refused_in_full(parts, corpus, monkeypatch):
    model, dataset = parts
    options = {"window": 16, "workers": Workers()}
    with pytest.raises(UsageError) as caught:
        evaluate_model("mine", model, dataset, corpus, "tset", None, **options)
    assert str(caught.value) == f"split='tset': '{corpus}' has 'train', 'valid'"

    broken = module.score_documents

    def infinite(*arguments, **more):
        score = broken(*arguments, **more)
        score.nats = math.inf
        return score

    monkeypatch.setattr(module, "score_documents", infinite)
    with pytest.raises(CheckpointError) as caught:
        evaluate_model("mine", model, dataset, corpus, "train", None, **options)
    assert str(caught.value) == (
        "'mine' gives no finite probabilities (inf nats): its weights are damaged. Take another "
        "checkpoint"
    )


def test_a_perplexity_that_json_cannot_hold_is_left_out():
    assert module._finite(3.5) == 3.5
    assert module._finite(math.inf) is module._finite(math.nan) is None


def test_the_policy_in_words():
    assert policy(33) == (
        "each document starts fresh after <|endoftext|>; windows of 33 tokens, a longer document "
        "in overlapping ones with at least 16 tokens of context; every token is scored once, the "
        "one that ends a document included, which counts no byte"
    )


def test_a_set_is_prepared_elsewhere_where_there_is_no_cache(parts, corpus, monkeypatch, tmp_path):
    _, dataset = parts
    asked = []

    def record(source, **more):
        asked.append((source, more["cache"], more["print_notes"], more["tokenizer"]))
        return dataset

    monkeypatch.setattr(module, "prepare", record)
    monkeypatch.setattr(module, "cache_folder", lambda: tmp_path)
    with prepared(corpus, dataset.tokenizer) as found:
        assert found is dataset
    for error in (UsageError("no home"), OutputError("read-only")):

        def refuse(path, error=error):
            assert path == tmp_path / "set"
            raise error

        monkeypatch.setattr(module, "check_writable", refuse)
        with prepared(corpus, dataset.tokenizer):
            spare = asked[-1][1]
            assert spare.is_dir() and spare != tmp_path and spare.name.startswith("itera-")
        assert not spare.exists()
    assert asked[0] == (corpus, tmp_path, False, dataset.tokenizer)


@pytest.mark.parametrize("size", [None, 5, 60, 200, 10**6])
def test_documents_are_chosen_alike_from_text_and_from_tokens(parts, size):
    _, dataset = parts
    texts = list(dataset.documents("train"))
    wanted = texts if size is None else sample_documents(texts, size)
    assert read_documents(dataset, "train", size) == wanted


def test_a_sample_fills_the_room_and_begins_with_a_random_document():
    documents = [bytes([97 + i]) * (i + 1) for i in range(9)]
    found = sample_documents(documents, 20)
    assert sum(map(len, found)) <= 20 and len(found) > 2
    assert found != sorted(found)  # in random order
    left = 20 - sum(map(len, found))
    assert all(len(document) > left for document in documents if document not in found)
    assert sample_documents(documents, 45) == documents  # just all of it
    assert len(sample_documents([b"five."] * 9, 15)) == 3  # the last one just fits
    assert sample_documents([b"abc", b"defg"], 2) == [b"ab"]
    assert isinstance(sample_documents(tuple(documents), 45), list)


def test_no_gradient_is_made(parts, corpus):
    model, dataset = parts
    with Workers(1) as workers:
        evaluate_model("m", model, dataset, corpus, "valid", None, window=8, workers=workers)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.is_grad_enabled()
