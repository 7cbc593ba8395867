"""The result files: a typed, versioned record for each kind, written and read by one class.

Every file is a JSON object that names its ``kind`` and ``version`` and ends with its
`Provenance`. What a model is called, its family, size and seed are fields (`ModelDescription`):
no file name says them. `Record.write` writes a file, `Record.read` reads and checks it, `read_any`
reads a file of any kind. Times are in the unit of the field's name; ``bpb`` is bits per byte.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import msgspec

from itera_lite.config import Family, ModelConfig, Unit
from itera_lite.errors import ConfigError, IteraError
from itera_lite.files import in_utf8, write_json
from itera_lite.machine.energy import Energy
from itera_lite.machine.provenance import Provenance
from itera_lite.stats.load import Load
from itera_lite.stats.samples import Stat
from itera_lite.stats.targets import Target

Made = Literal["trained", "continued", "compressed", "distilled"]
Positive = Annotated[float, msgspec.Meta(gt=0)]
PositiveInt = Annotated[int, msgspec.Meta(gt=0, lt=2**53)]  # below: exact as a float


class Part(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """An object inside a record: unknown keys are an error, and defaults aren't written."""

    def __bool__(self) -> Literal[True]:
        """Always true: ``part and part.field`` is the field, or None where the part is missing."""
        return True


class Record(Part, kw_only=True, omit_defaults=False, tag_field="kind"):
    """A result file. A subclass is a kind; it raises ``version`` when its fields change."""

    version: int = 1

    def __post_init__(self) -> None:
        if self.version != _version(type(self)):  # also of a part of a `Run`
            raise ValueError(f"version {self.version}: expected {_version(type(self))}")

    def write(self, path: str | Path) -> Path:
        """Write the record as JSON, atomically.

        Raises:
            OutputError: the file can't be written.
            ValueError: a number is NaN or infinite.
        """
        plain: dict[str, Any] = _all_in_utf8(msgspec.to_builtins(self))
        return write_json(path, {"kind": plain["kind"], "version": self.version} | plain)

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a record of this kind.

        Raises:
            IteraError: the file can't be read, is of another kind or version, or has a field
                that it can't have; the message names the path, the field, and what to do.
        """
        record = read_any(path)
        if not isinstance(record, cls):
            raise IteraError(
                f"'{path}' is a record of kind '{kind_of(type(record))}': expected "
                f"'{kind_of(cls)}'. Name another file"
            )
        return record


def _all_in_utf8(value: Any) -> Any:
    """The value with its texts as `in_utf8` has them."""
    if isinstance(value, str):
        return in_utf8(value)
    if isinstance(value, dict):
        return {_all_in_utf8(key): _all_in_utf8(each) for key, each in value.items()}
    return [_all_in_utf8(each) for each in value] if isinstance(value, list | tuple) else value


class Measured(Record, kw_only=True):
    """A record whose numbers were all found in one run of a command."""

    provenance: Provenance


# --- What every record about a model shares ------------------------------------------------------


class Params(Part):
    """Numbers of parameters; only the total where the shape wasn't known."""

    total: PositiveInt
    embedding: int | None = None
    non_embedding: int | None = None
    active: int | None = None  # used by a token: all but the experts it isn't sent to


class Source(Part):
    """A checkpoint that a model was made from."""

    name: str
    role: Literal["start", "teacher"]
    sha256: str | None = None  # of its weights


class ModelDescription(Part):
    """Which model a result is about.

    Attributes:
        name: of the run, and of its checkpoint's folder.
        size: the preset whose shape the model has, its vocabulary apart; None: no preset's.
        config: None where only the family and the parameters are known, as of random weights.
        seed: of the training; None where it isn't known or nothing was random.
        made: how; None where it isn't known, as of a checkpoint that is only measured.
        made_from: the checkpoint that it began from, and its teachers.
        sha256: of the weights, where they were hashed.
    """

    name: str
    family: Family
    params: Params
    size: str | None = None
    config: ModelConfig | None = None
    seed: int | None = None
    made: Made | None = None
    made_from: list[Source] = []
    sha256: str | None = None


class Flops(Part):
    """FLOPs a token: ``decode`` is one more token after ``context`` tokens."""

    forward: float
    train: float
    decode: float | None = None
    context: int | None = None


class BudgetRecord(Part):
    """How long a training was meant to last."""

    unit: str  # of the amount: seconds or tokens
    amount: float


# --- Training and compression: NAME_summary.json -------------------------------------------------


class TrainingRun(Part):
    """How a training went. ``seconds`` are of steps alone, ``minutes_wall`` of everything."""

    batch_size: int
    seq_len: int
    steps: int
    tokens: int
    epochs: float
    seconds: float
    minutes_wall: float
    tokens_per_second: float
    mfu: float  # share of the peak that was measured
    peak_gflops: float
    precision: str
    precision_reason: str
    fused_operations: bool
    threads: int
    processes: int
    lr_matrix: float
    lr_embedding: float
    lr_other: float
    weight_decay: float
    budget: BudgetRecord
    stopped: str | None  # why it ended


