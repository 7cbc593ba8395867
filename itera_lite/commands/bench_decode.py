"""The verb `bench decode`: the native engine beside llama.cpp and `transformers`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from itera_lite.commands.bench import folders_of, print_missing, write_records
from itera_lite.errors import UsageError
from itera_lite.quantities import MOST_THREADS, whole_number
from itera_lite.records import Decode

TYPES = ("f32", "q8_0", "q4_0")
REPEATS, QUICK_REPEATS = 15, 3
CONTEXT, LONG_CONTEXT = 128, 8192
MOST_COUNT = 1 << 24  # of repeats, tokens and documents
SIZES_FILE = "engine_sizes.json"


def bench_decode(
    *checkpoints: Path,
    types: Sequence[str] = TYPES,
    quick: bool = False,
    repeats: int | None = None,
    context: int = CONTEXT,
    long_context: int = LONG_CONTEXT,
    peers: bool = True,
    pytorch: bool = False,
    sizes: bool = True,
    startup: bool = True,
    results: Path = Path("results"),
) -> dict[str, Decode]:
    """Measure the native engine's decoding beside llama.cpp and transformers.

    Every model is exported, then everybody decodes the same files in turns: one text, one
    thread, greedily. Also measured: the share of what reading the weights alone would take
    and where the rest goes, a long context, models of llama2.c's sizes, loading, the first
    token and memory. Writes NAME_decode.json for each.

    Args:
        checkpoints: Folders of the models; by default both tiny ones.
        types: How the weights are stored, such as f32, q8_0, q4_0.
        quick: Three repeats.
        repeats: Turns of each; by default 15, or 3 with quick.
        context: Tokens of the prompt.
        long_context: The same, for the cost of a long text; 0 leaves it out.
        peers: Also measure llama.cpp and transformers, where they are installed.
        pytorch: Also measure our own PyTorch model.
        sizes: Also measure models of llama2.c's sizes, with random weights.
        startup: Also measure loading, the first token, memory and the import.
        results: Folder of the result files.
    """
    from itera_lite.bench.decode import measure_decoding
    from itera_lite.bench.table import print_decoded, print_decoding

    check(types, repeats=repeats, context=context)
    if whole_number("long_context", long_context, least=0, most=MOST_COUNT) and (
        long_context <= context
    ):
        raise UsageError(
            f"--long-context {long_context}: expected more than --context {context}, or 0"
        )
    folders = folders_of(checkpoints, results, "decode")
    if peers:
        print_missing()
    records, small = measure_decoding(
        folders,
        types=types,
        repeats=repeats or (QUICK_REPEATS if quick else REPEATS),
        context=context,
        long_context=long_context,
        peers=peers,
        pytorch=pytorch,
        sizes=sizes,
        startup=startup,
    )
    for record in records:
        print_decoding(record)
    if small:
        for model in small.models:
            print_decoded(model)
        small.write(Path(results) / SIZES_FILE)
    return write_records(records, results, "decode")


def check(types: Sequence[str], **counts: int | None) -> None:
    """Refuse an unknown type of weights, and a count below 1.

    Raises:
        UsageError: with the option's name, and what is expected.
    """
    from itera_lite.export.types import SCHEMES

    for option, value in counts.items():
        if value is not None:
            whole_number(option, value, most=MOST_THREADS if option == "threads" else MOST_COUNT)
    for kind in types:
        if kind not in SCHEMES:
            raise UsageError(f"--types {kind}: expected some of {', '.join(SCHEMES)}")
