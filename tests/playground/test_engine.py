"""The engine as WebAssembly computes what the native one's portable kernels compute."""

import gzip
import json
import random
import shutil
import struct
import subprocess
import zlib
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.native.gguf_models import hybrid
from tests.native.hostile import EITHER, GROUPS, valid, write
from tests.playground.node import WASM, needs_node, run_node, run_portable
from tests.playground.tab import BOX_FILE
from tools import wasm

PROMPTS = ["Once upon a time", "", "Tom and Anna were", "Ünï\u00e7ode \U0001f600 and\n  spaces"]
TEXT = "Once upon a time there was a little girl named Lily. She didn't like 42 cats. \U0001f431\n"
SAMPLING = [
    {},
    {"temperature": 1.2, "top_k": 40, "top_p": 0.8},
    {"temperature": 0.7, "min_p": 0.05, "repetition_penalty": 1.3},
    {"presence_penalty": 1.5, "frequency_penalty": 0.5},
]


def camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(map(str.capitalize, rest))


def engine_record() -> dict[str, str]:
    return json.loads(wasm.RECORD.read_text())


def test_the_engine_is_made_of_its_sources() -> None:
    """Else: python -m tools.wasm."""
    record = engine_record()
    assert record["sources"] == wasm.sources_hash()
    assert record["wasm"] == sha256(WASM.read_bytes()).hexdigest()
    assert WASM.stat().st_size < 500_000


@needs_node
def test_the_compiler_makes_it_again(tmp_path: Path) -> None:
    if shutil.which(wasm.CLANG) is None:
        pytest.skip(f"{wasm.CLANG} isn't installed")
    built = tmp_path / "itera.wasm"
    wasm.build(built)
    version = subprocess.run([wasm.CLANG, "--version"], capture_output=True, text=True, check=True)
    if version.stdout.startswith(engine_record()["compiler"]):
        assert built.read_bytes() == WASM.read_bytes()
        return
    script = "result = write((await loadEngine(wasm)).load(read(given.box)), 'Once', {seed: 1});"
    ours, committed = (
        run_node(tmp_path, script, path, box=str(BOX_FILE)) for path in (built, WASM)
    )
    assert ours == committed


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The model in the box, and files of every type and shape that the engine knows."""
    files = {name: data for name, data in valid().items() if "gzipped" not in name}
    paths = write(tmp_path_factory.mktemp("models"), files)
    return [str(BOX_FILE), *map(str, paths)]


ALL = """
result = {};
for (const kernels of ["wasm-simd128", "portable"]) {
  const engine = await loadEngine(wasm, { kernels });
  if (engine.kernels !== kernels) throw new Error(engine.kernels);
  result[kernels] = given.models.map((path) => {
    const model = engine.load(read(path));
    return {
      info: model.info,
      ids: Array.from(model.tokenize(given.text)),
      back: model.detokenize(model.tokenize(given.text)),
      score: model.score(given.text, { top: 3 }),
      greedy: given.prompts.map((prompt) =>
        prompt || model.info.beginToken !== null
          ? write(model, prompt, { maxTokens: 30, temperature: 0, top: 3 })
          : null,
      ),
      sampled: given.sampling.map((options) =>
        write(model, "he", { maxTokens: 30, seed: 2n ** 62n + 5n, top: 1, ...options }),
      ),
    };
  });
}
"""
NATIVE = """
result = []
for path in given["models"]:
    model = Model.load(path)
    def write(prompt, **options):
        stream = model.start(prompt, max_tokens=30, log_probabilities=True, **options)
        text = b""
        while not stream.done:
            text += stream.next()
        return {"text": text.decode("utf-8", "replace"), "tokens": stream.tokens,
                "logProbabilities": stream.log_probabilities,
                "finishReason": stream.finish_reason}
    score = model.score(given["text"], log_probabilities=True)[0]
    result.append({
        "info": {
            "parameters": model.parameters, "architecture": model.architecture,
            "vocabSize": model.vocab_size, "context": model.context, "endToken": model.eot_id,
            "beginToken": model.bos_id, "sampling": model.sampling_defaults,
        },
        "ids": model.tokenize(given["text"]),
        "score": [score.bits_per_byte, score.log_probabilities],
        "greedy": [write(p, temperature=0) if p or model.bos_id is not None else None
                   for p in given["prompts"]],
        "sampled": [write("he", seed=2**62 + 5, **options) for options in given["sampling"]],
    })
