"""`itera watch`: SIGUSR1, before there are rates and where they name a model oddly."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from itera_lite import cli
from itera_lite.engine import Model
from itera_lite.engine.find import BOX, load_model
from itera_lite.engine.watch import Calibration, store_calibration

(BOX_FILE,) = BOX.glob("*.gguf")


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ITERA_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("trained_on_lines")
def test_a_signal_while_the_model_loads_is_ignored(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(path: Path) -> Model:
        signal.raise_signal(signal.SIGUSR1)
        return load_model(path)

    monkeypatch.setattr("itera_lite.commands.watch.load_model", load)
    arrived: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: arrived.append(number))
    try:
        assert cli.main(["watch", "--model", str(BOX_FILE)]) == 2
        assert "no calibration is stored" in capsys.readouterr().err
        assert arrived == []
        signal.raise_signal(signal.SIGUSR1)
        assert arrived == [signal.SIGUSR1], "as it was before"
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.usefixtures("trained_on_lines")
def test_the_rates_of_a_model_whose_name_is_not_utf_8(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def lines(*_: object) -> Iterator[list[bytes]]:
        signal.raise_signal(signal.SIGUSR1)
        yield from ()

    monkeypatch.setattr("itera_lite.commands.watch.lines_of", lines)
    store_calibration(BOX_FILE, Calibration(1.5, 0.01, 100, "a.log"))
    path = tmp_path / os.fsdecode(b"m\xff.gguf")
    path.symlink_to(BOX_FILE)
    assert cli.main(["watch", "--model", str(path)]) == 0
    _, asked, end = capfd.readouterr().err.splitlines()
    assert asked.startswith("[0 lines, ") and asked.endswith("/m?.gguf]")
    assert end.startswith("[0 lines, ")
