"""What `bench decode` found about a model, as its result file holds it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from itera_lite import _engine
from itera_lite.bench.compare import Measurement, Metric, compare
from itera_lite.bench.decoders import Contender
from itera_lite.bench.stats import stat
from itera_lite.bench.targets import Target, judge, ratio

OURS, SAMPLED, LLAMA = "itera-lite", "itera-lite, sampling", "llama.cpp"
SPEED = Metric("decode", "Decoding", "tokens/s", "higher", "timing", "speed")


@dataclass
class Subject:
    """A model with its files, who decodes it, and what is measured of it.

    Attributes:
        name: of the checkpoint, or of the shape.
        family: ``itera`` or ``transformer``.
        params: numbers in all tensors.
        files: type of the weights -> GGUF file.
        folder: the checkpoint; None for a shape with random weights.
        weights_sha256: of the checkpoint's weights.
        touched: type -> bytes of weights and state that a token reads.
        bandwidth: type -> bytes a second of reading as many bytes, a sample a round.
    """

    name: str
    family: str
    params: int
    files: dict[str, Path]
    folder: Path | None = None
    weights_sha256: str = ""
    contenders: list[Contender] = field(default_factory=list)
    touched: dict[str, tuple[int, int]] = field(default_factory=dict)
    file_bytes: dict[str, int] = field(default_factory=dict)
    bandwidth: dict[str, list[float]] = field(default_factory=dict)

    @property
    def main_type(self) -> str:
        """The type that targets are about."""
        return "q8_0" if "q8_0" in self.files else next(iter(self.files))

    def measure_bandwidth(self, kind: str, model: _engine.Model, length: int) -> None:
        """From now on, measure how fast the bytes of one token at ``length`` can be read."""
        self.touched[kind] = model.weight_bytes_per_token(), model.state_bytes_per_token(length)
        self.file_bytes[kind] = model.file_bytes
        self.bandwidth[kind] = []

    def read_bandwidths(self, seconds: float) -> None:
        """One sample for each type."""
        for kind, samples in self.bandwidth.items():
            samples.append(_engine.read_bandwidth(sum(self.touched[kind]), seconds))

    def find(self, kind: str, runtime: str, context: int) -> Contender | None:
        """The contender of that kind, if there is one."""
        for one in self.contenders:
            if (one.kind, one.runtime, len(one.prompt)) == (kind, runtime, context):
                return one
        return None

    def seconds(self, kind: str, runtime: str, context: int) -> Measurement | None:
        """Seconds a token; of llama.cpp those inside it, which is the kinder number."""
        one = self.find(kind, runtime, context)
        return Measurement.of_samples(one.inside) if one else None


def model_record(
    subject: Subject, others: Sequence[Subject], context: int, long_context: int
) -> dict[str, Any]:
    """Everything measured of one model, with ratios, shares and verdicts."""
    record: dict[str, Any] = {
        "name": subject.name,
        "family": subject.family,
        "params": subject.params,
        "context": context,
        "threads": 1,
        "main_type": subject.main_type,
        "types": {kind: _type_record(subject, kind, context) for kind in subject.files},
        "torch": {one.runtime: _speeds(one) for one in subject.contenders if one.kind == "fp32"},
    }
    record["ratios"] = _ratios(subject, context)
    if long_context:
        record["growth"] = _growth(subject, context, long_context)
    record["targets"] = _targets(subject, others, context, long_context)
    return record


def _speeds(one: Contender) -> dict[str, Any]:
    record = {
        "tokens_per_second": stat([1 / s for s in one.inside]),
        "microseconds_per_token": stat([1e6 * s for s in one.inside]),
        "tokens_a_pass": one.tokens,
    }
    if one.inside != one.seconds:
        record["tokens_per_second_with_python"] = stat([1 / s for s in one.seconds])
    return record


def _type_record(subject: Subject, kind: str, context: int) -> dict[str, Any]:
    weights, state = subject.touched[kind]
    runtimes = {
        one.runtime: _speeds(one)
        for one in subject.contenders
        if one.kind == kind and len(one.prompt) == context
    }
    share = roofline_share(subject, kind, context)
    bandwidth = subject.bandwidth[kind]
    return {
        "file_bytes": subject.file_bytes[kind],
        "weight_bytes_per_token": weights,
        "state_bytes_per_token": state,
        "runtimes": runtimes,
        "roofline": {
            "bandwidth_bytes_per_second": stat(bandwidth),
            "floor_microseconds": 1e6 * (weights + state) / stat(bandwidth)["median"],
            "share": share and share.value,
            "share_low": share and share.low,
            "share_high": share and share.high,
        },
    }


def roofline_share(subject: Subject, kind: str, context: int) -> Measurement | None:
    """Time that reading a token's bytes takes at least, over the time that the token takes."""
    if not subject.bandwidth.get(kind):
        return None
    bandwidth = Measurement.of_samples(subject.bandwidth[kind])
    total = sum(subject.touched[kind])
    floor = Measurement(
        total / bandwidth.value, total / bandwidth.high, total / bandwidth.low, bandwidth.repeats
    )
    return ratio(floor, subject.seconds(kind, OURS, context))


