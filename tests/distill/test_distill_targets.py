"""Teachers' probabilities: against brute force, across tokenizers, and kept on disk."""

import errno
import itertools
import os
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from itera_lite.checkpoint.folder import save_checkpoint
from itera_lite.data.prepare import Dataset, prepare
from itera_lite.data.tokenizer import Tokenizer
from itera_lite.distill import cache as soft_targets
from itera_lite.distill import teacher
from itera_lite.distill.alignment import Alignment, first_tokens
from itera_lite.distill.cache import BLOCK, SoftTargets
from itera_lite.distill.teacher import Teacher
from itera_lite.errors import DataError, TokenizerMismatch
from itera_lite.workers import Workers
from tests.compress.checkpoints import GPT2, ITERA, TRANSFORMER, text
from tests.export.models import random_model
from tests.other_user import as_other_user, shared_folder

__all__ = ["text"]

STUDENT_VOCAB, TEACHER_VOCAB = 280, 310


@pytest.fixture
def dataset(text: Path) -> Dataset:
    return prepare(str(text), vocab_size=STUDENT_VOCAB, quiet=True)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ITERA_CACHE", str(tmp_path / "cache"))


def load(folder: Path, config, tokenizer: Tokenizer, seed: int = 0) -> Teacher:
    model = random_model(config.replace(vocab_size=tokenizer.vocab_size), seed)
    return Teacher.load(save_checkpoint(folder / f"{config.family}{seed}", model, tokenizer))


def naive(model, tokens, place: int, start: int) -> torch.Tensor:
    """The distribution over the token at ``place``, read from ``start`` on, on the circle."""
    circle = len(tokens) - 1
    ids = tokens[np.arange(start, place) % circle].astype(np.int64)
    with torch.no_grad():
        return model(torch.from_numpy(ids)[None])[0, -1].softmax(-1)


