"""What a GGUF file holds, read back; the weights against the Hugging Face checkpoint."""

import json

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize
from safetensors.numpy import load_file

from itera_lite.checkpoint.folder import load_checkpoint
from itera_lite.config import ModelConfig
from itera_lite.errors import CheckpointError
from itera_lite.export.gguf import export_gguf
from itera_lite.export.types import SCHEMES
from tests.export.models import ITERA, TRANSFORMER, VOCAB

NO_SHARED = ModelConfig("itera", "am", VOCAB, 64, n_experts=4, d_expert=32)
DENSE = ModelConfig("itera", "ma", VOCAB, 64, d_ff=96)
CONFIGS = {"itera": ITERA, "no_shared": NO_SHARED, "dense": DENSE, "transformer": TRANSFORMER}

# GGUF's name of a layer's tensor -> Hugging Face's
SAME = {
    "attn_norm.weight": "input_layernorm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ssm_in.weight": "mamba.in_proj.weight",
    "ssm_out.weight": "mamba.out_proj.weight",
    "ssm_conv1d.bias": "mamba.conv1d.bias",
    "ssm_dt.bias": "mamba.dt_bias",
    "ffn_gate_inp.weight": "block_sparse_moe.router.layer.weight",
    "ffn_down_exps.weight": "block_sparse_moe.output_linear.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
}