class ValidScore(Part):
    """Quality on the validation text; ``loss`` in nats per token."""

    bpb: float
    loss: float
    ppl: float | None  # None: beyond what a file can hold
    tokens: int
    bytes: int


class Best(Part):
    """The evaluation whose checkpoint was kept."""

    step: int
    bpb: float | None


class DatasetDescription(Part):
    """A prepared set.

    Attributes:
        source: the name or path that was given.
        unit: what of the text is a document of the set; records of an earlier version, which had
            documents alone, lack it.
    """

    name: str
    source: str
    sha256: str
    tokenizer_sha256: str
    vocab_size: int
    train_bytes: int
    train_tokens: int
    valid_bytes: int
    valid_tokens: int
    bytes_per_token: float
    unit: Unit = "document"


class Sample(Part):
    """Text that the model wrote at a step."""

    step: int
    prompt: str
    text: str


class StartModel(Part):
    """The checkpoint that a compression began from, and its quality on the same text."""

    name: str
    params: int
    vocab_size: int
    n_experts: int
    tokenizer_sha256: str
    bpb: float
    bytes_per_token: float


class Compression(Part, kw_only=True, tag_field="verb"):
    """What `itera compress` did; a subclass a verb.

    Attributes:
        start: what it began from; None where nothing was measured.
        learning_rate_factor: of a new model's learning rates, in the training that followed.
        steps: what `itera compress` chose and why, where it chose.
    """

    start: StartModel | None = None
    learning_rate_factor: float | None = None
    steps: list[str] = []


class FileBytes(Part):
    """Size of the GGUF file, before in float32; and compressed as gzip does."""

    before: int
    after: int
    compressed: int | None = None


class QuantizedBits(Part):
    """Bits per byte as PyTorch and as the native engine score the validation text."""

    before: float
    after: float
    before_engine: float
    after_engine: float


class GroupSensitivity(Part):
    """What 4 bits cost in a group of matrices, and the type that it got."""

    group: str
    nats_per_token: float
    bytes_saved: int
    type: str


class Quantization(Compression, tag="quantize"):
    """Matrices in 8 or 4 bits.

    Attributes:
        weights: type -> number of weights stored in it.
        levels: of Q4_0's 16 those that are used; None: all.
    """

    type: str
    method: str
    file: str
    bytes: FileBytes
    bits_per_weight: float
    weights: dict[str, int]
    bpb: QuantizedBits | None = None
    max_bytes: int | None = None
    levels: int | None = None
    sensitivity: list[GroupSensitivity] = []


class BeforeAfter(Part):
    before: float
    after: float


class VocabularyBits(Part):
    """Bits per byte: before, with the embedding carried over, and after the adaptation."""

    before: float
    carried_over: float
    adapted: float | None = None


class VocabularySize(Part):
    """A size of vocabulary and what it costs.

    Attributes:
        file_q8_0, file_f32: bytes of the exported file; None where it can't be stored so.
        flops_per_byte: forward, for a byte of the validation text.
        cost: bytes of the file times FLOPs per byte; None for the model as it was.
    """

    size: int
    bpb: float
    file_q8_0: int | None
    file_f32: int
    flops_per_byte: float
    tokens_per_byte: float
    cost: float | None = None


class VocabularyChoice(Part):
    """The sizes that `compress vocab --auto` tried, and the rule that chose."""

    rule: str
    chosen: int
    tried: list[VocabularySize]
    before: VocabularySize


class VocabularyChange(Compression, tag="vocab"):
    """A smaller vocabulary: rows of the embedding that were kept, and made of old ones."""

    bytes_per_token: BeforeAfter
    rows_kept: int
    rows_made: int
    bpb: VocabularyBits
    sizes: VocabularyChoice | None = None


class ExpertUsage(Part):
    """How much a text uses each expert, a row a layer; ``weight_lost`` of the gates, a layer."""

    tokens_read: int
    share_of_tokens: list[list[float]]
    share_of_weight: list[list[float]]
    weight_lost: list[float]


class ExpertsBits(Part):
    """Bits per byte: before, with experts dropped, merged, and after a training."""

    before: float
    dropped: float
    merged: float | None = None
    trained: float | None = None


class FewerExperts(Compression, tag="experts"):
    """Experts that were taken out; ``keep`` stay in each layer."""

    keep: int
    merge: bool
    max_loss: float | None
    usage: ExpertUsage
    bpb: ExpertsBits


class TeacherDescription(Part):
    """A teacher; ``sha256`` of its weights, ``bpb`` on the validation text."""

    name: str
    family: Family
    params: int
    vocab_size: int
    sha256: str
    bpb: float


