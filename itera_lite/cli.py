"""The command line: a verb is a function, imported only when it is called.

Options, their types, defaults and help come from the function's signature and docstring, so the
command line and the Python API can't drift apart. cyclopts parses them; here is what it lacks:
``-`` for standard input, advice for mistyped options, and refusals of what it would accept.

Exit codes: 0 good, 1 failed, 2 wrong use, 130 stopped with Ctrl-C (143 and 129 by SIGTERM and
SIGHUP).
"""

from __future__ import annotations

import difflib
import errno
import inspect
import io
import os
import re
import shlex
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from itera_lite import __version__
from itera_lite.errors import IteraError, IteraWarning, UsageError
from itera_lite.files import expand_home
from itera_lite.torchrun import is_worker, tell_launcher

if TYPE_CHECKING:
    from cyclopts import App, CycloptsError

# verb -> (module:function, the first line of its docstring; a test holds the two equal)
VERBS: dict[str, tuple[str, str]] = {
    "demo": (
        "itera_lite.commands.demo:demo",
        "Train, evaluate, benchmark and compare both models.",
    ),
    "data": (
        "itera_lite.commands.data:describe",
        "Prepare a text set and describe it: documents, bytes, tokens, samples.",
    ),
    "train": ("itera_lite.commands.train:train", "Train a model, or both in turns."),
    "eval": ("itera_lite.commands.evaluate:evaluate", "Measure the quality of a checkpoint."),
    "generate": ("itera_lite.commands.generate:generate", "Write text with a model."),
    "score": (
        "itera_lite.commands.score:score_lines",
        "Score each line of a file, or a corpus of files: bits per byte and perplexity.",
    ),
    "watch": (
        "itera_lite.commands.watch:watch",
        "Show the lines of a log that a model didn't expect.",
    ),
    "serve": (
        "itera_lite.commands.serve:serve",
        "Answer OpenAI's API, and show the playground, from a model.",
    ),
    "playground": (
        "itera_lite.commands.playground:playground",
        "Write a web page that holds the engine and a model, as one file.",
    ),
    "bench": ("itera_lite.commands.bench:bench", "Measure speed, memory and energy."),
    "bench decode": (
        "itera_lite.commands.bench_decode:bench_decode",
        "Measure the native engine's decoding beside llama.cpp and transformers.",
    ),
    "bench score": (
        "itera_lite.commands.bench_score:bench_score",
        "Measure the native engine's scoring beside llama.cpp and transformers.",
    ),
    "bench data": (
        "itera_lite.commands.bench_data:bench_data",
        "Measure how fast text is prepared, beside the tokenizer's library alone.",
    ),
    "bench serve": (
        "itera_lite.commands.bench_serve:bench_serve",
        "Measure the server under load, beside the bare engine and llama-cpp-python's server.",
    ),
    "bench complete": (
        "itera_lite.commands.bench_complete:bench_complete",
        "Measure how many keystrokes a model's completions save on held-out text.",
    ),
    "bench filter": (
        "itera_lite.commands.bench_filter:bench_filter",
        "Measure how well models separate clean text from bad, beside KenLM and a byte n-gram.",
    ),
    "bench playground": (
        "itera_lite.commands.bench_playground:bench_playground",
        "Measure the playground's engine in a browser, beside wllama.",
    ),
    "bench train": ("itera_lite.commands.bench_train:bench_training", "Measure training speed."),
    "bench scaling": (
        "itera_lite.commands.bench_scaling:bench_scaling",
        "Measure training with several processes on this machine, against one.",
    ),
    "bench seeds": (
        "itera_lite.commands.bench_seeds:bench_seeds",
        "Train both models with several seeds.",
    ),
    "export": (
        "itera_lite.commands.export:export",
        "Write a checkpoint as one file for llama.cpp, Ollama and LM Studio.",
    ),
    "check": (
        "itera_lite.commands.check:check_model",
        "Read a checkpoint or a GGUF file from end to end, and describe it.",
    ),
    "push": ("itera_lite.commands.push:push", "Upload a model to the Hugging Face Hub."),
    "pull": ("itera_lite.commands.pull:pull", "Download a model from the Hugging Face Hub."),
    "compress": (
        "itera_lite.commands.compress:compress",
        "Make a model smaller: say how small, or how much worse it may get.",
    ),
    "compress distill": (
        "itera_lite.commands.compress_distill:distill",
        "Train a small model on the probabilities of a larger one.",
    ),
    "compress vocab": (
        "itera_lite.commands.compress_vocab:vocab",
        "Give a model a smaller vocabulary, made for your text.",
    ),
    "compress experts": (
        "itera_lite.commands.compress_experts:experts",
        "Take out the experts that your text hardly uses.",
    ),
    "compress quantize": (
        "itera_lite.commands.compress_quantize:quantize",
        "Store a model in 8 or 4 bits, with as little loss as the time allows.",
    ),
    "ladder": (
        "itera_lite.commands.ladder:ladder",
        "Climb from a conventional Transformer to 100-300x, measured.",
    ),
    "report": ("itera_lite.commands.report:report", "Write the report from the result files."),
}


