"""Exported files in llama.cpp: same tokens, same logits, same text."""

import ctypes
import random

import numpy as np
import pytest
import tokenizers as tokenizers_library
import torch
from gguf import GGUFReader, LlamaFileType
from gguf.quants import dequantize, quantize
from tokenizers import AddedToken, models, pre_tokenizers

from itera_lite.checkpoint.folder import load_checkpoint, save_checkpoint
from itera_lite.config import ModelConfig
from itera_lite.data.tokenizer import EOT, Tokenizer
from itera_lite.export.gguf import export_gguf
from itera_lite.export.types import SCHEMES
from itera_lite.model.stream import Sampler, stream_ids
from tests.export.models import GPT2, SHAPES, VOCAB, random_model, shape_name

llama_cpp = pytest.importorskip("llama_cpp")

TEXT = """\
    def wrap(self, text):
        # Split the text into chunks, so that "it's" and 'we'll' stay whole.
        return [line for line in text.splitlines() if len(line) <= 70]
"""
AWKWARD = {
    "empty": "",
    "spaces": " ",
    "runs of spaces": "a  b   c    d" + " " * 70 + "e  ",
    "only spaces": " " * 9,
    "newlines": "\n\n\na\n b\n\n  c\r\n\r\nd\re\n",
    "tabs": "\t\ta\t b \tc\t\n\t",
    "vertical tab and form feed": "a\x0bb\x0c\x0cc \x0b",
    "contractions": "I'm you're he's we'll they've she'd can't IT'S 'tis y'all'd've ''s 's'",
    "curly contractions": "I’m you’re it’s",
    "digits": "3.14159 1,000,000 0x1F 1e-9 007 v2.0 12345678901234567890",
    "other digits": "٣٤٥ ১২৩ ½ ² Ⅷ ①",
    "accents": "Ünïcödé naïve façade Århus Łódź Žižek ¿qué?",
    "combining marks": "e\u0301a\u0308 o\u0302\u0323 Z\u0351\u0321\u0360\u034a\u0352",
    "cjk": "你好，世界。日本語のテキスト 한국어 텍스트",
    "rtl": "שלום עולם مرحبا بالعالم \u202bx\u202c",
    "devanagari": "नमस्ते दुनिया क्षत्रिय",
    "emoji": "😀 👍🏽 👨\u200d👩\u200d👧\u200d👦 🇫🇷 ❤\ufe0f 1\ufe0f\u20e3",
    "control characters": "".join(map(chr, range(32))) + "\x7f\x80\x9f",
    "separators": "a\x1cb\x1dc\x1ed\x1fe",
    "unicode spaces": "a\u00a0b\u2003c\u3000d\u0085e\u2028f\u2029g\u1680h\u202fi",
    "not quite spaces": "a\u200bb\ufeffc\u180ed\u2060e",
    "special token as text": "<|endoftext|> a<|endoftext|>b <|endoftext|",
    "punctuation": "!!! ... -- \u2014 «a» (b)[c]{d}<e> a_b __init__ a-b \\n $x^2$ @#%&*~`",
    "private use and last": "\ue000 \U000f0000 \U0010ffff \ufffd \uffff",
    "code": TEXT,
    "long word": "abcdefgh" * 500,
    "long text": TEXT * 60,
    "long line of one letter": "a" * 3000,
}

# Letters and digits that llama.cpp's tables don't have yet (docs/export.md)
NEW_IN_UNICODE_16 = {
    chr(code)
    for first, last in (
        (0x1C89, 0x1C8A),
        (0xA7CB, 0xA7CD),
        (0xA7DA, 0xA7DC),
        (0x105C0, 0x105F3),
        (0x10D40, 0x10D85),
        (0x10EC2, 0x10EC4),
        (0x11380, 0x113D3),
        (0x116D0, 0x116E3),
        (0x11BC0, 0x11BF9),
        (0x13460, 0x143FA),
        (0x16100, 0x16139),
        (0x16D40, 0x16D79),
        (0x18CFF, 0x18CFF),
        (0x1CCF0, 0x1CCF9),
        (0x1E5D0, 0x1E5FA),
    )
    for code in range(first, last + 1)
}


def load(path, **options):
    """The exact way: no flash attention, a float32 cache, one thread."""
    options = {"n_ctx": 256, "n_batch": 256, "logits_all": True} | options
    return llama_cpp.Llama(
        str(path), n_threads=1, flash_attn=False, type_k=0, type_v=0, verbose=False, **options
    )