"""


@pytest.fixture(scope="module")
def ours(models: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    sampling = [{camel(name): value for name, value in one.items()} for one in SAMPLING]
    given = {"models": models, "text": TEXT, "prompts": PROMPTS, "sampling": sampling}
    return run_node(tmp_path_factory.mktemp("node"), ALL, **given)


@pytest.fixture(scope="module")
def native(models: list[str]) -> list[Any]:
    return run_portable(NATIVE, models=models, text=TEXT, prompts=PROMPTS, sampling=SAMPLING)


@needs_node
def test_simd_kernels_give_the_portable_ones_bits(ours: dict[str, list[Any]]) -> None:
    assert ours["wasm-simd128"] == ours["portable"]


@needs_node
def test_numbers_are_the_native_engines(ours: dict[str, list[Any]], native: list[Any]) -> None:
    for one, other in zip(ours["wasm-simd128"], native, strict=True):
        sampling = {camel(name): value for name, value in other["info"].pop("sampling").items()}
        assert {key: one["info"][key] for key in other["info"]} == other["info"]
        assert one["info"]["sampling"] == pytest.approx(sampling)
        assert one["ids"] == other["ids"] and one["back"] == TEXT
        bits, log_probabilities = other["score"]
        assert one["score"]["bitsPerByte"] == pytest.approx(bits, abs=1e-4)
        scored = [t for t in one["score"]["tokens"] if t["logProbability"] is not None]
        found = [token["logProbability"] for token in scored]
        assert found == pytest.approx(log_probabilities, abs=1e-4)
        pieces = [bytes(token["bytes"].values()) for token in one["score"]["tokens"]]
        assert b"".join(pieces) == TEXT.encode()
        for token in scored:
            likely = [each["logProbability"] for each in token["top"]]
            assert likely == sorted(likely, reverse=True) and len(likely) == 3
            assert max(likely) >= token["logProbability"]


def alike(ours: Any, native: Any) -> bool:
    """The same text. The last step may hold the end's token, which the native engine leaves out."""
    if ours is None or native is None:
        return ours is native
    n = len(native["tokens"])
    return (
        all(ours[key] == native[key] for key in ("text", "finishReason"))
        and ours["tokens"][:n] == native["tokens"]
        and ours["logProbabilities"][:n] == pytest.approx(native["logProbabilities"], abs=1e-4)
    )


@needs_node
def test_texts_are_the_native_engines(ours: dict[str, list[Any]], native: list[Any]) -> None:
    for one, other in zip(ours["wasm-simd128"], native, strict=True):
        for text, wanted in zip(
            [*one["greedy"], *one["sampled"]], [*other["greedy"], *other["sampled"]], strict=True
        ):
            assert alike(text, wanted), (text, wanted)
        for text in one["greedy"]:
            for token, likely in zip(text["tokens"], text["top"], strict=True) if text else ():
                assert likely[0]["id"] == token


@needs_node
def test_long_texts_are_read_in_windows(tmp_path: Path) -> None:
    """As `score` does it: each token is scored once, with at least half a window before it."""
    (path,) = write(tmp_path, {"model": hybrid().render()})
    text = "the heat " * 60
    script = """
    const model = (await loadEngine(wasm)).load(read(given.path));
    const { tokens, bitsPerByte } = model.score(given.text);
    result = [bitsPerByte, tokens.map((token) => token.id), model.top(given.text, 2).length];
    """
    bits, ids, n = run_node(tmp_path, script, path=str(path), text=text)
    native = "m = Model.load(given['path'])\nresult = m.score(given['text'])[0].bits_per_byte, "
    wanted, tokens, eot = run_portable(
        native + "m.tokenize(given['text']), m.eot_id", path=str(path), text=text
    )
    assert bits == pytest.approx(wanted, abs=1e-4) and ids == [*tokens, eot] and n == 2