class TargetsCache(Part):
    """The teachers' targets on disk: how many, what they cost, what they hold.

    Attributes:
        positions: that were computed, in tokens of the text; ``seconds``: for all of them.
        share_taught: of these, those with a target: a token's bytes must end where theirs do.
        top_k_mass: probability that the kept tokens hold, on average.
        teacher_loss: nats per token of the teachers.
    """

    positions: float
    seconds: float
    share_taught: float
    top_k_mass: float
    teacher_loss: float
    disk_bytes: int


class DistillationRecord(Part):
    """Who taught, and how.

    Attributes:
        student: checkpoint that the student went on from; None for a new one.
        same_tokenizer: as the teachers' own.
        top_k: how many of a teacher's likeliest tokens are kept at a position.
        mix: share of the teachers in the loss.
        teacher_seconds: that the teachers spent on what this run saw.
    """

    teachers: list[TeacherDescription]
    student: str | None
    same_tokenizer: bool
    top_k: int
    temperature: float
    mix: float
    teacher_seconds: float
    cache: TargetsCache


class TextBefore(Part):
    """A model's bits per byte on a validation text, before a training and after it.

    Attributes:
        source: the set, as it was named; ``sha256``: of the whole set.
        bytes: of its validation text that were scored.
        after: None while the training hasn't ended.
        unit: what of the text is a document of the set.
    """

    source: str
    sha256: str
    bytes: int
    before: float
    after: float | None = None
    unit: Unit = "document"


class Continuation(Part):
    """A training that went on from the weights of a checkpoint (`itera train --init`).

    Attributes:
        start: the checkpoint.
        learning_rate_factor: of a new model's learning rates, where the user gave none.
        text: what is trained on now.
        earlier: what the checkpoint was trained on; None where that isn't known or can't be had.
        earlier_missing: why there is no ``earlier``, in words.
    """

    start: Source
    learning_rate_factor: float
    text: TextBefore
    earlier: TextBefore | None = None
    earlier_missing: str = ""


class LadderOptions(Part):
    """The ladder's settings that a stage of it was made with.

    ``tokens``: of a further seed, those of the first one. ``made_from``: the beginning of the
    weights' SHA-256 of the stages that it was made from.
    """

    data: str
    minutes: float
    size: int | None = None
    student: str | None = None
    teacher: str | None = None
    precision: str | None = None
    evaluations: int | None = None
    tokens: int | None = None
    made_from: dict[str, str] = {}


class Summary(Measured, tag="summary"):
    """How a model was made and how good it is on its validation text.

    Attributes:
        training: None where no training was part of it, as in plain rounding.
        valid, dataset: None where no text was given to measure with.
        flops_breakdown: of the forward pass, by part of the model.
        expert_load: share of the tokens by expert, a row a layer, at the end of the training.
        ladder: where the model is a stage of a ladder.
        continuation: where the training went on from another checkpoint's weights.
    """

    model: ModelDescription
    training: TrainingRun | None = None
    best: Best | None = None
    valid: ValidScore | None = None
    dataset: DatasetDescription | None = None
    flops_per_token: Flops | None = None
    flops_breakdown: dict[str, float] = {}
    expert_load: list[list[float]] = []
    samples: list[Sample] = []
    compression: Quantization | VocabularyChange | FewerExperts | None = None
    distillation: DistillationRecord | None = None
    ladder: LadderOptions | None = None
    continuation: Continuation | None = None


# --- Evaluation: NAME_eval.json ------------------------------------------------------------------


class Baseline(Part):
    """What a compressor or an n-gram model reaches on the same text."""

    bpb: float
    train_bytes: int
    how: str
    order: int | None = None


class Evaluation(Measured, tag="evaluation"):
    """Quality on held-out text.

    Attributes:
        source: name or path of the text; ``split``: the part of it.
        loss: nats per token. ``word_ppl`` and ``words``: only of WikiText.
        sampled: whether the documents are a random choice.
        seq_len: longest window in tokens; ``policy``: the context of each token, in words.
        by_position: (end, nats per token) of the tokens at positions up to ``end``.
    """

    model: ModelDescription
    source: str
    split: str
    bpb: float
    loss: float
    ppl: float | None
    word_ppl: float | None
    accuracy: float
    tokens: int
    bytes: int
    words: int | None
    documents: int
    sampled: bool
    seq_len: int
    policy: str
    by_position: list[tuple[PositiveInt, float]]
    fused_operations: bool
    baselines: dict[str, Baseline] = {}


class HeldOut(Measured, tag="held_out"):
    """Score of a ladder's stage on the ladder's held-out text: NAME_heldout.json."""

    name: str
    bpb: float
    bytes_per_token: float
    bytes: int
    window: int
    text_sha256: str
    weights_sha256: str


