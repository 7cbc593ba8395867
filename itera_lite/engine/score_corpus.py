"""Scores a corpus of many files into a folder that mirrors them; a file is the unit of work.

A file's output appears when it is whole, and a marker beside it then lists the counts and what it
was made from. The same command, given again, goes on with the files that have no marker; so a kill
costs the rest of the files that were in work. Markers, and what isn't whole yet, lie in the hidden
folder `STATE` of the output.
"""

from __future__ import annotations

import fcntl
import glob
import os
import stat
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from itera_lite.data.compression import uncompressed_name
from itera_lite.engine.find import engine_file, find_model
from itera_lite.engine.score import ScoredLines, Task
from itera_lite.engine.score_fields import Fields
from itera_lite.engine.score_formats import is_read, output_name, unit_of
from itera_lite.engine.score_jobs import ScoreJob
from itera_lite.engine.score_processes import Processes
from itera_lite.engine.score_progress import Meter
from itera_lite.engine.score_resume import hash_of_model, option_text
from itera_lite.engine.score_sample import (
    FileSample,
    Threshold,
    find_threshold,
    plan,
    raise_first_error,
    threshold_text,
)
from itera_lite.engine.score_tally import Tally
from itera_lite.engine.scorer import Scorer, check_unit
from itera_lite.errors import DataError, IteraError, OutputError, UsageError
from itera_lite.files import is_file, is_folder, output_errors, read_object, write_json

STATE = ".itera-score"
VERSION = 1  # of what is written there


@dataclass(frozen=True)
class Source:
    """A file of the input.

    Attributes:
        path: of the file.
        name: of its output, from the output folder.
        size: bytes as it is stored.
        changed: time of the last change, in ns.
    """

    path: Path
    name: str
    size: int
    changed: int


@dataclass(kw_only=True)
class ScoredCorpus(ScoredLines):
    """What was scored, by this run and the earlier ones that it went on from.

    Attributes:
        output: the folder.
        files: of the input; ``files_done``: of these, done; ``done_before``: by earlier runs.
        bytes_now: of text that this run has scored.
        failed: a message for each file that couldn't be scored.
        left_out: endings of the names of files that aren't read -> number of them.
    """

    output: Path
    files: int = 0
    files_done: int = 0
    done_before: int = 0
    bytes_now: int = 0
    failed: list[str] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)


def is_corpus(inputs: Sequence[Path], output: Path | None) -> bool:
    """Whether a folder is written: for several inputs, a folder, a pattern, or into a folder."""
    if len(inputs) > 1 or (output is not None and is_folder(output)):
        return True
    return any(is_folder(path) or _is_pattern(path) for path in inputs)


def score_corpus(inputs: Sequence[Path], output: Path | None, task: Task) -> ScoredCorpus:
    """Score all files of the input that aren't done.

    Args:
        inputs: files, folders and patterns such as ``data/**/*.jsonl.zst``.
        output: the folder, which is made where it isn't there.
        task: what is to be done.

    Returns:
        The counts. Files that failed are listed there.

    Raises:
        UsageError: the output holds something else, or the input.
        DataError: there is nothing to score, or the output was made in another way.
        CheckpointError, ModelFileError: there is no model, or it can't be used.
        OutputError: the output can't be written.
    """
    if output is None or str(output) == "-":
        raise UsageError(
            "several files are scored into a folder, which has a file for each: name it with "
            "--output"
        )
    base, sources, left_out = find_sources(inputs, output, task.fields)
    model = find_model(task.model)
    bad = None if task.bad is None else find_model(task.bad)
    with ExitStack() as stack:
        scorer = Scorer(
            stack.enter_context(engine_file(model)),
            bad=None if bad is None else stack.enter_context(engine_file(bad)),
            by=task.by,
            window=task.window,
        )
        check_unit(scorer.unit, {unit_of(source.path) for source in sources})
        state = stack.enter_context(State(output).locked())
        models = [hash_of_model(path) for path in (model, bad) if path is not None]
        threshold = state.begin(task.options, "-".join(models), base)
        found = ScoredCorpus(
            model=model,
            bad=bad,
            quantity=scorer.quantity,
            output=output,
            threads=task.threads,
            files=len(sources),
            left_out=left_out,
        )
        todo = []
        for source in sources:
            tally = state.tally_of(source)
            if tally is None:
                todo.append(source)
            else:
                found.update(tally)
                found.files_done += 1
                found.done_before += 1
        processes = stack.enter_context(Processes(scorer, task.threads))
        found.limit = task.max_bits
        if task.keep is not None:
            if threshold is None:
                threshold = _sampled(sources, task, processes)
                state.save_threshold(threshold)
            print(threshold_text(threshold, scorer), file=sys.stderr)
            found.threshold, found.limit = threshold, threshold.value
        size = sum(source.size for source in todo)
        threads = "1 thread" if task.threads == 1 else f"{task.threads:,} threads"
        print(
            f"{len(todo):,} of {len(sources):,} files are to be scored with {threads}: "
            f"{size / 1e6:,.1f} MB as they are stored",
            file=sys.stderr,
        )
        _run(todo, state, task, processes, found)
    return found