@needs_node
def test_text_ends_before_a_stop_text_and_at_the_length(tmp_path: Path) -> None:
    script = """
    const model = (await loadEngine(wasm)).load(read(given.box));
    const greedy = { temperature: 0, maxTokens: 60 };
    const whole = write(model, "Once upon a time", greedy);
    const word = whole.text.slice(20, 27);
    const stopped = write(model, "Once upon a time", { ...greedy, stop: ["never there", word] });
    const short = model.start("Once", { ...greedy, maxTokens: 2 });
    short.next();
    const before = short.finishReason;
    short.next();
    result = [whole, word, stopped, before, short.finishReason, short.next()];
    """
    whole, word, stopped, before, after, none = run_node(tmp_path, script, box=str(BOX_FILE))
    assert stopped["finishReason"] == "stop"
    assert stopped["text"] == whole["text"][: whole["text"].index(word)]
    assert (before, after, none) == ("", "length", None)


@needs_node
def test_a_text_of_many_tokens_comes_back(tmp_path: Path) -> None:
    """More ids than a call may have arguments."""
    script = """
    const model = (await loadEngine(wasm)).load(read(given.box));
    const ids = model.tokenize("né ".repeat(150_000));
    result = [ids.length, model.detokenize(ids) === "né ".repeat(150_000)];
    """
    length, same = run_node(tmp_path, script, box=str(BOX_FILE))
    assert length > 250_000 and same


@needs_node
def test_wrong_use_is_told_and_the_model_goes_on(tmp_path: Path) -> None:
    script = """
    const engine = await loadEngine(wasm);
    const model = engine.load(read(given.box));
    const options = { maxTokens: 5, temperature: 0 };
    const first = write(model, "Once", options);
    const begun = model.start("Once", options);
    begun.next();
    const wrong = [
      [() => model.start("a", { maxTokens: 0 }), "max_tokens=0"],
      [() => model.start("a", { maxTokens: 1.5 }), "maxTokens=1.5"],
      [() => model.start("a", { maxTokens: 1e9 }), "there is room for"],
      [() => model.start("a", { topP: 0 }), "top_p=0"],
      [() => model.start("a", { temperature: NaN }), "temperature=nan"],
      [() => model.start("a", { temperature: "1" }), "temperature=1: expected a number"],
      [() => model.start("a", { presencePenalty: 3 }), "presence_penalty=3"],
      [() => model.start("a", { seed: -1 }), "seed=-1"],
      [() => model.start("a", { seed: 2 ** 60 }), "seed="],
      [() => model.start("a", { stop: "" }), "an empty stop text"],
      [() => model.start("a", { max_tokens: 5 }), "no option 'max_tokens'"],
      [() => model.start(5), "expected a text, not number"],
      [() => model.tokenBytes(1 << 20), "expected"],
      [() => model.detokenize([-1]), "expected"],
      [() => model.top("a", 0), "k=0"],
      [() => engine.load("x"), "Uint8Array"],
      [() => engine.load(read(given.box), { context: 1 << 24 }), "bytes of memory"],
      [() => begun.next(), "an error ended this text"],
    ];
    const told = wrong.map(([work, expected]) => [message(work), expected]);
    const again = write(model, "Once", options);
    model.free();
    told.push([message(() => model.tokenize("a")), "was freed"]);
    result = [first, again, told];
    """
    first, again, told = run_node(tmp_path, script, box=str(BOX_FILE))
    assert first == again
    wrong = [(said, expected) for said, expected in told if expected not in (said or "")]
    assert not wrong