# Where `-` means standard input, or standard output: arguments that are read once from the start.
DASHES = {
    ("data", "data"),
    ("train", "data"),
    ("eval", "data"),
    ("score", "file"),
    ("score", "output"),
    ("watch", "file"),
}
# Verbs that measure time: before them, `main` prints whether other programs keep the machine busy
TIMED = ("demo", "train", *(verb for verb in VERBS if verb.startswith("bench")))
_REPLACED: list[object] = []
_WHOLE = re.compile(r"\s*[+-]?\d+\s*")
SETS_OR_PATHS = ("data", "student")  # text arguments that may be a path


class _Dash(str):
    """``-`` and ``-:COLUMN`` as an argument; cyclopts would take them for unknown options."""

    def startswith(self, *_: object) -> bool:
        return False


def build_app(arguments: Sequence[str]) -> App:
    """The command line for ``arguments``; no verb's module is imported but the one named."""
    from cyclopts import App, Parameter

    app = App(
        name="itera",
        help="Tiny language models that anybody can train, shrink and run on a CPU.",
        version=__version__,
        help_format="plaintext",
        default_parameter=Parameter(negative_iterable=()),
        result_action="return_value",
        suppress_keyboard_interrupt=False,
        exit_on_error=False,
        print_error=False,
    )
    for place, (verb, (target, summary)) in enumerate(VERBS.items()):
        parent, _, name = verb.rpartition(" ")
        if not parent:
            app.command(target, name=name, help=summary, sort_key=place)
        elif list(arguments[:1]) == [parent]:  # a verb below a verb needs the upper one's module
            app[parent].command(target, name=name, help=summary)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; ``arguments`` defaults to ``sys.argv[1:]``."""
    # The few operations in which PyTorch's own threads work together wait asleep, not in a loop:
    # beside another busy program, loops take the core from the thread that all are waiting for.
    # Set here because OpenMP reads it once, when a verb's module imports PyTorch.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _repair_streams()
    warnings.formatwarning = _warning_text
    code = _run_and_report(sys.argv[1:] if arguments is None else list(arguments))
    try:
        sys.stdout.flush()
    except OSError as error:  # what was left over from before; Python would try once more
        _discard(sys.stdout)
        if not code:
            code = 1 if isinstance(error, BrokenPipeError) else _fail(_reason(error), 1)
    return code


def _run_and_report(arguments: list[str]) -> int:
    """Run the command and return its exit code; print a message for every exception."""
    try:
        code = _run(arguments, _verb(arguments))
        sys.stdout.flush()  # so that a full disk or a reader that went away is noticed here
        return code
    except IteraError as error:
        return _fail(str(error), error.exit_code, consequence=error.is_consequence)
    except KeyboardInterrupt as stopped:
        if not is_worker():
            _print_error("\nitera: stopped")
        return int(getattr(stopped, "exit_code", 130))
    except BrokenPipeError:  # `itera data | head`: nobody reads any more
        _discard(sys.stdout)
        return 1
    except OSError as error:  # a full disk, a folder that may not be written, no network
        return _fail(_reason(error), 1)
    except MemoryError as error:
        return _fail(_memory(error), 1)
    except RecursionError:
        return _fail("a file that was read is nested too deeply to be understood", 1)
    except Exception as error:
        if isinstance(error, RuntimeError) and any(text in str(error) for text in _NO_MEMORY):
            return _fail(_memory(error), 1)
        with suppress(OSError):
            traceback.print_exc()
        return _fail(
            f"unexpected {type(error).__name__}. This is a bug in Itera-Lite {__version__}: "
            "please report it with the lines above and the command that you ran.",
            1,
        )


def _run(arguments: list[str], verb: str) -> int:
    """Find the verb's function, read its arguments, call it."""
    from cyclopts import CycloptsError

    meter = None
    if verb in TIMED and not is_worker():
        from itera_lite.machine.load import LoadMeter, busy_note

        meter = LoadMeter()  # measures while the verb is imported
    first = arguments[0] if arguments else "--help"
    if first not in _top_verbs() and first not in ("--help", "-h", "--version"):
        raise UsageError(_unknown(first))
    _check_lower_verb(arguments)
    end = arguments.index("--") if "--" in arguments else len(arguments)
    tokens = [_Dash(a) if _is_dash(a) else a for a in arguments[:end]] + arguments[end:]
    try:
        function, bound, _ = build_app(arguments).parse_args(tokens)
    except CycloptsError as error:
        return _fail(f"{_wrong_use(error, arguments)}\nSee: itera {verb} --help".strip(), 2)
    _check_whole(function, arguments[:end])
    for name, value in bound.arguments.items():
        bound.arguments[name] = _checked(verb, name, value, arguments, arguments[:end])
    asked = function.__module__.startswith("itera_lite.commands")  # not for help
    if asked and meter and (note := busy_note(meter)):
        print(note, flush=True)
    function(*bound.args, **bound.kwargs)
    return 0