class TextBits(Part):
    bpb: float
    nats_per_token: float


class StoredType(Part):
    """A file of the model: its size, its score on two texts."""

    bytes: int
    valid: TextBits
    official: TextBits


class StoredQuality(Measured, tag="stored_quality"):
    """How good a model is as each type of weights stores it, by the native engine."""

    description: str
    window: int
    types: dict[str, StoredType]


# --- Speed, memory and energy: NAME_benchmark.json, NAME_training_speed.json ---------------------


class StepLatency(Stat):
    """The repeats' medians, and the percentiles of all ``steps`` together."""

    p50: float
    p99: float
    steps: int


class PrefillSpeed(Part):
    """Reading ``batch`` prompts of ``context`` tokens."""

    batch: PositiveInt
    context: PositiveInt
    tokens_per_second: Stat
    latency_ms: Stat


class DecodeSpeed(Part):
    """Writing a token at a time to ``batch`` texts, after ``context`` tokens."""

    batch: PositiveInt
    context: PositiveInt
    tokens_per_second: Stat
    latency_ms: StepLatency


class Memory(Part):
    """``state_bytes``: tokens of context -> bytes of decoding state of one text."""

    weights_bytes: PositiveInt
    state_bytes: dict[PositiveInt, PositiveInt]
    peak_rss_bytes: Stat
    import_rss_bytes: Stat


class CpuUse(Part):
    """In percent of one core: over everything, and the busiest repeat."""

    mean_percent: float
    max_percent: float


class PeerSpeed(Part):
    """Speeds of another program with the same weights; ``note`` names what wasn't measured."""

    prefill: list[PrefillSpeed]
    decode: list[DecodeSpeed]
    note: str = ""


class Benchmark(Measured, tag="benchmark"):
    """Speed, memory and energy of a model in PyTorch.

    Attributes:
        load_ms, first_token_ms, import_ms: in fresh processes.
        peers, peers_left_out: what is usual with the same weights, and why others are missing.
        interleaved_with: the models that took turns with this one.
        repeated_rounds: that other programs disturbed, and which were measured again.
    """

    model: ModelDescription
    flops_per_token: Flops
    prefill: list[PrefillSpeed]
    decode: list[DecodeSpeed]
    memory: Memory
    cpu: CpuUse
    energy: Energy
    load_ms: Stat
    first_token_ms: Stat
    import_ms: Stat
    fused_operations: bool
    peers: dict[str, PeerSpeed] = {}
    peers_left_out: dict[str, str] = {}
    interleaved_with: list[str] = []
    repeated_rounds: int = 0


class RuntimeTraining(Part):
    """Whole training steps of one runtime; the peak was measured between them.

    ``beside``: the priority of a busy program that the benchmark ran at the same time; None: none.
    """

    threads: int
    precision: str
    tokens_per_second: Stat
    first_loss: float
    peak_gflops: float | None = None
    share_of_peak: float | None = None
    beside: Literal["low", "equal"] | None = None


class TrainingSpeed(Measured, tag="training_speed"):
    """How fast a model trains.

    Attributes:
        runtimes: by label, ours first.
        speedup_of_first: of the first runtime over each other.
        targets: on what all cores give, alone and beside a busy program.
        repeated_rounds: see `Benchmark`.
    """

    model: ModelDescription
    flops_train_per_token: float
    batch_size: int
    seq_len: int
    runtimes: dict[str, RuntimeTraining]
    fused_operations: bool
    speedup_of_first: dict[str, float] = {}
    targets: list[Target] = []
    repeated_rounds: int = 0


class ScalingRow(Part):
    """Some processes that train together.

    Attributes:
        workers: of each process.
        batch_size: sequences of all together.
        communication_share: of the time, in sums over the processes, waiting included.
        bytes_per_step: that each process adds to sums of all.
    """

    processes: int
    workers: int
    batch_size: int
    tokens_per_second: Stat
    communication_share: Stat
    bytes_per_step: int


class Scaling(Measured, tag="scaling"):
    """How training scales with processes on one machine.

    Attributes:
        strong: the processes share one batch; ``weak``: each has such a batch. One process with
            one worker first.
        repeated_rounds: see `Benchmark`.
    """

    model: ModelDescription
    seq_len: int
    cores: int
    precision: str
    strong: list[ScalingRow]
    weak: list[ScalingRow]
    repeated_rounds: int = 0


# --- The native engine: NAME_decode.json, NAME_scoring.json, engine_sizes.json -------------------


class RuntimeDecoding(Part):
    """One runtime decoding one file; with the time that Python adds where it isn't in it."""

    tokens_per_second: Stat
    microseconds_per_token: Stat
    tokens_per_pass: int
    tokens_per_second_with_python: Stat | None = None