def _run(
    todo: Sequence[Source], state: State, task: Task, processes: Processes, found: ScoredCorpus
) -> None:
    """Score the files, and mark each that is done."""
    jobs = {
        ScoreJob(
            source.path,
            source.size,
            state.output / source.name,
            state.scratch,
            task.fields,
            found.limit,
        ): source
        for source in todo
    }
    with Meter("scoring", sum(source.size for source in todo), len(todo)) as meter:

        def done(job: ScoreJob, tally: Tally) -> None:
            state.mark(jobs[job], tally)
            found.update(tally)
            found.files_done += 1
            found.bytes_now += tally.bytes
            meter.file_done()

        def failed(job: ScoreJob, reason: str) -> None:
            found.failed.append(reason)
            meter.note(f"itera: {reason}")

        begin = time.perf_counter()
        try:
            processes.run(list(jobs), done, failed, meter.tick)
        except (KeyboardInterrupt, IteraError):
            meter.note(
                f"\n'{state.output}' has {found.files_done:,} of {found.files:,} files: the same "
                "command goes on"
            )
            raise
        found.seconds = time.perf_counter() - begin


def _sampled(sources: Sequence[Source], task: Task, processes: Processes) -> Threshold:
    """The threshold for ``task.keep``, by a sample of all files."""
    assert task.keep is not None
    jobs = plan([(source.path, source.size) for source in sources], task.fields)
    places = {job.source: place for place, job in enumerate(jobs)}
    samples: list[FileSample | None] = [None] * len(jobs)
    with Meter("sample", sum(job.size for job in jobs), len(jobs)) as meter:

        def done(job: Any, sample: FileSample) -> None:
            samples[places[job.source]] = sample
            meter.file_done()

        # A file that fails is reported when it is scored.
        processes.run(jobs, done, lambda job, reason: None, meter.tick)
    threshold = find_threshold([sample for sample in samples if sample is not None], task.keep)
    if threshold is None:
        raise_first_error(jobs)
    return threshold


class State:
    """What the runs with one output folder have in common.

    Args:
        output: the folder.

    Attributes:
        scratch: folder for what isn't whole yet.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self._folder = output / STATE
        self.scratch = self._folder / "scratch"
        self._record = self._folder / "run.json"
        self._made: dict[str, Any] = {}

    @contextmanager
    def locked(self) -> Iterator[State]:
        """Make the folders, and keep other runs away while the block runs.

        Raises:
            UsageError: the output is a file or holds something else, or another run writes there.
            OutputError: it can't be made.
        """
        if os.path.lexists(self.output) and not is_folder(self.output):
            raise UsageError(
                f"the output '{self.output}' is a file: several files are scored into a folder"
            )
        if is_folder(self.output) and not is_file(self._record):
            others = [name for name in os.listdir(self.output) if name != STATE]
            if others:
                raise UsageError(
                    f"the output '{self.output}' is a folder that holds other things, such as "
                    f"'{min(others)}': name a new or an empty one"
                )
        with output_errors(self._folder):
            self.scratch.mkdir(parents=True, exist_ok=True)
            lock = (self._folder / "lock").open("ab")
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(
                    f"another process scores into '{self.output}': let it end, or name another "
                    "output"
                ) from None
            except OSError:  # a file system without locks
                pass
            self._clean()
            try:
                yield self
            finally:
                self._clean()

    def begin(self, options: dict[str, object], model: str, base: str) -> Threshold | None:
        """Check that the output was made in the same way, or record how it is made.

        Args:
            options: that decide the results, by name.
            model: hash of the model, or of both.
            base: folder below which the names of the input are those of the output.

        Returns:
            The threshold that an earlier run has found.

        Raises:
            DataError: the output was made in another way.
            OutputError: it can't be recorded.
        """
        base = base.encode("utf-8", "backslashreplace").decode()  # as it is written
        now = {"version": VERSION, "options": options, "model": model, "base": base}
        if not is_file(self._record):
            self._made = now
            write_json(self._record, now)
            return None
        self._made = made = read_object(self._record, DataError)
        advice = "Give the same, or name another output"
        if made.get("version") != VERSION:
            raise DataError(
                f"'{self.output}' was begun by another version of Itera-Lite: name another output"
            )
        before = made.get("options")
        for name, value in options.items():
            old = before.get(name) if isinstance(before, dict) else None
            if old != value:
                raise DataError(
                    f"'{self.output}' was begun with {option_text(name, old)}, now it is "
                    f"{option_text(name, value)}. {advice}"
                )
        if made.get("model") != model:
            raise DataError(f"'{self.output}' was begun with another model. {advice}")
        if made.get("base") != base:
            raise DataError(
                f"'{self.output}' was begun with files below '{made.get('base')}', now they are "
                f"below '{base}', and so the names would be others. {advice}"
            )
        try:
            found = made.get("threshold")
            return None if found is None else Threshold(**found)
        except TypeError:
            raise DataError(f"'{self._record}' is damaged: name another output") from None

    def save_threshold(self, threshold: Threshold) -> None:
        """Record the threshold, which later runs use too."""
        self._made = self._made | {"threshold": asdict(threshold)}
        write_json(self._record, self._made)

    def tally_of(self, source: Source) -> Tally | None:
        """The counts of a file that is done; None where it isn't, or has changed since."""
        try:
            made = read_object(self._marker(source), DataError)
            size = (self.output / source.name).stat().st_size
            if made["input"] != _identity(source) or made["output"] != size:
                return None
            return Tally.of_json(made["counts"])
        except (DataError, OSError, KeyError, TypeError, ValueError, AttributeError):
            return None

    def mark(self, source: Source, tally: Tally) -> None:
        """Record that a file is done.

        Raises:
            OutputError: the marker can't be written.
        """
        try:
            size = (self.output / source.name).stat().st_size
        except OSError as error:
            raise OutputError(f"'{self.output / source.name}' is gone: {error.strerror}") from error
        marker = {"input": _identity(source), "output": size, "counts": tally.as_json()}
        write_json(self._marker(source), marker)

    def _marker(self, source: Source) -> Path:
        return self._folder / "done" / f"{source.name}.json"

    def _clean(self) -> None:
        """Remove what killed processes have left."""
        with suppress(OSError):
            for path in self.scratch.iterdir():
                path.unlink()


