"""The package: what it exports, what it depends on, what the wheel holds."""

import ast
import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Iterator
from email import message_from_bytes
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.metadata import packages_distributions
from pathlib import Path
from pkgutil import iter_modules

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import itera_lite
from itera_lite import errors

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "itera_lite"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OF_MODULE = {"llama_cpp": "llama-cpp-python"}  # of extras that tests do without
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]


def sources() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(ROOT), ast.parse(path.read_text())


def requirement_names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(each).name) for each in requirements}


def test_every_public_name_exists_and_is_reachable() -> None:
    names: dict[str, object] = {}
    exec("from itera_lite import *", names)
    assert set(itera_lite.__all__) <= set(names)
    assert set(itera_lite.__all__) <= set(dir(itera_lite))
    for name in itera_lite.__all__:
        assert getattr(itera_lite, name) is names[name]
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = itera_lite.no_such_name


def test_no_public_name_is_hidden_by_a_module_of_that_name() -> None:
    """`import itera_lite.train` sets the name `train` here: a function so named would be lost."""
    modules = {module.name for module in iter_modules(itera_lite.__path__)}
    assert not modules & set(itera_lite.__all__)


def test_type_checkers_see_the_public_names() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == {name: f"itera_lite.{mod}" for name, mod in itera_lite._MODULES.items()}


def test_every_error_is_public_and_in_the_drawn_tree() -> None:
    tree = [value for value in vars(errors).values() if isinstance(value, type)]
    for error in tree:
        assert error.__name__ in itera_lite.__all__
        assert error.__name__ in (errors.__doc__ or "")
        assert issubclass(error, errors.IteraError | errors.IteraWarning)


def test_import_is_light() -> None:
    code = (
        "import sys; before = set(sys.modules); import itera_lite\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "sys.exit(sorted(new - sys.stdlib_module_names - {'itera_lite'}) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=600
    )
    assert done.returncode == 0, f"import itera_lite imports {done.stderr}"


def test_every_import_is_declared() -> None:
    """At the top of a module: a dependency, and in the server its own extra, which `itera serve`
    looks for before. In a function: a dependency or an extra."""
    required = requirement_names(PROJECT["dependencies"])
    optional = requirement_names(
        [
            name
            for extra in ("hub", "peers", "remote", "llama", "clients", "cluster")
            for name in EXTRAS[extra]
        ]
    )
    server = requirement_names(EXTRAS["serve"])
    distributions = packages_distributions()
    for path, tree in sources():
        top = {id(node) for node in tree.body}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules = [node.module]
            else:
                continue
            for module in {name.partition(".")[0] for name in modules}:
                if module in sys.stdlib_module_names or module == "itera_lite":
                    continue
                found = distributions.get(module, [OF_MODULE.get(module, module)])
                names = {canonicalize_name(d) for d in found}
                allowed = required if id(node) in top else required | optional
                if path.parent.name == "serve":
                    allowed = allowed | server
                assert names & allowed, f"{path}:{node.lineno} imports {module}: not declared"


def test_every_dependency_is_imported() -> None:
    """What nothing imports has no place among the dependencies."""
    names = set()
    for _, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    distributions = packages_distributions()
    used = {canonicalize_name(d) for name in names for d in distributions.get(name, [name])}
    assert requirement_names(PROJECT["dependencies"]) <= used


def test_a_missing_extra_names_an_extra_that_has_the_package() -> None:
    for path, tree in sources():
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and getattr(node.func, "id", "") == "MissingExtra"):
                continue
            given = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
            if len(given) >= 2:
                package, extra = str(given[0]), str(given[1])
                assert extra in EXTRAS, f"{path}:{node.lineno}"
                assert canonicalize_name(package) in requirement_names(EXTRAS[extra])


def test_nothing_is_pickled() -> None:
    """SECURITY.md promises it."""
    banned_modules = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
    for path, tree in sources():
        for node in ast.walk(tree):
            where = f"{path}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Import):
                assert not banned_modules & {alias.name for alias in node.names}, where
            elif isinstance(node, ast.ImportFrom):
                assert node.module not in banned_modules, where
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) not in {("torch", "load"), ("torch", "save")}, (
                    where
                )
            elif isinstance(node, ast.keyword):
                assert node.arg not in {"allow_pickle", "trust_remote_code"}, where


def test_the_version_stands_in_one_place() -> None:
    assert PROJECT["dynamic"] == ["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+([ab]|rc|\.dev)?\d*", itera_lite.__version__)
    copies = [
        str(path)
        for path, tree in sources()
        if any(
            isinstance(node, ast.Constant) and node.value == itera_lite.__version__
            for node in ast.walk(tree)
        )
    ]
    assert copies == ["itera_lite/__init__.py"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as a user's `pip install .` builds it."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*command, "--quiet", "--wheel-dir", str(folder)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_the_whole_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = {
        path.relative_to(ROOT).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    engine = {f"itera_lite/_engine{suffix}" for suffix in EXTENSION_SUFFIXES} & held
    assert len(engine) == 1
    program = f"itera_lite-{itera_lite.__version__}.data/scripts/itera-run"
    assert held == expected | engine | {program}
    assert "itera_lite/py.typed" in held


def test_the_wheels_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        files = {Path(name).name: name for name in archive.namelist() if ".dist-info/" in name}
        metadata = message_from_bytes(archive.read(files["METADATA"]))
        entry_points = archive.read(files["entry_points.txt"]).decode()
        licence = archive.read(files["LICENSE"]).decode()
    assert metadata["Name"] == "itera-lite"
    assert metadata["Version"] == itera_lite.__version__
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata.get_all("License-File") == ["LICENSE"]
    assert "Itera-Lite" in metadata.get_payload()
    assert "itera = itera_lite.cli:main" in entry_points
    assert licence.startswith("MIT License")


def test_the_wheel_runs_without_the_source_tree(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    # Without `site`, which would take the editable installation instead.
    code = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {sysconfig.get_path('purelib')!r}]\n"
        "import itera_lite, itera_lite.cli as c; print(itera_lite.__file__)\n"
        "from itera_lite import _engine; print(_engine.__file__); c.main(['--help'])"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    package, engine, *_ = done.stdout.splitlines()
    assert package.startswith(str(tmp_path)) and engine.startswith(str(tmp_path))
    assert "generate" in done.stdout
