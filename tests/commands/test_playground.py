"""`itera playground`: the name that the page and the terminal show."""

import os
from pathlib import Path

import pytest

from itera_lite import cli
from itera_lite.engine.find import BOX

(BOX_FILE,) = BOX.glob("*.gguf")


def test_a_name_that_is_not_utf_8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, model = tmp_path / "page.html", tmp_path / os.fsdecode(b"m\xff.gguf")
    model.symlink_to(BOX_FILE)
    assert cli.main(["playground", str(model), "--out", str(out)]) == 0
    assert 'data-name="m\ufffd.gguf"' in out.read_text(encoding="utf-8")
    assert "with m\ufffd.gguf (" in capsys.readouterr().out
