"""Writes a model as one C99 file with fixed memory, for microcontrollers.

`model.c` beside this module is the code. What a GGUF file holds, sizes, weights and tokenizer,
takes the place of ``#include "tables.h"`` in it, so the written file is the code as it stands
there. docs/microcontroller.md has what it costs on a processor.
"""

from __future__ import annotations

import math
import re
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf.vocab import bytes_to_unicode
from numpy.typing import NDArray

from itera_lite.checkpoint.folder import load_checkpoint
from itera_lite.errors import ExportError, IteraWarning, UsageError
from itera_lite.export.gguf import FILES, check_engine_runs, refuse_output, write_gguf
from itera_lite.export.reading import inflated
from itera_lite.export.summary import CSummary, StoredTensors
from itera_lite.export.types import BLOCK
from itera_lite.files import replacing

TYPES = ("f32", "q8_0", "q4_0", "mixed", "auto")  # of the types of `itera export`
MAGIC = b"/* Itera-Lite model in C99"
CONTEXT = 256  # tokens, unless the model's own is shorter or another is asked for
MOST_BYTES = 64_000_000  # of weights; beyond, compilers need tens of GB for the file
# Instructions of a multiply-add with weights of each type, of one of the state-space recurrence and
# of one of attention: counted on a Cortex-M7 in qemu, gcc 12 -O2.
_INSTRUCTIONS = {Type.F32: 6.5, Type.Q8_0: 6.2, Type.Q4_0: 6.3}
_STATE_INSTRUCTIONS, _ATTENTION_INSTRUCTIONS = 8.0, 6.0
_LANES, _CHUNK, _SPAN = 16, 512, 128  # as in model.c
_CODE = Path(__file__).parent


def export_c(
    checkpoint: str | Path,
    type: str = "q8_0",
    output: str | Path | None = None,
    context: int | None = None,
) -> CSummary:
    """Write a checkpoint as a C99 file. The same checkpoint gives the same bytes.

    Args:
        checkpoint: folder of the model, as `itera train` writes it.
        type: how the matrices are stored, one of `TYPES`.
        output: the file; by default ``model-TYPE.c`` inside the checkpoint.
        context: tokens that a text may have, for which memory is taken; by default 256, or the
            model's own context where that is less.

    Raises:
        UsageError: an unknown type, a context that the model wasn't made for, or an output that
            can't be a file.
        CheckpointError: a checkpoint that is missing or damaged.
        ExportError: weights that the type can't store, or a model of another family.
    """
    if type not in TYPES:
        raise UsageError(
            f"type='{type}': a C file has weights in {', '.join(TYPES[:-1])}, or auto of these"
        )
    folder = Path(checkpoint)
    path = folder / f"model-{type}.c" if output is None else Path(output)
    refuse_output(path, [folder / name for name in FILES], MAGIC, "exported C")
    model, tokenizer = load_checkpoint(folder)
    check_engine_runs(folder, model.config)
    with tempfile.TemporaryDirectory(prefix="itera-") as temporary:
        file = Path(temporary) / "model.gguf"
        write_gguf(folder, model, tokenizer, type, file)
        return write_c(file, path, context)


def write_c(file: Path, output: str | Path | None = None, context: int | None = None) -> CSummary:
    """Write a GGUF file as a C99 file, with the types that it has.

    Args:
        file: ``.gguf`` or ``.gguf.gz``, which the engine loads: it isn't checked again here.
        output: the file; by default beside the GGUF file, under its name with ``.c``.
        context: as in `export_c`.

    Raises:
        UsageError: a context that the model wasn't made for, or an output that can't be a file.
        ExportError: a tensor of a type that the C code doesn't read, by its name, a model that is
            too large for a source file, or a text that isn't UTF-8.
    """
    if output is None:
        output = file.with_name(re.sub(r"(\.gguf)?(\.gz)?$", "", file.name) + ".c")
    path = Path(output)
    refuse_output(path, [file], MAGIC, "exported C")
    with inflated(file) as plain:
        try:
            model = _Model(gguf.GGUFReader(plain), context)
        except UnicodeDecodeError as error:  # of a text that the engine doesn't look at
            raise ExportError(
                f"'{file}': a key or a text isn't UTF-8, as GGUF has it ({error}). Write the file "
                "again with the program that made it"
            ) from None
        parts = {
            "tables.h": "\n".join(model.tables()) + "\n",
            "unicode.h": (_CODE / "unicode.h").read_text(encoding="utf-8"),
        }
        source = (_CODE / "model.c").read_text(encoding="utf-8")
        for name, text in parts.items():
            source = source.replace(f'#include "{name}"\n', text)
        with replacing(path) as temporary:
            size = temporary.write_bytes(source.encode())
        return CSummary(
            path,
            size,
            model.stored,
            context=model.context,
            flash=model.flash + 4 * parts["unicode.h"].count("0x"),
            ram=model.ram(),
            multiply_adds=model.multiply_adds(),
            instructions=model.instructions(),
        )


