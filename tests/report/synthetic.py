"""Records with INVENTED numbers, for tests only.

They are shaped like real ones and written to a temporary folder, never to
``results/``. Nothing here was measured.
"""

from __future__ import annotations

import csv
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from itera_lite.config import preset
from itera_lite.machine.energy import Energy
from itera_lite.machine.provenance import Machine, Provenance
from itera_lite.records import (
    Baseline,
    Benchmark,
    Best,
    BudgetRecord,
    ContextGrowth,
    CpuUse,
    DatasetDescription,
    Decode,
    DecodeSpeed,
    Evaluation,
    Filtering,
    FilterScorer,
    FilterSeparation,
    FilterSetting,
    Flops,
    Growth,
    HeldOutText,
    Ladder,
    Memory,
    ModelDecoding,
    ModelDescription,
    Params,
    PeerSpeed,
    PrefillSpeed,
    QuantizedReference,
    Reference,
    Roofline,
    Rung,
    RuntimeDecoding,
    RuntimeScoring,
    RuntimeTraining,
    Sample,
    Scoring,
    SeedRun,
    Seeds,
    SpeedRatio,
    StepLatency,
    Summary,
    Teaching,
    TrainingRun,
    TrainingSpeed,
    TypeDecoding,
    ValidScore,
)
from itera_lite.stats.samples import Stat
from itera_lite.stats.targets import Target

CONTEXTS = (128, 1024, 8192)
PARAMS = {
    "itera": Params(1_431_552, 262_144, 1_169_408, 774_144),
    "transformer": Params(1_812_640, 327_680, 1_484_960, 1_812_640),
}
FORWARD = {"itera": 1_590_000, "transformer": 4_020_000}
TRAINING_SPEED = {"itera": 9200.0, "transformer": 8100.0}
STEPS = 2400
StatOf = Callable[[float], Stat]


def stat(center: float, rng: random.Random, noise: float = 0.02, n: int = 7) -> Stat:
    return Stat.of([center * (1 + noise * rng.uniform(-1, 1)) for _ in range(n)])


def provenance(command: str, seed: int = 0) -> Provenance:
    return Provenance(
        command=command,
        git_commit="0123456789abcdef0123456789abcdef01234567",
        date="2026-11-22T10:00:00+00:00",
        seed=seed,
        machine=Machine(
            cpu="Synthetic CPU",
            cores=2,
            threads=2,
            isa=["avx512f"],
            memory_bytes=8 * 2**30,
            os="Linux 6.1",
        ),
        versions={"python": "3.11.9", "torch": "2.13.0", "itera_lite": "0.1.0"},
    )