def their_tokens(theirs, text):
    return theirs.tokenize(text.encode(), add_bos=False, special=False)


def in_llama_cpp(tokenizer, folder):
    """The same tokenizer inside a file that llama.cpp has loaded."""
    config = ModelConfig("transformer", "a", tokenizer.vocab_size, 32, head_dim=16, d_ff=32)
    save_checkpoint(folder, random_model(config), tokenizer)
    return load(export_gguf(folder, "q8_0").path, vocab_only=True)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory, tokenizer):
    return tokenizer, in_llama_cpp(tokenizer, tmp_path_factory.mktemp("tokens"))


@pytest.mark.parametrize("kind", AWKWARD)
def test_awkward_text_gives_the_same_tokens(kind, tokenizers):
    ours, theirs = tokenizers
    assert their_tokens(theirs, AWKWARD[kind]) == ours.encode(AWKWARD[kind])


def test_random_text_gives_the_same_tokens(tokenizers):
    ours, theirs = tokenizers
    alphabet = sorted({c for text in AWKWARD.values() for c in text})
    draw = random.Random(0)
    for _ in range(1000):
        text = "".join(draw.choices(alphabet, k=draw.randint(1, 40)))
        # long pieces of plain text between, so that merges apply
        text = text.join(draw.choices(["", " the", "self.", "  \n", "'s", "12"], k=3))
        assert their_tokens(theirs, text) == ours.encode(text), repr(text)