def expected_tensors(checkpoint):
    """The whole file's tensors by the published mapping, from model.safetensors."""
    hf = load_file(checkpoint / "model.safetensors")
    raw = json.loads((checkpoint / "config.json").read_text())
    want = {
        "token_embd.weight": hf["model.embed_tokens.weight"],
        "output_norm.weight": hf["model.norm.weight"],
    }
    for layer in range(raw["num_hidden_layers"]):
        theirs = {
            name.removeprefix(f"model.layers.{layer}."): value
            for name, value in hf.items()
            if name.startswith(f"model.layers.{layer}.")
        }
        ours = {name: theirs[source] for name, source in SAME.items() if source in theirs}
        if "mamba.A_log" in theirs:
            ours["ssm_a"] = -np.exp(theirs["mamba.A_log"])[:, None]
            ours["ssm_d"] = theirs["mamba.D"][:, None]
            ours["ssm_norm.weight"] = theirs["mamba.norm.weight"][None]
            ours["ssm_conv1d.weight"] = theirs["mamba.conv1d.weight"][:, 0]
        if (both := theirs.get("block_sparse_moe.input_linear.weight")) is not None:
            ours["ffn_gate_exps.weight"], ours["ffn_up_exps.weight"] = np.split(both, 2, axis=1)
        if "shared_mlp.input_linear.weight" in theirs and raw["shared_intermediate_size"]:
            suffix = "_shexp.weight" if raw["num_local_experts"] else ".weight"
            gate, up = np.split(theirs["shared_mlp.input_linear.weight"], 2)
            ours["ffn_gate" + suffix], ours["ffn_up" + suffix] = gate, up
            ours["ffn_down" + suffix] = theirs["shared_mlp.output_linear.weight"]
        if raw["model_type"] == "llama":
            for name in ("attn_q.weight", "attn_k.weight"):
                width = raw["head_dim"]
                pairs = [half + i for i in range(width // 2) for half in (0, width // 2)]
                heads = ours[name].reshape(-1, width, ours[name].shape[-1])
                ours[name] = heads[:, pairs].reshape(ours[name].shape)
        want |= {f"blk.{layer}.{name}": value for name, value in ours.items()}
    return want


def matrix(name):
    """Whether a type other than float32 is wanted for it."""
    kept = ("norm", "ssm_a", "ssm_d", "conv1d", "bias", "gate_inp")
    return not any(part in name for part in kept)


def check_error(weights, stored, kind):
    """Each weight is as near to the original as its type allows."""
    if kind == Type.F32:
        np.testing.assert_array_equal(stored, weights)
    elif kind == Type.F16:
        np.testing.assert_array_equal(stored, weights.astype(np.float16).astype(np.float32))
    elif kind == Type.BF16:
        np.testing.assert_array_equal(stored, torch.from_numpy(weights).bfloat16().float().numpy())
    else:
        blocks, error = weights.reshape(-1, 32), (stored - weights).reshape(-1, 32)
        largest = np.abs(blocks).max(axis=1, keepdims=True)
        # Half a step to the nearest level, and the scale's own rounding to float16. Q4_0 has a
        # level less on the side away from its largest weight: up to a whole step there.
        step = largest / (127 if kind == Type.Q8_0 else 8)
        bound = (0.5 if kind == Type.Q8_0 else 1.0) * step + largest * 2.0**-10
        assert (np.abs(error) <= bound).all()
        assert np.sqrt((error**2).mean()) < 0.4 * step.mean()  # and most are far nearer


@pytest.mark.parametrize("shape", CONFIGS)
@pytest.mark.parametrize("type", SCHEMES)
def test_every_tensor_is_the_checkpoints(type, shape, save_random):
    checkpoint = save_random(CONFIGS[shape])
    summary = export_gguf(checkpoint, type)
    assert summary.path == checkpoint / f"model-{type}.gguf"
    want = expected_tensors(checkpoint)
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(summary.path).tensors}
    assert set(tensors) == set(want)
    named = {"mixed": "q4_0"}.get(type, type).upper()
    for name, weights in want.items():
        tensor = tensors[name]
        expected = Type.F32 if not matrix(name) else Type[named]
        if type == "mixed" and name == "token_embd.weight":
            expected = Type.Q8_0
        assert tensor.tensor_type == expected, name
        assert [int(n) for n in tensor.shape] == list(reversed(weights.shape)), name
        assert tensor.data_offset % 32 == 0
        check_error(weights, dequantize(tensor.data, expected).reshape(weights.shape), expected)


def test_the_summary_adds_up(save_random):
    checkpoint = save_random(ITERA)
    summary = export_gguf(checkpoint, "mixed")
    tensors = gguf.GGUFReader(summary.path).tensors
    model, _ = load_checkpoint(checkpoint)
    assert summary.parameters == sum(p.numel() for p in model.parameters())
    assert summary.bytes == summary.path.stat().st_size
    assert summary.tensor_bytes == sum(int(tensor.n_bytes) for tensor in tensors)
    assert set(summary.by_type) == {"F32", "Q8_0", "Q4_0"}
    assert sum(stored.tensors for stored in summary.by_type.values()) == len(tensors)
    embedding = summary.by_type["Q8_0"]
    assert (embedding.tensors, embedding.weights) == (1, VOCAB * 64)
    assert embedding.bytes == VOCAB * 64 * 34 // 32
    assert f"{8 * summary.tensor_bytes / summary.parameters:.2f} bits per weight" in str(summary)


def keys(path):
    return {
        name: field.contents()
        for name, field in gguf.GGUFReader(path).fields.items()
        if not name.startswith("GGUF.")
    }


def test_the_keys_of_an_itera_model(save_random, tokenizer):
    read = keys(export_gguf(save_random(ITERA), "q8_0").path)
    prefix = "granitehybrid."
    assert read["general.architecture"] == "granitehybrid"
    assert read["general.name"] == "a_model"
    assert read["general.file_type"] == gguf.LlamaFileType.MOSTLY_Q8_0
    assert {
        name.removeprefix(prefix): v for name, v in read.items() if name.startswith(prefix)
    } == {
        "vocab_size": VOCAB,
        "context_length": 8192,
        "embedding_length": 64,
        "block_count": 2,
        "feed_forward_length": 32,
        "attention.head_count": 2,
        "attention.head_count_kv": [0, 1],
        "attention.layer_norm_rms_epsilon": pytest.approx(1e-5),
        "attention.scale": pytest.approx(32**-0.5),
        "rope.dimension_count": 32,
        "rope.freq_base": 10_000.0,
        "rope.scaling.finetuned": False,
        "embedding_scale": 1.0,
        "residual_scale": 1.0,
        "logit_scale": 1.0,
        "ssm.conv_kernel": 4,
        "ssm.state_size": 8,
        "ssm.group_count": 1,
        "ssm.inner_size": 128,
        "ssm.time_step_rank": 4,
        "expert_count": 4,
        "expert_used_count": 2,
        "expert_shared_feed_forward_length": 96,
    }


def test_the_keys_of_a_transformer(save_random):
    read = keys(export_gguf(save_random(TRANSFORMER), "f32").path)
    assert read["general.architecture"] == "llama"
    assert {name: v for name, v in read.items() if name.startswith("llama.")} == {
        "llama.vocab_size": VOCAB,
        "llama.context_length": 8192,
        "llama.embedding_length": 64,
        "llama.block_count": 2,
        "llama.feed_forward_length": 96,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.attention.layer_norm_rms_epsilon": pytest.approx(1e-5),
        "llama.rope.dimension_count": 16,
        "llama.rope.freq_base": 10_000.0,
    }


def test_the_tokenizer_is_inside(save_random, tokenizer):
    checkpoint = save_random(TRANSFORMER)
    read = keys(export_gguf(checkpoint, "f32").path)
    backend = json.loads((checkpoint / "tokenizer.json").read_text())["model"]
    tokens, eot = read["tokenizer.ggml.tokens"], tokenizer.eot_id
    assert {token: index for index, token in enumerate(tokens) if index != eot} == {
        token: index for token, index in backend["vocab"].items() if index != eot
    }
    assert tokens[eot] == "<|endoftext|>"
    assert read["tokenizer.ggml.merges"] == [" ".join(pair) for pair in backend["merges"]]
    assert read["tokenizer.ggml.token_type"] == [3 if i == eot else 1 for i in range(VOCAB)]
    assert (read["tokenizer.ggml.model"], read["tokenizer.ggml.pre"]) == ("gpt2", "gpt-2")
    for name in ("bos", "eos", "padding"):
        assert read[f"tokenizer.ggml.{name}_token_id"] == eot
    assert read["tokenizer.ggml.add_bos_token"] is True
    assert read["tokenizer.ggml.add_eos_token"] is False
    assert read["itera.tokenizer.sha256"] == tokenizer.sha256


def test_a_tokenizer_without_merges_has_an_empty_array_of_them(tiny_pair, tmp_path):
    path = export_gguf(tiny_pair["itera_lite_test"], "f32", tmp_path / "bytes.gguf").path
    field = gguf.GGUFReader(path).fields["tokenizer.ggml.merges"]
    item_type, length = field.parts[-2:]
    assert (int(item_type[0]), int(length[0])) == (gguf.GGUFValueType.STRING, 0)


def test_the_sampling_defaults_are_the_checkpoints(save_random):
    checkpoint = save_random(TRANSFORMER)
    read = keys(export_gguf(checkpoint, "f32").path)
    assert read["general.sampling.temp"] == pytest.approx(0.8)
    assert read["general.sampling.top_p"] == pytest.approx(0.95)
    assert (read["general.sampling.top_k"], read["general.sampling.min_p"]) == (0, 0.0)
    file = checkpoint / "generation_config.json"
    file.write_text('{"temperature": 0.5, "top_k": 20, "top_p": 1.0}')
    read = keys(export_gguf(checkpoint, "f32").path)
    assert (read["general.sampling.temp"], read["general.sampling.top_k"]) == (0.5, 20)
    file.write_text('{"temperature": "warm"}')
    with pytest.raises(CheckpointError, match="generation_config"):
        export_gguf(checkpoint, "f32")


def test_the_same_checkpoint_gives_the_same_bytes(save_random, tmp_path):
    checkpoint = save_random(ITERA)
    first = export_gguf(checkpoint, "q4_0", tmp_path / "1.gguf").path.read_bytes()
    assert first == export_gguf(checkpoint, "q4_0", tmp_path / "2.gguf").path.read_bytes()
