"""The command line: a verb is a function, imported only when it is called.

Options, their types, defaults and help come from the function's signature and
docstring, so the command line and the Python API can't drift apart.

Exit codes: 0 good, 1 failed, 2 wrong use, 130 stopped with Ctrl-C.
"""

from __future__ import annotations

import difflib
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from itera_lite import __version__
from itera_lite.errors import IteraError, UsageError
from itera_lite.warning import IteraWarning

if TYPE_CHECKING:
    from cyclopts import App, CycloptsError

# verb -> (module:function, the first line of its docstring; a test holds the two equal)
VERBS: dict[str, tuple[str, str]] = {
    "demo": ("itera_lite.demo:demo", "Train, evaluate, benchmark and compare both models."),
    "data": (
        "itera_lite.data.describe:describe",
        "Prepare a text set and describe it: documents, bytes, tokens, samples.",
    ),
    "train": ("itera_lite.train.run:train", "Train a model, or both."),
    "eval": ("itera_lite.evaluate.run:evaluate", "Measure the quality of a checkpoint."),
    "generate": ("itera_lite.generate:generate", "Write text with a model."),
    "score": (
        "itera_lite.runtime.score:score_lines",
        "Score each line of a file: bits per byte and perplexity.",
    ),
    "bench": ("itera_lite.bench.run:bench", "Measure speed, memory and energy."),
    "bench decode": (
        "itera_lite.bench.decode:bench_decode",
        "Measure the native engine's decoding beside llama.cpp and transformers.",
    ),
    "bench score": (
        "itera_lite.bench.scoring:bench_score",
        "Measure the native engine's scoring beside llama.cpp and transformers.",
    ),
    "bench train": ("itera_lite.bench.training:bench_training", "Measure training speed."),
    "bench seeds": ("itera_lite.bench.seeds:bench_seeds", "Train both models with several seeds."),
    "export": (
        "itera_lite.export.run:export",
        "Write a checkpoint as one file for llama.cpp, Ollama and LM Studio.",
    ),
    "compress": (
        "itera_lite.compress.fit:compress",
        "Make a model smaller: say how small, or how much worse it may get.",
    ),
    "compress distill": (
        "itera_lite.compress.distill:distill",
        "Train a small model on what a larger one says.",
    ),
    "compress vocab": (
        "itera_lite.compress.vocabulary:vocab",
        "Give a model a smaller vocabulary, made for your text.",
    ),
    "compress experts": (
        "itera_lite.compress.experts:experts",
        "Take out the experts that your text hardly uses.",
    ),
    "compress quantize": (
        "itera_lite.compress.quantize:quantize",
        "Store a model in 8 or 4 bits, with as little loss as the time allows.",
    ),
    "ladder": (
        "itera_lite.compress.ladder:ladder",
        "Climb from a conventional Transformer to 100-300x, measured.",
    ),
    "report": ("itera_lite.report.build:report", "Write the report from the result files."),
}


class _Dash(str):
    """A lone ``-`` means standard input; cyclopts would take it for an unknown option."""

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
    from cyclopts import CycloptsError

    arguments = sys.argv[1:] if arguments is None else list(arguments)
    first = arguments[0] if arguments else "--help"
    warnings.formatwarning = _warning_text
    try:
        if first not in _top_verbs() and first not in ("--help", "-h", "--version"):
            raise UsageError(_unknown(first))
        build_app(arguments)([_Dash(a) if a == "-" else a for a in arguments])
        sys.stdout.flush()  # so that a reader that went away is noticed here, not at exit
    except CycloptsError as error:
        return _fail(f"{_wrong_use(error)}\nSee: itera {first} --help", 2)
    except IteraError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        print("\nitera: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `itera data | head`: nobody reads any more, so say nothing
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # a full disk, a folder that may not be written, no network
        return _fail(str(error), 1)
    except Exception as error:
        traceback.print_exc()
        return _fail(
            f"unexpected {type(error).__name__}. This is a bug in Itera-Lite {__version__}: "
            "please report it with the lines above and the command that you ran.",
            1,
        )
    return 0


def _top_verbs() -> list[str]:
    return [verb for verb in VERBS if " " not in verb]


def _unknown(first: str) -> str:
    near = difflib.get_close_matches(first, _top_verbs(), n=1)
    advice = f"Did you mean '{near[0]}'? " if near else ""
    return f"'{first}' is no verb. {advice}Expected one of: {', '.join(_top_verbs())}."


def _wrong_use(error: CycloptsError) -> str:
    from cyclopts import UnusedCliTokensError

    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        return f"unexpected argument '{error.unused_tokens[0]}'. Text with spaces needs quotes."
    return str(error).strip()


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


def _fail(message: str, exit_code: int) -> int:
    print(f"itera: error: {message}", file=sys.stderr)
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
