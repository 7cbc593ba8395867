"""Write the software bill of materials, build/sbom.cdx.json: ``python -m tools.sbom``.

CycloneDX 1.6, checked against its schema. It lists the Python packages of ``uv.lock`` with what
each needs; what is compiled into the wheel, or comes with it, in other languages; and the model in
the package. The scope of a package is ``required`` for all users, ``optional`` for those of an
extra, and ``excluded`` where only developers need it. The versions of what a compiler adds are
this machine's, so make the list where the wheel is built.

The same lock file on the same machine gives the same bytes; SOURCE_DATE_EPOCH sets the date.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import tomllib
import uuid
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import itera_lite
from itera_lite.files import write_json

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "build" / "sbom.cdx.json"
PACKAGE = ROOT / "itera_lite"
NAME = "itera-lite"
DEVELOPERS = ("clients", "dev", "site")  # extras of developers; the others are of users

Component = dict[str, Any]


def main() -> None:
    """Make the list, check it against the schema, and write it."""
    found = bill()
    if problem := invalid(found):
        raise SystemExit(f"the list isn't valid CycloneDX: {problem}")
    write_json(OUT, found)
    parts = found["components"]
    scopes = [part.get("scope") for part in parts]
    print(f"{OUT.relative_to(ROOT)}: {len(parts)} components, {scopes.count('required')} required")


def bill() -> dict[str, Any]:
    """The whole document."""
    lock = tomllib.loads((ROOT / "uv.lock").read_text("utf-8"))
    packages = {(p["name"], p.get("version", "")): p for p in lock["package"]}
    root = next(p for p in packages.values() if p["name"] == NAME)
    extras = root["optional-dependencies"].keys() - set(DEVELOPERS)
    python = [_python(p, scope) for p, scope in _scopes(packages, root, extras)]
    others = [*native(), *web(), *models()]
    subject = {
        **_component("application", NAME, itera_lite.__version__, f"pkg:pypi/{NAME}"),
        "licenses": [{"license": {"id": "MIT"}}],
    }
    graph = [
        {
            "ref": subject["bom-ref"],
            "dependsOn": sorted(
                {*_needs(packages, root, extras), *(part["bom-ref"] for part in others)}
            ),
        },
        *({"ref": _reference(p), "dependsOn": sorted(_needs(packages, p))}
          for p in packages.values() if p is not root),
    ]  # fmt: skip
    found = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {**_date(), "component": subject},
        "components": sorted([*python, *others], key=lambda part: part["bom-ref"]),
        "dependencies": sorted(graph, key=lambda entry: entry["ref"]),
    }
    digest = hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()
    return {**found, "serialNumber": f"urn:uuid:{uuid.UUID(digest[:32], version=4)}"}


def native() -> Iterator[Component]:
    """What the engine and `itera-run` are linked with: in the wheel, or from the system."""
    yield {
        **_component("library", "zlib", _version("cmeel-zlib"), "pkg:generic/zlib"),
        "description": "static in itera-run, the system's libz.so.1 for itera_lite._engine",
        "licenses": [{"license": {"id": "Zlib"}}],
        "scope": "required",
    }
    yield {
        **_component("library", "nanobind", _version("nanobind"), "pkg:pypi/nanobind"),
        "description": "static in itera_lite._engine",
        "licenses": [{"license": {"id": "BSD-3-Clause"}}],
        "scope": "required",
        "bom-ref": "native/nanobind",
    }
    yield {
        **_component("library", "tsl-robin-map", _robin_map(), "pkg:generic/tsl-robin-map"),
        "description": "headers that nanobind includes",
        "licenses": [{"license": {"id": "MIT"}}],
        "scope": "required",
    }
    gcc = _output("c++", "-dumpfullversion", "-dumpversion").strip()
    exception = "GPL-3.0-or-later WITH GCC-exception-3.1"
    for library in ("libstdc++", "libgcc"):
        yield {
            **_component("library", library, gcc, f"pkg:generic/{library}"),
            "description": "static in itera-run, the system's for itera_lite._engine",
            "licenses": [{"expression": exception}],
            "scope": "required",
        }
    libc = (os.confstr("CS_GNU_LIBC_VERSION") or "").removeprefix("glibc").strip()
    yield {
        **_component("library", "glibc", libc, "pkg:generic/glibc"),
        "description": "static in itera-run, the system's for itera_lite._engine",
        "licenses": [{"license": {"id": "LGPL-2.1-or-later"}}],
        "scope": "required",
    }


def web() -> Iterator[Component]:
    """The playground: our own JavaScript, and what the compiler links into WebAssembly."""
    folder = PACKAGE / "playground"
    record = json.loads((folder / "itera.wasm.json").read_text("utf-8"))
    clang = _first(r"version (\d[\d.]*)", record["compiler"])
    for library in ("libc++", "libc++abi", "compiler-rt"):
        yield {
            **_component("library", library, clang, f"pkg:generic/{library}"),
            "description": "in itera.wasm",
            "licenses": [{"expression": "Apache-2.0 WITH LLVM-exception"}],
            "scope": "required",
        }
    yield {
        **_component("library", "wasi-libc", "", "pkg:generic/wasi-libc"),
        "description": "in itera.wasm; its release isn't recorded, the compiler's is "
        + record["compiler"],
        "licenses": [{"expression": "Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT"}],
        "scope": "required",
    }
    for path in sorted([*folder.glob("*.js"), folder / "itera.wasm"]):
        yield _file(path, "file")
    tests = json.loads((ROOT / "tests/playground/package.json").read_text("utf-8"))
    for name, version in tests["devDependencies"].items():
        yield {**_component("library", name, version, f"pkg:npm/{name}"), "scope": "excluded"}


def models() -> Iterator[Component]:
    """The model in the package."""
    for path in sorted((PACKAGE / "models").glob("*.gguf")):
        yield _file(path, "machine-learning-model")


def invalid(found: dict[str, Any]) -> str:
    """Return what the schema forbids in the document; empty for a valid one."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(found))
    return "" if problem is None else str(problem)


