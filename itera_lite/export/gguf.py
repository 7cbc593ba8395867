"""Exports a checkpoint to one GGUF file, which llama.cpp and programs built on it load.

The Itera model becomes llama.cpp's ``granitehybrid``, the Transformer its ``llama``, a GPT-2 its
``gpt2``, which the native engine doesn't run. The file holds the tokenizer and the sampling
defaults too. docs/export.md lists the keys.
"""

from __future__ import annotations

import os
import re
import struct
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGUFValueType, Keys, TokenType

from itera_lite.checkpoint.folder import load_checkpoint
from itera_lite.config import ModelConfig
from itera_lite.data.tokenizer import EOT, Tokenizer
from itera_lite.errors import ExportError, UsageError
from itera_lite.export.summary import ExportSummary, Format, StoredTensors
from itera_lite.export.tensors import gguf_tensors
from itera_lite.export.types import (
    SCHEMES,
    Scheme,
    exact_scheme,
    is_matrix,
    pack,
    packed_bytes,
    stored_type,
)
from itera_lite.files import (
    GZIP,
    begins_with,
    check_output_file,
    exists,
    folder_name,
    gzipped,
    is_special,
    replacing,
)
from itera_lite.model import LanguageModel
from itera_lite.sampling import read_generation_config

# The files of a checkpoint's folder, which no output may replace
FILES = (
    *("config.json", "generation_config.json", "model.safetensors", "model.safetensors.index.json"),
    *("tokenizer.json", "tokenizer_config.json"),
)
# llama.cpp's default order, but temperature before the cuts, as our own sampler has it
_SAMPLING_SEQUENCE = "penalties;dry;top_n_sigma;temperature;top_k;typ_p;top_p;min_p;xtc"
# Without a template, a chat program would add its own role markers. This one gives the text as it
# is, so that the model continues it.
_CHAT_TEMPLATE = (
    "{# A base model: it goes on from the text of the conversation, without roles. #}"
    "{{ bos_token }}{% for message in messages %}{{ message['content'] }}{% endfor %}"
)


def export_gguf(
    checkpoint: str | Path,
    type: str = "q8_0",
    output: str | Path | None = None,
    format: Format | None = None,
) -> ExportSummary:
    """Write a checkpoint as a GGUF file. The same checkpoint gives the same bytes.

    Args:
        checkpoint: folder of the model, as `itera train` writes it.
        type: one of `itera_lite.export.types.SCHEMES`; or auto, which stores each matrix in the
            smallest type that holds its weights exactly: for what `itera compress quantize` wrote.
        output: the file; by default ``model-TYPE.FORMAT`` inside the checkpoint.
        format: gguf; or gguf.gz, the same file compressed. By default gguf.gz where the output's
            name ends in .gz.

    Raises:
        UsageError: an unknown type, or an output that can't be a file or is named otherwise.
        CheckpointError: a checkpoint that is missing or damaged.
        ExportError: weights that the type can't store.
    """
    if type not in (*SCHEMES, "auto"):
        raise UsageError(f"type='{type}': expected one of {', '.join(SCHEMES)}, auto")
    return write_gguf(Path(checkpoint), *load_checkpoint(checkpoint), type, output, format)


def write_gguf(
    checkpoint: Path,
    model: LanguageModel,
    tokenizer: Tokenizer,
    type: str,
    output: str | Path | None = None,
    format: Format | None = None,
) -> ExportSummary:
    """As `export_gguf`, of a model that is loaded already.

    Args:
        checkpoint: folder of the model, there or not yet: the file contains its name.
    """
    usual = f"model-{type}.{format or 'gguf'}"
    path = checkpoint / usual if output is None else Path(output)
    compress = path.suffix == GZIP if format is None else format.endswith(GZIP)
    if format is not None and not is_special(path) and (path.suffix == GZIP) != compress:
        ending = "ends" if compress else "doesn't end"
        raise UsageError(
            f"format '{format}': expected an output that {ending} in .gz, not '{path}'"
        )
    refuse_output(path, [checkpoint / name for name in FILES])

    scheme = exact_scheme(gguf_tensors(model)) if type == "auto" else SCHEMES[type]
    writer = _writer(checkpoint, model.config, tokenizer, scheme)
    by_type: dict[str, StoredTensors] = {}
    tensors = [(name, weights, stored_type(name, scheme)) for name, weights in gguf_tensors(model)]
    # What is alike stands together: compressed, the file is up to 2 % smaller than layer by layer.
    tensors.sort(key=lambda each: (each[2] != gguf.GGMLQuantizationType.F32, _role(each[0])))
    for name, weights, kind in tensors:
        packed = pack(name, weights, kind)
        writer.add_tensor(name, packed, raw_dtype=kind)
        stored = by_type.get(kind.name, StoredTensors())
        by_type[kind.name] = stored.plus(weights.size, packed.nbytes)
    with replacing(path) as temporary:
        try:
            writer.write_header_to_file(temporary)
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
        finally:
            with suppress(OSError):  # of several errors, the first is raised
                writer.close()
        content = size = temporary.stat().st_size
        if compress:
            size = temporary.write_bytes(gzipped(temporary.read_bytes()))
    return ExportSummary(path, type, size, content, by_type)