class _Model:
    """The tables of a model, and what they cost.

    Attributes:
        flash: bytes of the tables that `tables` has written so far, on a 32-bit processor.
        stored: the weights by their type.
    """

    def __init__(self, reader: gguf.GGUFReader, context: int | None) -> None:
        self._keys = {name: field.contents() for name, field in reader.fields.items()}
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        self.flash = 0
        self.stored: dict[str, StoredTensors] = {}
        self._check_size(sum(int(tensor.n_bytes) for tensor in reader.tensors))
        length = int(self._key("context_length"))
        self.context = min(length, CONTEXT) if context is None else context
        if not 2 <= self.context <= min(length, 65_536):
            raise UsageError(
                f"context={self.context}: expected 2 to {min(length, 65_536)} tokens, as many as "
                "the model was made for"
            )
        self._read_shape()

    def _check_size(self, n_bytes: int) -> None:
        if n_bytes > MOST_BYTES:
            raise ExportError(
                f"weights of {n_bytes:,} bytes: a C file has {MOST_BYTES:,} at most, for compilers "
                "take no larger ones. Export a smaller model, or as gguf"
            )

    def _key(self, name: str, otherwise: Any = None) -> Any:
        """The value of a key of the architecture."""
        architecture = self._keys["general.architecture"]
        return self._keys.get(f"{architecture}.{name}", otherwise)

    def _scale(self, name: str, otherwise: float = 1.0) -> float:
        """A scale of granitehybrid: 0 means the same as no such key. A llama file has none."""
        hybrid = self._keys["general.architecture"] == "granitehybrid"
        return float((self._key(name, 0) if hybrid else 0) or otherwise)

    def _read_shape(self) -> None:
        """The shape by the rules of native/model/config.cc."""
        self.layers = int(self._key("block_count"))
        self.width = int(self._key("embedding_length"))
        self.vocabulary = len(self._keys["tokenizer.ggml.tokens"])
        self.heads = int(self._key("attention.head_count"))
        kv = self._key("attention.head_count_kv", self.heads)
        self.kv_heads = [int(n) for n in kv] if isinstance(kv, list) else [int(kv)]
        if len(self.kv_heads) == 1:
            self.kv_heads *= self.layers
        self.head = int(self._key("attention.key_length", self.width // self.heads))
        self.experts = int(self._key("expert_count", 0))
        self.chosen = int(self._key("expert_used_count", 0)) if self.experts else 0
        feed_forward = int(self._key("feed_forward_length"))
        self.expert_width = feed_forward if self.experts else 0
        shared = int(self._key("expert_shared_feed_forward_length", 0))
        self.ff = shared if self.experts else feed_forward
        mamba = 0 in self.kv_heads
        self.inner = int(self._key("ssm.inner_size")) if mamba else 0
        self.state = int(self._key("ssm.state_size")) if mamba else 0
        self.taps = int(self._key("ssm.conv_kernel")) if mamba else 0
        self.ssm_heads = int(self._key("ssm.time_step_rank")) if mamba else 0
        self.channels = self.inner + 2 * self.state
        self.rotary = self._rotary()
        kinds = {self._kind(name) for name in self._tensors if self._is_matrix(name)}
        self.quantised = bool(kinds - {Type.F32})
        self.kinds = kinds
        self.cache8 = self.quantised and self.head % _LANES == 0

    def _rotary(self) -> list[float]:
        """Radians a position of each pair of a head that is rotated."""
        hybrid = self._keys["general.architecture"] == "granitehybrid"
        if not any(self.kv_heads) or (hybrid and not self._key("rope.scaling.finetuned", True)):
            return []
        dims = int(self._key("rope.dimension_count", self.head))
        base = float(np.float32(self._key("rope.freq_base", 1e4)))
        factor = 1.0
        if self._key("rope.scaling.type", "linear") == "linear":
            factor = self._key("rope.scaling.factor", self._key("rope.scale_linear", 0)) or 1.0
        factor = float(np.float32(factor))
        result = [base ** (-2.0 * pair / dims) / factor for pair in range(dims // 2)]
        if (factors := self._tensors.get("rope_freqs.weight")) is not None:
            result = [a / float(b) for a, b in zip(result, factors.data, strict=True)]
        return result

    # ---- costs ----

    @property
    def _wide(self) -> int:
        return max(self.width, self.inner + self.channels + self.ssm_heads if self.inner else 0)

    @property
    def _mixed(self) -> int:
        return max(self.heads * self.head, self.inner)

    @property
    def _hidden(self) -> int:
        return max(self.expert_width, self.ff)

    @property
    def _scores(self) -> int:
        return min(_CHUNK, self.context) if self.cache8 else self.context

    @property
    def _widest(self) -> int:
        """Columns of the widest matrix, in whole blocks."""
        return -(-max(self.width, self._mixed, self._hidden) // BLOCK) * BLOCK

    def ram(self) -> int:
        """Bytes of the variable that model.c keeps everything in."""
        mamba_layers, caches = self.kv_heads.count(0), sum(self.kv_heads)
        words = 8 + 3 * self.width + self._wide + self._mixed + 2 * self._hidden + self.vocabulary
        octets = 0
        if self.experts:
            words += self.experts + 2 * self.chosen
        if mamba_layers:
            window, ssm = (self.taps - 1) * self.channels, self.inner * self.state
            words += self.channels + mamba_layers * (window + ssm)
        if caches:
            words += (self.heads + 2 * max(self.kv_heads)) * self.head
            words += self._scores + 2 * len(self.rotary)
            kept = 2 * caches * self.context
            if self.cache8:
                words += kept + self.head
                octets += kept * self.head + self.head + _SPAN
            else:
                words += kept * self.head
        if self.quantised:
            words += 2 * (self._widest // BLOCK)
            octets += self._widest
        return -(-(4 * words + octets) // 8) * 8

    def _products(self) -> Iterator[tuple[Type, int]]:
        """(type, multiply-adds) of each product with weights that a token takes."""
        for name in self._tensors:
            if self._is_matrix(name) and name != "token_embd.weight":
                share = self.chosen / self.experts if "_exps." in name else 1
                yield self._kind(name), int(self._size(name) * share)
        if "output.weight" not in self._tensors:
            yield self._kind("token_embd.weight"), self._size("token_embd.weight")

    def _size(self, name: str) -> int:
        return int(self._tensors[name].n_elements)

    @property
    def _state_adds(self) -> int:
        """Multiply-adds of the recurrences and convolutions of all Mamba-2 layers."""
        each = 3 * self.inner * self.state + self.channels * self.taps
        return self.kv_heads.count(0) * each

    @property
    def _attention_adds(self) -> int:
        """Multiply-adds of attention in the middle of the context."""
        layers = self.layers - self.kv_heads.count(0)
        return layers * 2 * self.heads * self.head * (self.context // 2)

    def multiply_adds(self) -> int:
        """Multiply-adds of a token in the middle of the context."""
        return sum(n for _, n in self._products()) + self._state_adds + self._attention_adds

    def instructions(self) -> int:
        """About how many instructions these take."""
        return int(
            sum(_INSTRUCTIONS[kind] * n for kind, n in self._products())
            + _STATE_INSTRUCTIONS * self._state_adds
            + _ATTENTION_INSTRUCTIONS * self._attention_adds
        )

    # ---- tables ----

    def tables(self) -> Iterator[str]:
        """The lines that take the place of tables.h."""
        name = re.sub(r"[^ -~]|[/*?\\]", "_", str(self._keys.get("general.name", "")))
        yield f"/* ---- the model: {name} ---- */"
        yield ""
        for macro, value in self._macros().items():
            yield f"#define ITERA_{macro} {value}"
        yield ""
        if self.rotary:
            yield from self._numbers("double", "rotary_frequencies", map(_exact, self.rotary), 8)
        layers = []
        places = {"mamba": 0, "attention": 0}
        for layer, kv_heads in enumerate(self.kv_heads):
            kind = "attention" if kv_heads else "mamba"
            members, lines = self._layer(layer, kv_heads)
            yield from lines
            place = places[kind]
            places[kind] += max(1, kv_heads)
            members = {"kv_heads": str(kv_heads), "place": str(place), **members}
            layers.append(", ".join(f".{member} = {value}" for member, value in members.items()))
        yield from self._floats("output_norm.weight", "output_norm")
        tied = "output.weight" not in self._tensors
        head = "token_embd.weight" if tied else "output.weight"
        for tensor in dict.fromkeys(("token_embd.weight", head)):
            yield from self._weights(tensor)
        yield f"static const Matrix embedding = {self._matrix('token_embd.weight')};"
        yield f"static const Matrix output = {self._matrix(head)};"
        self.flash += 2 * 16
        yield f"static const Layer layers[{self.layers}] = {{"
        for line in layers:
            yield from (f"    {part}" for part in _wrapped("{" + line + "},"))
        yield "};"
        self.flash += self.layers * (8 + 4 * 15 + 16 * 13)
        yield from self._tokenizer()

    def _macros(self) -> dict[str, Any]:
        eos = int(self._keys["tokenizer.ggml.eos_token_id"])
        adds = self._keys.get("tokenizer.ggml.add_bos_token", False)
        temperature, top_p = self._sampling()
        scale = self._scale("attention.scale", 1 / math.sqrt(self.head))
        return {
            "LAYERS": self.layers,
            "WIDTH": self.width,
            "VOCABULARY": self.vocabulary,
            "CONTEXT": self.context,
            "EOT": eos,
            "BOS": int(self._keys["tokenizer.ggml.bos_token_id"]) if adds else -1,
            "HEADS": self.heads,
            "HEAD": self.head,
            "KV_HEADS": max(self.kv_heads),
            "CACHES": sum(self.kv_heads),
            "CACHE8": int(self.cache8),
            "ROTARY": 2 * len(self.rotary),
            "SCORES": self._scores,
            "MAMBA_LAYERS": self.kv_heads.count(0),
            "INNER": self.inner,
            "STATE": self.state,
            "TAPS": self.taps,
            "SSM_HEADS": self.ssm_heads,
            "EXPERTS": self.experts,
            "CHOSEN": self.chosen,
            "EXPERT_WIDTH": self.expert_width,
            "FF": self.ff,
            "WIDE": self._wide,
            "MIXED": self._mixed,
            "HIDDEN": self._hidden,
            "WIDEST": self._widest,
            "QUANTIZED": int(self.quantised),
            **{f"HAS_{kind.name}": int(kind in self.kinds) for kind in _INSTRUCTIONS},
            "EPSILON": _float(self._key("attention.layer_norm_rms_epsilon")),
            "ATTENTION_SCALE": _float(scale),
            "EMBEDDING_SCALE": _float(self._scale("embedding_scale")),
            "RESIDUAL_SCALE": _float(self._scale("residual_scale")),
            "LOGIT_SCALE": _float(self._scale("logit_scale")),
            "TEMPERATURE": _float(temperature),
            "TOP_P": _float(top_p),
            "MERGES": len(self._merges),
        }

    def _sampling(self) -> tuple[float, float]:
        """Temperature and top-p that the file advises; warns of what the C code doesn't have."""

        def advised(name: str, otherwise: float) -> float:
            return float(self._keys.get(f"general.sampling.{name}", otherwise))

        sequence = self._keys.get("general.sampling.sequence")
        named = {"temperature", "top_p"} if sequence is None else set(sequence.split(";"))
        left_out = (("top_k", 0), ("min_p", 0), ("penalty_repeat", 1))
        for name, neutral in left_out:
            if advised(name, neutral) != neutral:
                warnings.warn(
                    f"the model's file advises {name}={advised(name, neutral):g}, which the C code "
                    "leaves out: it has temperature and top_p",
                    IteraWarning,
                    stacklevel=2,
                )
        temperature = max(0.0, advised("temp", 0.8)) if "temperature" in named else 1.0
        top_p = min(1.0, advised("top_p", 0.95)) if "top_p" in named else 1.0
        return temperature, max(top_p, float(np.finfo(np.float32).tiny))

    def _layer(self, layer: int, kv_heads: int) -> tuple[dict[str, str], list[str]]:
        """The members of a layer, and the lines of the arrays that they point to."""
        members, lines = {}, []
        attention = {
            **{part: f"attn_{part}.weight" for part in "qkv"},
            "o": "attn_output.weight",
            **{f"{part}_bias": f"attn_{part}.bias" for part in "qkv"},
            "o_bias": "attn_output.bias",
        }
        mamba = {
            "in": "ssm_in.weight",
            "out": "ssm_out.weight",
            "conv": "ssm_conv1d.weight",
            "conv_bias": "ssm_conv1d.bias",
            "dt_bias": "ssm_dt.bias",
            "a": "ssm_a",
            "d": "ssm_d",
            "ssm_norm": "ssm_norm.weight",
        }
        shared = "_shexp" if self.experts else ""
        feed_forward = {
            "router": "ffn_gate_inp.weight",
            **{f"expert_{part}s": f"ffn_{part}_exps.weight" for part in ("gate", "up", "down")},
            **{part: f"ffn_{part}{shared}.weight" for part in ("gate", "up", "down")},
            **{f"{part}_bias": f"ffn_{part}.bias" for part in ("gate", "up", "down")},
        }
        names = {
            "mixer_norm": "attn_norm.weight",
            "ffn_norm": "ffn_norm.weight",
            **(attention if kv_heads else mamba),
            **feed_forward,
        }
        for member, tensor in names.items():
            name = f"blk.{layer}.{tensor}"
            if name not in self._tensors:
                continue
            if self._is_matrix(name):
                lines += self._weights(name)
                members[member] = self._matrix(name)
            else:
                lines += self._floats(name)
                members[member] = _identifier(name)
        return members, lines

    def _is_matrix(self, name: str) -> bool:
        small = re.search(r"ssm_(conv1d|a|d|norm)\b", name)
        return not small and len(self._tensors[name].shape) > 1

    def _kind(self, name: str) -> Type:
        """The type of a matrix.

        Raises:
            ExportError: the C code doesn't read it.
        """
        kind = Type(self._tensors[name].tensor_type)
        if kind not in _INSTRUCTIONS:
            expected = ", ".join(known.name for known in _INSTRUCTIONS)
            raise ExportError(
                f"'{name}' has weights in {kind.name}: a C file has {expected}. Export the "
                "checkpoint with --type q8_0"
            )
        return kind

    def _matrix(self, name: str) -> str:
        """The initialiser of a Matrix; a stack of experts is one matrix."""
        columns = int(self._tensors[name].shape[0])
        rows = self._size(name) // columns
        return f"{{{rows}, {columns}, {self._kind(name).name}, {_identifier(name)}}}"

    def _weights(self, name: str) -> list[str]:
        kind = self._kind(name)
        if kind == Type.F32:
            return self._floats(name)
        data: NDArray[np.uint8] = np.array(self._tensors[name].data, dtype=np.uint8).reshape(-1)
        size = 2 + (BLOCK if kind == Type.Q8_0 else BLOCK // 2)
        blocks = data.reshape(-1, size)
        if kind == Type.Q8_0:  # -128, which no writer makes, is -127 in the engine
            blocks[:, 2:][blocks[:, 2:] == 0x80] = 0x81
        self._count(kind, self._size(name), data.size)
        values = map(str, data.tolist())
        return list(self._numbers("uint8_t", _identifier(name), values, 1, per_line=size))

    def _floats(self, name: str, variable: str | None = None) -> list[str]:
        if Type(self._tensors[name].tensor_type) != Type.F32:
            self._kind(name)
            raise ExportError(
                f"'{name}' has {self._tensors[name].tensor_type.name} numbers: a C file has F32 "
                "there. Export the checkpoint with `itera export`"
            )
        data = np.asarray(self._tensors[name].data, dtype=np.float32).reshape(-1)
        self._count(Type.F32, data.size, data.nbytes)
        values = (_float(value) for value in data.tolist())
        return list(self._numbers("float", variable or _identifier(name), values, 4))

    def _count(self, kind: Type, weights: int, n_bytes: int) -> None:
        stored = self.stored.get(kind.name, StoredTensors())
        self.stored[kind.name] = stored.plus(weights, n_bytes)

    def _numbers(
        self, kind: str, name: str, values: Iterable[str], size: int, per_line: int = 8
    ) -> Iterator[str]:
        """An array; ``size`` bytes of flash each."""
        words = list(values)
        self.flash += size * len(words)
        yield f"static const {kind} {name}[{len(words)}] = {{"
        for at in range(0, len(words), per_line):
            yield ",".join(words[at : at + per_line]) + ","
        yield "};"

    # ---- the tokenizer ----

    @cached_property
    def _merges(self) -> list[tuple[int, int, int, int]]:
        """(left, right, rank, result), in the order of left and right."""
        ids = {token: place for place, token in enumerate(self._keys["tokenizer.ggml.tokens"])}
        merges = []
        for rank, text in enumerate(self._keys["tokenizer.ggml.merges"]):
            left, right = text.split(" ")
            merges.append((ids[left], ids[right], rank, ids[left + right]))
        return sorted(merges)

    def _tokenizer(self) -> Iterator[str]:
        octets = {character: byte for byte, character in bytes_to_unicode().items()}
        types = self._keys["tokenizer.ggml.token_type"]
        tokens = [
            b"" if kind == gguf.TokenType.CONTROL else bytes(octets[letter] for letter in token)
            for token, kind in zip(self._keys["tokenizer.ggml.tokens"], types, strict=True)
        ]
        byte_ids = {token[0]: place for place, token in enumerate(tokens) if len(token) == 1}
        ends = np.cumsum([len(token) for token in tokens]).tolist()
        yield from self._integers("token_bytes", [byte for token in tokens for byte in token])
        yield from self._integers("token_ends", ends)
        yield from self._integers("byte_ids", [byte_ids[byte] for byte in range(256)])
        if self._merges:
            for place, name in enumerate(("left", "right", "rank", "result")):
                column = [merge[place] for merge in self._merges]
                yield from self._integers(f"merge_{name}", column)

    def _integers(self, name: str, values: Sequence[int]) -> Iterator[str]:
        """An array of the smallest unsigned integers that hold the values."""
        bits = next(bits for bits in (8, 16, 32) if max(values) < 1 << bits)
        return self._numbers(f"uint{bits}_t", name, map(str, values), bits // 8, per_line=16)


def _identifier(tensor: str) -> str:
    return re.sub(r"\W", "_", tensor)


def _exact(value: float) -> str:
    """A double as a C constant, bit for bit."""
    mantissa, exponent = float(value).hex().split("p")
    return f"{mantissa.rstrip('0').rstrip('.')}p{exponent}"


def _float(value: float) -> str:
    """The nearest float as a C constant, bit for bit."""
    return _exact(float(np.float32(value))) + "f"


def _wrapped(line: str, width: int = 96) -> Iterator[str]:
    """The line in parts of at most ``width`` characters, cut at spaces."""
    while len(line) > width:
        at = line.rindex(" ", 0, width)
        yield line[:at]
        line = line[at + 1 :]
    yield line
