"""Training with several processes: `torchrun` with the error messages and exit codes of `itera`.

    python -m itera_lite.torchrun --nproc-per-node 2 train --data my_texts --minutes 10

Takes torchrun's options before the verb, and `itera`'s from there on. Where a process fails,
torchrun itself ends with tracebacks of its own and exit code 1; this ends with the message and exit
code of the process that failed first, on whichever machine it is. The functions that the processes
themselves call are here too: they write a failure to where torchrun reads it, and read torchrun's
environment variables.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

USAGE = """usage: python -m itera_lite.torchrun [options of torchrun] train [options of itera train]

  python -m itera_lite.torchrun --nproc-per-node 2 train --data my_texts --minutes 10
  python -m itera_lite.torchrun --help    the options of torchrun
  itera train --help                      the options of the training"""
_PR_SET_PDEATHSIG = 1  # of Linux's prctl
# Exit codes after SIGTERM, which torchrun sends to the others when a process has failed.
_STOPPED = (-signal.SIGTERM, 128 + signal.SIGTERM)
_REPORTS = "ITERA_TORCHRUN"  # set for the processes: their launcher prints why they failed


def main(arguments: Sequence[str] | None = None) -> int:
    """Start the processes and return the exit code of the first one that failed."""
    from torch.distributed import DistError, run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError

    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if "train" not in arguments:
        if "--help" in arguments or "-h" in arguments:
            run.main(["--help"])
        print(USAGE, file=sys.stderr)
        return 2
    verb = list(arguments).index("train")
    logging.disable(logging.CRITICAL)  # of this process, which only starts others
    # A store for each start of the processes. In one that the launchers share, the addresses of
    # processes before a restart still stand, and a launcher that joins later counts restarts anew.
    os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    os.environ[_REPORTS] = "yes"
    try:
        run.main([*arguments[:verb], "-m", "itera_lite.cli", *arguments[verb:]])
    except ChildFailedError as error:
        return _report(error)
    except (RendezvousError, DistError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        print(f"itera: error: the other launchers can't be reached: {reason}", file=sys.stderr)
        return 1
    except SignalException as error:
        return 128 + int(error.sigval)
    except KeyboardInterrupt:
        return 130
    return 0


def _report(error: ChildFailedError) -> int:
    """Print why the processes of this machine ended, and return the exit code.

    The reason is the first failure that isn't a consequence of another process's. Times are in
    whole seconds, so that the first of two can't be told from them alone. A process that has
    written its reason may still be stopped by torchrun while it ends, because another one noticed
    the lost connection and ended sooner; so what it has written counts before its exit code.
    """

    def details(failure: Any) -> dict[str, Any]:
        message = failure.message
        return message.get("extraInfo", {}) if isinstance(message, dict) else {}

    def is_consequence(failure: Any) -> bool:
        told = details(failure)
        return "consequence" in told if told else failure.exitcode in _STOPPED

    rank, failure = min(
        error.failures.items(), key=lambda item: (is_consequence(item[1]), item[1].timestamp)
    )
    told = details(failure)
    if failure.exitcode < 0 and not told:
        name = failure.signal_name()
        print(f"itera: error: process {rank} was ended by {name}", file=sys.stderr)
        return 128 - failure.exitcode
    code = int(told.get("exit_code", failure.exitcode))
    text = str(told.get("py_callstack", f"it ended with {code}")).removeprefix("itera: error: ")
    who = f"process {rank}: " if rank and code != 2 else ""  # 2: a mistake of all
    print(f"itera: error: {who}{text}", file=sys.stderr)
    return code


def is_worker() -> bool:
    """Whether this process is one of several, and not the one that prints for all."""
    return os.environ.get("RANK", "").strip() not in ("", "0")


def restarts() -> bool:
    """Whether torchrun starts the processes again where one of them fails."""
    return os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0").strip() not in ("", "0")


def uses_launchers_store() -> bool:
    """Whether the processes find each other through a store that outlives them."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def end_with_launcher() -> None:
    """Have this process killed with the launcher that started it, if the system can.

    Without its launcher it would go on beside the processes that are started in its place.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        with suppress(OSError, AttributeError):  # not Linux
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def tell_launcher(message: str, exit_code: int, *, consequence: bool = False) -> bool:
    """Write the reason of a failure to where torchrun looks for it.

    Args:
        exit_code: with which this process is about to end.
        consequence: another process failed before, and this one therefore.

    Returns:
        Whether the launcher prints it; torchrun itself prints it in a report of its own.
    """
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not path:
        return False
    details = {"py_callstack": message, "timestamp": str(int(time.time()))}
    details["exit_code"] = str(exit_code)
    if consequence:
        details["consequence"] = "yes"
    try:
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"message": {"message": message, "extraInfo": details}}, file)
    except OSError:
        return False  # torchrun then reports a failure without a reason
    return _REPORTS in os.environ


if __name__ == "__main__":
    sys.exit(main())
