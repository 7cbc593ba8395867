"""Files results into the committed layout, and writes the index of what is committed.

    python -m tools.results RESULTS SET STUDY    # then the index
    python -m tools.results                      # the index alone

RESULTS is the folder that commands wrote into. What they wrote about one model becomes the run
``results/SET/STUDY/STAGE/SEED.json``, with its training log beside it, or is added to the run that
is there; a record about several models goes to ``results/SET``.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from itera_lite.files import write_bytes, write_text
from itera_lite.machine.provenance import Provenance
from itera_lite.records import HeldOut, Measured, ModelRecord, Record, Run, read_any
from itera_lite.report.results import PARTS
from itera_lite.report.text import code, escape, paragraphs, table

ROOT = Path(__file__).resolve().parents[1] / "results"
DIRTY = "the tree that measured differed from its commit"
STAGES = "ladder"  # the folder beside the sets that `itera ladder` writes its stages into
SHOWN = 2  # commits, machines and commands in a cell of the index
INTRO = """# Results

The raw records behind every figure of this repository, written by `python -m tools.results`.
`SET/STUDY/STAGE/SEED.json` is all that is known of one model, with its training log beside it as
`SEED.csv`; `SET/NAME.json` is about several models. `itera_lite/records.py` says what each field
means; every record ends with its provenance. The last column counts records that are to be measured
again, because the tree was changed or because their origin isn't known."""


def add(folder: Path, target: Path, study: str) -> list[Path]:
    """File the records of a folder.

    Args:
        folder: what commands wrote into.
        target: of the set, such as ``results/tinystories``.
        study: what the models were trained for.

    Returns:
        The records written.

    Raises:
        IteraError: a file isn't a record.
    """
    parts: dict[str, dict[str, Measured]] = defaultdict(dict)
    written = []
    for path in sorted(folder.glob("*.json")):
        record = read_any(path)
        if isinstance(record, Measured) and record.provenance.git_dirty:
            record.provenance.to_measure_again = DIRTY
        if isinstance(record, HeldOut):
            parts[record.name]["held_out"] = record
        elif isinstance(record, ModelRecord):
            parts[record.model.name][PARTS[type(record)]] = record
        else:
            written.append(record.write(target / path.name))
    for name, found in parts.items():
        summary = found.get("summary")
        origin = next(iter(found.values())).provenance
        seed = (summary.model.seed if isinstance(summary, ModelRecord) else origin.seed) or 0
        stage = name.removesuffix(f"-seed{seed}")
        path = target / study / stage / f"{seed}.json"
        run = Run.read(path) if path.exists() else Run(study=study, stage=stage, seed=seed)
        for part, record in found.items():
            setattr(run, part, record)
        written.append(run.write(path))
        if (log := folder / f"{name}_metrics.csv").exists():
            write_bytes(path.with_suffix(".csv"), log.read_bytes())
    return written


def index(root: Path = ROOT) -> str:
    """A line a study, as Markdown. What commands wrote for a user, beside the sets, is left out."""
    studies: dict[str, list[Record]] = defaultdict(list)
    for path in sorted(root.glob("*/**/*.json")):
        place = path.relative_to(root)
        if place.parts[0] == STAGES:
            continue
        run = len(place.parts) > 2
        studies[f"{place.parts[0]}/{place.parts[1]}{'/' if run else ''}"].append(read_any(path))
    rows = [_row(name, records) for name, records in studies.items()]
    headers = ["Study", "What", "When", "Machine", "Commit", "Tree", "Command", "Again"]
    return paragraphs(INTRO, table(headers, rows, "llllllll")) + "\n"


def _row(name: str, records: Sequence[Record]) -> list[str]:
    origins = [record.provenance for record in records if isinstance(record, Measured)]
    runs = [record for record in records if isinstance(record, Run)]
    what = str(records[0].__doc__).partition("\n")[0]
    if runs:
        stages = ", ".join(dict.fromkeys(run.stage for run in runs))
        what = f"{len(runs)} run{'s' if len(runs) > 1 else ''}: {stages}"
        origins = [record.provenance for run in runs for record in run.parts.values()]
    dates = sorted({origin.date[:10] for origin in origins if origin.date})
    again = sum(bool(origin.to_measure_again) for origin in origins)
    return [
        code(name),
        escape(what),
        " to ".join(dict.fromkeys([*dates[:1], *dates[-1:]])),
        _first(escape(_machine(o)) for o in origins if o.machine),
        _first(code(o.git_commit[:12]) for o in origins if o.git_commit),
        _tree(origins),
        _first(code(o.command) for o in origins if o.command),
        f"{again} of {len(origins)}" if again else "",
    ]


def _machine(origin: Provenance) -> str:
    machine = origin.machine
    return f"{machine.cpu}, {machine.cores} cores" if machine else ""


def _tree(origins: Sequence[Provenance]) -> str:
    dirty = sum(origin.git_dirty is True for origin in origins)
    unknown = sum(origin.git_dirty is None for origin in origins)
    words = [f"{dirty} changed"] if dirty else []
    words += [f"{unknown} unknown"] if unknown else []
    return f"{' and '.join(words)} of {len(origins)}" if words else "clean"


def _first(cells: Iterable[str]) -> str:
    """The first different ones, and how many there are beside them."""
    found = list(dict.fromkeys(cells))
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return "; ".join(found[:SHOWN]) + more


if __name__ == "__main__":
    if len(sys.argv) == 4:
        for path in add(Path(sys.argv[1]), ROOT / sys.argv[2], sys.argv[3]):
            print(path)
    elif len(sys.argv) != 1:
        sys.exit(__doc__)
    print(write_text(ROOT / "README.md", index()))
