"""Text of any size: what is streamed equals what is read whole, for any number of processes."""

import dataclasses
import fcntl
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from itera_lite.data import building, contents, parts, places, processes, readers, spool, units
from itera_lite.data import prepare as module
from itera_lite.data.contents import Contents, valid_utf8
from itera_lite.data.corpus import locate
from itera_lite.data.parts import unit_border
from itera_lite.data.places import cut_place, place
from itera_lite.data.prepare import Dataset, open_dataset, prepare
from itera_lite.data.processes import Processes
from itera_lite.data.readers import split_articles, split_text, stream_articles, stream_text
from itera_lite.data.repairs import Repairs
from itera_lite.data.split import cut_one, divide
from itera_lite.data.spool import Spool, SpoolWriter
from itera_lite.data.tokenizer import Tokenizer, next_border, training_sample
from itera_lite.data.units import UNITS, split_units
from itera_lite.errors import DataError, Interrupted, MissingExtra
from itera_lite.machine.memory import Memory
from tools.large_text import documents as generated
from tools.large_text import write as write_large

V = 300


def chunks_of(text: bytes, sizes: list[int]) -> Iterator[bytes]:
    """The text in chunks of these sizes, again and again."""
    at = 0
    while at < len(text):
        for size in sizes:
            yield text[at : at + size]
            at += size


def joined(pieces: Iterator[tuple[bytes, bool]]) -> list[bytes]:
    """Documents that were given in pieces."""
    found, begun = [], b""
    for piece, ends in pieces:
        begun += piece
        if ends:
            found.append(begun)
            begun = b""
    assert not begun
    return found


