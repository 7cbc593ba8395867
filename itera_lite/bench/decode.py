"""Measures the native engine's decoding beside other runtimes: what `itera bench decode` does.

Everybody decodes greedily from the end of the same prompt, one text and one thread, in turns. A
turn lasts as long as a few passes need, so that a second program disturbs few of them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from itera_lite import _engine, ops
from itera_lite.bench.processes import measure_startup
from itera_lite.bench.runtimes import (
    LLAMA,
    OURS,
    TRANSFORMERS,
    EngineRuntime,
    LlamaRuntime,
    Runtime,
    TorchRuntime,
    TransformersRuntime,
    installed,
    prompt_ids,
    runtime_versions,
)
from itera_lite.bench.shapes import SHAPES, ModelFiles, export_model, shape_model
from itera_lite.bench.turns import progress_bar, speed_ratios, turns
from itera_lite.checkpoint.folder import load_checkpoint
from itera_lite.machine.peak import torch_threads
from itera_lite.machine.provenance import provenance
from itera_lite.stats.comparison import Measurement, Metric
from itera_lite.stats.samples import stat
from itera_lite.stats.targets import Target, judge, ratio

SAMPLED, OUR_PYTORCH = "itera-lite, sampling", "itera-lite in PyTorch"
SPEED = Metric("decode", "Decoding", "tokens/s", "higher", "timing", "speed")
TURN_SECONDS = 0.02  # a turn is as many passes as this needs
BANDWIDTH_SECONDS = 0.02  # a turn of reading memory
TOKENS = 64  # a pass
SLOW_TOKENS = 16  # of what takes milliseconds a token
SAMPLING = {"temperature": 0.8, "top_k": 0, "top_p": 0.95}
LEAST_GROWTH = 1e-3  # where an interval reaches down to none: a ratio needs more than zero

# The types of weights that a target is about, and the target.
TARGETS = (
    (["q8_0"], Target("llama_cpp", "Decoding Q8_0, against llama.cpp", "at least", 8)),
    (["q8_0"], Target("transformers", "Decoding Q8_0, against transformers", "at least", 100)),
    (["q8_0", "q4_0"], Target("q4_0", "Decoding Q4_0, against our Q8_0", "at least", 1)),
    *(
        (
            [kind],
            Target(
                f"roofline_{kind}",
                f"Decoding {kind.upper()}, share of the roofline",
                "at least",
                0.65,
                "%",
            ),
        )
        for kind in ("q8_0", "q4_0")
    ),
)
STARTUP_TARGETS = (
    Target("load", "Model.load", "at most", 20, "ms"),
    Target("first_token", "itera-run, first token", "at most", 50, "ms"),
    Target("import", "import itera_lite", "at most", 300, "ms"),
)


@dataclass
class Decoder:
    """A runtime that decodes after a prompt, and its times.

    Attributes:
        name: of what is decoded and with what, for the progress.
        kind: type of the weights (``q8_0``, ``fp32``).
        runtime: its name in the results.
        loaded: the runtime.
        prompt: token ids.
        tokens: decoded a pass.
        seconds: a token, the mean of each turn.
        inside: the same, inside the library alone.
    """

    name: str
    kind: str
    runtime: str
    loaded: Runtime
    prompt: list[int]
    tokens: int
    seconds: list[float] = field(default_factory=list)
    inside: list[float] = field(default_factory=list)

    @property
    def speeds(self) -> list[float]:
        """Tokens a second inside the library, which is the kinder number for llama.cpp."""
        return [1 / s for s in self.inside]

    @property
    def seconds_inside(self) -> Measurement:
        """Seconds a token inside the library."""
        return Measurement.of_samples(self.inside)

    def take_turn(self, repeat: int) -> None:
        """Measure for one turn; in the round that warms up, one pass that isn't counted."""
        passes = [self.loaded.decode(self.prompt, self.tokens)]
        if repeat < 0:
            return
        while sum(one.seconds for one in passes) < TURN_SECONDS:
            passes.append(self.loaded.decode(self.prompt, self.tokens))
        tokens = self.tokens * len(passes)
        self.seconds.append(sum(one.seconds for one in passes) / tokens)
        self.inside.append(sum(one.inside for one in passes) / tokens)

    def record(self) -> dict[str, Any]:
        found = {
            "tokens_per_second": stat(self.speeds),
            "microseconds_per_token": stat([1e6 * s for s in self.inside]),
            "tokens_a_pass": self.tokens,
        }
        if self.inside != self.seconds:
            found["tokens_per_second_with_python"] = stat([1 / s for s in self.seconds])
        return found


