"""What a file says is obeyed or refused by name: tensors, keys, the tokens that begin and end."""

import warnings
from pathlib import Path

import numpy as np
import pytest

from itera_lite.engine import Model
from itera_lite.errors import IteraWarning, ModelFileError, UsageError
from itera_lite.sampling import DEFAULTS, REPETITION_WINDOW
from tests.native.gguf_bytes import (
    BOOL,
    F32,
    I32,
    STRING,
    U8,
    U16,
    U32,
    U64,
    Draft,
    array,
    encode,
    scalar,
)
from tests.native.gguf_models import D, hybrid, llama, tokens
from tests.native.plain_llama import logits

IDS = [5, 6, 7, 8, 9, 10, 259, 3, 70]
BIASES = {
    "attn_q": D,
    "attn_k": D // 2,
    "attn_v": D // 2,
    "attn_output": D,
    "ffn_gate": 32,
    "ffn_up": 32,
    "ffn_down": D,
}
YES, NO = scalar(BOOL, True), scalar(BOOL, False)


def load(draft: Draft, folder: Path) -> Model:
    (path := folder / "model.gguf").write_bytes(draft.render())
    return Model.load(path)


def plus(draft: Draft, name: str, *shape: int, kind: str = "f32") -> Draft:
    """A copy with one more tensor."""
    values = np.random.default_rng(len(name)).normal(0, 1, shape)
    other = draft.copy()
    other.tensors.append((name, encode(values, kind)))
    return other


def with_biases(draft: Draft) -> Draft:
    for name, width in BIASES.items():
        draft = plus(draft, f"blk.1.{name}.bias", width)
    return draft


@pytest.mark.parametrize("name", [*BIASES, "all"])
def test_biases_of_attention_and_feed_forward_are_added(name: str, tmp_path: Path) -> None:
    base = llama("f32", "aa")
    draft = with_biases(base) if name == "all" else plus(base, f"blk.1.{name}.bias", BIASES[name])
    np.testing.assert_allclose(load(base, tmp_path).logits(IDS), logits(base, IDS), atol=1e-5)
    ours = load(draft, tmp_path).logits(IDS)
    np.testing.assert_allclose(ours, logits(draft, IDS), atol=1e-5)
    if name != "attn_k":  # which adds the same to all scores, but for the rotation
        assert np.abs(ours - logits(base, IDS)).max() > 0.1


@pytest.mark.parametrize("kind", ["f32", "q8_0"])
def test_with_biases_too_blocks_give_the_bits_of_single_steps(kind: str, tmp_path: Path) -> None:
    for base in (hybrid(kind, "ma", experts=0), llama(kind, "aa")):
        model = load(with_biases(base), tmp_path)
        state = model.state()
        one_by_one = np.concatenate([model.logits([token], state) for token in IDS])
        np.testing.assert_array_equal(one_by_one, model.logits(IDS))


def test_a_bias_of_another_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"blk\.0\.attn_q\.bias' has shape \[16\]"):
        load(plus(llama(), "blk.0.attn_q.bias", 16), tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "blk.0.attn_q_norm.weight",
        "blk.0.attn_k_norm.weight",
        "blk.0.ffn_gate_inp.bias",
        "blk.0.ffn_down_exps.bias",
        "blk.0.attn_sinks",
        "blk.0.attn_q.scale",
        "blk.7.attn_norm.weight",
        "rope_factors_long.weight",
        "output.bias",
        "anything",
    ],
)
def test_a_tensor_that_would_be_left_out_is_refused(name: str, tmp_path: Path) -> None:
    for base in (hybrid(), llama()):
        draft = plus(base, name, 16)
        with pytest.raises(ModelFileError, match=f"'{name}'.*export") as caught:
            load(draft, tmp_path)
        assert str(caught.value).isprintable()