def outcome(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except DataError as error:
        return str(error)


byte_texts = st.lists(
    st.sampled_from([b"a", b"word ", b"\n", "é".encode(), "汉".encode(), "😀".encode(), b"\xff"])
    | st.sampled_from([b"\xe6\xb1", b"\xf0\x9f", b"\xef\xbf\xbd", b"\xef\xbb\xbf", b"\0", b"\xc3"]),
    max_size=30,
).map(b"".join)


@given(byte_texts, st.integers(1, 7))
@settings(max_examples=150, deadline=None)
def test_chunks_are_the_valid_text(text: bytes, size: int) -> None:
    place = "/dev/shm" if os.path.isdir("/dev/shm") else None  # no disk: it is written often
    with tempfile.TemporaryDirectory(prefix="itera-", dir=place) as folder:
        path = Path(folder) / "text.txt"
        path.write_bytes(text)
        compare_chunks(path, text, size)


def compare_chunks(path: Path, text: bytes, size: int) -> None:
    """What is read of a file in chunks, with the whole text that it holds."""

    def whole() -> Any:
        repairs = Repairs()
        return valid_utf8(text, str(path), repairs), repairs

    def streamed() -> Any:
        repairs = Repairs()
        return b"".join(Contents(path).chunks(repairs)), repairs

    contents.CHUNK_BYTES, before = size + 3, contents.CHUNK_BYTES
    try:
        found = outcome(streamed)
    finally:
        contents.CHUNK_BYTES = before
    wanted = outcome(whole)
    if isinstance(wanted, tuple) and not wanted[1].invalid.count:
        wanted[1].invalid.where.clear()  # nothing was replaced
    assert found == wanted


parts_of_texts = st.lists(
    st.sampled_from(["<|endoftext|>", "\n", "\r\n", " ", "\t", "a", "é", "word", " x", "<|end"]),
    max_size=40,
).map("".join)
sizes = st.lists(st.integers(1, 20), min_size=1, max_size=5)


@given(parts_of_texts.map(str.encode), sizes, st.integers(3, 30))
@settings(max_examples=200, deadline=None)
def test_documents_of_a_stream_are_those_of_the_text(
    text: bytes, cuts: list[int], piece: int
) -> None:
    before, readers._PIECE_BYTES = readers._PIECE_BYTES, piece
    try:
        pieces = list(stream_text(chunks_of(text, cuts)))
    finally:
        readers._PIECE_BYTES = before
    assert joined(iter(pieces)) == split_text(text)


wiki_texts = st.lists(
    st.sampled_from([" \n", "\n", " = A = \n", " = = B = = \n", " text . \n", " = C = ", "x", " "]),
    max_size=30,
).map(lambda lines: "".join(lines).encode())


@given(wiki_texts, sizes, st.integers(3, 30))
@settings(max_examples=200, deadline=None)
def test_articles_of_a_stream_are_those_of_the_text(
    text: bytes, cuts: list[int], piece: int
) -> None:
    before, readers._PIECE_BYTES = readers._PIECE_BYTES, piece
    try:
        pieces = list(stream_articles(chunks_of(text, cuts)))
    finally:
        readers._PIECE_BYTES = before
    assert joined(iter(pieces)) == split_articles(text)


def test_a_long_document_is_given_in_pieces() -> None:
    text = b"some words and more\n" * 300_000
    pieces = list(stream_text(chunks_of(text, [1 << 20])))
    assert len(pieces) > 4 and max(len(piece) for piece, _ in pieces) < 3 << 20
    assert joined(iter(pieces)) == [text]


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many chunks, pieces and partitions also of a small text, in this process."""
    monkeypatch.setattr(spool, "CHUNK_BYTES", 3_000)
    monkeypatch.setattr(spool, "PIECE_BYTES", 1_000)
    monkeypatch.setattr(places, "PARTITION_ROWS", 50)
    monkeypatch.setattr(places, "BLOCK_ROWS", 37)
    monkeypatch.setattr(contents, "CHUNK_BYTES", 500)
    monkeypatch.setattr(readers, "_PIECE_BYTES", 700)


def spooled(path: Path, texts: list[bytes], characters: int = 10**9) -> Spool:
    """A part with these documents, which are added so many characters at a time."""
    writer = SpoolWriter(path)
    for text in map(bytes.decode, texts):
        for at in range(0, len(text), characters):
            end = at + characters
            writer.add(text[at:end].encode(), end >= len(text))
    writer.close()
    return Spool(path)


def test_a_spool_holds_the_documents_and_their_tokens(small_chunks: None, tmp_path: Path) -> None:
    texts = [text.encode() for text, _ in zip(generated(), range(40), strict=False)]
    texts.insert(7, b"\n".join(texts[:20]))  # a long one
    texts.insert(20, b"x" * 9_000)  # one that can't be cut
    texts.append("汉字 and 😀 words\n".encode() * 900)
    part = spooled(tmp_path / "part", texts, 450)
    assert part.n_documents == len(texts) and len(part.chunks) > 10
    found: dict[int, bytes] = {}
    for chunk in range(len(part.chunks)):
        first, end = part.span(chunk)
        for piece in part.pieces(chunk):
            assert first <= piece.document < end
            assert piece.begin == len(found.get(piece.document, b""))
            found[piece.document] = found.get(piece.document, b"") + piece.text
    assert [found[number] for number in range(len(texts))] == texts
    assert part.documents()["bytes"].tolist() == [len(text) for text in texts]
    tokenizer = Tokenizer.train(texts, V)
    pieces = [piece for chunk in range(len(part.chunks)) for piece in part.pieces(chunk)]
    assert sum(piece.begin > 0 for piece in pieces) > 10  # pieces of the long ones
    tokens = tokenizer.encode_stream([p.text for p in pieces], [p.ends for p in pieces])
    assert np.array_equal(
        np.concatenate(list(tokens)), np.concatenate(list(tokenizer.encode_stream(texts)))
    )


@given(st.text(alphabet=" \nab.é汉'1\u3000", max_size=60), st.integers(0, 30), st.text(max_size=9))
@settings(max_examples=150, deadline=None)
def test_a_border_changes_no_token(text: str, start: int, after: str) -> None:
    tokenizer = Tokenizer.train([], 256)
    cut = next_border(text, start)
    if cut is not None:
        whole = tokenizer._backend.pre_tokenizer.pre_tokenize_str(text + after)
        assert cut in {begin for _, (begin, _) in whole}


few = st.lists(st.sampled_from([b"a", b"b", b"c", b"d", b"e" * 50, b"f g\nh" * 99]), max_size=12)


@given(
    st.dictionaries(st.sampled_from([None, "train", "valid", "test", "other"]), few, max_size=4)
    | st.fixed_dictionaries({None: few})
    | st.fixed_dictionaries({"train": few, "test": few}),
)
@example({None: [b"f g\nh" * 99], "train": []})
@settings(max_examples=150, deadline=None)
def test_places_are_those_of_divide(given_splits: dict[str | None, list[bytes]]) -> None:
    """A part for each split, and each cut into two parts."""
    if None in given_splits and "train" not in given_splits:
        given_splits = {None: given_splits[None]}  # as a set is: with splits, or without
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(places, "PARTITION_ROWS", 3)
        patch.setattr(places, "BLOCK_ROWS", 2)
        wanted = outcome(partial(divide, dict(given_splits), "x"))
        with tempfile.TemporaryDirectory(prefix="itera-places-") as folder:
            assert outcome(partial(streamed_splits, given_splits, Path(folder))) == wanted


def streamed_splits(given_splits: dict[str | None, list[bytes]], folder: Path) -> Any:
    """What `divide` gives, by `place`."""
    spools, texts = [], []
    for split, documents in given_splits.items():
        for half in (documents[: len(documents) // 2], documents[len(documents) // 2 :]):
            spools.append((split, spooled(folder / f"part-{len(spools)}", half)))
            texts += half
    found = place(spools, folder, "x")
    own = found.of(0, len(texts)).tolist()
    splits = {
        split: [text for text, place in zip(texts, own, strict=True) if place == index]
        for index, split in enumerate(found.splits)
    }
    notes = found.notes
    if found.alone is not None:
        text = texts[found.alone]
        try:
            cut = cut_place(len(text), chunks_of(text, [3]))
        except DataError as error:
            copies = [note for note in notes if "exact copies" in note]
            raise DataError("; ".join([str(error), *copies])) from None
        splits |= {"train": [text[:cut]], "valid": [text[cut:]]}
        notes = [*notes, building.ONE_DOCUMENT]
    else:
        assert found.documents == [len(split) for split in splits.values()]
        assert found.bytes == [sum(map(len, split)) for split in splits.values()]
    return splits, notes


@given(
    st.text(alphabet=" \nxé", min_size=1, max_size=40).map(lambda text: text * 5)
    | st.text(alphabet="xé", min_size=200, max_size=210).map(lambda text: text * 5),
    st.integers(1, 9),
)
@settings(max_examples=150, deadline=None)
def test_one_document_is_cut_at_the_same_place(text: str, size: int) -> None:
    raw = text.encode()
    wanted = outcome(lambda: len(cut_one(raw)[0]))
    assert outcome(lambda: cut_place(len(raw), chunks_of(raw, [size]))) == wanted


@given(st.text(alphabet=" \n\r.Aab", max_size=60), st.sampled_from(UNITS[1:]))
@settings(max_examples=150, deadline=None)
def test_units_can_be_cut_at_a_border(text: str, unit: Any) -> None:
    raw = text.encode()
    cut = unit_border(raw, unit)
    assert list(split_units([raw[:cut], raw[cut:]], unit)) == list(split_units([raw], unit))


def naive(data: str, dataset: Dataset, unit: Any = "document") -> dict[str, bytes]:
    """The tokens of each split as they are stored, of a set that is read in memory."""
    corpus, tokenizer = locate(data).read().in_units(unit), dataset.tokenizer
    stored = {}
    for split, texts in corpus.splits.items():
        ids = [tokenizer.eot_id]
        for text in texts:
            ids += [*tokenizer.encode(text), tokenizer.eot_id]
        stored[split] = np.array(ids, dtype=dataset.manifest["dtype"]).tobytes()
    return stored


def stored(dataset: Dataset) -> dict[str, bytes]:
    return {split: (dataset.path / f"{split}.bin").read_bytes() for split in dataset.splits}


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A folder with files of several kinds, in all 1 MB, with copies within and between them."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    texts = [text for text, _ in zip(generated(3), range(750), strict=False)]
    lines = [json.dumps({"id": n, "story": text}) + "\n" for n, text in enumerate(texts)]
    (folder / "a.jsonl").write_text("".join(lines[:250]))
    text = "\n<|endoftext|>\n".join(texts[200:450])
    (folder / "b.txt.gz").write_bytes(gzip.compress(text.encode()))
    (folder / "c.txt").write_bytes("\n".join(texts[450:550]).encode() + b" caf\xe9\n")
    (folder / "d.csv").write_text("n,text\n1,one\n2,\n3,three\n")
    (folder / "sub").mkdir()
    (folder / "sub" / "e.jsonl").write_text("".join(lines[550:]) + lines[0])
    return folder


def test_the_result_is_the_same_for_any_number_of_processes(
    mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "PART_BYTES", 100_000)
    sets = [
        prepare(str(mixed), vocab_size=V, cache=tmp_path / f"{n}", quiet=True, workers=n)
        for n in (1, 2, 3)
    ]
    assert stored(sets[0]) == stored(sets[1]) == stored(sets[2]) == naive(str(mixed), sets[0])
    assert sets[0].manifest == sets[1].manifest == sets[2].manifest
    corpus = locate(str(mixed)).read()
    assert sets[0].manifest["notes"] == corpus.notes and len(corpus.notes) == 3
    sample, _ = training_sample(corpus.splits["train"])
    assert sets[0].tokenizer.sha256 == Tokenizer.train(sample, V).sha256


@pytest.mark.parametrize("unit", UNITS)
def test_units_and_small_chunks(
    unit: Any, small_chunks: None, mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "PART_BYTES", 100_000)
    monkeypatch.setattr(parts, "_UNIT_BYTES", 5_000)
    for workers in (1, 2) if unit == "sentence" else (1,):
        cache = tmp_path / f"{workers}"
        with monkeypatch.context() as patch:
            if workers == 1:  # other processes have the module's own
                patch.setattr(units, "MIXED", 300)
            dataset = prepare(
                str(mixed), vocab_size=V, unit=unit, cache=cache, quiet=True, workers=workers
            )
            assert stored(dataset) == naive(str(mixed), dataset, unit)
        counts = [len(texts) for texts in locate(str(mixed)).read().in_units(unit).splits.values()]
        assert [e["documents"] for e in dataset.manifest["splits"].values()] == counts
        assert not [file.name for file in cache.iterdir() if file.name.startswith(".p")]


@pytest.mark.parametrize("end", ["", "\n\n"])
def test_one_long_document(small_chunks: None, end: str, tmp_path: Path) -> None:
    texts = [text for text, _ in zip(generated(1), range(60), strict=False)]
    file = tmp_path / "one.txt"
    file.write_text("\n\n".join(texts) + end)
    dataset = prepare(str(file), vocab_size=V, cache=tmp_path / "cache", quiet=True)
    assert stored(dataset) == naive(str(file), dataset)
    assert "one document" in str(dataset.manifest["notes"])
    lines = prepare(str(file), vocab_size=V, unit="line", cache=tmp_path / "cache", quiet=True)
    assert stored(lines) == naive(str(file), lines, "line")


@pytest.mark.parametrize("documents", [1, 60])
def test_the_sample_for_the_tokenizer_is_that_of_the_text_in_memory(
    documents: int, small_chunks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[bytes]] = []
    monkeypatch.setattr(building, "TRAINING_SAMPLE_BYTES", 150_000)
    monkeypatch.setattr(building, "PART_BYTES", 300_000)
    real = Tokenizer.train
    monkeypatch.setattr(
        Tokenizer,
        "train",
        lambda texts, *rest: (seen.append(list(texts)), real(seen[-1], *rest))[1],
    )
    texts = [text.encode() for text, _ in zip(generated(2), range(600), strict=False)]
    for number in range(4):
        between = b"\n\n" if documents == 1 else b"\n<|endoftext|>\n"
        text = between.join(texts[150 * number : 150 * number + 150])
        (tmp_path / f"{number}.txt").write_bytes(text)
    prepare(str(tmp_path / "*.txt"), vocab_size=V, cache=tmp_path / "cache", quiet=True)
    train = locate(str(tmp_path / "*.txt")).read().splits["train"]
    assert seen == [list(training_sample(train, 150_000)[0])] and len(seen[0]) > 1


# Where it is to be killed, it waits for that before the set is finished.
KILLED = """
import signal, sys
from itera_lite.data import building
from itera_lite.data.prepare import prepare
building.PART_BYTES, building.KEPT_BYTES, building.SAVE_SECONDS = 200_000, 1, 0.0
if sys.argv[2:] == ["waits"]:
    tokenise = building.Build.tokenise
    building.Build.tokenise = lambda *given: (tokenise(*given), signal.pause())
print(prepare(sys.argv[1], vocab_size=300, quiet=True, workers=2).path)
"""


def start(data: Path, cache: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", KILLED, str(data), *more],
        env={**os.environ, "ITERA_CACHE": str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="looks at processes in /proc")
def test_a_killed_preparation_goes_on(tmp_path: Path) -> None:
    """SIGKILL while it reads and twice while it tokenises; finished parts aren't read again."""
    data, cache = tmp_path / "data", tmp_path / "cache"
    data.mkdir()
    for number in range(8):
        write_large(data / f"{number}.jsonl", 250_000, seed=number)
    moments = (
        lambda work: len(list(work.glob("part-*.json"))) >= 2,
        lambda work: (work / "tokens.json").exists(),
        lambda work: json.loads((work / "tokens.json").read_text())["chunks"] >= 5,
    )
    records: dict[str, int] = {}
    for reached in moments:
        process = start(data, cache, "waits")
        until = time.monotonic() + 600
        while True:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until, list(cache.rglob("*"))
            work = next(cache.glob(".preparing-*"), None) if cache.exists() else None
            if work is not None:
                try:
                    if reached(work):
                        break
                except (OSError, ValueError):
                    pass
            time.sleep(0.002)
        workers = children(process.pid)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert work is not None
        found = {file.name: file.stat().st_mtime_ns for file in work.glob("part-*.json")}
        assert {name: found[name] for name in records} == records
        records = found
        until = time.monotonic() + 600
        while any(os.path.exists(f"/proc/{pid}/fd") and _runs(pid) for pid in workers):
            assert time.monotonic() < until, "workers outlive their parent"
            time.sleep(0.02)
    assert len(records) == 8
    out, err = start(data, cache).communicate()
    dataset = open_dataset(Path(out.strip()))
    assert dataset is not None, err
    assert not list(cache.glob(".[pb]*")), err
    whole = prepare(str(data), vocab_size=V, cache=tmp_path / "other", quiet=True, workers=1)
    assert stored(dataset) == stored(whole) == naive(str(data), whole)
    assert dataset.manifest == whole.manifest


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def stop(*_: object) -> None:
    raise KeyboardInterrupt


def test_what_was_stopped_is_kept_if_it_is_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, cache = tmp_path / "a.jsonl", tmp_path / "cache"
    write_large(file, 200_000)

    with monkeypatch.context() as patch:
        patch.setattr(building, "KEPT_BYTES", 1_000)
        patch.setattr(Tokenizer, "encode_stream", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare(str(file), vocab_size=V, cache=cache)
    assert "the same command goes on" in capsys.readouterr().err
    monkeypatch.setattr(building, "read_part", stop)  # it isn't read again
    monkeypatch.setattr(Tokenizer, "train", stop)
    dataset = prepare(str(file), vocab_size=V, cache=cache, quiet=True)
    monkeypatch.undo()
    assert stored(dataset) == naive(str(file), dataset)
    assert not list(cache.glob(".p*"))


def test_what_is_not_found_again_is_not_said_to_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where locks don't work, the workplace is removed."""
    file, cache = tmp_path / "a.jsonl", tmp_path / "cache"
    write_large(file, 200_000)

    def refuse(*_: object) -> None:
        raise OSError("no locks here")

    monkeypatch.setattr(building, "KEPT_BYTES", 1_000)
    monkeypatch.setattr(Tokenizer, "encode_stream", stop)
    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(KeyboardInterrupt):
        prepare(str(file), vocab_size=V, cache=cache)
    assert "goes on" not in capsys.readouterr().err
    assert not list(cache.glob(".building-*"))


def test_a_set_that_was_moved_away_before_a_kill_is_tokenised_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The set is in the cache, the workplace is still there, and then the set is removed."""
    file, cache = tmp_path / "a.jsonl", tmp_path / "cache"
    write_large(file, 200_000)
    move = module._move

    def stops_after_it(*folders: Path) -> Dataset:
        move(*folders)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(building, "KEPT_BYTES", 1_000)
        patch.setattr(building, "SAVE_SECONDS", 0.0)
        patch.setattr(module, "_move", stops_after_it)
        with pytest.raises(KeyboardInterrupt):
            prepare(str(file), vocab_size=V, cache=cache, quiet=True)
    (folder,) = cache.glob("a-*")
    shutil.rmtree(folder)
    dataset = prepare(str(file), vocab_size=V, cache=cache, quiet=True)
    assert dataset.path == folder and stored(dataset) == naive(str(file), dataset)


MEASURED = """
import resource, sys
from pathlib import Path
from itera_lite.data import processes
from itera_lite.data.prepare import prepare
from itera_lite.data.tokenizer import Tokenizer
processes.WORTH_BYTES = 0  # as for a large text
tokenizer = Tokenizer.load(sys.argv[2])
prepare(sys.argv[1], tokenizer=tokenizer, cache=Path(sys.argv[3]), quiet=True, workers=1)
# Of itself VmHWM: ru_maxrss begins with the peak of the process that started this one.
status = Path("/proc/self/status").read_text()
own = status.split("VmHWM:")[1].split()[0]
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, own)
"""


@pytest.mark.parametrize("name", ["text.jsonl", "text.one.txt"])
def test_memory_does_not_grow_with_the_text(name: str, tmp_path: Path) -> None:
    sample = [text.encode() for text, _ in zip(generated(), range(500), strict=False)]
    tokenizer = Tokenizer.train(sample, 1000).save(tmp_path / "tokenizer")
    peaks = []
    for megabytes in (6, 30):
        file = tmp_path / f"{megabytes}" / name
        file.parent.mkdir()
        write_large(file, megabytes * 1_000_000)
        run = subprocess.run(
            [sys.executable, "-c", MEASURED, str(file), str(tokenizer), str(file.parent / "cache")],
            env={**os.environ, "RAYON_NUM_THREADS": "2"},
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append([int(kilobytes) / 1024 for kilobytes in run.stdout.split()])
    for small, large in zip(*peaks, strict=True):  # of the processes, and of this one
        # MB. The text alone is 24 MB longer; by when threads run, peaks differ by up to 12 MB.
        assert large - small < 18, peaks
        assert large < 300


def test_room_is_looked_at_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, cache = tmp_path / "a.jsonl", tmp_path / "cache"
    write_large(file, 300_000)
    usage = type("Usage", (), {"free": 50_000})
    monkeypatch.setattr(building.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(
        Interrupted, match=r"needs about [1-9][0-9,]+ bytes more for its text, .* has 50,000 free"
    ):
        prepare(str(file), vocab_size=V, cache=cache, quiet=True)
    usage.free = 120_000
    monkeypatch.setattr(building, "PART_BYTES", 200_000)
    with pytest.raises(Interrupted, match=r"more for its tokens"):
        prepare(str(file), vocab_size=V, cache=cache, quiet=True)
    assert not list(cache.glob(".p*"))


def test_a_small_text_is_prepared_in_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(Processes, "_started", refuse)
    monkeypatch.setattr(processes, "usable_cores", lambda: 8)
    write_large(tmp_path / "a.jsonl", 100_000)
    prepare(str(tmp_path / "a.jsonl"), vocab_size=V, cache=tmp_path / "cache", quiet=True)


def fail(kind: str) -> str:
    if kind == "extra":
        raise MissingExtra("a", "b", "Reading c")
    if kind == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "data":
        raise DataError("x.txt: line 3")
    time.sleep(0.1)
    return kind


@pytest.mark.parametrize(
    ("cores", "free", "expected"),
    [(64, 700_000_000, 2), (64, 100_000_000, 1), (4, None, 4), (2, 10**12, 2)],
)
def test_the_number_of_processes_follows_from_cores_and_memory(
    cores: int, free: int | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container both are those of its control group, not those of the machine."""
    monkeypatch.setattr(processes, "usable_cores", lambda: cores)
    monkeypatch.setattr(processes, "memory", lambda: Memory(free, None))
    several = Processes()
    several.settle(10**12)
    assert several.count == expected


def test_errors_of_processes_are_those_of_the_first_task() -> None:
    with Processes(2) as two:
        assert list(two.map(fail, [(str(n),) for n in range(7)])) == [str(n) for n in range(7)]
        with pytest.raises(DataError, match=r"x\.txt: line 3"):
            list(two.map(fail, [("1",), ("data",), ("extra",)]))
        with pytest.raises(MissingExtra, match=r"itera-lite\[b\]"):
            list(two.map(fail, [("extra",), ("data",)]))
        with pytest.raises(Interrupted, match="was killed"):
            list(two.map(fail, [("killed",), ("1",)]))


def test_a_broken_line_is_named_whatever_process_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "PART_BYTES", 1_000)
    for number in range(4):
        write_large(tmp_path / f"{number}.jsonl", 50_000, seed=number)
    for number in (2, 3):
        with (tmp_path / f"{number}.jsonl").open("a") as file:
            file.write("{broken\n")
    lines = len((tmp_path / "2.jsonl").read_text().splitlines())
    for workers in (1, 2):
        with pytest.raises(DataError, match=rf"2\.jsonl: line {lines} isn't JSON"):
            prepare(str(tmp_path), vocab_size=V, cache=tmp_path / "cache", workers=workers)
    assert not list((tmp_path / "cache").glob(".p*"))


def test_repairs_of_parts_are_counted_as_those_of_one() -> None:
    marks = ["a", "b", "a", "c", "d", "e", "f", "g", "b"]
    one, first, second = Repairs(), Repairs(), Repairs()
    for number, mark in enumerate(marks):
        for repairs in (one, first if number < 4 else second):
            repairs.blank_rows.add(mark)
            repairs.empty_files += 1
            repairs.assumed.append(mark)
    first.extend(second)
    assert dataclasses.asdict(first) == dataclasses.asdict(one)


def test_documents_sizes_and_tokens_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.jsonl"
    write_large(file, 60_000)
    dataset = prepare(str(file), vocab_size=V, cache=tmp_path / "cache", quiet=True)
    texts, tokens = list(dataset.documents("train")), dataset.tokens("train")
    monkeypatch.setattr(module, "_DECODED", 17)
    assert list(dataset.documents("train")) == texts
    assert dataset.sizes("train").tolist() == [len(text) for text in texts]
    assert list(dataset.documents("train", most=10)) == [text[:10] for text in texts]
    assert dataset.tokens_in_use("train") == len(np.unique(tokens))