@pytest.mark.parametrize("config", [ITERA, TRANSFORMER, GPT2], ids=lambda c: c.family)
def test_a_place_is_read_with_its_context(config, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(teacher, "WINDOW", 8)
    monkeypatch.setattr(teacher, "CONTEXT", 4)
    one = load(tmp_path, config, dataset.tokenizer)
    tokens = dataset.tokens("train")
    one.set_text(tokens, None)
    positions = np.array([0, 1, 5, 7, 8, 30, 31, 47])
    windows = [0, 0, 0, 0, 8, 30, 30, 47]  # the first place of each one's window
    found, known = one.probabilities(positions, STUDENT_VOCAB)
    assert known.all()
    for place, first, row in zip(positions, windows, found, strict=True):
        expected = naive(one.model, tokens, place, first - 1 - 4)
        assert torch.allclose(row, expected, atol=1e-5), place
    assert torch.allclose(found.sum(-1), torch.ones(len(positions)), atol=1e-5)


def test_learned_positions_bound_the_window(dataset, tmp_path):
    one = load(tmp_path, GPT2.replace(max_seq_len=40), dataset.tokenizer)
    one.set_text(dataset.tokens("train"), None)
    found, _ = one.probabilities(np.arange(100), STUDENT_VOCAB)
    assert torch.allclose(found.sum(-1), torch.ones(100), atol=1e-5)


def test_across_tokenizers_against_brute_force(dataset, tmp_path):
    """A larger vocabulary teaches a smaller one: each byte of mass where the bytes say."""
    student, documents = dataset.tokenizer, list(dataset.documents("train"))
    large = Tokenizer.train(documents, TEACHER_VOCAB)
    stream = dataset.tokens("train")
    alignment = Alignment.build(iter(documents), stream, student, large)
    own, others = _borders(documents, student), _borders(documents, large)
    for place, border in enumerate(own[:500]):
        expected = others.index(border) if border in others else -1
        assert alignment.positions[place] == expected
    assert -1 in alignment.positions[:500]
    assert (alignment.positions >= 0).mean() > 0.5

    probabilities = torch.randn(3, large.vocab_size).softmax(-1)
    folded = alignment.fold(probabilities)
    expected = torch.zeros(3, STUDENT_VOCAB)
    for index, piece in enumerate(large.token_bytes):
        ids = student.encode(piece)
        expected[:, ids[0] if ids else student.eot_id] += probabilities[:, index]
    assert torch.allclose(folded, expected, atol=1e-6)

    one = load(tmp_path, ITERA, large)
    targets = SoftTargets([one], dataset, STUDENT_VOCAB - 1, quiet=True)
    ids, shares = targets.at(np.arange(64))
    for place in range(64):
        row = torch.zeros(STUDENT_VOCAB).scatter_(0, ids[place], shares[place])
        if alignment.positions[place] < 0:
            assert shares[place].sum() == 0
        elif place < 20:
            at = int(alignment.positions[place])
            predicted = naive(one.model, alignment.tokens, at, -1 - teacher.CONTEXT)
            assert torch.allclose(row, alignment.fold(predicted[None])[0], atol=1e-3)


def _borders(documents, tokenizer) -> list[int]:
    """At which byte each token of the stream begins, the end of a text as one byte."""
    found, at = [0], 1
    for document in documents:
        for index in tokenizer.encode(document):
            found.append(at)
            at += len(tokenizer.token_bytes[index])
        found.append(at)
        at += 1
    return found


def test_a_teacher_of_shorter_tokens_is_refused(dataset):
    letters = Tokenizer.train([b"text"], 256)
    with pytest.raises(TokenizerMismatch, match=r"only \d+%.*--tokenizer"):
        Alignment.build(
            dataset.documents("train"), dataset.tokens("train"), dataset.tokenizer, letters
        )


def test_the_hand_made_pair():
    student = Tokenizer.train([b"text"], 256)
    large = Tokenizer.train([b"ab ab ab abc abc abc"], 260)
    assert large.token_bytes[257:] == [b"ab", b" ab", b" abc"]
    first = first_tokens(large, student)
    assert first[257:].tolist() == [ord("a"), ord(" "), ord(" ")]
    assert first[large.eot_id] == student.eot_id
    assert first[:256].tolist() == list(range(256))


def test_what_was_computed_is_kept(dataset, tmp_path, monkeypatch):
    one = load(tmp_path, ITERA, dataset.tokenizer)
    asked: list[int] = []
    original = Teacher.probabilities

    def counted(self, positions, vocab_size):
        asked.append(len(positions))
        return original(self, positions, vocab_size)

    monkeypatch.setattr(Teacher, "probabilities", counted)
    targets = SoftTargets([one], dataset, 12, quiet=True)
    positions = np.array([[3, 4, 5], [900, 901, 902]])
    ids, shares = targets.at(positions)
    assert asked == [2 * BLOCK]
    again = SoftTargets([one], dataset, 12, quiet=True)
    for before, now in zip((ids, shares), again.at(positions), strict=True):
        assert torch.equal(before, now)
    assert asked == [2 * BLOCK]
    last = targets.positions  # the circle closes here: the place of the first token
    assert torch.equal(targets.at(np.array([last]))[0], targets.at(np.array([0]))[0])
    assert asked == [2 * BLOCK]
    assert ids.shape == (6, 12)
    assert (shares[:, :-1] >= shares[:, 1:]).all()
    assert all(len(set(row)) == 12 for row in ids.tolist())
    totals = again.totals()
    assert totals.positions == 2 * BLOCK
    assert totals.share_taught == 1
    assert 0 < totals.top_k_mass <= 1.001
    assert SoftTargets([one], dataset, 13, quiet=True).folder != targets.folder


def test_any_number_of_workers_gives_the_same_targets(dataset, tmp_path, monkeypatch):
    """Bit for bit, and the workers do compute at the same time."""
    monkeypatch.setattr(soft_targets, "PIECE", 64)
    one = load(tmp_path, ITERA, dataset.tokenizer)
    blocks, positions = np.arange(0, 24, 2), np.arange(24 * BLOCK)
    found = []
    for count in (1, 2, 3):
        monkeypatch.setenv("ITERA_CACHE", str(tmp_path / f"cache{count}"))
        targets = SoftTargets([one], dataset, 12, quiet=True)
        original, calls = Teacher.probabilities, itertools.count()
        first = threading.Barrier(min(count, 2), timeout=600)

        def together(self, *arguments, original=original, calls=calls, first=first):
            if next(calls) < first.parties:
                first.wait()
            return original(self, *arguments)

        with Workers(count) as workers, monkeypatch.context() as patch:
            patch.setattr(Teacher, "probabilities", together)
            targets.fill(blocks, workers=workers)
        assert not len(targets.missing(blocks))
        assert len(targets.missing(np.arange(24))) == 12
        totals = targets.totals()
        assert totals.seconds > 0
        found.append((*targets.at(positions), totals.top_k_mass, totals.teacher_loss))
    for other in found[1:]:
        assert torch.equal(found[0][0], other[0]) and torch.equal(found[0][1], other[1])
        assert found[0][2:] == other[2:]


def test_workers_ask_for_missing_targets_at_once(dataset, tmp_path):
    """A batch of a training that gets further than was foreseen: computed once, none lost."""
    one = load(tmp_path, ITERA, dataset.tokenizer)
    targets = SoftTargets([one], dataset, 12, quiet=True)
    parts = np.arange(8 * BLOCK).reshape(8, BLOCK)
    with Workers(3) as workers:
        found = workers.map(partial(targets.at, part + BLOCK // 2) for part in parts)
    assert targets.totals().positions == 9 * BLOCK
    ids, shares = targets.at(np.arange(8 * BLOCK) + BLOCK // 2)
    assert torch.equal(torch.cat([ids for ids, _ in found]), ids)
    assert torch.equal(torch.cat([shares for _, shares in found]), shares)


def test_a_stop_loses_nothing_that_was_written(dataset, tmp_path, monkeypatch):
    one = load(tmp_path, ITERA, dataset.tokenizer)
    monkeypatch.setattr(soft_targets, "PIECE", 64)
    original, calls = Teacher.probabilities, 0

    def stopping(self, positions, vocab_size):
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return original(self, positions, vocab_size)

    monkeypatch.setattr(Teacher, "probabilities", stopping)
    blocks = np.arange(10)
    with pytest.raises(KeyboardInterrupt):
        SoftTargets([one], dataset, 8, quiet=True).fill(blocks)
    targets = SoftTargets([one], dataset, 8, quiet=True)
    assert targets.missing(blocks).tolist() == [4, 5, 6, 7, 8, 9]
    assert targets.totals().positions == 4 * BLOCK
    targets.fill(blocks)
    assert not len(targets.missing(blocks))
    assert targets.totals().positions == 10 * BLOCK


def test_a_full_disk_is_told_before_anything_is_asked(dataset, tmp_path, monkeypatch):
    one = load(tmp_path, ITERA, dataset.tokenizer)
    targets = SoftTargets([one], dataset, 8, quiet=True)
    usage = soft_targets.shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(soft_targets.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DataError, match="ITERA_CACHE"):
        targets.at(np.arange(4))
    assert targets.totals().positions == 0


def test_several_teachers_are_averaged(dataset, tmp_path):
    pair = [load(tmp_path, config, dataset.tokenizer) for config in (ITERA, TRANSFORMER)]
    ids, shares = SoftTargets(pair, dataset, STUDENT_VOCAB - 1, quiet=True).at(np.arange(32))
    single = [each.probabilities(np.arange(32), STUDENT_VOCAB)[0] for each in pair]
    mean = (single[0] + single[1]) / 2
    assert torch.allclose(shares, mean.gather(1, ids), atol=1e-3)
    swapped = SoftTargets(pair[::-1], dataset, STUDENT_VOCAB - 1, quiet=True)
    assert not len(swapped.missing(np.arange(1)))


def test_marks_reach_the_disk_after_the_values_that_they_are_of(dataset, tmp_path, monkeypatch):
    """So a power cut can't leave a place that counts as filled and holds zeros."""
    one = load(tmp_path, ITERA, dataset.tokenizer)
    monkeypatch.setattr(soft_targets, "PIECE", 64)
    monkeypatch.setattr(soft_targets, "FLUSH_SECONDS", -1.0)  # after each piece
    events: list[tuple[str, str]] = []
    for name in ("write", "sync"):
        call = getattr(soft_targets._Table, name)

        def noted(self, *values, call=call, name=name):
            events.append((name, self.path.stem))
            call(self, *values)

        monkeypatch.setattr(soft_targets._Table, name, noted)
    targets = SoftTargets([one], dataset, 8, quiet=True)
    targets.fill(np.arange(6))
    unsafe = set()
    for what, of in events:
        if what == "write" and of != "filled":
            unsafe.add(of)
        elif what == "sync":
            unsafe.discard(of)
        elif of == "filled":
            assert not unsafe
    assert events.count(("write", "filled")) == 3
    assert events[-1] == ("sync", "filled")
    assert (targets.folder / "filled.bin").read_bytes()[:7] == b"\1\1\1\1\1\1\0"


@pytest.mark.parametrize("damage", ["ids.bin", "shares.bin", "spent.json", "manifest.json", "cut"])
def test_a_cache_that_is_not_whole_begins_anew(damage, dataset, tmp_path):
    one = load(tmp_path, ITERA, dataset.tokenizer)
    first = SoftTargets([one], dataset, 8, quiet=True)
    ids, shares = first.at(np.arange(64))
    folder = first.folder
    if damage == "cut":
        (folder / "ids.bin").write_bytes(b"12")
    elif damage.endswith(".json"):
        (folder / damage).write_text("{")
    else:
        (folder / damage).unlink()
    again = SoftTargets([one], dataset, 8, quiet=True)
    assert len(again.missing(np.arange(2))) == 2
    assert again.totals().positions == 0
    for before, now in zip((ids, shares), again.at(np.arange(64)), strict=True):
        assert torch.equal(before, now)
    assert not len(SoftTargets([one], dataset, 8, quiet=True).missing(np.arange(2)))


def test_two_at_once_fill_one_cache(dataset, tmp_path):
    one = load(tmp_path, ITERA, dataset.tokenizer)
    pair = [SoftTargets([one], dataset, 8, quiet=True) for _ in range(2)]
    pair[0].fill(np.arange(3))
    assert pair[1].missing(np.arange(6)).tolist() == [3, 4, 5]
    pair[1].fill(np.arange(6))
    assert not len(pair[0].missing(np.arange(6)))
    assert pair[0].totals().positions == 6 * BLOCK


def test_a_cache_that_cannot_be_written_is_said(dataset, tmp_path, monkeypatch):
    one = load(tmp_path, ITERA, dataset.tokenizer)
    targets = SoftTargets([one], dataset, 8, quiet=True)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(DataError, match=r"can't be written \(No space left.*ITERA_CACHE"):
        targets.at(np.arange(4))
    monkeypatch.undo()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ITERA_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"file.teachers.*can't be written \(Not a directory"):
        SoftTargets([one], dataset, 8, quiet=True)
    with shared_folder() as folder:
        monkeypatch.setenv("ITERA_CACHE", str(folder))
        folder.chmod(0o555)
        with as_other_user(), pytest.raises(DataError, match=r"Permission denied.*ITERA_CACHE"):
            SoftTargets([one], dataset, 8, quiet=True)
