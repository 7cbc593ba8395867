"""The verb `serve`: OpenAI's API in front of a model."""

from __future__ import annotations

from pathlib import Path

from itera_lite.errors import UsageError
from itera_lite.quantities import bytes_of, finite_number, whole_number

MOST_STREAMS = 4096
MOST_SECONDS = 86_400.0


def serve(
    model: Path | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key_file: Path | None = None,
    insecure: bool = False,
    allowed_host: tuple[str, ...] = (),
    cors_origin: tuple[str, ...] = (),
    max_streams: int = 256,
    max_waiting: int = 256,
    max_body: str = "1MB",
    cache: str = "64MB",
    timeout: float = 300.0,
    log_json: bool = False,
) -> None:
    """Answer OpenAI's API, and show the playground, from a model.

    Completions, chats, scores and word completions come from one process, which decodes the
    texts of all clients together. SIGTERM and Ctrl-C finish what runs; a second one ends at
    once. Needs the extra: pip install 'itera-lite[serve]'.

    Args:
        model: A GGUF file, or the folder of a model as `itera train` writes it. By default
            checkpoints/itera_lite_tiny, else the model that comes with Itera-Lite.
        host: Address or name to listen at. Others than this machine's own need --api-key-file
            or --insecure.
        port: Port to listen at; 0 takes a free one.
        api_key_file: File with the key that every client must send.
        insecure: Let everybody who reaches the address ask, without a key.
        allowed_host: Further name that clients may call the server by, as behind a proxy; may be
            given several times.
        cors_origin: Origin whose web pages may ask, as https://example.org, or *; may be given
            several times.
        max_streams: Texts that are written at the same time.
        max_waiting: Texts that wait for a place; further requests get status 429.
        max_body: Longest body of a request.
        cache: Memory for the states of beginnings of texts, which aren't read again; 0 for none.
        timeout: Seconds that an answer may take.
        log_json: Write a JSON line a request to standard error.
    """
    from itera_lite.serve.run import bind, check_packages, is_loopback, read_key, run

    check_packages()
    whole_number("port", port, least=0, most=65_535)
    whole_number("max_streams", max_streams, most=MOST_STREAMS)
    whole_number("max_waiting", max_waiting, least=0, most=MOST_STREAMS)
    finite_number("timeout", timeout, above=0, most=MOST_SECONDS)
    body_bytes = bytes_of("max_body", max_body)
    cache_bytes = 0 if cache.strip() == "0" else bytes_of("cache", cache)
    for origin in cors_origin:
        if origin != "*" and (not origin.startswith(("http://", "https://")) or origin[-1] == "/"):
            raise UsageError(
                f"--cors-origin {origin}: expected an origin such as https://example.org, or *"
            )
    if not (is_loopback(host) or api_key_file or insecure):
        raise UsageError(
            f"--host {host}: other machines may reach this address, so a key is needed: give "
            "--api-key-file FILE, or --insecure to let everybody ask"
        )
    key = read_key(api_key_file) if api_key_file else None
    with bind(host, port) as listening:  # before the model is loaded: a busy port shows at once
        from itera_lite.engine.find import find_model, load_model, model_name
        from itera_lite.serve.app import Settings

        path = find_model(model)
        loaded = load_model(path)
        name = model_name(path)
        settings = Settings(
            name=name,
            file=path.read_bytes if path.is_file() else None,
            most_streams=max_streams,
            most_waiting=max_waiting,
            timeout=timeout,
            body_bytes=body_bytes,
            cache_bytes=cache_bytes,
            hosts=[*allowed_host, host],
            origins=cors_origin,
            key=key,
            log_json=log_json,
        )
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{listening.getsockname()[1]}"
        run(loaded, settings, listening, f"'{name}' at {address} (OpenAI's API: {address}/v1)")