@needs_node
def test_hostile_files_are_one_plain_error(tmp_path: Path) -> None:
    """In the native engine's words, and the next file loads."""
    cases = [case for group in GROUPS.values() for case in group()]
    files = {f"{i}": case.data for i, case in enumerate(cases)}
    paths = write(tmp_path, {"valid": hybrid().render(), **files})
    script = """
    const engine = await loadEngine(wasm);
    const [first, ...others] = given.paths;
    const text = () => write(engine.load(read(first)), "the heat", { seed: 1, maxTokens: 5 }).text;
    const before = text();
    const use = (path) => {
      const model = engine.load(read(path));
      const refused = [
        message(() => write(model, "the heat", { maxTokens: 3, seed: 0 })),
        message(() => model.score("the hat")),
      ];
      for (const each of refused) {
        if (each?.startsWith("the engine stopped")) throw new IteraError(each);
      }
    };
    result = [others.map((path) => message(() => use(path))), before === text()];
    """
    messages, same = run_node(tmp_path, script, paths=list(map(str, paths)))
    assert same
    wrong = [
        f"{case.name}: {said}"
        for case, said in zip(cases, messages, strict=True)
        if (case.message != EITHER and case.message not in (said or ""))
        or (said or "").startswith("the engine stopped")
    ]
    assert not wrong, "\n".join(wrong)


def compressed(data: bytes) -> Iterator[bytes]:
    """Valid gzip files of every kind of block, with every field of a header."""
    for level in (0, 1, 6, 9):
        for strategy in (zlib.Z_DEFAULT_STRATEGY, zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE, zlib.Z_FIXED):
            for memory in (1, 9):
                made = zlib.compressobj(level, zlib.DEFLATED, 31, memory, strategy)
                yield made.compress(data) + made.flush()
    raw = gzip.compress(data, 9, mtime=0)
    header = raw[:3] + b"\x1e" + raw[4:10] + b"\x05\0extra" + b"name.gguf\0" + b"comment\0"
    header = header[:-1] + b"\0"
    yield header + struct.pack("<H", zlib.crc32(header) & 0xFFFF) + raw[10:]


@needs_node
def test_compressed_files_are_inflated_as_zlib_does_it(tmp_path: Path) -> None:
    data = hybrid("f32").render()
    noise = random.Random(0).randbytes(len(data) // 4)  # what no block compresses
    files = {f"{i}": file for i, file in enumerate(compressed(data + bytes(9000) + noise))}
    plain, *paths = write(tmp_path, {"plain": data + bytes(9000) + noise, **files})
    script = """
    const engine = await loadEngine(wasm);
    const use = (path) => engine.load(read(path)).score("the hat in the heat").bitsPerByte;
    result = [use(given.plain), ...given.paths.map(use)];
    """
    scores = run_node(tmp_path, script, plain=str(plain), paths=list(map(str, paths)))
    assert len(scores) > 30 and len(set(scores)) == 1 and scores[0] > 1


@needs_node
def test_damaged_compressed_files_get_zlibs_messages(tmp_path: Path) -> None:
    """Whole bytes and single bits are changed anywhere; zlib itself is the oracle."""
    data = hybrid().render()
    chosen, files = random.Random(5), {}
    sources = list(compressed(data))
    for i in range(600):
        bad = bytearray(chosen.choice(sources))
        for _ in range(chosen.randint(1, 3)):
            # Not the last four bytes: they are the room, which the engine reads before.
            bad[chosen.randrange(2, len(bad) - 4)] ^= 1 << chosen.randrange(8)
        files[f"{i}"] = bytes(bad)
    paths = list(map(str, write(tmp_path, files)))
    script = """
    const engine = await loadEngine(wasm);
    result = given.paths.map((path) => message(() => engine.load(read(path))));
    """
    found = run_node(tmp_path, script, paths=paths)
    native = """
from itera_lite.errors import ModelFileError
result = []
for path in given["paths"]:
    try:
        Model.load(path)
        result.append(None)
    except ModelFileError as error:
        result.append(str(error).removeprefix(f"{path}: "))
"""
    wanted = run_portable(native, paths=paths)
    assert found == wanted
    assert len({said for said in wanted if said and "damaged gzip" in said}) > 8


@needs_node
def test_what_is_no_engine_is_told(tmp_path: Path) -> None:
    script = """
    const fail = async (...given) => {
      try {
        await loadEngine(...given);
      } catch (error) {
        return [error instanceof IteraError, error.message];
      }
    };
    result = [await fail(wasm.slice(0, 1000)), await fail(wasm, { kernels: "avx2" })];
    """
    for is_error, said in run_node(tmp_path, script):
        assert is_error and "xpected" in said
