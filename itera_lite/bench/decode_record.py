"""What `bench decode` found about a model, as its result file holds it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from itera_lite import _engine
from itera_lite.bench.decoders import Contender
from itera_lite.stats.comparison import Measurement, Metric, compare
from itera_lite.stats.samples import stat
from itera_lite.stats.targets import ratio

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
        isa: instruction set of the engine's kernels.
        touched: type -> bytes of weights and state that a token reads.
        file_bytes: type -> size of the file.
        bandwidth: type -> bytes a second of reading as many bytes, a sample a round.
        profiles: type -> seconds a token by part.
        long_profile: the same after the long context, of the main type.
        startup: see `itera_lite.bench.startup.measure_startup`.
    """

    name: str
    family: str
    params: int
    files: dict[str, Path]
    folder: Path | None = None
    weights_sha256: str = ""
    isa: str = ""
    contenders: list[Contender] = field(default_factory=list)
    touched: dict[str, tuple[int, int]] = field(default_factory=dict)
    file_bytes: dict[str, int] = field(default_factory=dict)
    bandwidth: dict[str, list[float]] = field(default_factory=dict)
    profiles: dict[str, dict[str, float]] = field(default_factory=dict)
    long_profile: dict[str, float] = field(default_factory=dict)
    startup: dict[str, Any] = field(default_factory=dict)

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


def model_record(subject: Subject, context: int, long_context: int) -> dict[str, Any]:
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
    if subject.startup:
        record["startup"] = subject.startup
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
        "profile_microseconds": _microseconds(subject.profiles.get(kind, {})),
    }


def _microseconds(profile: dict[str, float]) -> dict[str, float]:
    return {part: 1e6 * seconds for part, seconds in profile.items()}


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
            verdict = compare(SPEED, a, b, names={"ours": OURS, "other": peer.runtime})
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
    return {
        "type": kind,
        "context": long,
        "runtimes": runtimes,
        "profile_microseconds": _microseconds(subject.long_profile),
    }


def _added(subject: Subject, kind: str, runtime: str, short: int, long: int) -> float:
    a, b = (subject.seconds(kind, runtime, n) for n in (short, long))
    assert a is not None and b is not None
    return 1e6 * (b.value - a.value)
