"""Result files with INVENTED numbers, for tests of the report only.

They are shaped like real ones and written to a temporary folder, never to
``results/``. Nothing here was measured.
"""

from __future__ import annotations

import csv
import json
import math
import random
import statistics
from pathlib import Path
from typing import Any

from .engine_files import engine_decode, engine_scoring

CONTEXTS = (128, 1024, 8192)
CONFIG_ITERA = {
    "family": "itera", "pattern": "mmam", "vocab_size": 2048, "d_model": 128, "head_dim": 32,
    "n_kv_heads": 1, "d_ff": 0, "n_experts": 4, "top_k": 2, "d_expert": 128, "d_state": 32,
    "ssm_head_dim": 32, "d_conv": 4, "max_seq_len": 8192, "rope_theta": 10000.0, "norm_eps": 1e-5,
}  # fmt: skip
CONFIG_TRANSFORMER = {
    **CONFIG_ITERA, "family": "transformer", "pattern": "aaaa", "d_model": 160, "d_ff": 448,
    "n_experts": 0, "n_kv_heads": 5,
}  # fmt: skip


def stat(center: float, rng: random.Random, noise: float = 0.02, n: int = 7) -> dict[str, Any]:
    """A STAT as the benchmark writes it."""
    samples = [center * (1 + noise * rng.uniform(-1, 1)) for _ in range(n)]
    quarters = statistics.quantiles(samples, n=4)
    return {
        "median": statistics.median(samples), "min": min(samples), "max": max(samples),
        "spread": quarters[2] - quarters[0], "repeats": n, "samples": samples,
    }  # fmt: skip


def provenance(command: str, seed: int = 0) -> dict[str, Any]:
    return {
        "command": command, "git_commit": "0123456789abcdef0123456789abcdef01234567",
        "date": "2026-11-22T10:00:00+00:00", "seed": seed,
        "machine": {"cpu": "Synthetic CPU", "cores": 2, "threads": 2, "isa": "AVX-512",
                    "memory_bytes": 8 * 2**30, "os": "Linux 6.1"},
        "versions": {"python": "3.11.9", "torch": "2.13.0", "itera_lite": "0.1.0"},
    }  # fmt: skip


