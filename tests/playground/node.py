"""Runs JavaScript with itera.js in node, and the native engine's portable kernels beside it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "itera_lite" / "playground"
WASM = FOLDER / "itera.wasm"

_BEGIN = """
import { readFileSync } from "node:fs";
import { IteraError, loadEngine } from "./itera.mjs";
const given = JSON.parse(readFileSync("given.json", "utf-8"));
const read = (path) => new Uint8Array(readFileSync(path));
const wasm = read(given.wasm);
const message = (work) => {
  try {
    work();
  } catch (error) {
    if (error instanceof IteraError) return error.message;
    throw error;
  }
  return null;
};
const write = (model, prompt, options) => {
  const stream = model.start(prompt, options);
  const steps = [];
  for (let step; (step = stream.next()); ) steps.push(step);
  return {
    text: steps.map((step) => step.text).join(""),
    tokens: steps.map((step) => step.token),
    logProbabilities: steps.map((step) => step.logProbability),
    top: steps.map((step) => step.top),
    finishReason: stream.finishReason,
  };
};
"""
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="node isn't installed")


def run_node(folder: Path, script: str, wasm: Path = WASM, **given: Any) -> Any:
    """What the script's last line, ``result = ...;``, gives.

    Args:
        folder: to work in.
        script: with ``loadEngine``, ``wasm`` (bytes), ``read(path)``, ``message(function)`` of an
            IteraError, ``write(model, prompt, options)``, and ``given``.
        wasm: the engine.
        given: what the script gets, as JSON.
    """
    shutil.copy(FOLDER / "itera.js", folder / "itera.mjs")
    (folder / "given.json").write_text(json.dumps({"wasm": str(wasm), **given}))
    end = "\nprocess.stdout.write(JSON.stringify(result));\n"
    (folder / "script.mjs").write_text(f"{_BEGIN}let result;\n{script}{end}")
    run = subprocess.run(
        ["node", "script.mjs"], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout)


def run_portable(script: str, **given: Any) -> Any:
    """The same in Python, in a process whose native engine has its portable kernels."""
    begin = (
        "import json, sys, warnings\nfrom itera_lite.engine import Model\n"
        "warnings.simplefilter('ignore')\ngiven = json.load(sys.stdin)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", f"{begin}{script}\njson.dump(result, sys.stdout)"],
        input=json.dumps(given),
        env={**os.environ, "ITERA_ISA": "portable"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout)
