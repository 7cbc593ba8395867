"""Makes GGUF files that are wrong on purpose: ``python -m tests.native.hostile FOLDER``.

Each is one small change to a valid file, so that nothing but the change can be what refuses it.
With ``--seeds`` it writes the valid ones instead, and the names in them, for a fuzzer.
"""

from __future__ import annotations

import argparse
import gzip
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from tests.native.gguf_bytes import BOOL, F32, encode, scalar
from tests.native.gguf_models import hybrid, llama
from tests.native.hostile_file import (
    EITHER,
    Hostile,
    flips,
    framing,
    gzipped,
    metadata,
    tensors,
    truncated,
)
from tests.native.hostile_model import shapes, tokenizer, unknown, values

__all__ = ["EITHER", "GROUPS", "Hostile", "dictionary", "hostile", "valid", "write"]


def valid() -> dict[str, bytes]:
    """The files that must load."""
    files = {
        "hybrid-q8_0": hybrid(),
        "hybrid-q4_0": hybrid("q4_0", "am"),
        "hybrid-f32-dense": hybrid("f32", "ma", experts=0),
        "hybrid-bf16": hybrid("bf16", "a"),
        "llama-f32": llama(),
        "llama-f16": llama("f16", "aa"),
        "llama-q8_0-version-2": llama("q8_0"),
        # Widths that fill no vector of any instruction set.
        "hybrid-narrow-f16": hybrid(
            "f16", "ma", ff=5, heads=16, kv_heads=4, state=3, taps=2, shared=7
        ),
        "hybrid-narrow-bf16": hybrid(
            "bf16", "am", ff=1, experts=9, top_k=9, heads=8, kv_heads=8, state=1, taps=8
        ),
        "hybrid-wide-f32": hybrid(
            "f32", "am", ff=33, experts=2, heads=1, state=17, ssm_heads=1, taps=3
        ),
        "hybrid-heads-q8_0": hybrid("q8_0", "ma", heads=4, kv_heads=2, state=5, ssm_heads=4),
        "llama-narrow-f32": llama("f32", ff=3, heads=16, kv_heads=2),
    }
    files["llama-q8_0-version-2"].version = 2
    files["hybrid-begins-bf16"] = hybrid("bf16", "ma", experts=0).set(
        "tokenizer.ggml.add_bos_token", scalar(BOOL, True)
    )
    biased = llama("f32", "a", ff=33).set("llama.rope.scaling.factor", scalar(F32, 2.0))
    for name, width in {"attn_q": 32, "attn_k": 16, "attn_output": 32, "ffn_up": 33}.items():
        biased.tensors.append((f"blk.0.{name}.bias", encode(np.full(width, 0.1), "f32")))
    biased.tensors.append(("rope_freqs.weight", encode(np.full(8, 2.0), "f32")))
    files["llama-biased-f32"] = biased
    rendered = {name: draft.render() for name, draft in files.items()}
    rendered["hybrid-q8_0-gzipped"] = gzip.compress(rendered["hybrid-q8_0"], mtime=0)
    return rendered


def hostile() -> list[Hostile]:
    """All the files that are wrong, each under its own name."""
    return [case for group in GROUPS.values() for case in group()]


GROUPS: dict[str, Callable[[], Iterator[Hostile]]] = {
    "framing": framing,
    "truncated": truncated,
    "metadata": metadata,
    "tensors": tensors,
    "shapes": shapes,
    "unknown": unknown,
    "values": values,
    "tokenizer": tokenizer,
    "flips": flips,
    "gzipped": gzipped,
}


def write(folder: Path, files: dict[str, bytes]) -> list[Path]:
    """Writes the files into the folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.gguf" for name in files]
    for path, data in zip(paths, files.values(), strict=True):
        path.write_bytes(data)
    return paths


def dictionary() -> str:
    """The names in the valid files, as libFuzzer wants them: a string in quotes a line."""
    names = [name for draft in (hybrid(), llama()) for name, _ in draft.keys + draft.tensors]
    return "".join(f'"{name}"\n' for name in dict.fromkeys(map(str, names)))


def main() -> None:
    parser = argparse.ArgumentParser(description="Write GGUF files that are wrong on purpose.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", action="store_true", help="write what a fuzzer starts from")
    options = parser.parse_args()
    files = valid() if options.seeds else {case.name: case.data for case in hostile()}
    print(f"{len(write(options.folder, files))} files in {options.folder}")
    if options.seeds:
        (options.folder / "dictionary").write_text(dictionary())


if __name__ == "__main__":
    main()