def _top_verbs() -> list[str]:
    return [verb for verb in VERBS if " " not in verb]


def _verb(arguments: Sequence[str]) -> str:
    """The verb that the arguments begin with, of one word or two."""
    for words in (2, 1):
        if " ".join(arguments[:words]) in VERBS:
            return " ".join(arguments[:words])
    return ""


def _unknown(first: str) -> str:
    near = difflib.get_close_matches(first, _top_verbs(), n=1)
    advice = f"Did you mean '{near[0]}'? " if near else ""
    return f"'{first}' is no verb. {advice}Expected one of: {', '.join(_top_verbs())}."


def _check_lower_verb(arguments: Sequence[str]) -> None:
    """Refuse a mistyped second word, as in `itera compress distil`: it would be a checkpoint.

    Raises:
        UsageError: the word is near a verb's and names nothing that is there.
    """
    if len(arguments) < 2 or " ".join(arguments[:2]) in VERBS:
        return
    first, second = arguments[:2]
    lower = [verb.split()[1] for verb in VERBS if verb.startswith(f"{first} ")]
    near = difflib.get_close_matches(second, lower, n=1, cutoff=0.7)
    if near and not os.path.exists(second):
        raise UsageError(
            f"'{second}' is neither a file or folder nor a verb below '{first}'. Did you mean "
            f"'itera {first} {near[0]}'?"
        )


def _wrong_use(error: CycloptsError, arguments: Sequence[str]) -> str:
    from cyclopts import UnknownOptionError, UnusedCliTokensError

    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        return f"unexpected argument '{error.unused_tokens[0]}'. Text with spaces needs quotes."
    if isinstance(error, UnknownOptionError):
        given = error.token.keyword or error.token.value
        names = [name for argument in error.argument_collection for name in argument.names]
        option = given.split("=", 1)[0]
        near = _near_option(option, names)
        if near == option:
            return f"'{given}' stands after --, where all is text or names: put options before it."
        if near:
            return f"unknown option '{given}'. Did you mean {near}?"
        advice = ""
        if " " in given or not given.startswith("--"):
            advice = (
                " If it is text or a name that begins with a dash, put -- before it: "
                f"itera {_verb(arguments)} -- {shlex.quote(given)}"
            )
        return f"unknown option '{given}'.{advice}"
    return str(error).strip()


def _near_option(given: str, names: Sequence[str]) -> str | None:
    """The option that was probably meant: one that begins so, or is spelt much like it."""
    word = given.lstrip("-").replace("_", "-").lower()
    if len(word) < 3 or " " in given:
        return None

    def likeness(name: str) -> float:
        option = name.removeprefix("--")
        parts = (option, option[: len(word)])
        return max(difflib.SequenceMatcher(None, word, part).ratio() for part in parts)

    best = max((n for n in names if n.startswith("--")), key=likeness, default=None)
    return best if best and likeness(best) >= 0.65 else None


def _check_whole(function: Callable[..., Any], arguments: Sequence[str]) -> None:
    """Refuse a fraction where a whole number is expected; cyclopts would round it.

    Raises:
        UsageError: for such an option.
    """
    kinds = {
        f"--{name.replace('_', '-')}": str(parameter.annotation)
        for name, parameter in inspect.signature(function).parameters.items()
    }
    if "--workers" in kinds:  # see `itera_lite.commands.options`
        kinds["--workers"] = kinds["--threads"] = "int | None"
    for place, argument in enumerate(arguments):
        option, has_value, value = argument.partition("=")
        if not has_value:
            value = "".join(arguments[place + 1 : place + 2])
        if kinds.get(option) in ("int", "int | None") and not _WHOLE.fullmatch(value):
            raise UsageError(f"{option} {value}: expected a whole number")


def _is_dash(argument: str) -> bool:
    """Whether an argument is ``-``, with or without a column."""
    return argument == "-" or argument.startswith("-:")