@dataclass
class Bandwidth:
    """How fast the bytes that one token needs can be read; measured in turn with the decoders.

    Attributes:
        name: for the progress.
        weights: bytes of weights that a token reads.
        state: bytes of the text's state that it reads.
        samples: bytes a second.
    """

    name: str
    weights: int
    state: int
    samples: list[float] = field(default_factory=list)

    def take_turn(self, repeat: int) -> None:
        found = _engine.read_bandwidth(self.weights + self.state, BANDWIDTH_SECONDS)
        if repeat >= 0:
            self.samples.append(found)

    @property
    def seconds(self) -> Measurement:
        """The least seconds that a token can take."""
        total, found = self.weights + self.state, Measurement.of_samples(self.samples)
        return Measurement(
            total / found.value, total / found.high, total / found.low, found.repeats
        )


@dataclass
class DecodedModel:
    """A model, the runtimes that decode it, and what was measured.

    Attributes:
        files: the model.
        context: tokens of the prompt.
        long_context: tokens of the long prompt; 0: none.
        decoders: runtimes with each type of weights.
        bandwidths: of each type.
        profiles: type -> seconds a token by part.
        long_profile: the same after the long context, of the main type.
        startup: see `measure_startup`.
    """

    files: ModelFiles
    context: int
    long_context: int = 0
    decoders: list[Decoder] = field(default_factory=list)
    bandwidths: dict[str, Bandwidth] = field(default_factory=dict)
    profiles: dict[str, dict[str, float]] = field(default_factory=dict)
    long_profile: dict[str, float] = field(default_factory=dict)
    startup: dict[str, Any] = field(default_factory=dict)

    def prompt(self, length: int) -> list[int]:
        """The first ids of the prompt's text in the model's own tokenizer."""
        path = self.files.paths[self.files.first_type]
        return prompt_ids(_engine.Model.load(str(path), 256), length)

    def find(self, kind: str, runtime: str, context: int) -> Decoder | None:
        """The decoder of that kind, if there is one."""
        for one in self.decoders:
            if (one.kind, one.runtime, len(one.prompt)) == (kind, runtime, context):
                return one
        return None

    def seconds(self, kind: str, runtime: str, context: int) -> Measurement | None:
        """Seconds a token, where they were measured."""
        one = self.find(kind, runtime, context)
        return one and one.seconds_inside

    def roofline_share(self, kind: str) -> Measurement | None:
        """Time that reading a token's bytes takes at least, over the time that the token takes."""
        least = self.bandwidths.get(kind)
        return ratio(least and least.seconds, self.seconds(kind, OURS, self.context))

    def add_decoders(self, *, peers: bool, sampling: bool) -> None:
        """Add the engine, and llama.cpp, with every file."""
        prompt, room = self.prompt(self.context), self.context + TOKENS + 1
        for kind, path in self.files.paths.items():
            engine = EngineRuntime(path, room)
            self._add(kind, OURS, engine, prompt, TOKENS)
            if sampling:
                sampled = EngineRuntime(path, room, sampling=SAMPLING)
                self._add(kind, SAMPLED, sampled, prompt, TOKENS)
            self.bandwidths[kind] = Bandwidth(
                f"{self.files.name} {kind} bandwidth",
                engine.model.weight_bytes_per_token(),
                engine.model.state_bytes_per_token(self.context + TOKENS // 2),
            )
            if peers and installed(LLAMA):
                self._add(kind, LLAMA, LlamaRuntime(path, room), prompt, TOKENS)

    def add_torch(self, folder: Path, *, peers: bool, pytorch: bool) -> None:
        """Add `transformers`, and our own PyTorch model, in float32."""
        prompt = self.prompt(self.context)
        if peers and installed(TRANSFORMERS):
            self._add("fp32", TRANSFORMERS, TransformersRuntime(folder), prompt, SLOW_TOKENS)
        if pytorch:
            ops.enable()
            ours = TorchRuntime(load_checkpoint(folder)[0])
            self._add("fp32", OUR_PYTORCH, ours, prompt, SLOW_TOKENS)

    def add_long(self, *, peers: bool) -> None:
        """Add the engine, and llama.cpp, after the long prompt."""
        kind = self.files.main_type
        path, room = self.files.paths[kind], self.long_context + TOKENS + 1
        prompt = self.prompt(self.long_context)
        self._add(kind, OURS, EngineRuntime(path, room), prompt, SLOW_TOKENS)
        if peers and installed(LLAMA):
            self._add(kind, LLAMA, LlamaRuntime(path, room), prompt, SLOW_TOKENS)

    def _add(
        self, kind: str, runtime: str, loaded: Runtime, prompt: list[int], tokens: int
    ) -> None:
        name = f"{self.files.name} {kind} {runtime} {len(prompt)}"
        self.decoders.append(Decoder(name, kind, runtime, loaded, prompt, tokens))

    def profile(self, repeats: int) -> None:
        """Measure where the time of a token goes, for each type; for the main one after the long
        prompt too."""

        def profile(kind: str, length: int) -> dict[str, float]:
            model = _engine.Model.load(str(self.files.paths[kind]), length + TOKENS + 1)
            return _engine.profile(model, self.prompt(length), TOKENS, 2 * repeats)

        self.profiles = {kind: profile(kind, self.context) for kind in self.files.paths}
        if self.long_context:
            self.long_profile = profile(self.files.main_type, self.long_context)

    def record(self) -> dict[str, Any]:
        """Everything measured, with ratios, shares and verdicts."""
        found: dict[str, Any] = {
            "name": self.files.name,
            "family": self.files.family,
            "params": self.files.params,
            "context": self.context,
            "threads": 1,
            "main_type": self.files.main_type,
            "types": {kind: self._type_record(kind) for kind in self.files.paths},
            "torch": {one.runtime: one.record() for one in self.decoders if one.kind == "fp32"},
            "ratios": speed_ratios(
                SPEED,
                self.files.paths,
                [one for one in self._after_short() if one.runtime != SAMPLED],
                OURS,
            ),
        }
        if self.long_context:
            found["growth"] = {
                "type": self.files.main_type,
                "context": self.long_context,
                "runtimes": dict(self._growth()),
                "profile_microseconds": _microseconds(self.long_profile),
            }
        if self.startup:
            found["startup"] = self.startup
        return found

    def _after_short(self) -> list[Decoder]:
        return [one for one in self.decoders if len(one.prompt) == self.context]

    def _type_record(self, kind: str) -> dict[str, Any]:
        bandwidth, share = self.bandwidths[kind], self.roofline_share(kind)
        return {
            "file_bytes": self.files.paths[kind].stat().st_size,
            "weight_bytes_per_token": bandwidth.weights,
            "state_bytes_per_token": bandwidth.state,
            "runtimes": {
                one.runtime: one.record() for one in self._after_short() if one.kind == kind
            },
            "roofline": {
                "bandwidth_bytes_per_second": stat(bandwidth.samples),
                "floor_microseconds": 1e6 * bandwidth.seconds.value,
                "share": share and share.value,
                "share_low": share and share.low,
                "share_high": share and share.high,
            },
            "profile_microseconds": _microseconds(self.profiles.get(kind, {})),
        }

    def _growth(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """What a long context costs, by runtime."""
        lengths = (self.context, self.long_context)
        for runtime in (OURS, LLAMA):
            short, long = (self.find(self.files.main_type, runtime, n) for n in lengths)
            if short is None or long is None:
                continue
            a, b = short.seconds_inside, long.seconds_inside
            slower = ratio(b, a)
            yield (
                runtime,
                {
                    "microseconds_per_token": {
                        str(len(one.prompt)): stat([1e6 * s for s in one.inside])
                        for one in (short, long)
                    },
                    "ratio": slower and slower.value,
                    "added_microseconds": 1e6 * (b.value - a.value),
                },
            )


def measure_decoding(
    folders: Sequence[Path],
    *,
    types: Sequence[str],
    repeats: int,
    context: int,
    long_context: int = 0,
    peers: bool = True,
    pytorch: bool = False,
    sizes: bool = True,
    startup: bool = True,
) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """Export the checkpoints, and let all runtimes decode all files in turns.

    Args:
        folders: checkpoints.
        types: of the exported weights.
        repeats: turns of each.
        context: tokens of the prompt.
        long_context: tokens of a long prompt; 0 leaves it out.
        peers: whether to measure llama.cpp and `transformers`, where they are installed.
        pytorch: whether to measure our PyTorch models.
        sizes: whether to measure the models of `SHAPES`.
        startup: whether to measure loading, the first token, memory and the import.

    Returns:
        The record of each checkpoint, and one of all shapes.
    """
    with torch_threads(1), tempfile.TemporaryDirectory() as scratch:
        models = [
            DecodedModel(export_model(folder, types, Path(scratch)), context, long_context)
            for folder in folders
        ]
        for model, folder in zip(models, folders, strict=True):
            model.add_decoders(peers=peers, sampling=True)
            model.add_torch(folder, peers=peers, pytorch=pytorch)
            if long_context:
                model.add_long(peers=peers)
        names = SHAPES if sizes else ()
        shapes = [DecodedModel(shape_model(name, Path(scratch)), context) for name in names]
        for model in shapes:
            model.add_decoders(peers=peers, sampling=False)
        everybody = [*models, *shapes]
        entries: list[Decoder | Bandwidth] = []
        for model in everybody:
            entries += [*model.decoders, *model.bandwidths.values()]
        with progress_bar("bench decode", (repeats + 1) * len(entries)) as progress:
            for repeat, entry in turns(entries, repeats, progress, lambda entry: entry.name):
                entry.take_turn(repeat)
        for model in everybody:
            for decoder in model.decoders:
                decoder.loaded.close()
        for model in models:
            model.profile(repeats)
            if startup:
                path = model.files.paths[model.files.main_type]
                model.startup = measure_startup(path, repeats)
        origin = engine_provenance([model.files for model in models], peers)
        records = [
            {
                **model.record(),
                "targets": decode_targets(model, models),
                "interleaved_with": [m.files.name for m in everybody if m is not model],
                "provenance": origin,
            }
            for model in models
        ]
        small = [model.record() for model in shapes]
    return records, {"models": small, "provenance": origin} if shapes else None


def engine_provenance(models: Sequence[ModelFiles], peers: bool) -> dict[str, Any]:
    """The provenance of a result about the native engine."""
    origin = provenance(
        seed=0,
        engine_isa=models[0].isa,
        checkpoints={model.name: model.weights_sha256 for model in models},
        prompt="source of Python's argparse",
    )
    origin["versions"] |= runtime_versions((TRANSFORMERS, LLAMA) if peers else ())
    return origin


def decode_targets(model: DecodedModel, others: Sequence[DecodedModel]) -> list[dict[str, Any]]:
    """Judge the targets of an Itera model; the Transformer has none of its own.

    Args:
        model: what was measured.
        others: all models of the run; the Transformer among them is what growth is compared with.
    """
    if model.files.family != "itera":
        return []
    short, long = model.context, model.long_context
    ours = model.seconds("q8_0", OURS, short)
    found = {
        "llama_cpp": ratio(model.seconds("q8_0", LLAMA, short), ours),
        "transformers": ratio(model.seconds("fp32", TRANSFORMERS, short), ours),
        "q4_0": ratio(ours, model.seconds("q4_0", OURS, short)),
        **{f"roofline_{kind}": model.roofline_share(kind) for kind in ("q8_0", "q4_0")},
    }
    judged = [
        judge(target, found[target.key])
        for types, target in TARGETS
        if model.files.paths.keys() >= set(types)
    ]
    if long:
        main = model.files.main_type
        label = f"Time of a token after {long:,} against {short}"
        slower = ratio(model.seconds(main, OURS, long), model.seconds(main, OURS, short))
        judged.append(judge(Target("growth", label, "at most", 2), slower))
        label = "Transformer's growth of that time against ours"
        other = next((one for one in others if one.files.family == "transformer"), None)
        less = other and _less_growth(model, other)
        judged.append(judge(Target("growth_vs", label, "at least", 5), less))
    return judged + startup_targets(model.startup)


def startup_targets(startup: dict[str, Any]) -> list[dict[str, Any]]:
    """Judge loading, the first token, the import and memory, where they were measured."""
    if not startup:
        return []
    limit = 1.5 * startup["file_bytes"] + 4e6
    peak = Measurement.read(startup.get("peak_rss_bytes"))
    return [
        *(
            judge(target, Measurement.read(startup.get(f"{target.key}_ms")))
            for target in STARTUP_TARGETS
        ),
        judge(
            Target("memory", "itera-run, peak memory", "at most", limit / 1e6, "MB"),
            peak and Measurement(peak.value / 1e6, peak.low / 1e6, peak.high / 1e6, peak.repeats),
        ),
    ]


def _less_growth(model: DecodedModel, other: DecodedModel) -> Measurement | None:
    """The other's growth over the model's, of the added time or of the added share of the time:
    the smaller of the two."""
    sides = []
    for one in (other, model):
        short, long = (
            one.seconds(one.files.main_type, OURS, n) for n in (model.context, model.long_context)
        )
        if short is None or long is None or long.value <= short.value:
            return None
        sides.append((short, long))
    found = []
    for relative in (False, True):
        growths = []
        for a, b in sides:
            scale = a.value if relative else 1.0
            added = b.value - a.value
            growths.append(
                Measurement(
                    added / scale,
                    max(b.low - a.high, LEAST_GROWTH * added) / scale,
                    (b.high - a.low) / scale,
                    min(a.repeats, b.repeats),
                )
            )
        found.append(ratio(*growths))
    return min((f for f in found if f is not None), key=lambda f: f.value, default=None)


def _microseconds(profile: dict[str, float]) -> dict[str, float]:
    return {part: 1e6 * seconds for part, seconds in profile.items()}
