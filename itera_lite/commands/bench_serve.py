"""The verb `bench serve`: the server under load."""

from __future__ import annotations

from pathlib import Path

from itera_lite.commands.serve import MOST_STREAMS
from itera_lite.files import check_writable
from itera_lite.quantities import finite_number, whole_number
from itera_lite.records import Serving


def bench_serve(
    model: Path | None = None,
    *,
    streams: int = 200,
    seconds: float = 60.0,
    rounds: int = 5,
    max_tokens: int = 128,
    peers: bool = True,
    results: Path = Path("results"),
) -> Serving:
    """Measure the server under load, beside the bare engine and llama-cpp-python's server.

    A server is started on this machine's own address. First the bare engine and the servers
    decode 16 texts at a time, in turns; then ours answers many clients at once, and every text
    is compared with the one that a single stream gives. Writes NAME_serving.json.

    Args:
        model: A GGUF file; by default the model that comes with Itera-Lite.
        streams: Clients at the same time.
        seconds: Time that they ask for.
        rounds: Turns of the bare engine and of the servers, 16 texts at a time.
        max_tokens: Tokens of an answer at most.
        peers: Also measure llama-cpp-python's server, where it is installed.
        results: Folder of the result file.
    """
    from itera_lite.bench.serving import measure_serving, model_file
    from itera_lite.bench.table import print_serving
    from itera_lite.engine.find import model_name
    from itera_lite.serve.run import check_packages

    check_packages()
    whole_number("streams", streams, most=MOST_STREAMS)
    finite_number("seconds", seconds, above=0)
    whole_number("rounds", rounds)
    whole_number("max_tokens", max_tokens)
    path = model_file(model)
    name = model_name(path)
    file = Path(results) / f"{name}_serving.json"
    check_writable(file)
    record = measure_serving(
        path,
        name,
        streams=streams,
        seconds=seconds,
        rounds=rounds,
        max_tokens=max_tokens,
        peers=peers,
    )
    print_serving(record)
    record.write(file)
    print(f"\nWritten to {file}")
    return record
