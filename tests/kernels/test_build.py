"""One library for the sources at hand: a change to any of them makes another."""

import shutil
from pathlib import Path

import pytest

from itera_lite.kernels import build


@pytest.fixture
def sources(tmp_path, monkeypatch) -> Path:
    """A copy of the sources that a test may change, and an empty cache."""
    folder = tmp_path / "kernels"
    folder.mkdir()
    for path in (*build.FOLDER.glob("*.cc"), *build.FOLDER.glob("*.h")):
        shutil.copy(path, folder)
    monkeypatch.setattr(build, "FOLDER", folder)
    monkeypatch.setenv("ITERA_CACHE", str(tmp_path / "cache"))
    return folder


def test_every_source_is_compiled_and_counts_in_the_name(sources, monkeypatch):
    asked: list[tuple[Path, list[Path]]] = []

    def compile_nothing(compiler, flags, files, path):
        asked.append((path, files))
        raise OSError("not now")

    monkeypatch.setattr(build, "_compile", compile_nothing)

    def ask() -> Path:
        with pytest.raises(OSError, match="not now"):
            build.load()
        return asked[-1][0]

    first = ask()
    assert ask() == first
    assert asked[0][1] == sorted(sources.glob("*.cc"))
    assert len(asked[0][1]) > 5
    names = {first}
    for path in sources.iterdir():
        before = path.read_text()
        path.write_text(before + "\n// changed\n")
        names.add(ask())
        path.write_text(before)
    assert len(names) == 1 + len(list(sources.iterdir()))
    assert ask() == first


def test_what_does_not_compile_is_said_and_leaves_nothing(sources):
    for path in sources.iterdir():
        path.unlink()
    (sources / "good.cc").write_text('extern "C" long one() { return 1; }\n')
    (sources / "broken.cc").write_text("int broken(\n")
    with pytest.raises(OSError, match=r"broken\.cc"):
        build.load()
    (sources / "broken.cc").unlink()
    library = build.load()
    assert library.one() == 1
    left = list((sources.parent / "cache" / "kernels").iterdir())
    assert [path.suffix for path in left] == [".so"]
