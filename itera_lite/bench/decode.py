"""Measures the native engine's decoding beside other runtimes: what `itera bench decode` does.

Everybody decodes greedily from the end of the same prompt, one text and one thread, in turns. A
turn lasts as long as a few passes need, so that a second program disturbs few of them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from itera_lite import _engine, ops
from itera_lite.bench import runtimes
from itera_lite.bench.processes import measure_startup
from itera_lite.bench.runtimes import LLAMA, OURS, TRANSFORMERS, Runtime, installed, prompt_ids
from itera_lite.bench.shapes import SHAPES, ModelFiles, export_model, save_shape
from itera_lite.bench.turns import Entry, measure_in_turns, speed_ratios
from itera_lite.checkpoint.folder import load_checkpoint
from itera_lite.machine.load import LoadMeter, LoadTime
from itera_lite.machine.peak import torch_threads
from itera_lite.machine.provenance import Provenance
from itera_lite.records import (
    ContextGrowth,
    Decode,
    EngineSizes,
    Growth,
    ModelDecoding,
    Roofline,
    RuntimeDecoding,
    Startup,
    TypeDecoding,
)
from itera_lite.stats.comparison import Measurement, Metric
from itera_lite.stats.load import Load
from itera_lite.stats.samples import Stat
from itera_lite.stats.targets import Target, ratio

SAMPLED, OUR_PYTORCH = "itera-lite, sampling", "itera-lite in PyTorch"
SPEED = Metric("decode", "Decoding", "tokens/s", "higher", "timing", "speed")
TURN_SECONDS = 0.02  # a turn is as many passes as this needs
BANDWIDTH_SECONDS = 0.02  # a turn of reading memory
TOKENS = 64  # a pass
SLOW_TOKENS = 16  # of what takes milliseconds a token
SAMPLING = {"temperature": 0.8, "top_k": 0, "top_p": 0.95}
LEAST_GROWTH = 1e-3  # where an interval reaches down to none: a ratio needs more than zero
TARGETS = (  # beside those on a long context and on the start
    Target("llama_cpp", "Decoding Q8_0, against llama.cpp", "at least", 8),
    Target("transformers", "Decoding Q8_0, against transformers", "at least", 100),
    Target("q4_0", "Decoding Q4_0, against our Q8_0", "at least", 1),
    Target("roofline_q8_0", "Decoding Q8_0, share of the roofline", "at least", 0.65, "%"),
    Target("roofline_q4_0", "Decoding Q4_0, share of the roofline", "at least", 0.65, "%"),
    Target("growth_vs", "Transformer's growth of that time against ours", "at least", 5),
)


@dataclass(kw_only=True)
class Decoder(Entry[tuple[float, float]]):
    """A runtime that decodes after a prompt; its samples are seconds a token, whole and inside
    the library alone."""

    kind: str  # type of the weights: q8_0, or fp32 in PyTorch
    label: str  # the runtime's name in the results
    runtime: Runtime
    prompt: list[int]
    tokens: int  # decoded a pass

    def measure(self) -> tuple[float, float]:
        passes = [self.runtime.decode(self.prompt, self.tokens)]
        while sum(one.seconds for one in passes) < TURN_SECONDS:
            passes.append(self.runtime.decode(self.prompt, self.tokens))
        n = self.tokens * len(passes)
        return sum(one.seconds for one in passes) / n, sum(one.inside for one in passes) / n

    @property
    def context(self) -> int:
        return len(self.prompt)

    @property
    def inside(self) -> list[float]:
        return [inside for _, inside in self.samples]

    @property
    def seconds(self) -> Measurement:
        """Seconds a token inside the library, which is the kinder number for llama.cpp."""
        return Measurement.of_samples(self.inside)

    @property
    def speeds(self) -> list[float]:
        return [1 / s for s in self.inside]

    @property
    def microseconds(self) -> Stat:
        return Stat.of([1e6 * s for s in self.inside])

    def record(self) -> RuntimeDecoding:
        whole = [seconds for seconds, _ in self.samples]
        return RuntimeDecoding(
            tokens_per_second=Stat.of(self.speeds),
            microseconds_per_token=self.microseconds,
            tokens_per_pass=self.tokens,
            tokens_per_second_with_python=None
            if whole == self.inside
            else Stat.of([1 / s for s in whole]),
        )


@dataclass(kw_only=True)
class Bandwidth(Entry[float]):
    """Reading as many bytes as a token needs; its samples are bytes a second."""

    weights: int  # bytes that a token reads of the weights
    state: int  # and of the text's state

    def measure(self) -> float:
        return _engine.read_bandwidth(self.weights + self.state, BANDWIDTH_SECONDS)

    @property
    def seconds(self) -> Measurement:
        """The least seconds that a token can take."""
        size, found = self.weights + self.state, Measurement.of_samples(self.samples)
        return Measurement(size / found.value, size / found.high, size / found.low, found.repeats)


@dataclass
class DecodedModel:
    """A model, the runtimes that decode it, and what was measured of it."""

    files: ModelFiles
    context: int  # tokens of the prompt
    long_context: int = 0  # tokens of the long prompt; 0: there is none
    decoders: list[Decoder] = field(default_factory=list)
    bandwidths: dict[str, Bandwidth] = field(default_factory=dict)  # by type
    profiles: dict[str, dict[str, float]] = field(default_factory=dict)  # type -> part -> µs
    long_profile: dict[str, float] = field(default_factory=dict)  # of the main type

    def find(self, kind: str, label: str, context: int) -> Decoder | None:
        """The decoder of that kind, if there is one."""
        for one in self.decoders:
            if (one.kind, one.label, one.context) == (kind, label, context):
                return one
        return None

    def seconds(self, kind: str, label: str, context: int | None = None) -> Measurement | None:
        """Seconds a token after so many tokens, where they were measured."""
        one = self.find(kind, label, self.context if context is None else context)
        return one.seconds if one else None

    def roofline_share(self, kind: str) -> Measurement | None:
        """Time that reading a token's bytes takes at least, over the time that the token takes."""
        return ratio(self.bandwidths[kind].seconds, self.seconds(kind, OURS))

    def add_native(
        self,
        context: int,
        types: Iterable[str],
        tokens: int,
        *,
        peers: bool,
        sampling: bool = False,
    ) -> None:
        """Add the engine, and llama.cpp, with files of the given types."""
        prompt, room = self._prompt(context), context + TOKENS + 1
        for kind in types:
            path = self.files.paths[kind]
            self._add(kind, OURS, runtimes.Engine(path, room), prompt, tokens)
            if sampling:
                sampled = runtimes.Engine(path, room, sampling=SAMPLING)
                self._add(kind, SAMPLED, sampled, prompt, tokens)
            if peers and installed(LLAMA):
                self._add(kind, LLAMA, runtimes.Llama(path, room), prompt, tokens)

    def add_torch(self, *, peers: bool, pytorch: bool) -> None:
        """Add `transformers`, and our own PyTorch model, in float32."""
        folder, prompt = self.files.folder, self._prompt(self.context)
        if peers and installed(TRANSFORMERS):
            self._add("fp32", TRANSFORMERS, runtimes.Transformers(folder), prompt, SLOW_TOKENS)
        if pytorch:
            ops.enable()
            ours = runtimes.Torch(load_checkpoint(folder)[0])
            self._add("fp32", OUR_PYTORCH, ours, prompt, SLOW_TOKENS)

    def add_bandwidths(self) -> None:
        """Add what reading a token's bytes takes, for each type."""
        for kind in self.files.paths:
            model = self.files.load(256, kind)
            self.bandwidths[kind] = Bandwidth(
                name=f"{self.files.model.name} {kind}, bandwidth",
                weights=model.weight_bytes_per_token(),
                state=model.state_bytes_per_token(self.context + TOKENS // 2),
            )

    def _prompt(self, length: int) -> list[int]:
        return prompt_ids(self.files.load(256), length)

    def _add(self, kind: str, label: str, runtime: Runtime, prompt: list[int], tokens: int) -> None:
        self.decoders.append(
            Decoder(
                name=f"{self.files.model.name} {kind} {label} {len(prompt)}",
                kind=kind,
                label=label,
                runtime=runtime,
                prompt=prompt,
                tokens=tokens,
            )
        )

    def profile(self, repeats: int) -> None:
        """Measure where the time of a token goes, for each type; for the main one after the long
        prompt too."""

        def profile(kind: str, length: int) -> dict[str, float]:
            model = self.files.load(length + TOKENS + 1, kind)
            parts = _engine.profile(model, prompt_ids(model, length), TOKENS, 2 * repeats)
            return {part: 1e6 * seconds for part, seconds in parts.items()}

        self.profiles = {kind: profile(kind, self.context) for kind in self.files.paths}
        if self.long_context:
            self.long_profile = profile(self.files.main_type, self.long_context)

    def record(self, load: Load | None) -> ModelDecoding:
        """Everything measured, with ratios, shares and verdicts.

        Args:
            load: by others, while all took turns.
        """
        after_short = [one for one in self.decoders if one.context == self.context]
        return ModelDecoding(
            model=self.files.model,
            context=self.context,
            threads=1,
            main_type=self.files.main_type,
            types={
                kind: self._type_record(kind, [one for one in after_short if one.kind == kind])
                for kind in self.files.paths
            },
            torch={one.label: one.record() for one in after_short if one.kind == "fp32"},
            ratios=speed_ratios(
                SPEED,
                self.files.paths,
                {(one.kind, one.label): one.speeds for one in after_short if one.label != SAMPLED},
                OURS,
                load,
            ),
            growth=self._growth() if self.long_context else None,
        )

    def _type_record(self, kind: str, decoders: Sequence[Decoder]) -> TypeDecoding:
        bandwidth, share = self.bandwidths[kind], self.roofline_share(kind)
        return TypeDecoding(
            file_bytes=self.files.paths[kind].stat().st_size,
            weight_bytes_per_token=bandwidth.weights,
            state_bytes_per_token=bandwidth.state,
            runtimes={one.label: one.record() for one in decoders},
            roofline=Roofline(
                bandwidth_bytes_per_second=Stat.of(bandwidth.samples),
                floor_microseconds=1e6 * bandwidth.seconds.value,
                share=share and share.value,
                share_low=share and share.low,
                share_high=share and share.high,
            ),
            profile_microseconds=self.profiles.get(kind, {}),
        )

    def _growth(self) -> Growth:
        """What a long context costs, by runtime."""
        kind, found = self.files.main_type, {}
        for label in (OURS, LLAMA):
            short = self.find(kind, label, self.context)
            long = self.find(kind, label, self.long_context)
            if short and long:
                slower = ratio(long.seconds, short.seconds)
                found[label] = ContextGrowth(
                    microseconds_per_token={one.context: one.microseconds for one in (short, long)},
                    ratio=slower and slower.value,
                    added_microseconds=1e6 * (long.seconds.value - short.seconds.value),
                )
        return Growth(
            type=kind,
            context=self.long_context,
            runtimes=found,
            profile_microseconds=self.long_profile,
        )


def measure_decoding(
    folders: Sequence[Path],
    *,
    types: Sequence[str],
    repeats: int,
    context: int,
    long_context: int,
    peers: bool,
    pytorch: bool,
    sizes: bool,
    startup: bool,
) -> tuple[list[Decode], EngineSizes | None]:
    """Export the checkpoints, and let all runtimes decode all files in turns.

    The arguments are the options of `itera bench decode`.

    Returns:
        A record of each checkpoint, and one of all models of `SHAPES`, where they were measured.
    """
    with torch_threads(1), tempfile.TemporaryDirectory() as scratch:
        models = [
            DecodedModel(export_model(folder, types, Path(scratch)), context, long_context)
            for folder in folders
        ]
        for model in models:
            model.add_native(context, model.files.paths, TOKENS, peers=peers, sampling=True)
            model.add_torch(peers=peers, pytorch=pytorch)
            if long_context:
                model.add_native(long_context, [model.files.main_type], SLOW_TOKENS, peers=peers)
        shapes = []
        for name in SHAPES if sizes else ():
            folder = save_shape(name, Path(scratch))
            files = export_model(folder, SHAPES[name].types, Path(scratch))
            shapes.append(DecodedModel(files, context))
            shapes[-1].add_native(context, files.paths, TOKENS, peers=peers)
        everybody = [*models, *shapes]
        entries: list[Decoder | Bandwidth] = []
        for model in everybody:
            model.add_bandwidths()
            entries += [*model.decoders, *model.bandwidths.values()]
        rounds = measure_in_turns("bench decode", entries, repeats)
        for model in everybody:
            for decoder in model.decoders:
                decoder.runtime.close()
        meter, starts = LoadMeter(), []
        for model in models:
            model.profile(repeats)
            path = model.files.paths[model.files.main_type]
            starts.append(measure_startup(path, repeats) if startup else None)
        load = rounds.load + meter.lap()
        origin = engine_provenance([model.files for model in models], peers, load)
        records = [
            Decode(
                decoding=model.record(origin.load),
                startup=started,
                targets=decode_targets(model, models, started, origin.load),
                interleaved_with=[m.files.model.name for m in everybody if m is not model],
                repeated_rounds=rounds.repeated,
                provenance=origin,
            )
            for model, started in zip(models, starts, strict=True)
        ]
        small = [model.record(origin.load) for model in shapes]
    if not small:
        return records, None
    repeated = rounds.repeated
    return records, EngineSizes(models=small, repeated_rounds=repeated, provenance=origin)


def engine_provenance(models: Sequence[ModelFiles], peers: bool, load: LoadTime) -> Provenance:
    """The provenance of a result about the native engine; ``load`` by others meanwhile."""
    return Provenance.now(
        seed=0,
        versions=runtimes.versions((TRANSFORMERS, LLAMA) if peers else ()),
        engine_isa=models[0].isa,
        checkpoints={files.model.name: files.model.sha256 or "" for files in models},
        prompt="source of Python's argparse",
        load_by_others=load.by_others,
    )


def decode_targets(
    model: DecodedModel,
    others: Sequence[DecodedModel],
    startup: Startup | None,
    load: Load | None,
) -> list[Target]:
    """Judge the targets of an Itera model; the Transformer has none of its own.

    Args:
        model: what was measured.
        others: all models of the run; the Transformer among them is what growth is compared with.
        startup: where it was measured.
        load: by others, while all took turns.
    """
    if model.files.model.family != "itera":
        return []
    q8_0, q4_0 = (model.seconds(kind, OURS) for kind in ("q8_0", "q4_0"))
    found = {f"roofline_{kind}": model.roofline_share(kind) for kind in model.bandwidths}
    if q8_0:
        found["llama_cpp"] = ratio(model.seconds("q8_0", LLAMA), q8_0)
        found["transformers"] = ratio(model.seconds("fp32", TRANSFORMERS), q8_0)
    if q8_0 and q4_0:
        found["q4_0"] = ratio(q8_0, q4_0)
    kind, long = model.files.main_type, model.long_context
    if long:
        other = next((one for one in others if one.files.model.family == "transformer"), None)
        found["growth"] = ratio(model.seconds(kind, OURS, long), model.seconds(kind, OURS))
        found["growth_vs"] = _less_growth(model, other) if other else None
    label = f"Time of a token after {long:,} against {model.context}"
    *first, last = TARGETS
    targets = (*first, Target("growth", label, "at most", 2), last)
    judged = [one.judged(found[one.key], load=load) for one in targets if one.key in found]
    return judged + startup_targets(startup, load)


def startup_targets(startup: Startup | None, load: Load | None = None) -> list[Target]:
    """Judge loading, the first token, the import and memory, where they were measured."""
    if startup is None:
        return []
    most_memory = (1.5 * startup.file_bytes + 4e6) / 1e6
    rows = (
        ("load", "Model.load", 20, "ms", startup.load_ms, 1),
        ("first_token", "itera-run, first token", 50, "ms", startup.first_token_ms, 1),
        ("import", "import itera_lite", 300, "ms", startup.import_ms, 1),
        ("memory", "itera-run, peak memory", most_memory, "MB", startup.peak_rss_bytes, 1e6),
    )
    return [
        Target(key, label, "at most", most, unit).judged(
            Measurement.of_samples([x / scale for x in found.samples]) if found else None,
            load=load if unit == "ms" else None,
        )
        for key, label, most, unit, found, scale in rows
    ]


def _less_growth(model: DecodedModel, other: DecodedModel) -> Measurement | None:
    """The other's growth over the model's, of the added time or of the added share of the time:
    the smaller of the two."""
    growths: list[tuple[Measurement, Measurement]] = []  # (added time, added share) of each
    for one in (other, model):
        kind = one.files.main_type
        a, b = (one.seconds(kind, OURS, n) for n in (model.context, model.long_context))
        if a is None or b is None or b.value <= a.value:
            return None
        added = b.value - a.value
        low, high = max(b.low - a.high, LEAST_GROWTH * added), b.high - a.low
        repeats = min(a.repeats, b.repeats)
        share = Measurement(added / a.value, low / a.value, high / a.value, repeats)
        growths.append((Measurement(added, low, high, repeats), share))
    found = [ratio(theirs, ours) for theirs, ours in zip(*growths, strict=True)]
    return min((one for one in found if one), key=lambda one: one.value, default=None)