def _ratios(subject: Subject, context: int) -> list[dict[str, Any]]:
    """Our engine against each peer, by the rules of all verdicts."""
    rows = []
    for kind in subject.files:
        ours = subject.find(kind, OURS, context)
        peers = [one for one in subject.contenders if len(one.prompt) == context]
        for peer in peers:
            if ours is None or peer.runtime in (OURS, SAMPLED) or peer.kind not in (kind, "fp32"):
                continue
            a, b = (Measurement.of_samples([1 / s for s in c.inside]) for c in (ours, peer))
            verdict = compare(SPEED, a, b, names={"itera": OURS, "transformer": peer.runtime})
            found = ratio(a, b)
            rows.append(
                {
                    "type": kind,
                    "peer": peer.runtime,
                    "peer_type": peer.kind,
                    "ratio": a.value / b.value,
                    "low": found and found.low,
                    "high": found and found.high,
                    "verdict": verdict.verdict,
                }
            )
    return rows


def _growth(subject: Subject, short: int, long: int) -> dict[str, Any]:
    """What a long context costs, by runtime."""
    kind, runtimes = subject.main_type, {}
    for runtime in (OURS, LLAMA):
        a, b = (subject.find(kind, runtime, n) for n in (short, long))
        if a is None or b is None:
            continue
        slower = ratio(subject.seconds(kind, runtime, long), subject.seconds(kind, runtime, short))
        runtimes[runtime] = {
            "microseconds_per_token": {
                str(short): stat([1e6 * s for s in a.inside]),
                str(long): stat([1e6 * s for s in b.inside]),
            },
            "ratio": slower and slower.value,
            "added_microseconds": _added(subject, kind, runtime, short, long),
        }
    return {"type": kind, "context": long, "runtimes": runtimes}


def _added(subject: Subject, kind: str, runtime: str, short: int, long: int) -> float:
    a, b = (subject.seconds(kind, runtime, n) for n in (short, long))
    assert a is not None and b is not None
    return 1e6 * (b.value - a.value)


def _targets(
    subject: Subject, others: Sequence[Subject], short: int, long: int
) -> list[dict[str, Any]]:
    """The targets of an Itera model; the Transformer has none of its own."""
    if subject.family != "itera":
        return []
    out = []
    ours = {kind: subject.seconds(kind, OURS, short) for kind in subject.files}

    def add(target: Target, found: Measurement | None) -> None:
        out.append(judge(target, found))

    if "q8_0" in ours:
        llama = subject.seconds("q8_0", LLAMA, short)
        eager = subject.seconds("fp32", "transformers", short)
        add(
            Target("llama_cpp", "Q8_0, against llama.cpp", "at least", 8),
            ratio(llama, ours["q8_0"]),
        )
        add(
            Target("transformers", "Q8_0, against transformers", "at least", 100),
            ratio(eager, ours["q8_0"]),
        )
    if {"q8_0", "q4_0"} <= ours.keys():
        add(
            Target("q4_0", "Q4_0, against our Q8_0", "at least", 1),
            ratio(ours["q8_0"], ours["q4_0"]),
        )
    for kind in [k for k in ("q8_0", "q4_0") if k in ours]:
        label = f"{kind.upper()}, share of the roofline"
        add(
            Target(f"roofline_{kind}", label, "at least", 0.65, "%"),
            roofline_share(subject, kind, short),
        )
    if long:
        main = subject.main_type
        slower = ratio(subject.seconds(main, OURS, long), ours[main])
        add(Target("growth", f"Context {long:,} against {short}, time", "at most", 2), slower)
        baseline = next((s for s in others if s.family == "transformer"), None)
        add(
            Target("growth_vs", "Transformer's growth against ours", "at least", 5),
            _less_growth(subject, baseline, short, long),
        )
    return out


def _less_growth(
    subject: Subject, baseline: Subject | None, short: int, long: int
) -> Measurement | None:
    """The Transformer's growth over ours, of the added time or of the added share of the time:
    the smaller of the two."""
    if baseline is None:
        return None
    found = []
    for relative in (False, True):
        sides = []
        for one in (baseline, subject):
            a, b = (one.seconds(one.main_type, OURS, n) for n in (short, long))
            if a is None or b is None or b.low <= a.high:
                return None
            scale = a.value if relative else 1.0
            sides.append(
                Measurement(
                    (b.value - a.value) / scale,
                    (b.low - a.high) / scale,
                    (b.high - a.low) / scale,
                    min(a.repeats, b.repeats),
                )
            )
        found.append(ratio(*sides))
    return min((f for f in found if f is not None), key=lambda f: f.value, default=None)