def test_fewer_layers_than_there_are_tensors_for_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"tensor 'blk\.1\."):
        load(llama("f32", "aa").set("llama.block_count", scalar(U32, 1)), tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attention.sliding_window", scalar(U32, 8)),
        ("attention.value_residual", scalar(U32, 0)),
        ("final_logit_softcapping", scalar(F32, 30.0)),
        ("expert_weights_scale", scalar(F32, 2.0)),
        ("expert_gating_func", scalar(U32, 2)),
        ("rope.scaling.type", scalar(STRING, "yarn")),
        ("rope.scaling.yarn_log_multiplier", scalar(F32, 0.1)),
        ("rope.scaling.attn_factor", scalar(F32, 2.0)),
        ("attention.causal", NO),
        ("attention.causal", scalar(STRING, "no")),
        ("use_parallel_residual", YES),
        ("nextn_predict_layers", scalar(U32, 1)),
    ],
)
def test_a_key_that_the_engine_does_not_obey_is_refused(
    key: str, value: bytes, tmp_path: Path
) -> None:
    for base, arch in ((hybrid(), "granitehybrid."), (llama(), "llama.")):
        rope = base.set(arch + "rope.scaling.finetuned", YES)  # else a hybrid has no positions
        with pytest.raises(ModelFileError, match=arch + key):
            load(rope.set(arch + key, value), tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ggml.add_eos_token", YES),
        ("ggml.add_space_prefix", YES),
        ("ggml.suppress_tokens", array(I32, [1])),
        ("ggml.eot_token_id", scalar(U32, 65)),
        ("ggml.fim_sep_token_id", scalar(U32, 65)),
        ("ggml.precompiled_charsmap", array(U8, [1, 2])),
        ("ggml.normalizer.lowercase", YES),
        ("ggml.later", scalar(U32, 1)),
    ],
)
def test_a_key_of_the_tokenizer_that_is_not_obeyed_is_refused(
    key: str, value: bytes, tmp_path: Path
) -> None:
    with pytest.raises(ModelFileError, match="tokenizer." + key):
        load(llama().set("tokenizer." + key, value), tmp_path)


def test_harmless_keys_change_nothing(tmp_path: Path) -> None:
    base = hybrid("f32")
    draft = base
    for key, value in {
        "general.author": scalar(STRING, "somebody"),
        "general.tags": array(STRING, ["a", "b"]),
        "granitehybrid.attention.causal": YES,
        "granitehybrid.rope.scaling.attn_factor": scalar(F32, 1.0),
        "granitehybrid.rope.scaling.original_context_length": scalar(U32, 64),
        "granitehybrid.tensor_data_layout": scalar(STRING, "x"),
        "llama.rope.scaling.type": scalar(STRING, "yarn"),  # of another architecture
        "quantize.imatrix.file": scalar(STRING, "x"),
        "tokenizer.chat_template": scalar(STRING, "x"),
        "tokenizer.chat_template.tool_use": scalar(STRING, "x"),
        "tokenizer.ggml.padding_token_id": scalar(U32, 0),
        "tokenizer.ggml.scores": array(F32, [0.0] * len(tokens())),
        "tokenizer.ggml.add_eos_token": NO,
        "tokenizer.ggml.eot_token_id": scalar(U32, 256),
    }.items():
        draft = draft.set(key, value)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = load(draft, tmp_path)
    np.testing.assert_array_equal(model.logits(IDS), load(base, tmp_path).logits(IDS))


def test_linear_rope_scaling_is_obeyed_as_llama_cpp_does(tmp_path: Path) -> None:
    base = llama("f32", "aa")
    four = scalar(F32, 4.0)
    scaled = logits(base, IDS, rope_factor=4.0)
    assert np.abs(scaled - logits(base, IDS)).max() > 0.01
    for draft in (
        base.set("llama.rope.scaling.factor", four),
        base.set("llama.rope.scale_linear", four),
        base.set("llama.rope.scaling.factor", four).set(
            "llama.rope.scaling.type", scalar(STRING, "linear")
        ),
    ):
        np.testing.assert_allclose(load(draft, tmp_path).logits(IDS), scaled, atol=1e-5)
    none = base.set("llama.rope.scaling.factor", four).set(
        "llama.rope.scaling.type", scalar(STRING, "none")
    )
    np.testing.assert_allclose(load(none, tmp_path).logits(IDS), logits(base, IDS), atol=1e-5)


