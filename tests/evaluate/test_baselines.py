"""Check the baselines: they learn from the training text, have bounds and are kept in a cache."""

import bz2
import json
import lzma
import random
import re
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


def test_the_settings_that_numbers_were_published_with():
    assert (module.NGRAM_ORDER, module.MAX_TRAIN_BYTES, module.VERSION) == (10, 2**24, 2)
    assert (module.PPMD_ORDER, module.PPMD_MEMORY) == (16, 2**29)
    growth = "when the held-out text is appended to the training text"
    assert {
        "xz": f"growth of the xz file (preset 9, 64 MiB dictionary) {growth}",
        "ppmd": f"growth of the PPMd file (variant H, order 16, 512 MiB) {growth}",
        "zpaq": f"growth of the zpaq archive (-m5) {growth}",
        "bz2": "the held-out text alone (bzip2 -9 sorts blocks of 900 kB, so it can't learn more)",
        "kneser_ney": "byte n-gram model, interpolated modified Kneser-Ney, counted on the "
        "training text; each document starts fresh, its end is scored",
    } == module.HOW


def test_each_floor_is_bits_of_the_held_out_bytes():
    train, held_out = text(1, 6), text(2, 2)
    found = baselines(train, held_out)
    n_train, n_held_out = sum(map(len, train)), sum(map(len, held_out))
    join = b"".join(d + b"\xff" for d in held_out)
    assert found["bz2"].bpb == pytest.approx(8 * len(bz2.compress(join, 9)) / n_held_out)
    expected = module.ByteNgram(train, 10).bits_per_byte(held_out)
    assert found["kneser_ney"].bpb == pytest.approx(expected)
    for name, floor in found.items():
        assert floor.train_bytes == (0 if name == "bz2" else n_train)
        assert floor.order == (10 if name == "kneser_ney" else None)
        assert floor.how == module.HOW[name]


def test_ppmd_is_what_the_held_out_text_adds(monkeypatch):
    pyppmd = pytest.importorskip("pyppmd")

    def size(data):
        encoder = pyppmd.Ppmd7Encoder(16, 2**29)
        return len(encoder.encode(data)) + len(encoder.flush())

    train, held_out = text(1, 5), text(2, 2)
    before = b"".join(d + b"\xff" for d in train)
    both = before + b"".join(d + b"\xff" for d in held_out)
    found = baselines(train, held_out, order=2)["ppmd"].bpb
    assert found == pytest.approx(8 * (size(both) - size(before)) / sum(map(len, held_out)))


def test_what_is_kept_is_named_by_all_that_it_depends_on(tmp_path, monkeypatch):
    def name(*more):
        return module._cache_file(tmp_path, *more).name

    usual = name([b"ab", b"c"], [b"d"], 3, ["xz"])
    assert re.fullmatch(r"baselines-[0-9a-f]{24}\.json", usual)
    others = [
        name([b"a", b"bc"], [b"d"], 3, ["xz"]),
        name([b"ab", b"c", b"d"], [], 3, ["xz"]),
        name([b"ab"], [b"c", b"d"], 3, ["xz"]),
        name([b"ab", b"c"], [b"d"], 4, ["xz"]),
        name([b"ab", b"c"], [b"d"], 3, ["xz", "ppmd"]),
    ]
    monkeypatch.setattr(module, "VERSION", 3)
    others.append(name([b"ab", b"c"], [b"d"], 3, ["xz"]))
    assert len({usual, *others}) == 7
    assert module._cache_file(None, [b"a"], [b"b"], 3, []) is None


def test_what_was_kept_and_is_damaged_is_found_again(tmp_path):
    train, held_out = text(1, 2), text(2, 1)
    first = baselines(train, held_out, order=2, cache=tmp_path)
    (kept,) = tmp_path.iterdir()
    whole = kept.read_bytes()
    for damaged in (b"{", b"[]", b"[" * 100_000, whole.replace(b"bz2", b"lz4")):
        kept.write_bytes(damaged)
        assert module._known(kept) is None
    assert baselines(train, held_out, order=2, cache=tmp_path) == first
    assert kept.read_bytes() == whole


def test_numbers_that_cannot_be_kept_are_not_lost(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    found = baselines(text(1, 2), text(2, 1), order=2, cache=tmp_path / "file")
    assert "kneser_ney" in found
    assert re.fullmatch(
        r"note: the baselines aren't kept for the next time: '.*baselines-\w+\.json' can't be "
        r"written \(.+\)\n",
        capsys.readouterr().err,
    )


def test_the_refusal_in_full():
    with pytest.raises(DataError) as caught:
        baselines([], [b"a"])
    assert str(caught.value) == (
        "baselines need text: expected at least one document in each split"
    )