def _identity(source: Source) -> dict[str, int]:
    return {"size": source.size, "changed": source.changed}


def find_sources(
    inputs: Sequence[Path], output: Path, fields: Fields
) -> tuple[str, list[Source], dict[str, int]]:
    """The files of the input, with the names of their outputs.

    Args:
        inputs: files, folders and patterns. Of these, .json is mostly no text unless it is
            compressed, and is left out.
        output: folder that may lie in one of the input, and isn't read.
        fields: what is written of a text.

    Returns:
        The folder below which the names are, the files in the order of their names, and the
        number of files that aren't read, by the ending of their names.

    Raises:
        DataError: there are no files, or one can't be read.
        UsageError: an input is no file, two files would have the same output, or the output
            folder holds the input.
    """
    roots, paths, left_out = [], dict[str, Path](), Counter[str]()
    own = os.path.realpath(output)
    for given in inputs:
        if len(inputs) > 1 and os.path.realpath(given) == own:
            continue  # `data/*` with an output in data/, given again
        root, found, named = _files_of(given)
        roots.append(os.path.abspath(root))
        for path in found:
            if _is_below(os.path.realpath(path), own) and not named:
                continue
            if is_read(path) and (named or path.suffix.lower() != ".json"):
                paths.setdefault(os.path.realpath(path), path)
            elif named:
                raise UsageError(
                    f"'{path}': expected .txt, .jsonl or .csv, also with .gz or .zst, or .parquet"
                )
            else:
                left_out[Path(uncompressed_name(path)).suffix or path.name] += 1
    base = os.path.commonpath(roots)
    if any(_is_below(os.path.realpath(root), own) for root in roots):
        raise UsageError(f"the output '{output}' is a folder that holds the input: name another")
    sources: dict[str, Source] = {}
    for path in sorted(paths.values(), key=os.path.abspath):
        name = output_name(os.path.relpath(os.path.abspath(path), base), fields)
        if name in sources:
            raise UsageError(
                f"'{sources[name].path}' and '{path}' would both be written to "
                f"'{output / name}': give them in two commands"
            )
        sources[name] = _source(path, name)
    if not sources:
        shown = ", ".join(f"'{path}'" for path in inputs[:5])
        raise DataError(
            f"no file to score in {shown}: expected names that end in .txt, .jsonl or .csv, also "
            "with .gz or .zst, or in .parquet"
        )
    return base, list(sources.values()), dict(left_out)


def _source(path: Path, name: str) -> Source:
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror or error})") from error
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{path}: can't be read (it is no regular file): move it elsewhere")
    return Source(path, name, status.st_size, status.st_mtime_ns)


def _files_of(given: Path) -> tuple[Path, list[Path], bool]:
    """The root of an input, its files, and whether it is a file that was named itself."""
    if is_folder(given):
        return given, list(_walk(given)), False
    if is_file(given):
        return given.parent, [given], True
    if not os.path.lexists(given) and _is_pattern(given):
        found = sorted(Path(name) for name in glob.iglob(str(given), recursive=True))
        if not found:
            raise DataError(f"no file matches '{given}'")
        parts = given.parts
        fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
        files = [file for path in found for file in (_walk(path) if is_folder(path) else [path])]
        return Path(*parts[:fixed]), files, False
    if str(given) == "-":
        raise UsageError("'-': standard input is scored alone, into one output")
    reason = "it is no regular file" if os.path.lexists(given) else "there is none"
    raise DataError(f"{given}: can't be read ({reason}); expected a file, folder or pattern")


def _walk(folder: Path) -> Iterator[Path]:
    """The files below a folder, hidden ones left out."""

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: can't be read ({error.strerror or error})") from error

    for here, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                yield Path(here, name)


def _is_pattern(path: Path) -> bool:
    return glob.has_magic(str(path)) and not os.path.lexists(path)


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")
