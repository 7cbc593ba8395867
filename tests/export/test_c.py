"""`itera export --format c`: the C file computes what the portable engine computes, bit for bit."""

import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from itera_lite.cli import main
from itera_lite.engine.find import BOX
from itera_lite.errors import ExportError, IteraWarning, UsageError
from itera_lite.export.c import source
from itera_lite.export.c.source import export_c, write_c
from itera_lite.export.summary import CSummary
from tests.export.models import ITERA
from tests.native.gguf_bytes import BOOL, F32, I32, STRING, U32, Draft, array, encode, scalar
from tests.native.gguf_models import D, byte_characters, hybrid, llama, tokens

HERE = Path(__file__).parent
(BOXED,) = BOX.glob("*.gguf")
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic")
PROMPT = "Once upon a time"
LIBRARY = {"memcpy", "memmove", "memset", "memcmp", "sqrtf", "rintf", "cos", "sin", "sincos"}
GREEDY, SEEDS, SAMPLED = 40, (1, 2, 3), 24
BIASES = {"attn_q": D, "attn_k": D // 2, "attn_v": D // 2, "attn_output": D, "ffn_gate": 32}


def with_bos(draft: Draft) -> Draft:
    return draft.set("tokenizer.ggml.add_bos_token", scalar(BOOL, True))


def with_tensors(draft: Draft, shapes: dict[str, tuple[int, ...]], kind: str = "f32") -> Draft:
    random = np.random.default_rng(3)
    draft = draft.copy()
    for name, shape in shapes.items():
        draft.tensors.append((name, encode(random.normal(0, 0.3, shape), kind)))
    return draft


def with_scales(draft: Draft, **scales: float) -> Draft:
    for name, value in scales.items():
        draft = draft.set(f"granitehybrid.{name}", scalar(F32, value))
    return draft


def drafts() -> dict[str, Draft]:
    """A model for each branch of the code."""
    scaled = with_scales(
        hybrid("q8_0", "ma", experts=0, taps=2), embedding_scale=3, residual_scale=0.5
    )
    biases = {f"blk.1.{name}.bias": (width,) for name, width in BIASES.items()}
    far = llama("q8_0", "aa", kv_heads=2).set("llama.rope.scaling.factor", scalar(F32, 4.0))
    plain = with_bos(llama("f32", "a", context=200))
    plain.tensors.append(("rope_freqs.weight", encode(np.linspace(1, 8, D // 4), "f32")))
    return {
        # long enough for several chunks of attention
        "long": with_bos(hybrid("q8_0", "mam", shared=32, context=1100)),
        "q4_0": with_bos(hybrid("q4_0", "am", top_k=3, state=9)),
        "f32": hybrid("f32", "ma", ff=24, ssm_heads=4),
        "scales": with_tensors(
            with_scales(scaled, logit_scale=2.0), {"output.weight": (len(tokens()), D)}, "q4_0"
        ),
        "biases": with_tensors(llama("q8_0", "aa"), biases),
        "rotary": far.set("llama.rope.dimension_count", scalar(U32, 8)),
        "llama": plain,
        # heads too narrow for keys in 8 bits
        "narrow": hybrid("q8_0", "aa", heads=4, kv_heads=2),
        "positions": hybrid("q4_0", "ma").set(
            "granitehybrid.rope.scaling.finetuned", scalar(BOOL, True)
        ),
        "bytes": hybrid("q8_0", "a").set("tokenizer.ggml.merges", array(STRING, [])),
    }


REFERENCE = """
import json, sys
import numpy as np
from itera_lite.engine import Model

answers = {}
for name, (path, text, count) in json.load(sys.stdin).items():
    model = Model.load(path)
    assert model.isa == "portable"
    ids = np.random.default_rng(0).integers(0, model.vocab_size, count).tolist()
    if model.bos_id is not None:
        ids[0] = model.bos_id
    greedy, seeds, sampled = (json.loads(each) for each in sys.argv[2:])
    texts = {
        "greedy": model.generate(text, temperature=0, max_tokens=greedy).token_ids,
        **{
            f"{seed}-{top_p}": model.generate(
                text, temperature=0.9, top_p=top_p, seed=seed, max_tokens=sampled
            ).token_ids
            for seed in seeds
            for top_p in (0.9, 1.0)
        },
    }
    np.savez(
        f"{sys.argv[1]}/{name}.npz", ids=np.array(ids), logits=model.logits(ids),
        prompt=np.array(model.tokenize(text)),
        **{key: np.array(value) for key, value in texts.items()},
    )
"""


class Library:
    """The C file, compiled and loaded."""

    def __init__(self, path: Path) -> None:
        self._c = ctypes.CDLL(str(path))
        self._c.itera_logits.restype = ctypes.POINTER(ctypes.c_float)
        self._c.itera_bytes.restype = ctypes.c_void_p
        self._c.itera_sampling.argtypes = [ctypes.c_float, ctypes.c_float, ctypes.c_uint64]
        self._c.itera_encode.argtypes = [
            *(ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int32)
        ]
        self.init, self.sampling, self.next = (
            getattr(self._c, f"itera_{name}") for name in ("init", "sampling", "next")
        )

    def encode(self, text: bytes, room: int | None = None) -> list[int] | int:
        room = len(text) if room is None else room
        ids = (ctypes.c_int32 * max(1, room))()
        n = self._c.itera_encode(text, len(text), ids, room)
        return n if n < 0 else list(ids[:n])

    def read(self, ids: list[int]) -> int:
        return self._c.itera_read((ctypes.c_int32 * len(ids))(*ids), len(ids))

    def logits(self, vocabulary: int) -> np.ndarray | None:
        found = self._c.itera_logits()
        return np.ctypeslib.as_array(found, (vocabulary,)).copy() if found else None

    def bytes(self, token: int) -> bytes:
        length = ctypes.c_int32()
        return ctypes.string_at(self._c.itera_bytes(token, ctypes.byref(length)), length.value)

    def write(self, prompt: list[int], tokens: int) -> list[int]:
        """What goes on from the prompt, with the sampling as it is."""
        assert self.read(prompt) == 0
        written = []
        while len(written) < tokens and (token := self.next()) >= 0:
            written.append(token)
        return written


@dataclass(frozen=True)
class Case:
    summary: CSummary
    library: Library
    expected: dict[str, np.ndarray]
    has_bos: bool


def compile_c(c_file: Path, output: Path, *options: str, compiler: str = "cc") -> Path:
    libraries = [] if "-c" in options else ["-lm"]
    command = [compiler, *STRICT, *options, str(c_file), "-o", str(output), *libraries]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return output


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("c")


@pytest.fixture(scope="module")
def files(folder: Path) -> dict[str, Path]:
    """GGUF files by name; `box` is the model in the box."""
    paths = {"box": BOXED}
    for name, draft in drafts().items():
        paths[name] = folder / f"{name}.gguf"
        paths[name].write_bytes(draft.render())
    return paths


@pytest.fixture(scope="module")
def cases(files: dict[str, Path], folder: Path) -> dict[str, Case]:
    """Each model, compiled as a library, with the results of the portable engine for it."""
    lengths = {"long": 1100, "llama": 200, "box": 200}
    wanted = {
        name: (str(path), PROMPT if name == "box" else "the heat", lengths.get(name, 64))
        for name, path in files.items()
    }
    budgets = [json.dumps(each) for each in (GREEDY, SEEDS, SAMPLED)]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", REFERENCE, str(folder), *budgets],
        input=json.dumps(wanted),
        env={**os.environ, "ITERA_ISA": "portable"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    result = {}
    for name, path in files.items():
        summary = write_c(path, folder / f"{name}.c", wanted[name][2])
        library = compile_c(summary.path, folder / f"{name}.so", "-O1", "-shared", "-fPIC")
        expected = dict(np.load(folder / f"{name}.npz"))
        has_bos = name in ("long", "q4_0", "llama", "box")
        result[name] = Case(summary, Library(library), expected, has_bos)
    return result


NAMES = [*drafts(), "box"]


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_the_portable_engines_bit_for_bit(name: str, cases: dict[str, Case]) -> None:
    case = cases[name]
    ids, expected = case.expected["ids"].tolist(), case.expected["logits"]
    case.library.init()
    for place, token in enumerate(ids):
        if place > 0 or not case.has_bos:  # which itera_init reads
            assert case.library.read([token]) == 0
        ours = case.library.logits(expected.shape[1])
        np.testing.assert_array_equal(ours, expected[place], err_msg=f"token {place}")
    assert case.library.read([0]) == -2, "the context is full"


@pytest.mark.parametrize("name", NAMES)
def test_greedy_and_sampled_texts_are_the_portable_engines(
    name: str, cases: dict[str, Case]
) -> None:
    case, library = cases[name], cases[name].library
    prompt = case.expected["prompt"].tolist()
    text = PROMPT if name == "box" else "the heat"
    assert library.encode(text.encode()) == prompt
    library.init()
    library.sampling(0, 1, 0)
    assert library.write(prompt, GREEDY) == case.expected["greedy"].tolist()
    texts = set()
    for seed in SEEDS:
        for top_p in (0.9, 1.0):
            library.init()
            library.sampling(0.9, top_p, seed)
            ours = library.write(prompt, SAMPLED)
            assert ours == case.expected[f"{seed}-{top_p}"].tolist(), (seed, top_p)
            texts.add(tuple(ours))
    assert len(texts) > 2


AWKWARD = [
    b"it's we'll they've I'm he'd we're don't 'sup'",
    b"   two  spaces\n\n and\ttabs \r\n end ",
    "Ünïcödé ½ ① Ⅷ 漢字 🙂 e\u0301 \u00a0\u2003x".encode(),
    b"\xff\xfe half \xc3 \xe2\x82 bytes \xf0\x9f\x98 \xed\xa0\x80 \xc0\x80 end\xe2",
    b"a" * 300,
    b"nul\x00in it",
    b"' '' 's 'S \xe2\x80\x99s",
    bytes(range(256)),
    b"",
]


def test_the_tokenizer_is_the_engines(cases: dict[str, Case]) -> None:
    from itera_lite.engine import Model

    model, library = Model.load(BOXED), cases["box"].library
    random = np.random.default_rng(1)
    noise = [random.bytes(int(n)) for n in random.integers(1, 60, 300)]
    words = [" ".join(random.choice(["the", "Lily's", "9,5", "…", "\n", "été"], 9)).encode()]
    for text in [*AWKWARD, *noise, *words, Path(__file__).read_bytes()]:
        ids = library.encode(text)
        assert ids == model.tokenize(text), text
        assert b"".join(library.bytes(token) for token in ids) == text
    assert library.encode(b"no room", 3) == -2
    assert library.bytes(model.eot_id) == b"" == library.bytes(-1) == library.bytes(1 << 20)


def test_the_characters_are_those_of_the_engine() -> None:
    ours, native = (
        re.findall(r"0x\w{6}", path.read_text())
        for path in (
            Path(source.__file__).parent / "unicode.h",
            HERE.parents[1] / "native/text/unicode.h",
        )
    )
    assert ours == native and len(ours) > 1000


def test_wrong_use_of_the_functions_is_an_answer(cases: dict[str, Case]) -> None:
    library = cases["f32"].library  # in whose texts nothing comes first
    library.init()
    assert library.next() == -3 and library.logits(260) is None
    assert library.read([260]) == library.read([-1]) == -3
    assert library.read([0] * 65) == -2
    assert library.read([104] * 63) == 0
    library.sampling(0, 1, 0)
    assert len(library.write([], 9)) == 2  # the last one is chosen and not read


COMPILERS = ("gcc", "clang")


@pytest.mark.parametrize("compiler", COMPILERS)
def test_the_file_compiles_without_a_warning_and_sanitizers_find_nothing(
    compiler: str, cases: dict[str, Case], folder: Path
) -> None:
    if not shutil.which(compiler):
        pytest.skip(f"{compiler} isn't installed")
    for name, case in cases.items():
        if name != "box":
            compile_c(case.summary.path, folder / "x.o", "-c", "-O2", compiler=compiler)
    text = b"the heat " * 40
    for name in ("long", "llama"):
        program = compile_c(
            cases[name].summary.path,
            folder / f"{name}-{compiler}",
            *("-O1", "-DITERA_MAIN", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
            compiler=compiler,
        )
        for prompt, options in ((text[:200], ["30", "0"]), (b"the heat", ["60", "0.9", "1"])):
            done = subprocess.run([program, prompt, *options], capture_output=True)
            assert done.returncode == 0, done.stderr.decode()
            assert done.stdout.startswith(prompt)
    done = subprocess.run([program, b"x!" * 400], capture_output=True)
    assert done.returncode == 1 and b"room for 200 tokens" in done.stderr


def test_the_program_writes_the_engines_text(cases: dict[str, Case], folder: Path) -> None:
    case, prompt = cases["q4_0"], b"the heat"
    program = compile_c(case.summary.path, folder / "program", "-O2", "-DITERA_MAIN")
    greedy = b"".join(case.library.bytes(token) for token in case.expected["greedy"].tolist())
    run = subprocess.run([program, prompt, str(GREEDY), "0"], capture_output=True, check=True)
    assert run.stdout == prompt + greedy + b"\n"
    run = subprocess.run([program], input=prompt, capture_output=True, check=True)
    assert run.stdout.startswith(prompt) and len(run.stdout) > len(prompt) + 9


def test_a_prompt_on_standard_input_is_read_whole_or_refused(tmp_path: Path) -> None:
    """With tokens of 17 bytes, the beginning of a prompt that is too long has room."""
    merges = ["h h", "hh hh", "hhhh hhhh", f"{'h' * 8} {'h' * 8}", f"Ġ {'h' * 16}"]
    names = [*byte_characters(), "<|endoftext|>", *(merge.replace(" ", "") for merge in merges)]
    types = [3 if name == "<|endoftext|>" else 1 for name in names]
    weights = np.random.default_rng(0).normal(0, 0.3, (len(names), D))
    draft = llama(context=16).put("token_embd.weight", encode(weights, "f32"))
    draft = draft.set("tokenizer.ggml.tokens", array(STRING, names))
    draft = draft.set("tokenizer.ggml.token_type", array(I32, types))
    draft = draft.set("tokenizer.ggml.merges", array(STRING, merges))
    (path := tmp_path / "model.gguf").write_bytes(draft.render())
    program = compile_c(write_c(path).path, tmp_path / "program", "-O1", "-DITERA_MAIN")
    word = b" " + 16 * b"h"
    done = subprocess.run([program], input=15 * word, capture_output=True)
    assert done.returncode == 0 and done.stdout.startswith(15 * word)
    done = subprocess.run([program], input=20 * word, capture_output=True)
    assert done.returncode == 1 and b"room for 16 tokens" in done.stderr


def sections(c_object: Path, tool: str) -> dict[str, int]:
    """Bytes of each section of an object file."""
    text = subprocess.run([tool, "-A", c_object], capture_output=True, text=True, check=True).stdout
    found: dict[str, int] = {}
    for name, size in re.findall(r"^(\.\w+)\S*\s+(\d+)", text, re.MULTILINE):
        found[name] = found.get(name, 0) + int(size)
    return found


@pytest.mark.parametrize("name", drafts())
def test_ram_is_what_the_compiler_takes(name: str, cases: dict[str, Case], folder: Path) -> None:
    summary = cases[name].summary
    options = ("-c", "-O1", "-fno-pie", "-fno-stack-protector")
    compiled = compile_c(summary.path, folder / "size.o", *options)
    sizes = sections(compiled, "size")
    assert sizes[".bss"] == summary.ram
    assert sizes[".data"] == 0
    needed = subprocess.run(["nm", "-u", compiled], capture_output=True, text=True).stdout.split()
    assert "sqrtf" in needed and set(needed) - {"U"} <= LIBRARY


def test_the_example_of_the_page_compiles(cases: dict[str, Case], folder: Path) -> None:
    page = (HERE.parents[1] / "docs/microcontroller.md").read_text()
    (example,) = re.findall(r"^```c\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    included = example.replace("model-q8_0.c", str(cases["q4_0"].summary.path))
    assert included != example
    (file := folder / "example.c").write_text(
        f"#include <stdint.h>\nvoid uart_write(const char *, int32_t);\n{included}"
    )
    compile_c(file, folder / "example.o", "-c")


ARM = {
    "mps2-an500": ("cortex-m7", "fpv5-sp-d16"),
    "mps2-an386": ("cortex-m4", "fpv4-sp-d16"),
}


@pytest.mark.parametrize("board", ARM)
def test_a_cortex_m_writes_the_same_tokens(
    board: str, files: dict[str, Path], cases: dict[str, Case], folder: Path
) -> None:
    """Flash, RAM, stack and instructions are those that the export states."""
    for program in ("arm-none-eabi-gcc", "qemu-system-arm"):
        if not shutil.which(program):
            pytest.skip(f"{program} isn't installed")
    processor, unit = ARM[board]
    machine = ("-mthumb", f"-mcpu={processor}", f"-mfpu={unit}", "-mfloat-abi=hard")
    for name, count in (("box", 24), ("rotary", 12)):
        summary = cases[name].summary
        prompt = PROMPT if name == "box" else "the heat"
        gcc = ("arm-none-eabi-gcc", *machine, "-O2")
        model, image = folder / f"{board}-{name}.o", folder / f"{board}-{name}.elf"
        subprocess.run(
            [*gcc, *STRICT, "-fstack-usage", "-c", summary.path, "-o", model], check=True
        )
        board_file = [f'-DMODEL="{summary.path}"', f'-DPROMPT="{prompt}"', f"-DTOKENS={count}"]
        layout = ("-nostartfiles", "-T", HERE / "arm/mps2.ld")
        subprocess.run(
            [*gcc, *board_file, HERE / "arm/board.c", model, *layout, "-lm", "-o", image],
            check=True,
        )
        qemu = ["qemu-system-arm", "-M", board, "-display", "none", "-icount", "shift=0"]
        qemu += ["-semihosting-config", "enable=on,target=native", "-kernel", image]
        done = subprocess.run(qemu, capture_output=True, text=True, timeout=600)
        printed = (done.stdout + done.stderr).split()
        *ids, label, instructions = printed
        expected = case_ids(cases[name], count)
        assert [int(each) for each in ids] == expected, done.stdout + done.stderr
        assert label == "instructions"
        sizes = sections(model, "arm-none-eabi-size")
        assert sizes[".bss"] == summary.ram and sizes.get(".data", 0) == 0
        assert abs(sizes[".rodata"] - summary.flash) < 600
        assert sizes[".text"] < 12_000
        stack = [int(n) for n in re.findall(r"\t(\d+)\t", model.with_suffix(".su").read_text())]
        assert 0 < sum(stack) <= 1_000
        if name == "box" and processor == "cortex-m7":
            assert int(instructions) == pytest.approx(summary.instructions, rel=0.15)


def case_ids(case: Case, count: int) -> list[int]:
    return [*case.expected["prompt"].tolist(), *case.expected["greedy"].tolist()[:count]]


# ---- what a user meets ----


def test_a_checkpoint_and_its_gguf_file_give_the_same_tables(save_random, tmp_path, capsys) -> None:
    checkpoint = save_random(ITERA)
    assert main(["export", str(checkpoint), "--format", "c", "--type", "q4_0"]) == 0
    printed = capsys.readouterr().out
    ours = checkpoint / "model-q4_0.c"
    assert str(ours) in printed and "context 256 tokens" in printed
    for word in ("flash:", "RAM:", "instructions"):
        assert word in printed
    assert main(["export", str(checkpoint), "--type", "q4_0", "--format", "gguf.gz"]) == 0
    packed = checkpoint / "model-q4_0.gguf.gz"
    assert main(["export", str(packed), "--output", str(tmp_path / "x.c")]) == 0
    assert (tmp_path / "x.c").read_bytes() == ours.read_bytes()
    assert export_c(checkpoint, "q4_0").path.read_bytes() == ours.read_bytes()
    assert write_c(packed).path == ours
    shutil.copy(packed, tmp_path / "renamed.gguf")  # compressed by its content alone
    assert write_c(tmp_path / "renamed.gguf").path.read_bytes() == ours.read_bytes()


def test_wrong_use_of_the_verb(save_random, tmp_path, capsys) -> None:
    checkpoint = save_random(ITERA)
    (tmp_path / "letter.c").write_text("int main;")
    gguf = tmp_path / "model.gguf"
    gguf.write_bytes(hybrid("f16").render())
    (tmp_path / "broken.gguf").write_bytes(gguf.read_bytes()[:900])
    c = ["--format", "c"]
    for arguments, code, message in (
        ([checkpoint, *c, "--type", "f16"], 2, "f32, q8_0, q4_0, mixed, or auto"),
        ([checkpoint, *c, "--context", "1"], 2, "expected 2 to 8192 tokens"),
        ([checkpoint, *c, "--context", "8193"], 2, "expected 2 to 8192 tokens"),
        ([checkpoint, "--context", "64"], 2, "for --format c"),
        ([checkpoint, *c, "--output", tmp_path / "letter.c"], 2, "no exported C file"),
        ([checkpoint, *c, "--output", checkpoint / "config.json"], 2, "made from"),
        ([gguf, *c], 1, "in F16: a C file has F32, Q8_0, Q4_0"),
        ([gguf, *c, "--type", "q4_0"], 2, "has its types already"),
        ([tmp_path / "broken.gguf", *c], 1, "broken.gguf"),
        ([tmp_path / "none.gguf", *c], 1, "no model at"),
    ):
        assert main(["export", *map(str, arguments)]) == code, arguments
        error = capsys.readouterr().err
        assert message in error and "Traceback" not in error, error
    assert not list(tmp_path.glob("model.c")) and not list(checkpoint.glob("*.c"))
    assert (tmp_path / "letter.c").read_text() == "int main;"


def test_what_a_file_advises_and_the_c_code_lacks_is_a_warning(tmp_path: Path) -> None:
    draft = hybrid().set("general.sampling.top_k", scalar(U32, 40))
    (path := tmp_path / "model.gguf").write_bytes(draft.render())
    with pytest.warns(IteraWarning, match="top_k=40, which the C code leaves out"):
        written = write_c(path).path.read_text()
    assert "#define ITERA_TOP_P 0x1.e66666p-1f" in written  # 0.95


def test_a_text_that_is_not_utf8_is_an_error(tmp_path, capsys) -> None:
    draft = hybrid().set("general.description", scalar(STRING, b"caf\xe9"))
    (path := tmp_path / "model.gguf").write_bytes(draft.render())
    assert main(["export", str(path), "--format", "c"]) == 1
    error = capsys.readouterr().err
    assert f"'{path}': a key or a text isn't UTF-8" in error and "Traceback" not in error
    assert not (tmp_path / "model.c").exists()


def test_a_model_that_no_compiler_takes_is_refused(tmp_path, monkeypatch) -> None:
    (path := tmp_path / "model.gguf").write_bytes(hybrid().render())
    monkeypatch.setattr(source, "MOST_BYTES", 1000)
    with pytest.raises(ExportError, match="1,000 at most"):
        write_c(path)
    with pytest.raises(UsageError, match="f32, q8_0"):
        export_c(tmp_path, "q5_0")