def write_model(
    folder: Path,
    name: str,
    family: str,
    *,
    bpb: float,
    speed: float,
    partner: str,
    seed: int = 0,
    noise: float = 0.02,
) -> None:
    """All five files of one invented model.

    Args:
        folder: Where to.
        name: Run name.
        family: ``itera`` or ``transformer``.
        bpb: Final bits per byte.
        speed: Decode tokens/s at batch 1 and a short context.
        partner: The model it was interleaved with.
        seed: Of the invented noise.
        noise: Relative noise of timings.
    """
    rng = random.Random(f"{name}{seed}")
    itera = family == "itera"
    config = CONFIG_ITERA if itera else CONFIG_TRANSFORMER
    flops = 1_590_000 if itera else 4_020_000
    params = (
        {"total": 1_431_552, "embedding": 262_144, "non_embedding": 1_169_408, "active": 774_144}
        if itera
        else {"total": 1_812_640, "embedding": 327_680, "non_embedding": 1_484_960,
              "active": 1_812_640}
    )  # fmt: skip
    tps = 9200.0 if itera else 8100.0
    rows, steps = [], 2400
    for step in range(0, steps + 1, 20):
        share = step / steps
        value = bpb + 1.9 * math.exp(-7 * share) + 0.18 * (1 - share)
        evaluated = step % 200 == 0
        tokens = step * 2048
        rows.append({
            "step": step, "tokens": tokens, "seconds": round(tokens / tps, 3),
            "epoch": round(tokens / 3.9e6, 4), "flops": tokens * flops * 3,
            "train_loss": (value + rng.gauss(0, 0.02)) * 2.56 if step else "",
            "train_bpb": value + rng.gauss(0, 0.02) if step else "",
            "valid_loss": value * 2.56 if evaluated else "",
            "valid_bpb": value if evaluated else "",
            "valid_ppl": math.exp(value * 2.56) if evaluated else "",
            "lr_matrix": 0.02, "lr_other": 0.003, "grad_norm": 0.8, "tokens_per_second": tps,
            "mfu": 0.37, "expert_load_max": 1.1 + 1.4 * math.exp(-9 * share) if itera else "",
            "expert_entropy": 0.99 - 0.2 * math.exp(-9 * share) if itera else "",
        })  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"{name}_metrics.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    tokens = steps * 2048
    write(folder / f"{name}_summary.json", {
        "name": name, "family": family, "preset": preset_in(name), "config": config,
        "train": {"batch_size": 8, "seq_len": 256, "steps": steps, "tokens": tokens,
                  "epochs": 1.26, "seconds": tokens / tps, "minutes_wall": tokens / tps / 60 + 0.4,
                  "tokens_per_second": tps, "mfu": 0.37, "peak_gflops": 210.0, "precision": "bf16",
                  "threads": 2, "seed": seed, "lr_matrix": 0.02, "stopped": "budget"},
        "params": params, "flops_per_token": {"forward": flops, "train": 3 * flops},
        "valid": {"bpb": bpb, "loss": bpb * 2.56, "ppl": math.exp(bpb * 2.56), "tokens": 213_000,
                  "bytes": 788_364},
        "best": {"step": steps, "bpb": bpb},
        "dataset": {"name": "synthetic", "sha256": "ab" * 32, "tokenizer_sha256": "cd" * 32,
                    "vocab_size": 2048, "train_bytes": 14_277_396, "train_tokens": 3_900_000,
                    "valid_bytes": 788_364, "valid_tokens": 213_000, "bytes_per_token": 3.7},
        "expert_load": [[0.27, 0.24, 0.26, 0.23], [0.31, 0.22, 0.21, 0.26],
                        [0.25, 0.25, 0.24, 0.26], [0.19, 0.35, 0.24, 0.22]] if itera else [],
        "samples": [{"step": 1200, "prompt": "Once", "text": " upon a the day"},
                    {"step": steps, "prompt": "Once upon a time",
                     "text": ", there was a *dog* <b>named</b> Tim. ```He``` ran | jumped.\n"
                             "\"Look!\" said Tim."}],
        "provenance": provenance(f"itera train --model {family} --data synthetic", seed),
    })  # fmt: skip
    write(folder / f"{name}_eval.json", {
        "name": name, "family": family, "preset": preset_in(name), "split": "valid",
        "bpb": bpb, "loss": bpb * 2.56,
        "ppl": math.exp(bpb * 2.56), "word_ppl": None, "accuracy": 0.55, "tokens": 213_000,
        "bytes": 788_364, "words": None, "policy": "windows of 256, stride 256",
        "by_position": [[2**i, bpb * (2.56 + 3 / (1 + i))] for i in range(11)],
        "baselines": {"xz": {"bpb": 2.31}, "bz2": {"bpb": 2.05}, "ppm": {"bpb": 1.62, "order": 5}},
        "provenance": provenance(f"itera eval checkpoints/{name}", seed),
    })  # fmt: skip
    write(folder / f"{name}_benchmark.json", benchmark(
        name, family, params, flops, speed, partner, rng, noise))  # fmt: skip
    write(folder / f"{name}_training_speed.json", training_speed(
        name, family, params["total"], 3 * flops, tps, noise))  # fmt: skip
    for kind, make in (("decode", engine_decode), ("scoring", engine_scoring)):
        record = make(name, family, params["total"], lambda x: stat(x, rng, noise))
        verb = "itera bench score" if kind == "scoring" else "itera bench decode"
        write(folder / f"{name}_{kind}.json", record | {"provenance": provenance(verb)})


def training_speed(
    name: str, family: str, params: int, flops: int, speed: float, noise: float
) -> dict[str, Any]:
    """As `itera bench train` writes it; ours is invented to be twice as fast."""
    rng = random.Random(name)
    contenders = {}
    for label, threads, precision, rate, peak in (
        ("itera-lite, 2 threads", 2, "bf16", speed, 210.0),
        ("itera-lite, 1 thread", 1, "bf16", 0.6 * speed, 110.0),
        ("transformers, 2 threads", 2, "fp32", 0.5 * speed, 90.0),
    ):
        tokens = stat(rate, rng, noise)
        contenders[label] = {
            "threads": threads, "precision": precision, "tokens_per_second": tokens,
            "first_loss": 7.62, "peak_gflops": peak,
            "share_of_peak": tokens["median"] * flops / peak / 1e9,
        }  # fmt: skip
    median = {k: row["tokens_per_second"]["median"] for k, row in contenders.items()}
    first, *others = median
    return {
        "name": name, "family": family, "params": params, "flops_train_per_token": flops,
        "batch_size": 8, "seq_len": 256, "contenders": contenders,
        "speedup_of_first": {label: median[first] / median[label] for label in others},
        "fused_kernels": True, "provenance": provenance("itera bench train"),
    }  # fmt: skip


