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


@pytest.fixture(scope="module")
def document(program):
    return schemathesis.openapi.from_url(f"{program.url}/openapi.json")


schema = schemathesis.pytest.from_fixture("document")


@schema.parametrize()
@hypothesis.settings(max_examples=12, deadline=None, database=None)
def test_answers_conform(case):
    """Status, type and body are those of the document, no answer is a 500, and what the document
    forbids is refused."""
    case.call_and_validate(
        checks=[
            not_a_server_error,
            status_code_conformance,
            content_type_conformance,
            response_schema_conformance,
            negative_data_rejection,
        ]
    )
