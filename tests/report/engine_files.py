"""Invented results of `itera bench decode` and `itera bench score`; see `synthetic`."""

from collections.abc import Callable
from typing import Any

Stat = Callable[[float], dict[str, Any]]


def engine_decode(name: str, family: str, params: int, stat: Stat) -> dict[str, Any]:
    """As `itera bench decode` writes it; the engine is invented to be ten times llama.cpp."""

    def speed(rate: float) -> dict[str, Any]:
        return {
            "tokens_per_second": stat(rate),
            "microseconds_per_token": stat(1e6 / rate),
            "tokens_a_pass": 64,
        }

    types = {}
    for kind, rate in (("q8_0", 50_000.0), ("q4_0", 60_000.0)):
        types[kind] = {
            "file_bytes": 2_000_000,
            "weight_bytes_per_token": 900_000,
            "state_bytes_per_token": 100_000,
            "runtimes": {"itera-lite": speed(rate), "llama.cpp": speed(rate / 10)},
            "roofline": {
                "bandwidth_bytes_per_second": stat(7e10),
                "floor_microseconds": 14.3,
                "share": 0.71,
                "share_low": 0.7,
                "share_high": 0.73,
            },
            "profile_microseconds": {"head": 3.0, "norms": 0.2, "rest": 1.5, "total": 18.0},
        }
    ratios = [
        _ratio(kind, peer, of or kind, ratio)
        for kind in types
        for peer, of, ratio in (("llama.cpp", "", 10.0), ("transformers", "fp32", 150.0))
    ]
    target = {
        "key": "llama_cpp",
        "label": "Decoding Q8_0, against llama.cpp",
        "sense": "at least",
        "target": 8,
        "unit": "×",
        "value": 10.0,
        "low": 9.5,
        "high": 10.5,
        "verdict": "met",
    }
    return {
        "name": name,
        "family": family,
        "params": params,
        "context": 128,
        "threads": 1,
        "main_type": "q8_0",
        "types": types,
        "torch": {"transformers": speed(333.0)},
        "ratios": ratios,
        "targets": [target] if family == "itera" else [],
        "growth": {
            "type": "q8_0",
            "context": 8192,
            "runtimes": {"itera-lite": {"ratio": 1.9, "added_microseconds": 18.0}},
            "profile_microseconds": {"attention over the context": 17.0},
        },
    }


def engine_scoring(name: str, family: str, params: int, stat: Stat) -> dict[str, Any]:
    """As `itera bench score` writes it."""
    scorers = [
        {
            "type": kind,
            "runtime": runtime,
            "threads": threads,
            "note": "",
            "tokens_per_second": stat(rate),
        }
        for kind, runtime, threads, rate in (
            ("q8_0", "itera-lite", 1, 70_000),
            ("q8_0", "itera-lite", 2, 130_000),
            ("q8_0", "llama.cpp", 1, 10_000),
            ("fp32", "transformers", 1, 14_000),
        )
    ]
    target = {
        "key": "threads",
        "label": "Scoring, two threads against one",
        "sense": "at least",
        "target": 1.7,
        "unit": "×",
        "value": 1.6,
        "verdict": "missed",
    }
    return {
        "name": name,
        "family": family,
        "params": params,
        "documents": 16,
        "tokens": 4096,
        "main_type": "q8_0",
        "scorers": scorers,
        "ratios": [
            _ratio("q8_0", "llama.cpp", "q8_0", 7.0),
            _ratio("q8_0", "transformers", "fp32", 5.0),
        ],
        "targets": [target] if family == "itera" else [],
    }


def _ratio(kind: str, peer: str, peer_type: str, ratio: float) -> dict[str, Any]:
    verdict = f"itera-lite better by {ratio:.{1 if ratio >= 10 else 2}f}×"
    return {"type": kind, "peer": peer, "peer_type": peer_type, "ratio": ratio, "verdict": verdict}
