"""Every proof that SECURITY.md names is a test that exists, and every row has one."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "SECURITY.md").read_text("utf-8")
ROWS = [line for line in TEXT.splitlines() if line.startswith("| **")]
PROOFS = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)))
PATHS = sorted(set(re.findall(r"`(tests/[\w/.-]+)`", TEXT)))


def checks(function: ast.FunctionDef) -> bool:
    """Whether it asserts, or expects an error."""
    nodes = list(ast.walk(function))
    calls = {ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)}
    return "pytest.raises" in calls or any(isinstance(node, ast.Assert) for node in nodes)


@pytest.mark.parametrize(("path", "name"), PROOFS)
def test_a_proof_exists_and_asserts(path: str, name: str) -> None:
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    called = {ast.unparse(n.func) for n in ast.walk(functions[name]) if isinstance(n, ast.Call)}
    helpers = [functions[other] for other in called & functions.keys()]
    assert any(map(checks, [functions[name], *helpers]))


@pytest.mark.parametrize("path", PATHS)
def test_a_file_that_is_named_exists(path: str) -> None:
    assert (ROOT / path).exists()


def test_every_threat_has_a_promise_a_proof_and_a_limit() -> None:
    assert len(ROWS) == 10
    for row in ROWS:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert len(cells) == 5 and all(cells), row
        assert "::test_" in cells[3], row
