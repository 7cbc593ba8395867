"""Builds the playground's engine: ``python -m tools.wasm`` writes itera_lite/playground/itera.wasm.

The built file is committed, for few have the compiler. Beside it, itera.wasm.json has the hashes of
the file and of its sources, so that a test notices where they don't belong together. The same
compiler makes the same bytes.

Needs clang 19 and the C++ library for WebAssembly; on Debian: clang-19 lld-19 libc++-19-dev-wasm32
libc++abi-19-dev-wasm32 libclang-rt-19-dev-wasm32 wasi-libc.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from itera_lite.machine.processor import usable_cores

ROOT = Path(__file__).parents[1]
NATIVE = ROOT / "native"
BUILT = ROOT / "itera_lite" / "playground" / "itera.wasm"
RECORD = BUILT.with_suffix(".wasm.json")

CLANG = "clang++-19"
FOLDERS = ("gguf", "kernels", "model", "text", "wasm")
FILES = ("measure/check", "run/generate", "run/score")
ELSEWHERE = ("gguf/mapping", "kernels/avx2", "kernels/avx512", "kernels/neon")  # other machines'
# Where the time of a token or of a load goes; the rest is compiled to be small. The portable
# kernels, which few will run, would be a third of the file at -O3.
LEVELS = {
    **dict.fromkeys(("kernels/wasm", "model/pack", "model/session", "text/sampler"), "-O3"),
    "kernels/portable": "-Os",
}

COMPILE = (
    *("--target=wasm32-wasi", "-std=c++20", "-msimd128", "-fvisibility=hidden"),
    *("-Wall", "-Wextra", "-I.", "-Iwasm"),
    # Without contraction, as everywhere: the same seed draws the same tokens.
    *("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"),
)
# A broken file can't take more than 1 GiB. The stack lies first, so that it can't grow into data.
LINK = (
    *("--target=wasm32-wasi", "-mexec-model=reactor", "-Wl,--strip-all", "-Wl,--stack-first"),
    *("-Wl,-z,stack-size=1048576", f"-Wl,--max-memory={2**30}"),
)


def units() -> list[str]:
    """What is compiled, as paths in ``native/`` without a suffix."""
    found = [path for folder in FOLDERS for path in (NATIVE / folder).glob("*.cc")]
    names = [path.relative_to(NATIVE).with_suffix("").as_posix() for path in found]
    return sorted({*names, *FILES} - set(ELSEWHERE))


def sources() -> Iterator[Path]:
    """All files that the result depends on, in order."""
    yield Path(__file__)
    yield from (NATIVE / f"{name}.cc" for name in units())
    folders = sorted({*FOLDERS, *(name.partition("/")[0] for name in FILES)})
    for folder in folders:
        yield from sorted((NATIVE / folder).glob("*.h"))


def sources_hash() -> str:
    """SHA-256 of the sources' paths and contents."""
    hash = hashlib.sha256()
    for path in sources():
        data = path.read_bytes()
        hash.update(f"{path.relative_to(ROOT).as_posix()}\0{len(data)}\0".encode() + data)
    return hash.hexdigest()


def build(out: Path) -> None:
    """Compile and link ``out``; ends the program with the compiler's messages where that fails."""
    with tempfile.TemporaryDirectory() as scratch:
        objects = {name: Path(scratch) / f"{name.replace('/', '-')}.o" for name in units()}

        def compile(name: str) -> None:
            _run(*COMPILE, LEVELS.get(name, "-Oz"), "-c", f"{name}.cc", "-o", str(objects[name]))

        with ThreadPoolExecutor(usable_cores()) as pool:
            list(pool.map(compile, objects))
        _run(*LINK, *map(str, objects.values()), "-o", str(out))


def _run(*arguments: str) -> None:
    run = subprocess.run([CLANG, *arguments], cwd=NATIVE, capture_output=True, text=True)
    print(run.stderr, end="", file=sys.stderr)
    if run.returncode:
        raise SystemExit(f"failed: {CLANG} {' '.join(arguments)}")


def main() -> None:
    """Build the file and write what belongs together."""
    if shutil.which(CLANG) is None:
        raise SystemExit(f"{CLANG} wasn't found. {(__doc__ or '').rpartition('Needs ')[2].strip()}")
    build(BUILT)
    version = subprocess.run([CLANG, "--version"], capture_output=True, text=True, check=True)
    record = {
        "sources": sources_hash(),
        "wasm": hashlib.sha256(BUILT.read_bytes()).hexdigest(),
        "compiler": version.stdout.splitlines()[0],
    }
    RECORD.write_text(json.dumps(record, indent=2) + "\n")
    print(f"{BUILT.relative_to(ROOT)}: {BUILT.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
