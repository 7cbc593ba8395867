"""The readers that are written in Python, as functions of a file's bytes.

Whatever the bytes are, a reader gives a value or raises an `IteraError`: no other exception, no
endless loop, no more memory than a small multiple of the file.
"""

from __future__ import annotations

import gzip
import json
import random
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from itera_lite import locks, quantities
from itera_lite.checkpoint.folder import load_training_state, save_checkpoint
from itera_lite.checkpoint.hf import read_config
from itera_lite.checkpoint.weights import stored_types, weights_facts
from itera_lite.config import ModelConfig
from itera_lite.data.lines import LineReader
from itera_lite.data.prepare import open_dataset
from itera_lite.data.readers import read_documents
from itera_lite.data.repairs import Repairs
from itera_lite.data.tokenizer import Tokenizer
from itera_lite.engine.check import _check_file
from itera_lite.engine.score_resume import Progress
from itera_lite.errors import IteraError
from itera_lite.model import LanguageModel
from itera_lite.records import read_any
from itera_lite.sampling import read_generation_config
from itera_lite.studies.unfinished import read_settings
from itera_lite.train.run_files import RunFiles
from tests.native.gguf_models import hybrid, llama

RESULTS = Path(__file__).parents[2] / "results"


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes:
        read: takes a file's bytes and a folder, in which it may write them.
        seeds: gives files to begin with.
    """

    name: str
    read: Callable[[bytes, Path], object]
    seeds: Callable[[], list[bytes]]


def feed(target: Target, data: bytes) -> None:
    """Give a target a file; raises what is no `IteraError`."""
    with (
        tempfile.TemporaryDirectory(prefix="itera-fuzz-") as folder,
        warnings.catch_warnings(),
        suppress(IteraError),
    ):
        warnings.simplefilter("ignore")
        target.read(data, Path(folder))


@cache
def checkpoint() -> Path:
    """A minute checkpoint with a training state, which stays for the length of the process."""
    folder = Path(tempfile.mkdtemp(prefix="itera-fuzz-")) / "model-last"
    tokenizer = Tokenizer.train([b"text"], 256)
    size = {"vocab_size": tokenizer.vocab_size, "d_model": 32, "head_dim": 16, "max_seq_len": 64}
    model = LanguageModel(ModelConfig("transformer", "a", d_ff=32, **size))
    identity = {
        "model": model.config.to_dict(),
        "train": {"batch_size": 4},
        "budget": {"unit": "tokens", "amount": 1000.0},
        "precision": "fp32",
    }
    state = {"identity": identity, "state": {"step": 1}, "loader": {"position": 4}, "window": {}}
    return save_checkpoint(folder, model, tokenizer, training_state=state)


def remove_checkpoint() -> None:
    """Remove what `checkpoint` made."""
    if checkpoint.cache_info().currsize:
        shutil.rmtree(checkpoint().parent)
        checkpoint.cache_clear()


def _file(name: str) -> Callable[[], list[bytes]]:
    return lambda: [(checkpoint() / name).read_bytes()]


def _written(data: bytes, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def _weights(data: bytes, folder: Path) -> None:
    shutil.copy(checkpoint() / "config.json", folder)
    _written(data, folder / "model.safetensors")
    stored_types(folder)
    weights_facts(folder)


def _state(data: bytes, folder: Path) -> None:
    inner = folder / "run-last" / "training_state"
    _written(data, inner / "state.json")
    shutil.copy(checkpoint() / "training_state" / "tensors.safetensors", inner)
    with suppress(IteraError):
        RunFiles("run", folder, folder).saved_settings()
    load_training_state(inner.parent)


def _documents(suffix: str) -> Callable[[bytes, Path], object]:
    return lambda data, folder: read_documents(_written(data, folder / f"a{suffix}"), Repairs())


def _lines(suffix: str) -> Callable[[bytes, Path], object]:
    return lambda data, folder: list(LineReader(_written(data, folder / f"a{suffix}")))


def _scored(data: bytes, folder: Path) -> None:
    output = _written(b'{"id": 1, "line": 1, "nats": 1.0}\n', folder / "out.jsonl")
    _written(data, folder / ".out.jsonl.resume")
    Progress(output, {"prefix": "", "window": None}, [checkpoint()]).look()


def _numbers(data: bytes, folder: Path) -> None:
    text = data.decode("utf-8", "surrogateescape")
    for read in (quantities.number_of, quantities.bytes_of, quantities.share_of):
        with suppress(IteraError):
            read("x", text)
    for name, check in quantities.CHECKS.items():
        with suppress(IteraError):
            check(text if name == "tokens" else text[:40])


def _owner(data: bytes, folder: Path) -> None:
    path = _written(data, folder / ".run.lock.owner")
    locks._is_left_over(path.read_text(encoding="utf-8", errors="replace"))


def _records() -> list[bytes]:
    paths = sorted(RESULTS.rglob("*.json"), key=lambda path: path.stat().st_size)
    small = [path for path in paths if path.stat().st_size < 20_000]
    return [path.read_bytes() for path in small[:: max(1, len(small) // 12)]]


def _set(data: bytes, folder: Path) -> None:
    _written(data, folder / "manifest.json")
    for name in ("train.bin", "valid.bin"):
        _written(b"\0\1\2\0\0\1", folder / name)
    shutil.copy(checkpoint() / "tokenizer.json", folder)
    open_dataset(folder)


MANIFEST = {
    "format": 1,
    "name": "a",
    "source": {"files": 1},
    "dtype": "<u2",
    "tokenizer_sha256": "0",
    "splits": {
        split: {"file": f"{split}.bin", "tokens": 2, "bytes": 2, "file_sha256": "0"}
        for split in ("train", "valid")
    },
}
ROWS = [{"text": "one é\n", "n": 1}, {"text": "two \ud83d", "n": [1.5, None]}, {"text": ""}]
TABLE = b'text,n\r\n"a ""quoted"", line\nbreak",1\r\nplain,2\r\n'
JSONL = "\n".join(json.dumps(row) for row in ROWS).encode()
TEXT = b"one\n<|endoftext|>\ntwo \xff\xfe three\n = Title = \n\n"
_ALL = (
    Target(
        "config",
        lambda d, f: read_config(_written(d, f / "config.json").parent),
        _file("config.json"),
    ),
    Target(
        "generation",
        lambda d, f: read_generation_config(_written(d, f / "generation_config.json").parent),
        _file("generation_config.json"),
    ),
    Target(
        "tokenizer",
        lambda d, f: Tokenizer.load(_written(d, f / "tokenizer.json").parent),
        _file("tokenizer.json"),
    ),
    Target("weights", _weights, _file("model.safetensors")),
    Target("state", _state, _file("training_state/state.json")),
    Target("manifest", _set, lambda: [json.dumps(MANIFEST).encode()]),
    Target(
        "gguf",
        lambda d, f: _check_file(_written(d, f / "model.gguf"), runs=False),
        lambda: [hybrid().render(), llama().render()],
    ),
    Target(
        "gguf.gz",
        lambda d, f: _check_file(_written(d, f / "model.gguf.gz"), runs=False),
        lambda: [gzip.compress(llama().render())],
    ),
    Target("text", _documents(".txt"), lambda: [TEXT]),
    Target("text.gz", _documents(".txt.gz"), lambda: [gzip.compress(TEXT)]),
    Target("jsonl", _documents(".jsonl"), lambda: [JSONL]),
    Target("json", _documents(".json"), lambda: [json.dumps(ROWS).encode()]),
    Target("csv", _documents(".csv"), lambda: [TABLE]),
    Target("tsv", _documents(".tsv"), lambda: [TABLE.replace(b",", b"\t")]),
    Target("lines.jsonl", _lines(".jsonl"), lambda: [JSONL]),
    Target("lines.txt", _lines(".txt"), lambda: [TEXT]),
    Target(
        "scored",
        _scored,
        lambda: [
            json.dumps(
                {
                    "options": {"prefix": "", "window": None},
                    "model": "0",
                    "read": {"line": 1, "sha256": "0", "size": 34},
                }
            ).encode()
        ],
    ),
    Target("record", lambda d, f: read_any(_written(d, f / "a_summary.json")), _records),
    Target(
        "settings", lambda d, f: read_settings(_written(d, f / "s.json")), lambda: [b'{"a": 1}']
    ),
    Target("owner", _owner, lambda: [locks._owner().encode()]),
    Target("numbers", _numbers, lambda: [b"3M", b"1.5MiB", b"2%", b"-1e400", b"NaN", b"0x10"]),
)
TARGETS = {target.name: target for target in _ALL}

# What breaks readers: numbers at the edge of types, other types, nesting, ends of texts
WORDS = (
    *(b"0", b"-1", b"1e400", b"NaN", b"Infinity", b"null", b"true", b"[]", b"{}", b'""', b'"'),
    *(b"[" * 2000, b'{"a":' * 500, b"9" * 5000, b"\\ud800", b"\x00", b"\xff\xff\xff\xff", b"\r\n"),
    *((2**31).to_bytes(8, "little"), (2**63).to_bytes(8, "little"), b"\xff" * 8, b"\xef\xbb\xbf"),
)


def mutations(data: bytes, count: int, draw: random.Random) -> Iterator[bytes]:
    """Changed copies of a file: bits, bytes, pieces and words of `WORDS`; the seed decides."""
    for _ in range(count):
        changed = bytearray(data)
        for _ in range(draw.choice((1, 1, 1, 2, 4, 16))):
            at = draw.randrange(len(changed) + 1)
            end = min(len(changed), at + draw.choice((1, 1, 2, 8, 64)))
            match draw.randrange(6):
                case 0 if at < len(changed):
                    changed[at] ^= 1 << draw.randrange(8)
                case 1 if at < len(changed):
                    changed[at] = draw.randrange(256)
                case 2:
                    del changed[at:end]
                case 3:
                    changed[at:at] = changed[at:end]
                case 4:
                    changed[at:end] = draw.choice(WORDS)
                case _:
                    del changed[at:]
        yield bytes(changed)