def test_every_kind_of_character_is_cut_alike(tmp_path):
    """The first 12,288 code points and a sample of the others.

    The tokenizer here merges a letter, a digit, a mark, a space and a newline with any byte
    that follows, so that its ids show each place where text is cut.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [(first, byte) for first in ("x", "1", "!", "Ġ", "Ċ") for byte in alphabet]
    tokens = dict.fromkeys([*alphabet, EOT, *(first + byte for first, byte in merges)])
    vocab = {token: index for index, token in enumerate(tokens)}
    backend = tokenizers_library.Tokenizer(models.BPE(vocab=vocab, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.add_special_tokens([AddedToken(EOT, special=True, normalized=False)])
    ours = Tokenizer(backend)
    theirs = in_llama_cpp(ours, tmp_path)
    for code in [*range(0x3000), *range(0x3000, 0x110000, 53)]:
        c = chr(code)
        if 0xD800 <= code < 0xE000 or c in NEW_IN_UNICODE_16:
            continue
        text = f"x{c}x 1{c}1 !{c}!  {c} \n{c}\n{c}{c}"
        assert their_tokens(theirs, text) == ours.encode(text), hex(code)


def test_tokens_decode_to_the_same_bytes(tokenizers):
    ours, theirs = tokenizers
    draw = random.Random(0)
    ids = [draw.choice([i for i in range(VOCAB) if i != ours.eot_id]) for _ in range(500)]
    assert theirs.detokenize(ids) == ours.decode_bytes(ids)


def test_a_prompt_begins_a_document(tokenizers):
    """llama.cpp puts <|endoftext|> before the prompt by itself, once, and ends at it."""
    ours, theirs = tokenizers
    assert theirs.tokenize(b"def") == [ours.eot_id, *ours.encode("def")]
    assert theirs.token_bos() == theirs.token_eos() == ours.eot_id
    assert llama_cpp.llama_vocab_is_eog(theirs._model.vocab, ours.eot_id)


def test_a_tokenizer_of_bytes_only_loads(tiny_pair, tmp_path):
    checkpoint = tiny_pair["itera_lite_test"]
    theirs = load(export_gguf(checkpoint, "f32", tmp_path / "bytes.gguf").path, vocab_only=True)
    text = AWKWARD["emoji"] + AWKWARD["newlines"]
    assert their_tokens(theirs, text) == list(text.encode())


@pytest.mark.parametrize("config", [*SHAPES, GPT2], ids=shape_name)
@torch.no_grad()
def test_float32_logits_and_greedy_text_are_the_same(config, save_random):
    checkpoint = save_random(config)
    model, tokenizer = load_checkpoint(checkpoint)
    theirs = load(export_gguf(checkpoint, "f32").path)
    prompt = tokenizer.encode(TEXT)[:120]
    ids = [tokenizer.eot_id, *prompt]
    theirs.eval(ids[:90])  # many at once, as a prompt
    for token in ids[90:]:  # and one by one
        theirs.eval([token])
    want = model(torch.tensor([ids]))[0].numpy()
    most = 4e-3 if config.family == "gpt2" else 1e-4  # ggml has a table of GELU in float16
    assert np.abs(theirs.scores[: len(ids)] - want).max() < most

    greedy = []
    for token in stream_ids(model, prompt, tokenizer.eot_id, Sampler(temperature=0)):
        greedy.append(token)
        if len(greedy) == 60:
            break
    written = []
    for token in theirs.generate(ids, temp=0.0, repeat_penalty=1.0):
        if token == tokenizer.eot_id or len(written) == len(greedy):
            break
        written.append(token)
    assert written == greedy


def test_a_chat_goes_on_from_the_text(save_random):
    theirs = load(export_gguf(save_random(SHAPES[0]), "f32").path)
    options = {"temperature": 0.0, "repeat_penalty": 1.0, "max_tokens": 20}
    said = [
        {"role": "user", "content": "def wrap("},
        {"role": "assistant", "content": "self"},
        {"role": "user", "content": ", text"},
    ]
    answer = theirs.create_chat_completion(said, **options)
    plain = theirs.create_completion("def wrap(self, text", **options)
    assert answer["usage"] == plain["usage"]
    assert answer["choices"][0]["message"]["content"] == plain["choices"][0]["text"]


@pytest.mark.parametrize("type", ["f16", "bf16", "q8_0", "q4_0", "mixed"])
@pytest.mark.parametrize("family", ["itera", "transformer", "gpt2"])
@torch.no_grad()
def test_llama_cpp_reads_what_was_stored(family, type, save_random):
    """Its logits are those of the stored weights, but for the rounding inside its products.

    All experts are used, so that rounding can't choose another one.
    """
    if family == "itera":
        config = ModelConfig("itera", "mma", VOCAB, 64, n_experts=4, top_k=4, d_expert=32, d_ff=32)
    elif family == "transformer":
        config = ModelConfig("transformer", "aa", VOCAB, 64, d_ff=96, n_kv_heads=1)
    else:
        config = GPT2
    checkpoint = save_random(config)
    model, tokenizer = load_checkpoint(checkpoint)
    ids = [tokenizer.eot_id, *tokenizer.encode(TEXT)[:80]]
    original = model(torch.tensor([ids]))[0].numpy()
    round_weights(model, SCHEMES[type])
    want = model(torch.tensor([ids]))[0].numpy()
    theirs = load(export_gguf(checkpoint, type).path)
    theirs.eval(ids)
    error = np.abs(theirs.scores[: len(ids)] - want).mean()
    assert error < 0.04 * want.std()
    if type in ("q4_0", "mixed"):  # what was stored explains the difference to the original
        assert error < 0.2 * np.abs(theirs.scores[: len(ids)] - original).mean()


def test_mixed_is_what_llama_cpp_makes_of_a_gpt2(save_random, tmp_path):
    """Its own Q4_0, with the embedding in 8 bits, block for block: what its users have."""
    checkpoint = save_random(GPT2)
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype, options.nthread = LlamaFileType.MOSTLY_Q4_0, 1
    exact, theirs = (export_gguf(checkpoint, "f32").path, tmp_path / "theirs.gguf")
    names = (str(exact).encode(), str(theirs).encode())
    assert llama_cpp.llama_model_quantize(*names, ctypes.byref(options)) == 0
    found, want = (
        {tensor.name: (tensor.tensor_type, tensor.data.tobytes()) for tensor in reader.tensors}
        for reader in (GGUFReader(export_gguf(checkpoint, "mixed").path), GGUFReader(theirs))
    )
    assert found == want


def round_weights(model, scheme):
    """Round as the file does: by rows, so the order and the cutting of rows don't matter."""
    for name, weights in model.named_parameters():
        if weights.ndim >= 2 and not any(part in name for part in ("router", "conv", "positions")):
            kind = scheme.embedding if name == "embedding.weight" else scheme.matrices
            rounded = dequantize(quantize(weights.numpy(), kind), kind)
            weights.copy_(torch.from_numpy(rounded).view_as(weights))
