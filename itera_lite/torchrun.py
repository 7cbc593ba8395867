"""Training with several processes: `torchrun` with the error messages and exit codes of `itera`.

    python -m itera_lite.torchrun --nproc-per-node 2 train --data my_texts --minutes 10

Takes torchrun's options before the verb, and `itera`'s from there on. Where a process fails,
torchrun itself ends with tracebacks of its own and exit code 1; this ends with the process's
message and exit code.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Sequence

USAGE = """usage: python -m itera_lite.torchrun [options of torchrun] train [options of itera train]

  python -m itera_lite.torchrun --nproc-per-node 2 train --data my_texts --minutes 10
  python -m itera_lite.torchrun --help    the options of torchrun
  itera train --help                      the options of the training"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Start the processes and return the exit code of the first one that failed."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if "train" not in arguments:
        if "--help" in arguments or "-h" in arguments:
            run.main(["--help"])
        print(USAGE, file=sys.stderr)
        return 2
    verb = list(arguments).index("train")
    logging.disable(logging.CRITICAL)  # of this process, which only starts others
    try:
        run.main([*arguments[:verb], "-m", "itera_lite.cli", *arguments[verb:]])
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            name = failure.signal_name()
            print(f"itera: error: process {rank} was ended by {name}", file=sys.stderr)
            return 128 - failure.exitcode
        return failure.exitcode
    except SignalException as error:
        return 128 + int(error.sigval)
    except KeyboardInterrupt:
        return 130
    return 0


def is_worker() -> bool:
    """Whether this process is one of several, and not the one that prints for all."""
    return os.environ.get("RANK", "").strip() not in ("", "0")


def tell_launcher(message: str) -> None:
    """Write the reason of a failure to where torchrun looks for it, so that it shows it last."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not path:
        return
    details = {"py_callstack": message, "timestamp": str(int(time.time()))}
    try:
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"message": {"message": message, "extraInfo": details}}, file)
    except OSError:
        pass  # torchrun then reports a failure without a reason


if __name__ == "__main__":
    sys.exit(main())