def _scopes(
    packages: dict[tuple[str, str], dict[str, Any]], root: dict[str, Any], extras: Iterable[str]
) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield every package but our own, with its scope."""
    required = _closure(packages, _needs(packages, root))
    optional = _closure(packages, _needs(packages, root, extras))
    for package in packages.values():
        if package is not root:
            reference = _reference(package)
            scope = "optional" if reference in optional else "excluded"
            yield package, "required" if reference in required else scope


def _needs(
    packages: dict[tuple[str, str], dict[str, Any]],
    package: dict[str, Any],
    extras: Iterable[str] = (),
) -> set[str]:
    """Return references of what a package needs.

    Of our own package that is with these extras, of another one with all its locked extras.
    """
    entries = list(package.get("dependencies", ()))
    optional = package.get("optional-dependencies", {})
    for extra in optional if package["name"] != NAME else extras:
        entries += optional[extra]
    found = set()
    for entry in entries:
        wanted = entry.get("version")
        found |= {
            _reference(p)
            for (name, version), p in packages.items()
            if name == entry["name"] and wanted in (None, version)
        }
    return found


def _closure(packages: dict[tuple[str, str], dict[str, Any]], start: set[str]) -> set[str]:
    by_reference = {_reference(package): package for package in packages.values()}
    found: set[str] = set()
    waiting = set(start)
    while waiting:
        reference = waiting.pop()
        found.add(reference)
        waiting |= _needs(packages, by_reference[reference]) - found
    return found


def _reference(package: dict[str, Any]) -> str:
    return f"pkg:pypi/{package['name']}@{package.get('version') or itera_lite.__version__}"


def _python(package: dict[str, Any], scope: str) -> Component:
    name, version = package["name"], package["version"]
    found = {**_component("library", name, version, f"pkg:pypi/{name}"), "scope": scope}
    try:
        known = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return found
    if "License-Expression" not in known:
        return found
    return {**found, "licenses": [{"expression": known["License-Expression"]}]}


def _component(kind: str, name: str, version: str, purl: str) -> Component:
    address = f"{purl}@{version}" if version else purl
    known = {"version": version} if version else {}
    return {"type": kind, "bom-ref": address, "name": name, **known, "purl": address}


def _file(path: Path, kind: str) -> Component:
    name = path.relative_to(ROOT).as_posix()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {
        "type": kind,
        "bom-ref": name,
        "name": name,
        "version": itera_lite.__version__,
        "hashes": [{"alg": "SHA-256", "content": digest}],
        "licenses": [{"license": {"id": "MIT"}}],
    }


def _date() -> dict[str, str]:
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if epoch is None:
        return {}
    return {"timestamp": datetime.fromtimestamp(int(epoch), UTC).isoformat()}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _robin_map() -> str:
    """The version that nanobind's headers name; empty where they aren't here."""
    for path in metadata.files("nanobind") or ():
        if path.name == "robin_growth_policy.h":
            text = path.read_text("utf-8")
            return ".".join(re.findall(r"define TSL_RH_VERSION_[A-Z]+ (\d+)", text))
    return ""


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    return found[1] if found else ""


if __name__ == "__main__":
    main()
