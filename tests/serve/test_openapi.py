"""The server keeps to its own OpenAPI document, whatever it is asked."""

import pytest

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis isn't installed")
import hypothesis  # noqa: E402
from schemathesis.checks import not_a_server_error  # noqa: E402
from schemathesis.specs.openapi.checks import (  # noqa: E402
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from itera_lite.serve.openapi import OPERATIONS  # noqa: E402
from tests.serve.conftest import LIMIT  # noqa: E402

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]


@pytest.fixture(scope="module")
def document(program):
    return schemathesis.openapi.from_url(f"{program.url}/openapi.json", timeout=LIMIT)


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
@pytest.mark.parametrize("route", [(one.path, one.method) for one in OPERATIONS], ids=" ".join)
def test_answers_conform(document, route, mode):
    """Status, type and body are those of the document, no answer is a 500, and what the document
    forbids is refused."""
    path, method = route
    operation = document[path][method]
    if mode.is_negative and not operation.body:
        pytest.skip("there is nothing that could be wrong")

    @hypothesis.settings(max_examples=10)
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def check(case):
        case.call_and_validate(checks=CHECKS, timeout=LIMIT)

    check()


STREAMS = {
    "/v1/completions": {"prompt": "Once"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Once"}]},
}


@pytest.mark.parametrize("path", STREAMS)
def test_events_of_a_stream_conform(document, path):
    body = {"max_tokens": 4, "logprobs": 1 if path == "/v1/completions" else True}
    case = document[path]["post"].Case(
        body={**STREAMS[path], **body, "stream": True, "stream_options": {"include_usage": True}},
        media_type="application/json",
    )
    answer = case.call_and_validate(checks=CHECKS, timeout=LIMIT)
    assert answer.headers["content-type"][0].startswith("text/event-stream")
    assert answer.content.endswith(b"data: [DONE]\n\n")