class Roofline(Part):
    """What reading a token's bytes takes at least, and its share of the time of a token."""

    bandwidth_bytes_per_second: Stat
    floor_microseconds: float
    share: float | None = None
    share_low: float | None = None
    share_high: float | None = None


class TypeDecoding(Part):
    """Decoding with the weights stored in one type; ``profile_microseconds`` by part."""

    file_bytes: int
    weight_bytes_per_token: int
    state_bytes_per_token: int
    runtimes: dict[str, RuntimeDecoding]
    roofline: Roofline
    profile_microseconds: dict[str, float] = {}


class SpeedRatio(Part):
    """Our engine's speed over a peer's, with its interval and the verdict in words.

    ``winner`` is None where the difference isn't clear.
    """

    type: str
    peer: str
    peer_type: str
    ratio: Positive
    winner: Literal["ours", "other"] | None
    verdict: str
    low: float | None = None
    high: float | None = None


class ContextGrowth(Part):
    """One runtime after a short and after a long text: tokens of context -> time of a token."""

    microseconds_per_token: dict[int, Stat]
    ratio: float | None
    added_microseconds: float


class Growth(Part):
    """What ``context`` tokens cost with one type of weights, by runtime."""

    type: str
    context: int
    runtimes: dict[str, ContextGrowth]
    profile_microseconds: dict[str, float] = {}


class ModelDecoding(Part):
    """Decoding of one model, greedily, one text.

    Attributes:
        context: tokens of the prompt.
        main_type: the type of weights that targets are about.
        types: by type of weights. ``torch``: runtimes in PyTorch, float32.
    """

    model: ModelDescription
    context: int
    threads: int
    main_type: str
    types: dict[str, TypeDecoding]
    torch: dict[str, RuntimeDecoding] = {}
    ratios: list[SpeedRatio] = []
    growth: Growth | None = None


class Startup(Part):
    """Loading, the imports and the first token, each in fresh processes, and the file's size."""

    load_ms: Stat
    import_ms: Stat
    import_runtime_ms: Stat
    file_bytes: int
    imports_torch: bool
    first_token_ms: Stat | None = None
    peak_rss_bytes: Stat | None = None


class Decode(Measured, tag="decode"):
    """The native engine's decoding beside its peers; ``repeated_rounds``: see `Benchmark`."""

    decoding: ModelDecoding
    startup: Startup | None = None
    targets: list[Target] = []
    interleaved_with: list[str] = []
    repeated_rounds: int = 0

    @property
    def model(self) -> ModelDescription:
        return self.decoding.model


class EngineSizes(Measured, tag="engine_sizes"):
    """Decoding of models of llama2.c's sizes, with random weights."""

    models: list[ModelDecoding]
    repeated_rounds: int = 0  # see `Benchmark`


class RuntimeScoring(Part):
    """One runtime reading all documents; ``note``: how, where it had a choice."""

    type: str
    runtime: str
    threads: int
    tokens_per_second: Stat
    note: str = ""


class Scoring(Measured, tag="scoring"):
    """The native engine's scoring of documents beside its peers; ``repeated_rounds``: see
    `Benchmark`."""

    model: ModelDescription
    documents: int
    tokens: int
    main_type: str
    runtimes: list[RuntimeScoring]
    ratios: list[SpeedRatio] = []
    targets: list[Target] = []
    interleaved_with: list[str] = []
    repeated_rounds: int = 0


# --- The server: NAME_serving.json ---------------------------------------------------------------


class ServerLoad(Part):
    """Clients that ask one after the other, all at the same time, each for a stream.

    Attributes:
        runtime: that answers; ``note``: how it was set up.
        streams: clients.
        seconds: from the first request to the end of the last answer.
        requests: that were answered whole; ``lost``: that weren't.
        different: texts that aren't the single stream's greedy text; None where that isn't
            expected, as of another runtime.
        tokens_per_second: a sample a round.
        first_token_ms_p50, first_token_ms_p99: from a request to its first text.
    """

    runtime: str
    streams: PositiveInt
    seconds: float
    requests: int
    lost: int
    different: int | None
    tokens_per_second: Stat
    first_token_ms_p50: float
    first_token_ms_p99: float
    note: str = ""


class Serving(Measured, tag="serving"):
    """The server of `itera serve` on this machine, and what it costs against the bare engine.

    Attributes:
        name: of the model's file; ``file_bytes`` and ``params``: its size.
        prompts: different ones; ``max_tokens``: of an answer at most.
        engine_streams: texts that the bare engine decodes together, in this process.
        engine: its tokens/s, a sample a round.
    """

    name: str
    file_bytes: PositiveInt
    params: PositiveInt
    prompts: int
    max_tokens: int
    engine_streams: int
    engine: Stat
    loads: list[ServerLoad]
    targets: list[Target] = []


