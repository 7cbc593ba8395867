"""Floors: conditioned on the training text, bounded, kept."""

import json
import lzma
import random
import shutil

import msgspec
import pytest

from itera_lite.errors import DataError
from itera_lite.evaluate import baselines as module
from itera_lite.evaluate.baselines import baselines
from itera_lite.evaluate.documents import sample_documents

WORDS = [random.Random(i).randbytes(3).hex().encode() for i in range(40)]


def text(seed, n):
    choose = random.Random(seed)
    return [b" ".join(choose.choices(WORDS, k=60)) for _ in range(n)]


def test_training_text_helps_those_who_can_use_it():
    held_out = text(2, 3)
    little, much = (baselines(text(1, n), held_out, order=5) for n in (1, 60))
    for name in much.keys() - {"bz2"}:
        assert much[name].bpb < little[name].bpb
    assert much["bz2"].bpb == little["bz2"].bpb
    assert much["kneser_ney"].order == 5
    assert all(0 < values.bpb < 8 and values.how for values in much.values())


def test_xz_is_what_the_held_out_text_adds_to_the_file():
    train, held_out = text(1, 5), text(2, 2)
    join = lambda documents: b"".join(d + b"\xff" for d in documents)  # noqa: E731
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": 2**26}]
    size = lambda data: len(lzma.compress(data, filters=filters))  # noqa: E731
    added = size(join(train + held_out)) - size(join(train))
    got = baselines(train, held_out, order=2)["xz"].bpb
    assert got == pytest.approx(8 * added / sum(map(len, held_out)))


def test_the_strong_compressors_beat_xz_where_they_are_installed():
    pytest.importorskip("pyppmd")
    got = baselines(text(1, 20), text(2, 4), order=2)
    assert got["ppmd"].bpb < got["xz"].bpb
    if shutil.which("zpaq"):
        assert got["zpaq"].bpb < got["xz"].bpb


def test_a_compressor_that_fails_is_an_error(monkeypatch, tmp_path):
    (program := tmp_path / "zpaq").write_text("#!/bin/sh\necho no room >&2\nexit 2\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(DataError, match=r"zpaq add .* failed with 2: no room"):
        baselines(text(1, 2), text(2, 1), order=2)


def test_memory_is_bounded_by_a_sample_that_is_stated_and_fixed():
    train = text(1, 40)
    result = baselines(train, text(2, 1), order=3, max_train_bytes=3000)
    assert 0 < result["kneser_ney"].train_bytes <= 3000
    assert sample_documents(train, 3000) == sample_documents(train, 3000)
    assert set(sample_documents(train, 3000)) <= set(train)
    assert sample_documents(train, 10**6) == train
    assert sample_documents([b"x" * 100], 10) == [b"x" * 10]


def test_a_second_run_reads_the_first_ones_numbers(tmp_path, monkeypatch):
    train, held_out = text(1, 2), text(2, 1)
    first = baselines(train, held_out, order=3, cache=tmp_path)
    monkeypatch.setattr(module, "ByteNgram", None)  # would fail
    assert baselines(train, held_out, order=3, cache=tmp_path) == first
    (kept,) = tmp_path.iterdir()
    assert json.loads(kept.read_text()) == msgspec.to_builtins(first)
    with pytest.raises(TypeError):  # other text isn't the kept one
        baselines(train, [b"other"], order=3, cache=tmp_path)


@pytest.mark.parametrize(("train", "held_out"), [([], [b"a"]), ([b"a"], []), ([b""], [b"a"])])
def test_empty_text_is_an_error(train, held_out):
    with pytest.raises(DataError, match="need text"):
        baselines(train, held_out)
