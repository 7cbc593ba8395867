"""Which of the engine's targets a model reaches, by what `bench decode` found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from itera_lite.bench.decode_record import LLAMA, OURS, Subject, roofline_share
from itera_lite.stats.comparison import Measurement
from itera_lite.stats.targets import Target, judge, ratio

LEAST = 1e-3  # of a growth, where its interval reaches down to none: a ratio needs more than zero


def decode_targets(
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
            Target("llama_cpp", "Decoding Q8_0, against llama.cpp", "at least", 8),
            ratio(llama, ours["q8_0"]),
        )
        add(
            Target("transformers", "Decoding Q8_0, against transformers", "at least", 100),
            ratio(eager, ours["q8_0"]),
        )
    if {"q8_0", "q4_0"} <= ours.keys():
        add(
            Target("q4_0", "Decoding Q4_0, against our Q8_0", "at least", 1),
            ratio(ours["q8_0"], ours["q4_0"]),
        )
    for kind in [k for k in ("q8_0", "q4_0") if k in ours]:
        label = f"Decoding {kind.upper()}, share of the roofline"
        add(
            Target(f"roofline_{kind}", label, "at least", 0.65, "%"),
            roofline_share(subject, kind, short),
        )
    if long:
        main = subject.main_type
        slower = ratio(subject.seconds(main, OURS, long), ours[main])
        add(
            Target("growth", f"Time of a token after {long:,} against {short}", "at most", 2),
            slower,
        )
        baseline = next((s for s in others if s.family == "transformer"), None)
        add(
            Target("growth_vs", "Transformer's growth of that time against ours", "at least", 5),
            _less_growth(subject, baseline, short, long),
        )
    return out + startup_targets(subject.startup)


def startup_targets(startup: dict[str, Any]) -> list[dict[str, Any]]:
    """The targets on loading, the first token, the import and memory, where they were measured."""
    if not startup:
        return []
    limit = 1.5 * startup["file_bytes"] + 4e6
    peak = Measurement.read(startup.get("peak_rss_bytes"))
    return [
        judge(Target("load", "Model.load", "at most", 20, "ms"), _read(startup, "load_ms")),
        judge(
            Target("first_token", "itera-run, first token", "at most", 50, "ms"),
            _read(startup, "first_token_ms"),
        ),
        judge(
            Target("import", "import itera_lite", "at most", 300, "ms"),
            _read(startup, "import_ms"),
        ),
        judge(
            Target("memory", "itera-run, peak memory", "at most", limit / 1e6, "MB"),
            peak and Measurement(peak.value / 1e6, peak.low / 1e6, peak.high / 1e6, peak.repeats),
        ),
    ]


def _read(record: dict[str, Any], key: str) -> Measurement | None:
    return Measurement.read(record.get(key))


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
            if a is None or b is None or b.value <= a.value:
                return None
            scale = a.value if relative else 1.0
            sides.append(
                Measurement(
                    (b.value - a.value) / scale,
                    max(b.low - a.high, LEAST * (b.value - a.value)) / scale,
                    (b.high - a.low) / scale,
                    min(a.repeats, b.repeats),
                )
            )
        found.append(ratio(*sides))
    return min((f for f in found if f is not None), key=lambda f: f.value, default=None)
