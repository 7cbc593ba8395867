"""Check the bill of materials, and that an audit without data isn't taken for a good one."""

import json
import subprocess
import tomllib
from pathlib import Path

import pytest

import itera_lite
from tools import audit, sbom

ROOT = Path(__file__).parents[1]
LOCK = tomllib.loads((ROOT / "uv.lock").read_text("utf-8"))


@pytest.fixture(scope="module")
def bill():
    return sbom.bill()


def test_it_is_valid_and_a_mistake_would_be_found(bill):
    pytest.importorskip("cyclonedx.validation.json")
    assert sbom.invalid(bill) == ""
    wrong = [{**bill["components"][0], "type": "thing"}, *bill["components"][1:]]
    assert sbom.invalid({**bill, "components": wrong})


def test_every_locked_package_is_listed_with_who_needs_it(bill):
    listed = {part["purl"]: part for part in bill["components"] if "purl" in part}
    for package in LOCK["package"]:
        if package["name"] != "itera-lite":
            assert f"pkg:pypi/{package['name']}@{package['version']}" in listed
    scope = {part["name"]: part["scope"] for part in listed.values()}
    assert {scope[name] for name in ("torch", "numpy", "networkx", "msgspec")} == {"required"}
    assert scope["transformers"] == scope["starlette"] == scope["llama-cpp-python"] == "optional"
    assert scope["pytest"] == scope["mypy"] == scope["axe-core"] == "excluded"


def test_other_languages_and_the_model_are_listed(bill):
    parts = {part["name"]: part for part in bill["components"]}
    for name in ("zlib", "glibc", "libstdc++", "libc++", "wasi-libc", "compiler-rt"):
        assert parts[name]["scope"] == "required" and parts[name]["licenses"]
    assert parts["zlib"]["version"] and "itera-run" in parts["zlib"]["description"]
    assert parts["tsl-robin-map"]["version"].count(".") == 2
    wasm = parts["itera_lite/playground/itera.wasm"]["hashes"][0]["content"]
    record = json.loads((ROOT / "itera_lite/playground/itera.wasm.json").read_text())
    assert wasm == record["wasm"]
    kinds = {part["type"] for part in bill["components"]}
    assert kinds == {"library", "file", "machine-learning-model"}
    scripts = {path.name for path in (ROOT / "itera_lite/playground").glob("*.js")}
    assert {Path(name).name for name in parts if name.endswith(".js")} == scripts


def test_every_reference_leads_to_a_component(bill):
    known = [part["bom-ref"] for part in bill["components"]]
    subject = bill["metadata"]["component"]
    assert len(known) == len(set(known))
    graph = {entry["ref"]: entry["dependsOn"] for entry in bill["dependencies"]}
    assert set(graph) <= {*known, subject["bom-ref"]}
    assert all(ref in known for needs in graph.values() for ref in needs)
    assert subject["version"] == itera_lite.__version__
    assert {"pkg:generic/zlib", "pkg:pypi/torch"} <= {
        ref.partition("@")[0] for ref in graph[subject["bom-ref"]]
    }
    torch = next(ref for ref in known if ref.startswith("pkg:pypi/torch@"))
    assert any(ref.startswith("pkg:pypi/sympy@") for ref in graph[torch])


def test_the_same_each_time_and_dated_only_on_request(bill, monkeypatch):
    assert sbom.bill() == bill and "timestamp" not in bill["metadata"]
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    dated = sbom.bill()
    assert dated["metadata"]["timestamp"] == "1970-01-01T00:00:00+00:00"
    assert dated["serialNumber"] != bill["serialNumber"]


@pytest.mark.parametrize(
    ("report", "code", "out", "err"),
    [
        ({"dependencies": [{"name": "a", "version": "1", "vulns": []}]}, 0,
         "No known vulnerability in 1 packages\n", ""),
        ({"dependencies": [
            {"name": "a", "version": "1", "vulns": [
                {"id": "PYSEC-1", "fix_versions": ["2", "1.1"]}, {"id": "X", "fix_versions": []}]},
            {"name": "b", "skip_reason": "not on PyPI"}]}, 1,
         "a 1: PYSEC-1, mended by 2, 1.1\na 1: X, mended by no release yet\n",
         "Nothing is known about 1 of 2 packages, for which no data were given: b. Run it again "
         "where https://pypi.org can be reached\n"),
        ({"dependencies": [{"name": x, "skip_reason": "not on PyPI"} for x in "abcdef"]}, 3, "",
         "Nothing is known about 6 of 6 packages, for which no data were given: a, b, c, d, e …. "
         "Run it again where https://pypi.org can be reached\n"),
        (None, 3, "",
         "Nothing is known: the data on vulnerabilities couldn't be had (no network). Run it again "
         "where https://pypi.org can be reached\n"),
    ],
)  # fmt: skip
def test_an_audit_that_knows_nothing_is_told_from_one_that_finds_nothing(
    report, code, out, err, monkeypatch, capsys
):
    def run(command, **_):
        files = [word for word in command if word.startswith("--requirement=")]
        assert [Path(word).name for word in files] == ["build.txt", "cuda.txt", "dev.txt"]
        assert "--require-hashes" in command
        if report is not None:
            Path(command[command.index("--output") + 1]).write_text(json.dumps(report))
        return subprocess.CompletedProcess(command, 1, "", "ERROR: a\nno network\n")

    monkeypatch.setattr(audit.subprocess, "run", run)
    assert audit.main() == code
    assert capsys.readouterr() == (out, err)
