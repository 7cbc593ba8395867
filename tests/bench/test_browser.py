"""`itera bench playground`: two runtimes decode the same file, and their speeds are compared."""

import json
import os
import shutil
from pathlib import Path

import pytest

from itera_lite.bench import browser
from itera_lite.bench.runtimes import OURS
from itera_lite.commands.bench_playground import bench_playground
from itera_lite.errors import IteraError
from itera_lite.records import BrowserDecoding
from tests.native.gguf_models import hybrid

PEER = """
export class LoggerWithoutDebug {}
export class Wllama {
  async loadModel([file], { n_threads, n_gpu_layers }) {
    const head = new Uint8Array(await file.slice(0, 4).arrayBuffer());
    if (new TextDecoder().decode(head) !== "GGUF") throw new Error("no model");
    if (n_threads !== 1 || n_gpu_layers !== 0) throw new Error("more than one thread");
  }
  isMultithread() { return false; }
  async createCompletion({ prompt, max_tokens, temperature }) {
    if (prompt !== "Once upon a time" || temperature !== 0) throw new Error(prompt);
    return { timings: { predicted_ms: 50000, predicted_n: max_tokens - 1 } };
  }
}
"""


@pytest.fixture
def peer(tmp_path: Path) -> Path:
    """The folder of a package that replaces wllama; it reports 50 s for each text."""
    (tmp_path / "peer" / "esm" / "wasm").mkdir(parents=True)
    (tmp_path / "peer" / "esm" / "index.js").write_text(PEER)
    (tmp_path / "peer" / "esm" / "wasm" / "wllama.wasm").write_bytes(b"")
    (tmp_path / "peer" / "package.json").write_text('{"version": "9.9.9"}')
    return tmp_path / "peer"


def test_both_decode_in_turns(
    peer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("playwright", reason="needs the extra `clients`")
    if shutil.which("chromium") is None:
        pytest.skip("no Chromium on this machine")
    model = tmp_path / "tiny.gguf"
    model.write_bytes(hybrid("q8_0").render())
    record = bench_playground(model, wllama=peer, repeats=2, tokens=16, results=tmp_path)
    assert BrowserDecoding.read(tmp_path / "browser.json") == record
    ours, theirs = record.runtimes[OURS], record.runtimes["wllama"]
    assert theirs.tokens_per_second.samples == [0.32, 0.32] and theirs.tokens_per_pass == 16
    assert ours.tokens_per_second.median > 3.2
    assert record.ratios[0].ratio == pytest.approx(ours.tokens_per_second.median / 0.32)
    assert [target.verdict for target in record.targets] == ["met"]
    assert record.provenance.versions["wllama"] == "9.9.9"
    assert record.provenance.engine_isa == "wasm-simd128"
    assert record.wasm_bytes == (browser.SOURCES / "itera.wasm").stat().st_size
    printed = capsys.readouterr().out
    assert "tiny.gguf" in printed and "ms to compile and check" in printed


def test_what_is_missing_is_named(
    peer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(IteraError, match=r"no wllama in '.*elsewhere'"):
        bench_playground(wllama=tmp_path / "elsewhere", results=tmp_path)
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    with pytest.raises(IteraError, match="Chromium isn't installed"):
        bench_playground(wllama=peer, results=tmp_path)
    with pytest.raises(IteraError, match=r"npm isn't installed.*--wllama"):
        bench_playground(results=tmp_path)
    npm = programs / "npm"
    npm.write_text("#!/bin/sh\necho 'npm error network' >&2\nexit 1\n")
    npm.chmod(0o755)
    with pytest.raises(IteraError, match=r"npm can't fetch .*: npm error network"):
        bench_playground(results=tmp_path)


def test_npm_puts_wllama_into_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs, cache = tmp_path / "programs", tmp_path / "cache"
    programs.mkdir()
    npm = programs / "npm"
    npm.write_text(
        "#!/bin/sh\nmkdir -p node_modules/@wllama/wllama/esm\n"
        'echo "$*" > node_modules/@wllama/wllama/esm/index.js\n'
    )
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.defpath}")
    monkeypatch.setenv("ITERA_CACHE", str(cache))
    found = browser.find_wllama(None)
    assert found.is_relative_to(cache)
    assert (found / "esm" / "index.js").read_text() == "install @wllama/wllama@3.13.0\n"
    npm.unlink()
    assert browser.find_wllama(None) == found  # npm isn't run again
    assert json.loads((found.parents[2] / "package.json").read_text()) == {"private": True}