def benchmark(
    name: str, family: str, params: dict[str, int], flops: int, speed: float, partner: str,
    rng: random.Random, noise: float,
) -> dict[str, Any]:  # fmt: skip
    itera = family == "itera"
    decode, prefill, state = [], [], {}
    for context in CONTEXTS:
        slow = 1 + context / (90_000 if itera else 9_000)
        state[str(context)] = 110_592 + context * 256 if itera else context * 5_120
        for batch in (1, 8):
            rate = speed * batch**0.8 / slow
            latency = stat(1e3 * batch / rate, rng, noise)
            decode.append(
                {
                    "batch": batch,
                    "context": context,
                    "tokens_per_second": stat(rate, rng, noise),
                    "latency_ms": {
                        **latency,
                        "p50": latency["median"],
                        "p99": latency["max"] * 1.4,
                    },
                }
            )
        rate = (24_000 if itera else 31_000) / slow
        prefill.append({"batch": 1, "context": context, "tokens_per_second": stat(rate, rng, noise),
                        "latency_ms": stat(1e3 * context / rate, rng, noise)})  # fmt: skip
    return {
        "name": name, "family": family, "preset": preset_in(name), "params": params,
        "flops_per_token": {"forward": flops, "decode": int(flops * 1.04), "train": 3 * flops,
                            "context": 256},
        "prefill": prefill, "decode": decode,
        "memory": {"weights_bytes": params["total"] * 4, "state_bytes": state,
                   "peak_rss_bytes": stat(412e6 if itera else 421e6, rng, 0.004, n=3)},
        "cpu": {"mean_percent": 98.5, "max_percent": 101.2},
        "energy": {"joules_per_token": stat(0.012 if itera else 0.010, rng, noise),
                   "method": "estimated", "watts": 15.0,
                   "cpu_seconds_per_token": 0.0008 if itera else 0.0007},
        "load_ms": stat(21, rng, 0.1), "first_token_ms": stat(4.2 if itera else 3.1, rng, noise),
        "peers": {"transformers": {"decode": [
            {"batch": 1, "context": 128, "tokens_per_second": stat(speed / 6, rng, noise)}]},
            "engine": {"note": "batch 1 only", "decode": [
            {"batch": 1, "context": 128, "tokens_per_second": stat(speed * 9, rng, noise)}]}},
        "peers_left_out": {"llama.cpp": "it isn't installed"},
        "interleaved_with": [partner], "provenance": provenance("itera bench"),
    }  # fmt: skip


def preset_in(name: str) -> str:
    """The preset of an invented model is the last part of its name."""
    return name.rsplit("_", 1)[-1]


def write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


def write_results(
    folder: Path,
    *,
    itera_bpb: float = 0.771,
    transformer_bpb: float = 0.802,
    itera_speed: float = 1150.0,
    transformer_speed: float = 1420.0,
    noise: float = 0.02,
) -> Path:
    """A whole invented results folder: two models."""
    itera, transformer = "itera_lite_tiny", "transformer_tiny"
    write_model(folder, itera, "itera", bpb=itera_bpb, speed=itera_speed, partner=transformer,
                noise=noise)  # fmt: skip
    write_model(folder, transformer, "transformer", bpb=transformer_bpb, speed=transformer_speed,
                partner=itera, noise=noise)  # fmt: skip
    return folder


def write_seeds(folder: Path, gap: float = 0.03) -> None:
    """Three seeds a model and budget, the Transformer ``gap`` bits per byte above."""
    rng = random.Random(5)
    runs = [
        {"name": name, "seed": seed, "budget": budget, "minutes": 9.0, "tokens": 4_900_000,
         "valid_bpb": 0.775 + add + rng.uniform(-0.003, 0.003)}
        for name, add in (("itera_lite_tiny", 0.0), ("transformer_tiny", gap))
        for budget in ("time", "tokens")
        for seed in range(3)
    ]  # fmt: skip
    write(folder / "seeds.json", runs)


def write_ladder(folder: Path) -> None:
    """Six invented rungs."""
    names = ["reference", "strong baseline", "itera", "smaller vocabulary", "8-bit", "4-bit"]
    rungs = []
    for i, name in enumerate(names):
        rungs.append({
            "name": name, "bpb": 0.82 - 0.01 * i + (0.02 if i == 5 else 0),
            "bytes_on_disk": int(60e6 / 2.3**i), "peak_rss_bytes": 500e6 / 1.8**i,
            "flops_per_byte": 8e6 / 1.5**i, "cpu_seconds_per_kb": 2.0 / 2.1**i,
            "joules_per_kb": 30 / 2.1**i, "ms_per_byte": 2.0 / 2.1**i, "train_minutes": 10,
        })  # fmt: skip
    write(folder / "ladder.json", {"rungs": rungs})