class Typing(Part):
    """Typing a text with the offers of one completer.

    Attributes:
        saved: share of the keystrokes that it takes without offers.
        words_taken: that weren't typed to their end.
        calls: of the completer, with the time of each.
    """

    keystrokes: int
    saved: float
    words_taken: int
    calls: int
    median_ms: float
    p99_ms: float


class Keystrokes(Measured, tag="keystrokes"):
    """Keystrokes that completions save on held-out text: NAME_keystrokes.json.

    Attributes:
        source: name of the set; ``split``: the part of it that was typed.
        characters: of the text, each a keystroke without offers.
        offered: completions at a time.
        train_bytes: that the floor counted.
        completers: the model, and the floor beside it.
    """

    model: ModelDescription
    source: str
    split: str
    documents: int
    characters: int
    words: int
    offered: int
    train_bytes: int
    completers: dict[str, Typing]


class BrowserDecoding(Measured, tag="browser_decoding"):
    """The playground's engine in a browser, beside wllama; ``repeated_rounds``: see `Benchmark`.

    Attributes:
        file: name of the model's file; ``parameters`` of the model.
        wasm_bytes: of the engine.
        engine_ms, model_ms: to compile and check the engine, and to load the model, from bytes.
    """

    file: str
    file_bytes: PositiveInt
    parameters: PositiveInt
    wasm_bytes: PositiveInt
    engine_ms: Stat
    model_ms: Stat
    runtimes: dict[str, RuntimeDecoding]
    ratios: list[SpeedRatio] = []
    targets: list[Target] = []
    repeated_rounds: int = 0


# --- Filtering: filter.json -----------------------------------------------------------------------


class FilterSetting(Part):
    """A kind of bad lines; ``label``: what is bad about them; ``lines``: pairs of a clean and a
    bad one."""

    name: str
    label: str
    lines: PositiveInt


class FilterSeparation(Part):
    """How well a scorer separates a setting's clean lines from its bad ones.

    Attributes:
        setting: its name.
        auc: by the scorer's statistic, with its bootstrap interval.
        usual_auc: by the statistic that such a scorer usually has.
        lead: the AUC less that of the peer, with the interval of the difference; None for the
            peer itself.
        winner: by that interval; None where it holds 0, or there is no difference to judge.
    """

    setting: str
    auc: float
    low: float
    high: float
    usual_auc: float
    lead: float | None = None
    lead_low: float | None = None
    lead_high: float | None = None
    winner: Literal["ours", "peer"] | None = None


class FilterScorer(Part):
    """Who scored lines.

    Attributes:
        how: it works, in words.
        statistic: of a line's surprise; of those that were tried, the one that separates best on
            other lines, on average over the settings.
        usual: the statistic that such a scorer usually has.
        mean_auc: on those other lines, of each statistic that was tried.
        mb_per_second: of text, by the CPU time of one thread; a sample a round.
        words_mb_per_second: the same without the time to find the words, of a scorer of words.
        params, unit: of a model; ``unit``: that it was trained on, None where it isn't known.
    """

    name: str
    kind: Literal["model", "contrast", "kenlm", "ngram"]
    how: str
    statistic: str
    usual: str
    mean_auc: dict[str, float]
    separations: list[FilterSeparation]
    mb_per_second: Stat
    words_mb_per_second: Stat | None = None
    params: int | None = None
    unit: Unit | None = None


class Filtering(Measured, tag="filter"):
    """How well models and n-grams of the same text separate clean lines from bad ones: filter.json.

    Attributes:
        source: name of the set; ``split``: the part of it that the clean lines are of.
        unit: that a line is.
        lines: that were judged, ``bytes`` of them; ``chosen_on``: others, which chose the
            statistics.
        in_training: lines of the split that were left out, for the training text has them too.
        train_lines, train_bytes: of the training text, which the n-grams counted.
        ngram_bytes: of it that the byte n-gram counted.
        peer: name of the scorer that ours are compared with.
        without_kenlm: why KenLM isn't among the scorers; empty where it is.
        resamples: of the bootstrap.
        repeated_rounds: see `Benchmark`.
    """

    source: str
    split: str
    unit: Unit
    lines: PositiveInt
    bytes: PositiveInt
    chosen_on: PositiveInt
    in_training: int
    train_lines: PositiveInt
    train_bytes: PositiveInt
    ngram_bytes: PositiveInt
    peer: str
    settings: list[FilterSetting]
    scorers: list[FilterScorer]
    resamples: PositiveInt
    without_kenlm: str = ""
    targets: list[Target] = []
    repeated_rounds: int = 0


# --- Studies: ladder.json, seeds.json, NAME_comparison.json --------------------------------------


class HeldOutText(Part):
    """The text that judges a ladder, and the window that models read it in."""

    split: str
    documents: int
    bytes: int
    window: int


