"""The OpenAPI document at ``/openapi.json``, made from the structs of `protocol`."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

import itera_lite
from itera_lite.serve import protocol

JSON, EVENTS, TEXT, HTML = "application/json", "text/event-stream", "text/plain", "text/html"


class Operation(NamedTuple):
    """A route: method, path, what it does, and the structs of its body and its answer.

    ``stream`` is the struct of a part of its stream; ``refusals``: statuses beside those that
    every route may give.
    """

    method: str
    path: str
    summary: str
    body: type[msgspec.Struct] | None = None
    answer: type[msgspec.Struct] | str = protocol.ErrorAnswer
    stream: type[msgspec.Struct] | None = None
    refusals: tuple[int, ...] = ()


BUSY = (429, 503, 504)  # of what the engine has to work for
READS = (400, 408, 413)  # of what has a body
OPERATIONS = (
    Operation(
        "post",
        "/v1/completions",
        "Go on from prompts.",
        protocol.CompletionRequest,
        protocol.Completion,
        protocol.Completion,
        (*READS, 404, *BUSY),
    ),
    Operation(
        "post",
        "/v1/chat/completions",
        "Go on from the texts of a chat's messages.",
        protocol.ChatRequest,
        protocol.Chat,
        protocol.ChatChunk,
        (*READS, 404, *BUSY),
    ),
    Operation("get", "/v1/models", "The model that is served.", None, protocol.ModelList),
    Operation("get", "/v1/models/{model}", "One model.", None, protocol.ModelCard, refusals=(404,)),
    Operation(
        "post",
        "/tokenize",
        "Text to token ids.",
        protocol.TokenizeRequest,
        protocol.Tokens,
        refusals=(*READS, 404),
    ),
    Operation(
        "post",
        "/detokenize",
        "Token ids to text.",
        protocol.DetokenizeRequest,
        protocol.Detokenized,
        refusals=(*READS, 404),
    ),
    Operation("get", "/tokenizer_info", "The tokenizer.", None, protocol.TokenizerInfo),
    Operation(
        "post",
        "/score",
        "Bits per byte of texts, and the surprise of each token.",
        protocol.ScoreRequest,
        protocol.ScoreAnswer,
        refusals=(*READS, 404, *BUSY),
    ),
    Operation(
        "post",
        "/complete",
        "The likeliest words, or lines, that go on from a prefix.",
        protocol.CompleteRequest,
        protocol.CompleteAnswer,
        refusals=(*READS, 404, *BUSY),
    ),
    Operation(
        "get", "/healthz", "Whether requests are taken.", None, protocol.Health, refusals=(503,)
    ),
    Operation("get", "/metrics", "Counters in Prometheus' format.", None, TEXT),
    Operation("get", "/", "The playground page.", None, HTML, refusals=(404,)),
    Operation("get", "/openapi.json", "This document.", None, JSON),
)
ALWAYS = {401: "The API key is missing or wrong.", 403: "The Host or the Origin isn't allowed."}
REASONS = {
    400: "The request can't be used; `param` names the field.",
    404: "There is no such thing here.",
    408: "The body didn't come in time.",
    413: "The body is too long.",
    429: "Too many requests wait; Retry-After has the seconds to wait.",
    500: "A bug.",
    503: "The server is stopping.",
    504: "The answer took longer than the time-out.",
} | ALWAYS


def document() -> dict[str, Any]:
    """The document, as plain objects."""
    kinds: set[type[msgspec.Struct]] = {protocol.ErrorAnswer}
    for one in OPERATIONS:
        for kind in (one.body, one.answer, one.stream):
            if kind is not None and not isinstance(kind, str):
                kinds.add(kind)
    _, components = msgspec.json.schema_components(
        sorted(kinds, key=lambda kind: kind.__name__), ref_template="#/components/schemas/{name}"
    )
    for schema in components.values():
        if schema.get("additionalProperties") is False:
            schema["additionalProperties"] = {"type": "null"}  # a null is as if it weren't there
    paths: dict[str, Any] = {}
    for one in OPERATIONS:
        paths.setdefault(one.path, {})[one.method] = _operation(one)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Itera-Lite",
            "version": itera_lite.__version__,
            "description": "OpenAI's API, and more, in front of one tiny language model.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}, {}],
    }


def _ref(kind: type[msgspec.Struct]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{kind.__name__}"}


def _operation(one: Operation) -> dict[str, Any]:
    if isinstance(one.answer, str):
        plain = {} if one.answer == JSON else {"type": "string"}
        content: dict[str, Any] = {one.answer: {"schema": plain}}
    else:
        content = {JSON: {"schema": _ref(one.answer)}}
    if one.stream is not None:
        part = {"anyOf": [_ref(one.stream), _ref(protocol.ErrorAnswer)]}
        encoded = {"type": "string", "contentMediaType": JSON, "contentSchema": part}
        # Of each event: before OpenAPI 3.2 a schema can't be of the whole stream.
        content[EVENTS] = {
            "schema": {
                "type": "object",
                "required": ["data"],
                "properties": {"data": {"anyOf": [{"const": "[DONE]"}, encoded]}},
            }
        }
    responses: dict[str, Any] = {"200": {"description": "The answer.", "content": content}}
    for status in sorted({*one.refusals, *ALWAYS, 500}):
        is_health = (one.path, status) == ("/healthz", 503)
        kind = protocol.Health if is_health else protocol.ErrorAnswer
        responses[str(status)] = {
            "description": REASONS[status],
            "content": {JSON: {"schema": _ref(kind)}},
        }
    made: dict[str, Any] = {"summary": one.summary, "responses": responses}
    if "{model}" in one.path:
        made["parameters"] = [
            {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
        ]
    if one.body is not None:
        made["requestBody"] = {"required": True, "content": {JSON: {"schema": _ref(one.body)}}}
    return made
