"""Generation in PyTorch: whole characters, sampling rules, clear errors."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from itera_lite.checkpoint.folder import load_checkpoint
from itera_lite.config import ModelConfig
from itera_lite.errors import UsageError
from itera_lite.model.stream import Sampler, stream, stream_ids

EOT = 3


class Scripted:
    """A model that always writes the same tokens, and a tokenizer of a few odd pieces."""

    config = ModelConfig("transformer", "a", 256, 32, d_ff=8, max_seq_len=64)
    eot_id = EOT

    def __init__(self, pieces, script):
        self.token_bytes = [b"<0>", b"<1>", b"<2>", b"", *pieces]
        self.script = [self.token_bytes.index(p, 4) for p in script] + [EOT]
        self.read = None

    def parameters(self):
        return iter([torch.zeros(1)])

    def encode(self, text):
        return [0] * len(text)

    def initial_state(self, batch):
        return [0]

    def _next(self, state):
        logits = torch.zeros(1, len(self.token_bytes))
        logits[0, self.script[state[0]]] = 50.0
        state[0] += 1
        return logits

    def prefill(self, ids, state):
        self.read = ids.tolist()
        return self._next(state)

    def step(self, ids, state):
        assert ids.tolist() == [self.script[state[0] - 1]]
        return self._next(state)


def write(script, pieces=None, **options):
    fake = Scripted(pieces or script, script)
    return fake, list(stream(fake, fake, **{"sampler": Sampler(0), "max_tokens": 60, **options}))


def test_characters_are_held_back_until_they_are_whole():
    _, pieces = write([b"a", b"\xe2\x82", b"\xac", b"b\xc3", b"\xa4"])
    assert [p for p in pieces if p] == ["a", "€", "b", "ä"]


def test_a_character_that_stays_incomplete_is_marked():
    _, pieces = write([b"a", b"\xe2\x82"])
    assert "".join(pieces) == "a\ufffd"


@given(st.lists(st.binary(min_size=1, max_size=3), min_size=1, max_size=12))
def test_pieces_together_are_the_decoded_whole(script):
    _, pieces = write(script)
    assert "".join(pieces) == b"".join(script).decode("utf-8", "replace")
    assert all(pieces)


def test_starts_after_end_of_text_and_the_prompt():
    fake, _ = write([b"a"], prompt="xy")
    assert fake.read == [[EOT, 0, 0]]


def test_ends_with_the_document_or_after_max_tokens():
    _, pieces = write([b"a", b"b", b"c"])
    assert "".join(pieces) == "abc"
    _, pieces = write([b"a", b"b", b"c"], max_tokens=2)
    assert "".join(pieces) == "ab"


LOGITS = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"temperature": 1.0, "top_p": 1.0}, [0.5, 0.3, 0.15, 0.05]),
        ({"temperature": 0.0}, [1, 0, 0, 0]),
        ({"temperature": 1.0, "top_k": 2, "top_p": 1.0}, [0.625, 0.375, 0, 0]),
        ({"temperature": 1.0, "top_k": 9, "top_p": 1.0}, [0.5, 0.3, 0.15, 0.05]),
        ({"temperature": 1.0, "top_p": 0.7}, [0.625, 0.375, 0, 0]),
        ({"temperature": 1.0, "top_p": 0.01}, [1, 0, 0, 0]),
        ({"temperature": 1.0, "top_k": 3, "top_p": 0.6}, [0.625, 0.375, 0, 0]),
        ({"temperature": 0.5, "top_p": 1.0}, [0.25, 0.09, 0.0225, 0.0025]),
    ],
)
def test_distribution_that_is_sampled_from(options, expected):
    expected = torch.tensor(expected) / sum(expected)
    torch.testing.assert_close(Sampler(**options).probabilities(LOGITS), expected.float())


def test_samples_follow_the_distribution():
    sampler = Sampler(temperature=1.0, top_p=1.0, seed=0)
    n = 4000
    counts = torch.bincount(torch.tensor([sampler(LOGITS) for _ in range(n)]), minlength=4)
    p = LOGITS.exp()
    assert ((counts / n - p).abs() < 4 * (p * (1 - p) / n).sqrt()).all()


def test_greedy_takes_the_best_even_where_numbers_are_extreme():
    extreme = torch.tensor([-math.inf, 3e38, 1.0])
    for temperature in (0.0, 1e-3, 1.0):
        assert Sampler(temperature, seed=0)(extreme) == 1


@pytest.mark.parametrize("name", ["itera_lite_test", "transformer_test"])
def test_steps_write_what_whole_passes_would(name, tiny_pair):
    model, tokenizer = load_checkpoint(tiny_pair[name])
    row = [tokenizer.eot_id, *tokenizer.encode("ab")]
    ids = []
    for token in stream_ids(model, row[1:], tokenizer.eot_id, Sampler(0)):
        ids.append(token)
        if len(ids) == 20:
            break
    for token in ids:
        with torch.no_grad():
            assert int(model(torch.tensor([row]))[0, -1].argmax()) == token
        row.append(token)


def test_a_paused_stream_leaves_gradients_on(tiny_pair):
    model, tokenizer = load_checkpoint(tiny_pair["transformer_test"])
    pieces = stream(model, tokenizer, "a", sampler=Sampler(1.0, seed=0))
    next(pieces)
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": 0}, "max_tokens=0"),
        ({"max_tokens": 600}, "at most 512 tokens"),
        ({"prompt": "x" * 400}, "a prompt of 400 tokens"),
    ],
)
def test_wrong_use_is_said(options, message, tiny_pair):
    model, tokenizer = load_checkpoint(tiny_pair["itera_lite_test"])
    with pytest.raises(UsageError, match=message):
        stream(model, tokenizer, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature=-1.0"),
        ({"temperature": math.nan}, "temperature=nan"),
        ({"top_k": -1}, "top_k=-1"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"top_p": 1.5}, "top_p=1.5"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_wrong_options_of_sampling_are_named(options, message):
    with pytest.raises(UsageError, match=message):
        Sampler(**options)