class Reference(Part):
    """A conventional model that was tried as the ladder's first rung."""

    stage: str
    params: int
    valid_bpb: float
    epochs: float
    train_minutes: float
    chosen: bool
    learning_rate: float | None = None


class QuantizedReference(Part):
    """A type of weights in which the chosen reference was tried in llama.cpp.

    ``valid_bpb``: by llama.cpp, on validation text, which chooses the type.
    """

    type: str
    bytes: PositiveInt
    valid_bpb: float
    chosen: bool


class Teaching(Part):
    """Whether a teacher taught the deployed model, by bits per byte on the validation text.

    Attributes:
        teacher_bpb, teacher_minutes: of the teacher; no minutes for one that was brought along.
        alone_bpb, alone_minutes: of the student without a teacher, in the time of both trainings.
        taught_bpb: of the taught student; None where the teacher wasn't better than ``alone_bpb``,
            so that nobody was taught.
        chosen: the stage of the student that is deployed.
    """

    teacher_bpb: float
    teacher_minutes: float | None
    alone_bpb: float
    alone_minutes: float
    taught_bpb: float | None
    chosen: str


class Rung(Part):
    """A rung of the ladder, and what its text costs.

    Attributes:
        stage: that made it; ``runtime``: that decodes it.
        bpb: on the held-out text, a sample a seed.
        tokens_in_use: of the vocabulary, those that occur in the training text.
        *_per_kb: for 1,000 bytes of text that it writes.
        outside_teacher: one that was brought along, whose training is in nobody's minutes.
        train_minutes: of all that it was made from; ``own_train_minutes``: of itself.
        bytes_compressed: of what is on disk, compressed; None: not measured.
    """

    name: str
    stage: str
    runtime: str
    bpb: Stat
    params: int
    d_model: int
    vocab_size: int
    tokens_in_use: int
    bytes_per_token: float
    flops_per_byte: Positive
    bytes_on_disk: PositiveInt
    cpu_seconds_per_kb: Stat
    ms_per_byte: Stat
    peak_rss_bytes: Stat
    joules_per_kb: Stat
    outside_teacher: str | None
    train_minutes: float
    own_train_minutes: float
    bytes_compressed: PositiveInt | None = None


class Ladder(Measured, tag="ladder"):
    """From a conventional Transformer to the native engine, the reference first.

    Attributes:
        source: the set; ``minutes``: of a training.
        energy: how it was found, in words.
        text_bytes: of a text that is written to measure, about.
        targets: what the last rung reaches against the first.
        quantized: the first rung's model in llama.cpp, in the best of ``quantized_types``; None
            where llama.cpp wasn't there.
        quantized_targets: what the last rung reaches against that.
        steadiness: of the reference: how far apart its seeds are.
        teaching: None in records of an earlier version.
        repeated_rounds: see `Benchmark`.
    """

    source: str
    quick: bool
    minutes: float
    held_out: HeldOutText
    energy: str
    threads: int
    text_bytes: int
    rungs: Annotated[list[Rung], msgspec.Meta(min_length=1)]
    references: list[Reference] = []
    targets: list[Target] = []
    quantized: Rung | None = None
    quantized_types: list[QuantizedReference] = []
    quantized_targets: list[Target] = []
    steadiness: Target | None = None
    teaching: Teaching | None = None
    repeated_rounds: int = 0


class SeedRun(Part):
    """One training of the study of seeds, of which only the numbers were kept.

    Attributes:
        budget: what all models of a comparison had alike.
        amount: tokens as they were given, such as ``3M``; or minutes.
        batch_size, precision, cpu, git_commit, dataset_sha256, flops_forward: None where an early
            version ran it; the last is per token. Runs of another precision or processor are of
            another comparison: they read more or less in the same time.
        load: cores that other programs kept busy meanwhile; None: not measured.
    """

    name: str
    family: Family
    size: str
    seed: int
    budget: Literal["time", "tokens"]
    source: str
    amount: str | float
    vocab_size: int
    valid_bpb: float
    minutes: float
    tokens: int
    tokens_per_second: float
    threads: int
    batch_size: int | None = None
    precision: str | None = None
    git_commit: str | None = None
    dataset_sha256: str | None = None
    flops_forward: float | None = None
    load: Load | None = None
    cpu: str | None = None


class SpeedsOfSize(Part):
    """Training speeds that were measured in turns, by the model's name.

    ``load`` by others; ``repeated_rounds``: see `Benchmark`; ``cpu``: None where an early version
    wrote it.
    """

    size: str
    batch_size: int
    vocab_size: int
    models: dict[str, RuntimeTraining]
    load: Load | None = None
    repeated_rounds: int = 0
    cpu: str | None = None


class Seeds(Measured, tag="seeds"):
    """Both models trained with several seeds."""

    runs: list[SeedRun]
    speeds: list[SpeedsOfSize] = []