def _role(name: str) -> str:
    """The name of a tensor without its layer."""
    return re.sub(r"^blk\.\d+\.", "", name)


def refuse_output(
    path: Path, inputs: Iterable[Path], magic: bytes = b"GGUF", kind: str = "GGUF"
) -> None:
    """Raises `UsageError` if ``path`` may not be written: an input, or another kind of file.

    Devices and pipes may be written.

    Args:
        inputs: the files that are read, whether they exist or not.
        magic: the first bytes of a file that may be replaced, compressed or not. An empty file
            may be too.
        kind: what such a file is called.
    """
    check_output_file(path)
    if is_special(path):
        return
    target = os.path.realpath(path)
    for source in inputs:
        same = exists(source) and exists(path) and os.path.samefile(source, path)
        if same or target == os.path.realpath(source):
            raise UsageError(
                f"the output '{path}' would replace a file that it is made from: give another name"
            )
    if exists(path):
        begins = begins_with(path, len(magic))
        if begins and begins != magic:
            raise UsageError(
                f"the output '{path}' is there already and is no {kind} file: it isn't "
                "replaced. Give another name, or remove it first"
            )


def check_engine_runs(checkpoint: Path, config: ModelConfig) -> None:
    """Raises `ExportError` for a model of a family that the native engine doesn't run."""
    if config.family == "gpt2":
        raise ExportError(
            f"'{checkpoint}' is a GPT-2 model, which the engine doesn't run: expected an Itera or "
            "a Llama model. transformers loads the folder as it is, and llama.cpp the file that "
            "`itera export` writes of it"
        )


def file_bytes(
    checkpoint: Path,
    model: LanguageModel,
    tokenizer: Tokenizer,
    kinds: Mapping[str, gguf.GGMLQuantizationType],
) -> int:
    """Exact size of the file of a model, without writing it.

    Args:
        checkpoint: folder of the model, there or not yet: the file contains its name.
        kinds: stored type of each matrix, by its GGUF name. Matrices that it lacks don't count.
    """
    total = _header_bytes(checkpoint, model, tokenizer)
    for name, weights in gguf_tensors(model):
        kind = kinds.get(name) if is_matrix(name) else gguf.GGMLQuantizationType.F32
        total += 0 if kind is None else packed_bytes(weights.shape, kind)
    return total


def _header_bytes(checkpoint: Path, model: LanguageModel, tokenizer: Tokenizer) -> int:
    """Bytes of a file of this model without its tensors: keys, tokenizer, table of tensors.

    They don't depend on the stored types.
    """
    writer = _writer(checkpoint, model.config, tokenizer, SCHEMES["f32"])
    for name, weights in gguf_tensors(model):
        kind = gguf.GGMLQuantizationType.F32
        writer.add_tensor_info(
            name, weights.shape, np.dtype(np.float32), packed_bytes(weights.shape, kind), kind
        )
    with tempfile.TemporaryDirectory(prefix="itera-") as folder:
        path = Path(folder) / "header"
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()
        return gguf.GGUFWriter.ggml_pad(path.stat().st_size, writer.data_alignment)


def _writer(
    checkpoint: Path, config: ModelConfig, tokenizer: Tokenizer, scheme: Scheme
) -> gguf.GGUFWriter:
    """A writer with everything but the tensors."""
    writer = _Writer(None, config.parts.gguf)
    _add_general(writer, checkpoint, config, scheme)
    _add_architecture(writer, config)
    _add_tokenizer(writer, tokenizer)
    return writer