def description(name: str, family: Any, seed: int) -> ModelDescription:
    """The preset of an invented model is the last part of its name."""
    size = name.rsplit("_", 1)[-1]
    shape = preset(family, size, 2048)
    return ModelDescription(name, family, PARAMS[family], size, shape, seed, "trained")


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
    """All seven files of one invented model.

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
    model = description(name, family, seed)
    folder.mkdir(parents=True, exist_ok=True)
    write_log(folder / f"{name}_metrics.csv", family, bpb, rng)

    def measured(value: float) -> Stat:
        return stat(value, rng, noise)

    for kind, record in {
        "summary": summary(model, bpb),
        "eval": evaluation(model, bpb),
        "benchmark": benchmark(model, speed, partner, measured, rng),
        "training_speed": training_speed(model, noise),
        "decode": decode(model, measured),
        "scoring": scoring(model, measured),
    }.items():
        record.write(folder / f"{name}_{kind}.json")


def write_log(path: Path, family: str, bpb: float, rng: random.Random) -> None:
    rows, tps, itera = [], TRAINING_SPEED[family], family == "itera"
    for step in range(0, STEPS + 1, 20):
        share = step / STEPS
        value = bpb + 1.9 * math.exp(-7 * share) + 0.18 * (1 - share)
        evaluated = step % 200 == 0
        tokens = step * 2048
        rows.append({
            "step": step, "tokens": tokens, "seconds": round(tokens / tps, 3),
            "epoch": round(tokens / 3.9e6, 4), "flops": tokens * FORWARD[family] * 3,
            "train_loss": (value + rng.gauss(0, 0.02)) * 2.56 if step else "",
            "train_bpb": value + rng.gauss(0, 0.02) if step else "",
            "valid_loss": value * 2.56 if evaluated else "",
            "valid_bpb": value if evaluated else "",
            "valid_ppl": math.exp(value * 2.56) if evaluated else "",
            "lr_matrix": 0.02, "lr_other": 0.003, "grad_norm": 0.8, "tokens_per_second": tps,
            "mfu": 0.37, "expert_load_max": 1.1 + 1.4 * math.exp(-9 * share) if itera else "",
            "expert_entropy": 0.99 - 0.2 * math.exp(-9 * share) if itera else "",
        })  # fmt: skip
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def summary(model: ModelDescription, bpb: float) -> Summary:
    tokens, tps = STEPS * 2048, TRAINING_SPEED[model.family]
    flops = FORWARD[model.family]
    load = [[0.27, 0.24, 0.26, 0.23], [0.31, 0.22, 0.21, 0.26],
            [0.25, 0.25, 0.24, 0.26], [0.19, 0.35, 0.24, 0.22]]  # fmt: skip
    text = ', there was a *dog* <b>named</b> Tim. ```He``` ran | jumped.\n"Look!" said Tim.'
    return Summary(
        model=model,
        training=TrainingRun(
            batch_size=8, seq_len=256, steps=STEPS, tokens=tokens, epochs=1.26,
            seconds=tokens / tps, minutes_wall=tokens / tps / 60 + 0.4, tokens_per_second=tps,
            mfu=0.37, peak_gflops=210.0, precision="bf16", precision_reason="measured",
            fused_operations=True, threads=2, processes=1, lr_matrix=0.02, lr_embedding=0.02,
            lr_other=0.003, weight_decay=0.1, budget=BudgetRecord("seconds", 600.0),
            stopped="budget",
        ),
        best=Best(STEPS, bpb),
        valid=ValidScore(bpb, bpb * 2.56, math.exp(bpb * 2.56), 213_000, 788_364),
        dataset=DatasetDescription(
            name="synthetic", source="synthetic", sha256="ab" * 32, tokenizer_sha256="cd" * 32,
            vocab_size=2048, train_bytes=14_277_396, train_tokens=3_900_000,
            valid_bytes=788_364, valid_tokens=213_000, bytes_per_token=3.7,
        ),
        flops_per_token=Flops(flops, 3 * flops),
        expert_load=load if model.family == "itera" else [],
        samples=[Sample(1200, "Once", " upon a the day"), Sample(STEPS, "Once upon a time", text)],
        provenance=provenance(f"itera train --model {model.family} --data synthetic", model.seed),
    )  # fmt: skip


def evaluation(model: ModelDescription, bpb: float) -> Evaluation:
    return Evaluation(
        model=model, source="synthetic", split="valid", bpb=bpb, loss=bpb * 2.56,
        ppl=math.exp(bpb * 2.56), word_ppl=None, accuracy=0.55, tokens=213_000, bytes=788_364,
        words=None, documents=900, sampled=False, seq_len=256, policy="windows of 256, stride 256",
        by_position=[(2**i, bpb * (2.56 + 3 / (1 + i))) for i in range(11)],
        fused_operations=True,
        baselines={"xz": Baseline(2.31, 14_277_396, "a compressor"),
                   "bz2": Baseline(2.05, 0, "a compressor"),
                   "ppm": Baseline(1.62, 14_277_396, "counts", 5)},
        provenance=provenance(f"itera eval checkpoints/{model.name}", model.seed),
    )  # fmt: skip


def training_speed(model: ModelDescription, noise: float) -> TrainingSpeed:
    """As `itera bench train` writes it; ours is invented to be twice as fast."""
    rng, flops = random.Random(model.name), 3 * FORWARD[model.family]
    speed, runtimes = TRAINING_SPEED[model.family], {}
    for label, threads, precision, tps, peak in (
        ("itera-lite, 2 threads", 2, "bf16", speed, 210.0),
        ("itera-lite, 1 thread", 1, "bf16", 0.6 * speed, 110.0),
        ("transformers, 2 threads", 2, "fp32", 0.5 * speed, 90.0),
    ):
        tokens = stat(tps, rng, noise)
        share = tokens.median * flops / peak / 1e9
        runtimes[label] = RuntimeTraining(threads, precision, tokens, 7.62, peak, share)
    first, *others = runtimes
    median = {label: row.tokens_per_second.median for label, row in runtimes.items()}
    return TrainingSpeed(
        model=model, flops_train_per_token=flops, batch_size=8, seq_len=256, runtimes=runtimes,
        fused_operations=True,
        speedup_of_first={label: median[first] / median[label] for label in others},
        provenance=provenance("itera bench train"),
    )  # fmt: skip


def benchmark(
    model: ModelDescription, speed: float, partner: str, measured: StatOf, rng: random.Random
) -> Benchmark:
    itera = model.family == "itera"
    flops, decoding, prefill, state = FORWARD[model.family], [], [], {}
    for context in CONTEXTS:
        slow = 1 + context / (90_000 if itera else 9_000)
        state[context] = 110_592 + context * 256 if itera else context * 5_120
        for batch in (1, 8):
            rate = speed * batch**0.8 / slow
            times = measured(1e3 * batch / rate)
            latency = StepLatency.of(
                times.samples, p50=times.median, p99=times.max * 1.4, steps=700
            )
            decoding.append(DecodeSpeed(batch, context, measured(rate), latency))
        rate = (24_000 if itera else 31_000) / slow
        prefill.append(PrefillSpeed(1, context, measured(rate), measured(1e3 * context / rate)))

    def peer(rate: float, note: str = "") -> PeerSpeed:
        row = DecodeSpeed(1, 128, measured(rate), decoding[0].latency_ms)
        return PeerSpeed([], [row], note)

    return Benchmark(
        model=model,
        flops_per_token=Flops(flops, 3 * flops, int(flops * 1.04), 256),
        prefill=prefill,
        decode=decoding,
        memory=Memory(
            weights_bytes=model.params.total * 4,
            state_bytes=state,
            peak_rss_bytes=stat(412e6 if itera else 421e6, rng, 0.004, n=3),
            import_rss_bytes=stat(300e6, rng, 0.004, n=3),
        ),
        cpu=CpuUse(98.5, 101.2),
        energy=Energy(
            joules_per_token=measured(0.012 if itera else 0.010),
            method="estimated",
            watts=15.0,
            cpu_seconds_per_token=measured(0.0008 if itera else 0.0007),
        ),
        load_ms=stat(21, rng, 0.1),
        first_token_ms=measured(4.2 if itera else 3.1),
        import_ms=stat(900, rng, 0.1),
        fused_operations=True,
        peers={"transformers": peer(speed / 6), "engine": peer(speed * 9, "batch 1 only")},
        peers_left_out={"llama.cpp": "it isn't installed"},
        interleaved_with=[partner],
        provenance=provenance("itera bench"),
    )


def decode(model: ModelDescription, measured: StatOf) -> Decode:
    """As `itera bench decode` writes it; the engine is invented to be ten times llama.cpp."""

    def speed(rate: float) -> RuntimeDecoding:
        return RuntimeDecoding(measured(rate), measured(1e6 / rate), 64)

    types = {
        kind: TypeDecoding(
            file_bytes=2_000_000,
            weight_bytes_per_token=900_000,
            state_bytes_per_token=100_000,
            runtimes={"itera-lite": speed(rate), "llama.cpp": speed(rate / 10)},
            roofline=Roofline(measured(7e10), 14.3, 0.71, 0.7, 0.73),
            profile_microseconds={"head": 3.0, "norms": 0.2, "rest": 1.5, "total": 18.0},
        )
        for kind, rate in (("q8_0", 50_000.0), ("q4_0", 60_000.0))
    }
    target = Target("llama_cpp", "Decoding Q8_0, against llama.cpp", "at least", 8,
                    value=10.0, low=9.5, high=10.5, verdict="met")  # fmt: skip
    return Decode(
        decoding=ModelDecoding(
            model=model,
            context=128,
            threads=1,
            main_type="q8_0",
            types=types,
            torch={"transformers": speed(333.0)},
            ratios=[
                _ratio(kind, peer, of or kind, ratio)
                for kind in types
                for peer, of, ratio in (("llama.cpp", "", 10.0), ("transformers", "fp32", 150.0))
            ],
            growth=Growth(
                "q8_0",
                8192,
                {"itera-lite": ContextGrowth({128: measured(20), 8192: measured(38)}, 1.9, 18.0)},
                {"attention over the context": 17.0},
            ),
        ),
        targets=[target] if model.family == "itera" else [],
        provenance=provenance("itera bench decode"),
    )


def scoring(model: ModelDescription, measured: StatOf) -> Scoring:
    """As `itera bench score` writes it."""
    target = Target("threads", "Scoring, two threads against one", "at least", 1.7,
                    value=1.6, verdict="missed")  # fmt: skip
    return Scoring(
        model=model,
        documents=16,
        tokens=4096,
        main_type="q8_0",
        runtimes=[
            RuntimeScoring(kind, runtime, threads, measured(rate))
            for kind, runtime, threads, rate in (
                ("q8_0", "itera-lite", 1, 70_000),
                ("q8_0", "itera-lite", 2, 130_000),
                ("q8_0", "llama.cpp", 1, 10_000),
                ("fp32", "transformers", 1, 14_000),
            )
        ],
        ratios=[
            _ratio("q8_0", "llama.cpp", "q8_0", 7.0),
            _ratio("q8_0", "transformers", "fp32", 5.0),
        ],
        targets=[target] if model.family == "itera" else [],
        provenance=provenance("itera bench score"),
    )


def _ratio(kind: str, peer: str, peer_type: str, ratio: float) -> SpeedRatio:
    verdict = f"itera-lite better by {ratio:.{1 if ratio >= 10 else 2}f}×"
    return SpeedRatio(kind, peer, peer_type, ratio, "ours", verdict)


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


def seed_run(name: str, budget: Any, bpb: float, **more: Any) -> SeedRun:
    family: Any = "itera" if "itera" in name else "transformer"
    known: dict[str, Any] = {
        "seed": 0, "source": "synthetic", "amount": "4.9M", "tokens": 4_900_000,
        "vocab_size": 2048, "minutes": 9.0, "tokens_per_second": 9e3, "threads": 2,
    }  # fmt: skip
    return SeedRun(name=name, family=family, size="tiny", budget=budget, valid_bpb=bpb,
                   **known | more)  # fmt: skip


def write_seeds(folder: Path, gap: float = 0.03) -> None:
    """Three seeds a model and budget, the Transformer ``gap`` bits per byte above."""
    rng = random.Random(5)
    runs = [
        seed_run(name, budget, 0.775 + add + rng.uniform(-0.003, 0.003), seed=seed)
        for name, add in (("itera_lite_tiny", 0.0), ("transformer_tiny", gap))
        for budget in ("time", "tokens")
        for seed in range(3)
    ]
    Seeds(runs=runs, provenance=provenance("itera bench seeds")).write(folder / "seeds.json")


def write_ladder(folder: Path, worse: float = 0.0, in_llama: bool = False) -> None:
    """Six invented rungs; ``worse`` is added to the bits per byte of all but the first.

    Args:
        in_llama: with everything that is measured where llama.cpp is installed: the quantised
            reference, and the targets.
    """
    names = {"reference": "reference", "transformer": "strong baseline", "itera": "itera",
             "vocabulary": "smaller vocabulary", "q8_0": "8-bit", "q4_0": "4-bit"}  # fmt: skip
    rungs = []
    for i, (stage, name) in enumerate(names.items()):
        rungs.append(Rung(
            name=name, stage=stage, runtime="transformers", params=1_000_000 // (i + 1),
            bpb=Stat.of([0.82 - 0.01 * i + (0.02 if i == 5 else 0) + (worse if i else 0)]),
            d_model=128, vocab_size=2048, tokens_in_use=2000, bytes_per_token=3.6,
            bytes_on_disk=int(60e6 / 2.3**i), bytes_compressed=int(50e6 / 2.5**i),
            peak_rss_bytes=Stat.of([500e6 / 1.8**i]),
            flops_per_byte=8e6 / 1.5**i, cpu_seconds_per_kb=Stat.of([2.0 / 2.1**i]),
            joules_per_kb=Stat.of([30 / 2.1**i]), ms_per_byte=Stat.of([2.0 / 2.1**i]),
            outside_teacher=None, train_minutes=10, own_train_minutes=10,
        ))  # fmt: skip
    more: dict[str, Any] = {}
    if in_llama:
        rungs[0] = replace(rungs[0], bpb=Stat.of([0.82, 0.83, 0.825]))
        found = {"sense": "at least", "target": 10.0, "verdict": "met"}
        more = {
            "quantized": replace(
                rungs[0], name="the reference in llama.cpp, Q4_0", runtime="llama.cpp",
                bytes_on_disk=6_000_000, cpu_seconds_per_kb=Stat.of([0.2]),
                bpb=Stat.of([0.83, 0.84, 0.835]),
            ),
            "quantized_types": [
                QuantizedReference("q4_0", 6_000_000, 0.83, True),
                QuantizedReference("q8_0", 9_000_000, 0.829, False),
            ],
            "targets": [
                Target("cpu_seconds_per_kb", "CPU", value=40.8, **found),
                Target("bytes_on_disk", "bytes", value=64.4, **found | {"verdict": "missed"}),
                Target("bytes_compressed", "compressed", "at least", 100.0),
            ],
            "quantized_targets": [Target("cpu_seconds_per_kb", "CPU", value=4.1, **found)],
            "steadiness": Target("bpb", "seeds", "at most", 0.02, "%", None, 0.01, verdict="met"),
            "teaching": Teaching(0.74, 30.0, 0.77, 60.0, 0.75, "distilled"),
            "references": [
                Reference("reference", 15_000_000, 0.85, 1.0, 60.0, False),
                Reference("reference_small", 5_000_000, 0.82, 4.0, 60.0, True),
            ],
        }  # fmt: skip
    Ladder(
        **more, source="synthetic", quick=False, minutes=10, energy="estimated", threads=1,
        text_bytes=1000, rungs=rungs, held_out=HeldOutText("valid", 900, 788_364, 256),
        provenance=provenance("itera ladder"),
    ).write(folder / "ladder.json")  # fmt: skip


def filtering(kenlm: bool = True) -> Filtering:
    """The filter's benchmark: a model that is better than its peer, two that lose somewhere."""
    peer = "KenLM 5-gram" if kenlm else "byte 6-gram"

    def separations(lead: float | None) -> list[FilterSeparation]:
        found = []
        for number, setting in enumerate(("swapped", "novels")):
            auc = 0.9 + 0.05 * number + (lead or 0.0) * (1 - 1.5 * number)
            one = FilterSeparation(setting, auc, auc - 0.01, auc + 0.01, auc - 0.03)
            if lead is not None:
                one.lead = lead * (1 - 1.5 * number)
                one.lead_low, one.lead_high = one.lead - 0.005, one.lead + 0.005
                one.winner = "ours" if one.lead_low > 0 else "peer" if one.lead_high < 0 else None
            found.append(one)
        return found

    def scorer(name: str, kind: Any, lead: float | None, **more: Any) -> FilterScorer:
        return FilterScorer(
            name=name, kind=kind, how=f"how {name} works", statistic="surprise",
            usual="bits per byte", mean_auc={"surprise": 0.9, "bits per byte": 0.88},
            separations=separations(lead), mb_per_second=Stat.of([0.61, 0.62, 0.6]), **more,
        )  # fmt: skip

    words = {"words_mb_per_second": Stat.of([9.1, 9.2, 9.3])} if kenlm else {}
    return Filtering(
        source="synthetic",
        split="valid",
        unit="sentence",
        lines=3000,
        bytes=150_000,
        chosen_on=1000,
        in_training=12,
        train_lines=200_000,
        train_bytes=9_870_000,
        ngram_bytes=9_870_000,
        peer=peer,
        settings=[
            FilterSetting("swapped", "two words swapped", 3000),
            FilterSetting("novels", "sentences of novels", 2000),
        ],
        scorers=[
            scorer("pico", "model", 0.03, params=300_000, unit="sentence"),
            scorer("stories", "model", 0.001, params=300_000, unit="document"),
            scorer("two models", "contrast", -0.02),
            scorer(peer, "kenlm" if kenlm else "ngram", None, **words),
        ],
        resamples=2000,
        without_kenlm="" if kenlm else "its builder isn't installed",
        provenance=provenance("itera bench filter"),
    )