class TeacherSettings(Part):
    """What must be alike for runs of a comparison to be compared.

    ``targets`` identifies the teachers' targets; ``student_from`` is a checkpoint's folder.
    """

    student: ModelConfig
    student_from: str | None
    dataset_sha256: str
    tokenizer_sha256: str
    budget: BudgetRecord
    precision: str
    targets: str
    temperature: float
    mix: float


class TeacherRun(Part):
    """One training, with or without the teacher; ``load`` by others, None where not measured."""

    side: str
    seed: int
    teacher_seconds: float
    valid_bpb: float
    seconds: float
    tokens: int
    tokens_per_second: float
    git_commit: str | None
    load: Load | None = None


class TeacherSide(Part):
    """All seeds of one side."""

    label: str
    valid_bpb: Stat
    seconds: Stat
    teacher_seconds: Stat
    tokens: Stat


class TeacherVerdict(Part):
    """The taught student against one of the others; ``winner`` is a side's label, or None."""

    winner: str | None
    ratio: float | None
    text: str


class TeacherComparison(Measured, tag="teacher_comparison"):
    """The same student with and without its teacher; without verdicts until all runs are done."""

    settings: TeacherSettings
    runs: list[TeacherRun]
    sides: dict[str, TeacherSide] = {}
    verdicts: dict[str, TeacherVerdict] = {}
    distillation: DistillationRecord | None = None


# --- The committed layout: results/SET/STUDY/STAGE/SEED.json -------------------------------------


class Run(Record, omit_defaults=True, tag="run"):
    """All that is known of one model of a study; each part has its own provenance.

    Attributes:
        study: what it was trained for; ``stage``: the model's part in it.
    """

    study: str
    stage: str
    seed: int
    summary: Summary | None = None
    evaluation: Evaluation | None = None
    held_out: HeldOut | None = None
    benchmark: Benchmark | None = None
    training_speed: TrainingSpeed | None = None
    decode: Decode | None = None
    scoring: Scoring | None = None

    @property
    def parts(self) -> dict[str, Measured]:
        """The records that there are, by their field."""
        found = {field: getattr(self, field) for field in self.__struct_fields__}
        return {k: v for k, v in found.items() if isinstance(v, Measured)}


ModelRecord = Summary | Evaluation | Benchmark | TrainingSpeed | Decode | Scoring

# --- Reading -------------------------------------------------------------------------------------


class _Header(msgspec.Struct):
    kind: str
    version: int


def read_any(path: str | Path) -> Record:
    """Read a record of any kind.

    Raises:
        IteraError: see `Record.read`.
    """
    try:
        data = Path(path).read_bytes()
        header = msgspec.json.decode(data, type=_Header)
        kind = _kind(path, header)
        record: Record = msgspec.json.decode(data, type=kind)
    except OSError as error:
        raise IteraError(f"'{path}' can't be read: {error.strerror}") from error
    except (msgspec.ValidationError, ConfigError) as error:
        raise IteraError(
            f"'{path}' isn't a result file as this version of Itera-Lite writes it: {error}. Run "
            "the command that wrote it again, or leave the file out"
        ) from None
    except (ValueError, RecursionError) as error:
        raise IteraError(
            f"'{path}' can't be read as JSON: {error}. Delete it and run the command that made it"
        ) from None
    return record


def _kind(path: str | Path, header: _Header) -> type[Record]:
    """The class of a file; an IteraError where it is unknown, or of another version."""
    kind = KINDS.get(header.kind)
    if kind is None:
        raise IteraError(
            f"'{path}' is of the kind '{header.kind}', which this version of Itera-Lite doesn't "
            f"know: expected {', '.join(KINDS)}. Update Itera-Lite, or leave the file out"
        )
    expected = _version(kind)
    if header.version != expected:
        age, remedy = "older", "run the command that wrote it again"
        if header.version > expected:
            age, remedy = "newer", "update Itera-Lite"
        raise IteraError(
            f"'{path}' has version {header.version} of the kind '{header.kind}', {age} than "
            f"{expected}, which is read here: {remedy}"
        )
    return kind


def is_record(path: str | Path) -> bool:
    """Whether a file begins as `Record.write` begins one, of a kind that is known."""
    try:
        with open(path, "rb") as file:
            start = re.match(rb'\{\n  "kind": "(\w+)",\n  "version": ', file.read(80))
    except OSError:
        return False
    return start is not None and start[1].decode() in KINDS


def kind_of(record: type[Record]) -> str:
    """The ``kind`` in a record's file; the class's name where it has several."""
    return str(record.__struct_config__.tag or record.__name__)


def _version(kind: type[Record]) -> int:
    return next(int(f.default) for f in msgspec.structs.fields(kind) if f.name == "version")


_CLASSES: list[type[Record]] = [Run, *Measured.__subclasses__()]
KINDS = {kind_of(record): record for record in _CLASSES}