def _add_general(
    writer: gguf.GGUFWriter, checkpoint: Path, config: ModelConfig, scheme: Scheme
) -> None:
    writer.add_type("model")
    writer.add_name(folder_name(checkpoint))
    kind = "Mamba-2 and attention" if "m" in config.pattern else "Transformer"
    experts = f", {config.top_k} of {config.n_experts} experts a token" if config.n_experts else ""
    writer.add_description(
        f"{kind}, {config.n_layers} layers of width {config.d_model}{experts}; made with Itera-Lite"
    )
    writer.add_file_type(scheme.file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    sampling = read_generation_config(checkpoint)
    writer.add_sampling_sequence(_SAMPLING_SEQUENCE)
    writer.add_sampling_temp(sampling.temperature)
    writer.add_sampling_top_k(sampling.top_k)
    writer.add_sampling_top_p(sampling.top_p)
    writer.add_sampling_min_p(sampling.min_p)  # llama.cpp's own default would cut
    if sampling.repetition_penalty != 1:
        writer.add_sampling_penalty_repeat(sampling.repetition_penalty)
        writer.add_sampling_penalty_last_n(-1)  # all of the text, as transformers has it


def _add_architecture(writer: gguf.GGUFWriter, config: ModelConfig) -> None:
    c = config
    writer.add_vocab_size(c.vocab_size)
    writer.add_context_length(c.max_seq_len)
    writer.add_embedding_length(c.d_model)
    writer.add_block_count(c.n_layers)
    writer.add_feed_forward_length(c.d_expert if c.n_experts else c.d_ff)
    writer.add_head_count(c.n_heads)
    if c.family == "gpt2":
        writer.add_layer_norm_eps(c.norm_eps)
        return
    writer.add_layer_norm_rms_eps(c.norm_eps)
    writer.add_rope_dimension_count(c.head_dim)
    writer.add_rope_freq_base(c.rope_theta)
    if c.family == "transformer":
        writer.add_head_count_kv(c.n_kv_heads)
        return
    # 0 marks a Mamba layer
    writer.add_head_count_kv([c.n_kv_heads if kind == "a" else 0 for kind in c.pattern])
    writer.add_rope_scaling_finetuned(False)  # here: no rotary positions
    writer.add_attention_scale(c.head_dim**-0.5)
    writer.add_embedding_scale(c.embedding_multiplier)
    writer.add_residual_scale(c.residual_multiplier)
    writer.add_logit_scale(c.logits_scaling)
    writer.add_ssm_conv_kernel(c.d_conv)
    writer.add_ssm_state_size(c.d_state)
    writer.add_ssm_group_count(1)
    writer.add_ssm_inner_size(c.d_inner)
    writer.add_ssm_time_step_rank(c.n_ssm_heads)
    if c.n_experts:
        writer.add_expert_count(c.n_experts)
        writer.add_expert_used_count(c.top_k)
        writer.add_expert_shared_feed_forward_length(c.d_ff)


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    eot = tokenizer.eot_id
    tokens, merges = tokenizer.vocabulary()
    writer.add_tokenizer_model("gpt2")  # llama.cpp's name for byte-level BPE
    writer.add_tokenizer_pre("gpt-2")  # and for GPT-2's way to cut text before it
    writer.add_token_list(tokens)
    writer.add_token_types(
        [TokenType.CONTROL if token == EOT else TokenType.NORMAL for token in tokens]
    )
    writer.add_key_value(Keys.Tokenizer.MERGES, merges, GGUFValueType.ARRAY, GGUFValueType.STRING)
    # A document begins after <|endoftext|> and ends with it.
    writer.add_bos_token_id(eot)
    writer.add_eos_token_id(eot)
    writer.add_pad_token_id(eot)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_chat_template(_CHAT_TEMPLATE)
    writer.add_string("itera.tokenizer.sha256", tokenizer.sha256)
    if tokenizer.unit is not None:
        writer.add_string("itera.unit", tokenizer.unit)


class _Writer(gguf.GGUFWriter):
    """Writes empty arrays too: llama.cpp needs the merges of a tokenizer that has none."""

    def _pack_val(
        self,
        val: Any,
        vtype: GGUFValueType,
        add_vtype: bool,
        sub_type: GGUFValueType | None = None,
    ) -> bytes:
        if vtype == GGUFValueType.ARRAY and sub_type is not None and len(val) == 0:
            return struct.pack("<IIQ", vtype, sub_type, 0)
        return super()._pack_val(val, vtype, add_vtype, sub_type)