def test_rope_factors_are_obeyed(tmp_path: Path) -> None:
    base = llama("f32", "aa")
    factors = np.linspace(1, 8, D // 4)
    draft = base.copy()
    draft.tensors.append(("rope_freqs.weight", encode(factors, "f32")))
    expected = logits(base, IDS, rope_factor=factors)
    np.testing.assert_allclose(load(draft, tmp_path).logits(IDS), expected, atol=1e-5)
    for wrong in (0.0, -1.0, np.nan):
        bad = draft.put("rope_freqs.weight", encode(np.full(D // 4, wrong), "f32"))
        with pytest.raises(ModelFileError, match="rope_freqs"):
            load(bad, tmp_path)


@pytest.mark.parametrize("key", ["embedding_scale", "residual_scale", "logit_scale"])
def test_scales_are_obeyed_where_llama_cpp_obeys_them(key: str, tmp_path: Path) -> None:
    plain, three = hybrid("f32"), scalar(F32, 3.0)
    usual = load(plain, tmp_path).logits(IDS)
    assert (
        np.abs(load(plain.set("granitehybrid." + key, three), tmp_path).logits(IDS) - usual).max()
        > 0.01
    )
    # 0 means that there is none
    zero = load(plain.set("granitehybrid." + key, scalar(F32, 0.0)), tmp_path)
    np.testing.assert_array_equal(zero.logits(IDS), usual)
    with pytest.warns(IteraWarning, match=f"llama.{key}=3 is left out, as llama.cpp"):
        left_out = load(llama().set("llama." + key, three), tmp_path)
    np.testing.assert_array_equal(left_out.logits(IDS), load(llama(), tmp_path).logits(IDS))


def with_bos(draft: Draft, token: int, kind: int = 1) -> Draft:
    kinds = [3 if i == 256 else kind if i == token else 1 for i in range(len(tokens()))]
    return (
        draft.set("tokenizer.ggml.add_bos_token", YES)
        .set("tokenizer.ggml.bos_token_id", scalar(U32, token))
        .set("tokenizer.ggml.token_type", array(I32, kinds))
    )


@pytest.mark.parametrize(("token", "kind"), [(256, 3), (65, 1), (259, 3)])
def test_a_text_begins_with_the_token_that_the_file_names(
    token: int, kind: int, tmp_path: Path
) -> None:
    draft = with_bos(llama("f32", "aa"), token, kind)
    if kind == 3 and token != 256:
        draft = draft.set("tokenizer.ggml.merges", array(STRING, ["h e", "Ġ t"]))
    model = load(draft, tmp_path)
    text = model.tokenize("heat")
    row = [token, *text]
    assert (model.bos_id, model.eot_id) == (token, 256)
    assert len(model.state("heat")) == len(row)
    np.testing.assert_array_equal(model.state().feed("heat"), model.logits(row)[-1])
    first = int(model.logits(row)[-1].argmax())
    assert model.generate("heat", temperature=0, max_tokens=1).token_ids == [first]
    assert model.generate("", max_tokens=2, ignore_end=True).token_ids
    log_p = model.logits(row).astype(np.float64)
    log_p -= np.log(np.exp(log_p).sum(-1, keepdims=True))
    (score,) = model.score("heat")
    assert (score.tokens, score.bytes) == (len(row), 4)
    assert score.nats == pytest.approx(-log_p[range(len(row)), [*text, 256]].sum(), rel=1e-5)


@pytest.mark.parametrize("missing", [True, False])
def test_without_a_token_that_begins_a_text_none_is_put_in_front(
    missing: bool, tmp_path: Path
) -> None:
    """As in llama.cpp, where leaving the key out means the same with this tokenizer."""
    draft = llama("f32", "aa")
    model = load(draft.without("tokenizer.ggml.add_bos_token") if missing else draft, tmp_path)
    row = model.tokenize("the heat")
    assert model.bos_id is None
    np.testing.assert_array_equal(model.state().feed("the heat"), model.logits(row)[-1])
    log_p = model.logits(row).astype(np.float64)
    log_p -= np.log(np.exp(log_p).sum(-1, keepdims=True))
    (score,) = model.score("the heat")
    first = len(model.detokenize(row[:1]))
    assert (score.tokens, score.bytes) == (len(row), 8 - first)
    assert score.nats == pytest.approx(-log_p[range(len(row)), [*row[1:], 256]].sum(), rel=1e-5), (
        "the first token has no probability"
    )
    (empty,) = model.score("")
    assert (empty.tokens, empty.bytes, empty.nats) == (0, 0, 0.0)
    with pytest.raises(UsageError, match=r"an empty prompt: .*add_bos_token"):
        model.generate("")


def test_a_beginning_that_is_not_named_or_not_there_is_refused(tmp_path: Path) -> None:
    draft = llama().set("tokenizer.ggml.add_bos_token", YES)
    with pytest.raises(ModelFileError, match="bos_token_id is missing"):
        load(draft.without("tokenizer.ggml.bos_token_id"), tmp_path)
    with pytest.raises(ModelFileError, match="bos_token_id is 260: expected 0 to 259"):
        load(draft.set("tokenizer.ggml.bos_token_id", scalar(U32, 260)), tmp_path)


def test_a_part_of_a_split_model_says_how_to_merge(tmp_path: Path) -> None:
    draft = llama().set("split.count", scalar(U16, 3)).set("split.no", scalar(U16, 1))
    with pytest.raises(
        ModelFileError, match=r"is part 2 of 3 of a split model.*gguf-split --merge"
    ):
        load(draft, tmp_path)
    later = Draft([pair for pair in draft.keys if str(pair[0]).startswith("split.")])
    with pytest.raises(ModelFileError, match="is part 2 of 3"):  # it has no other keys
        load(later, tmp_path)
    load(llama().set("split.count", scalar(U16, 1)).set("split.no", scalar(U16, 0)), tmp_path)
    with pytest.raises(ModelFileError, match=r"general.type is 'adapter'; expected 'model'"):
        load(llama().set("general.type", scalar(STRING, "adapter")), tmp_path)


def test_numbers_of_other_widths_are_taken_where_they_fit(tmp_path: Path) -> None:
    base = llama("f32")
    draft = base
    for name, value in base.keys:
        if isinstance(name, str) and name.startswith("llama.") and value[:4] == scalar(U32, 0)[:4]:
            draft = draft.set(name, scalar(U64, int.from_bytes(value[4:], "little")))
    assert draft != base
    expected = load(base, tmp_path).logits(IDS)
    np.testing.assert_array_equal(load(draft, tmp_path).logits(IDS), expected)
    for key in ("block_count", "attention.head_count", "feed_forward_length", "vocab_size"):
        for value in (2**32 + 1, 2**63, 2**64 - 1):
            with pytest.raises(ModelFileError, match=key):
                load(base.set("llama." + key, scalar(U64, value)), tmp_path)
    long = load(base.set("llama.context_length", scalar(U64, 2**40)), tmp_path)
    assert long.context == 65_536
    with pytest.raises(ModelFileError, match=r"rope.freq_base' is of type uint32"):
        load(base.set("llama.rope.freq_base", scalar(U32, 10_000)), tmp_path)


def advice(keys: dict[str, bytes], folder: Path) -> dict[str, float]:
    draft = llama()
    for key, value in keys.items():
        draft = draft.set("general.sampling." + key, value)
    return load(draft, folder).sampling_defaults


def test_the_files_sampling_is_read_as_llama_cpp_reads_it(tmp_path: Path) -> None:
    # C++ and Python each write the defaults down once; this is where they are held equal.
    usual = {name: pytest.approx(value) for name, value in vars(DEFAULTS).items()}
    usual["repetition_window"] = REPETITION_WINDOW
    f = {n: scalar(F32, n) for n in (-1.0, 0.0, 0.25, 0.5, 1.0, 1.5, 2.0)}
    for keys, changed in (
        ({}, {}),
        ({"temp": f[0.5], "min_p": f[0.25]}, {"temperature": 0.5, "min_p": 0.25}),
        ({"temp": f[-1.0], "top_k": scalar(I32, -1)}, {"temperature": 0.0}),
        ({"top_p": f[1.5], "top_k": scalar(I32, 7)}, {"top_p": 1.0, "top_k": 7}),
        ({"penalty_repeat": f[1.5]}, {"repetition_penalty": 1.5}),
        ({"penalty_last_n": scalar(I32, -1)}, {"repetition_window": 64}),  # all of the context
        ({"penalty_last_n": scalar(I32, 9)}, {"repetition_window": 9}),
        ({"sequence": scalar(STRING, "top_k;temperature")}, {"top_p": 1.0}),
        ({"xtc_probability": f[0.0], "mirostat": scalar(I32, 0)}, {}),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert advice(keys, tmp_path) == usual | changed


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"xtc_probability": scalar(F32, 0.5)}, "xtc_probability' is left out"),
        ({"mirostat": scalar(I32, 2)}, "mirostat' is left out"),
        ({"dry_multiplier": scalar(F32, 0.8)}, "dry_multiplier' is left out"),
        ({"sequence": scalar(STRING, "top_k;top_p;min_p;temperature")}, "another order"),
        ({"sequence": scalar(STRING, "temperature;top_p;\x1b[2J")}, r"'\\x1b\[2J'"),
    ],
)
def test_sampling_that_the_engine_lacks_is_said(
    keys: dict[str, bytes], said: str, tmp_path: Path
) -> None:
    with pytest.warns(IteraWarning, match=said):
        advice(keys, tmp_path)


def test_the_files_advice_is_followed_unless_the_caller_decides(tmp_path: Path) -> None:
    draft = llama("f32", "aa").set("general.sampling.penalty_repeat", scalar(F32, 1.9))
    draft = draft.set("general.sampling.temp", scalar(F32, 0.0))
    advised = load(draft, tmp_path)
    plain = load(llama("f32", "aa"), tmp_path)
    options = {"max_tokens": 30, "ignore_end": True}
    penalised = plain.generate("he", temperature=0, repetition_penalty=1.9, **options)
    assert advised.generate("he", **options) == penalised
    free = plain.generate("he", temperature=0, **options)
    assert advised.generate("he", repetition_penalty=1, **options) == free != penalised


def cases() -> dict[str, Draft]:
    dense, moe, plain = hybrid("f32", "ma", experts=0), hybrid("f32"), llama("f32", "aa")
    found = {"biases": with_biases(plain), "hybrid biases": with_biases(dense)}
    for key in ("embedding_scale", "residual_scale", "logit_scale", "attention.scale"):
        for value in (0.0, 0.6):
            found[f"llama {key} {value}"] = plain.set("llama." + key, scalar(F32, value))
            found[f"{key} {value}"] = moe.set("granitehybrid." + key, scalar(F32, value))
    found["linear"] = plain.set("llama.rope.scaling.factor", scalar(F32, 4.0))
    found["none"] = found["linear"].set("llama.rope.scaling.type", scalar(STRING, "none"))
    found["factors"] = plus(plain, "rope_freqs.weight", D // 4)
    found["factors"] = found["factors"].put(
        "rope_freqs.weight", encode(np.linspace(1, 8, D // 4), "f32")
    )
    positions = moe.set("granitehybrid.rope.scaling.finetuned", YES)
    found["positions"] = positions.without("granitehybrid.rope.dimension_count")
    found["partial"] = positions.set("granitehybrid.rope.dimension_count", scalar(U32, 8))
    return found


@pytest.mark.filterwarnings("ignore::itera_lite.errors.IteraWarning")
@pytest.mark.parametrize("name", cases())
def test_llama_cpp_computes_the_same(name: str, tmp_path: Path) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    ours = load(cases()[name], tmp_path).logits(IDS)
    theirs = llama_cpp.Llama(
        str(tmp_path / "model.gguf"), n_ctx=64, n_threads=1, logits_all=True, flash_attn=False,
        type_k=0, type_v=0, verbose=False,
    )  # fmt: skip
    theirs.eval(IDS)
    np.testing.assert_allclose(ours, np.array(theirs.scores[: len(IDS)]), atol=1e-4)


@pytest.mark.parametrize("begins", [None, 256, 65])
def test_llama_cpp_begins_a_text_alike(begins: int | None, tmp_path: Path) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    draft = llama().without("tokenizer.ggml.add_bos_token")
    model = load(draft if begins is None else with_bos(draft, begins), tmp_path)
    theirs = llama_cpp.Llama(str(tmp_path / "model.gguf"), vocab_only=True, verbose=False)
    first = [] if begins is None else [begins]
    assert theirs.tokenize(b"the heat") == [*first, *model.tokenize("the heat")]
    assert model.bos_id == begins