def _checked(
    verb: str, name: str, value: Any, arguments: Sequence[str], options: Sequence[str]
) -> Any:
    """The value of an argument; of a path or a set, with the home folder for a leading ``~``.

    A shell does so only where the ``~`` begins a word: not in ``--output=~/scores.jsonl``.

    Args:
        options: the arguments before ``--``.

    Raises:
        UsageError: the value is ``-`` where that is neither standard input nor standard output,
            or an empty path, which would be the current folder; mostly it is an unset variable.
    """
    if isinstance(value, list | tuple):
        return type(value)(_checked(verb, name, each, arguments, options) for each in value)
    is_path = isinstance(value, Path) or (name in SETS_OR_PATHS and isinstance(value, str))
    if _is_dash(str(value)) and any(map(_is_dash, options)) and (verb, name) not in DASHES:
        if name == "prompt":
            raise UsageError(
                "'-' for the prompt: it isn't read from standard input; give the text itself. For "
                f"the character, write: itera {verb} -- -"
            )
        if is_path:
            raise UsageError(
                f"'-' for {name}: standard input can't be read here. Name a file or a folder"
            )
    if not is_path:
        return value
    empty = "" in arguments or any(option.endswith("=") for option in options)
    if empty and str(value) in ("", ".") and "." not in arguments:
        raise UsageError(f"{name} is empty: expected a path. For the folder here, write .")
    return type(value)(expand_home(str(value)))


class _Output(io.TextIOWrapper):
    """Standard output whose errors say that it is standard output."""

    def write(self, text: str) -> int:
        with self._errors():
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with self._errors():
            super().flush()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, error.strerror, "standard output") from error


class _Messages(_Output):
    """Standard error that drops what it can't write, so that a closed stream ends no command."""

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            _discard(self)


class _Closed(io.RawIOBase):
    """Standard input where there is none."""

    def readable(self) -> bool:
        return True

    def readinto(self, _: object) -> int:
        raise OSError(errno.EBADF, "it is closed", "standard input")


def _repair_streams() -> None:
    """Keep characters that can't be shown, and closed streams, from ending in a traceback.

    A stream that was closed (``>&-``) is None, and the next file that is opened would get its
    number: that number is occupied. Characters that the terminal's encoding lacks are replaced.
    """
    for name, access in (("stdin", os.O_WRONLY), ("stdout", os.O_RDONLY), ("stderr", os.O_WRONLY)):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, access)  # so writing to standard output will fail
            if name == "stdin":
                sys.stdin = io.TextIOWrapper(io.BufferedReader(_Closed()), encoding="utf-8")
            else:
                setattr(sys, name, os.fdopen(descriptor, "w", encoding="utf-8"))
    kinds: tuple[tuple[str, type[io.TextIOWrapper]], ...]
    kinds = (("stdout", _Output), ("stderr", _Messages))
    for name, kind in kinds:
        stream = getattr(sys, name)
        if getattr(stream, "errors", "") == "strict":
            stream.reconfigure(errors="replace")
        if type(stream) is io.TextIOWrapper:  # not what a test or another program put there
            _REPLACED.append(stream)  # else it would be closed
            new = kind(stream.buffer, stream.encoding, stream.errors)
            new.reconfigure(
                line_buffering=stream.line_buffering, write_through=stream.write_through
            )
            setattr(sys, name, new)


def _discard(stream: IO[str]) -> None:
    """Drop what the stream still holds: Python would try to write it again at its end."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _reason(error: OSError) -> str:
    """The path and the reason."""
    reason = error.strerror or str(error) or type(error).__name__
    if error.filename is not None:
        names = [error.filename, error.filename2]
        shown = [os.fsdecode(n) if isinstance(n, bytes) else str(n) for n in names if n is not None]
        return f"{' -> '.join(shown)}: {reason}"
    return reason


# In the RuntimeErrors of PyTorch and of Python's threads, each of which needs a stack
_NO_MEMORY = ("can't allocate memory", "can't start new thread")


def _memory(error: Exception) -> str:
    detail = f" ({error})" if str(error) else ""
    return f"not enough memory{detail}. Take a smaller model, batch or text, or free some"


def _print_error(message: str) -> None:
    with suppress(OSError):  # standard error is closed
        print(message, file=sys.stderr, flush=True)


_python_warning_text = warnings.formatwarning


def _warning_text(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    """Our own warnings are a line for the user; others keep Python's form."""
    if issubclass(category, IteraWarning):
        return f"itera: warning: {message}\n"
    return _python_warning_text(message, category, filename, lineno, line)


def _fail(message: str, exit_code: int, consequence: bool = False) -> int:
    text = f"itera: error: {message}"
    if not tell_launcher(text, exit_code, consequence=consequence) and not is_worker():
        _print_error(text)
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
