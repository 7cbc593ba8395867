"""Check bits per byte: each byte counts once, no model looks ahead, distributions sum to one."""

import math
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from itera_lite.config import ModelConfig, TrainConfig
from itera_lite.errors import DataError, UsageError
from itera_lite.evaluate import bits as module
from itera_lite.evaluate.bits import (
    IGNORED,
    Window,
    batches_of,
    evaluating,
    first_bytes,
    score_documents,
    stream_bits,
    token_losses,
    usual_batch,
    validation_score,
    windows,
)
from itera_lite.evaluate.score import Score, count_words
from itera_lite.model import LanguageModel
from itera_lite.workers import Workers

EOT = 256


class ByteTokenizer:
    """Every byte is a token; 256 is the end of a document."""

    eot_id = EOT
    token_bytes = [*(bytes([b]) for b in range(256)), b""]

    def encode_batch(self, texts):
        return [list(text) for text in texts]


class Memory(nn.Module):
    """Causal, and every earlier token of the window changes the next distribution."""

    def __init__(self, vocab: int = 257) -> None:
        super().__init__()
        self.table = nn.Embedding(vocab, vocab)
        self.calls: list[tuple[int, int]] = []

    def forward(self, ids):
        self.calls.append(tuple(ids.shape))
        return self.table(ids).cumsum(1)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Memory()


def _models():
    torch.manual_seed(0)
    small = {"vocab_size": 257, "d_model": 32, "head_dim": 16}
    itera = ModelConfig(
        "itera", "ma", n_experts=4, d_expert=16, d_state=8, ssm_head_dim=16, **small
    )
    transformer = ModelConfig("transformer", "aa", d_ff=48, **small)
    for config in (itera, transformer):
        model = LanguageModel(config)
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3)
        yield pytest.param(model, id=config.family)


def naive(model, documents, seq_len):
    """One document and one token at a time, straight from the policy in docs/method.md."""
    nats, correct, tokens = 0.0, 0, 0
    for document in filter(None, documents):
        row = [EOT, *document, EOT]
        scored = 0  # of the len(row) - 1 predictions
        while scored < len(row) - 1:
            new = seq_len if scored == 0 else seq_len - seq_len // 2
            end = min(scored + new, len(row) - 1)
            start = max(0, end - seq_len)
            for i in range(scored + 1, end + 1):
                with torch.no_grad():
                    p = model(torch.tensor([row[start:i]]))[0, -1].double().softmax(-1)
                nats -= math.log(p[row[i]])
                correct += int(p.argmax()) == row[i]
                tokens += 1
            scored = end
    return nats, correct, tokens


MODELS = list(_models())
DOCUMENTS = [b"a", b"hello world", b"the quick brown fox jumps", b"", "Grüße, 世界".encode()]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("seq_len", [1, 7, 8, 64])
def test_equals_one_token_at_a_time(model, seq_len):
    got = score_documents(model, ByteTokenizer(), DOCUMENTS, seq_len=seq_len, batch_tokens=24)
    nats, correct, tokens = naive(model, DOCUMENTS, seq_len)
    assert got.nats == pytest.approx(nats, rel=1e-5)
    assert (got.correct, got.tokens) == (correct, tokens)
    assert got.bytes == sum(map(len, DOCUMENTS))
    assert got.tokens == got.bytes + 4  # the ends of the four documents that hold text


@given(n=st.integers(1, 200), seq_len=st.integers(1, 40))
def test_windows_score_each_prediction_once_with_half_a_window_of_context(n, seq_len):
    seen = []
    for window in windows(0, n, seq_len):
        assert 0 < window.length <= seq_len
        scored = range(window.start + window.skip + 1, window.end + 1)
        seen += scored
        for position in scored:
            context = position - window.start
            assert context >= min(position, seq_len // 2)
    assert seen == list(range(1, n + 1))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.binary(max_size=40), min_size=1).filter(any), st.integers(1, 16))
def test_batching_changes_nothing(documents, seq_len):
    torch.manual_seed(0)
    model = Memory()
    alone = [score_documents(model, ByteTokenizer(), [d], seq_len=seq_len) for d in documents if d]
    together = score_documents(
        model, ByteTokenizer(), documents, seq_len=seq_len, batch_tokens=3 * seq_len
    )
    assert together.nats == pytest.approx(sum(s.nats for s in alone), rel=1e-5)
    assert together.tokens == sum(s.tokens for s in alone)
    assert sum(n for _, n in together.by_position.values()) == together.tokens


@pytest.mark.parametrize("model", MODELS)
def test_any_number_of_workers_gives_the_same_score(model):
    """Bit for bit: the sums have the order of the batches."""
    texts = [bytes(range(32, 32 + n)) * 3 for n in range(1, 60)]
    stream = np.random.default_rng(0).integers(0, 257, 2001)
    found = []
    for count in (1, 2, 3):
        with Workers(count) as workers:
            options = {"batch_tokens": 64, "workers": workers}
            documents = score_documents(model, ByteTokenizer(), texts, seq_len=32, **options)
            found.append((documents, stream_bits(model, stream, LENGTHS, seq_len=32, **options)))
    assert found[0] == found[1] == found[2]
    assert found[0][0].tokens > 50 * 64  # more than a few batches
    alone = score_documents(model, ByteTokenizer(), texts, seq_len=32)
    assert alone.nats == pytest.approx(found[0][0].nats, rel=1e-5)


def test_workers_share_the_batches():
    """Two batches are in the model at the same time, of documents and of a stream."""
    both = threading.Barrier(2, timeout=600)

    class Meeting(Memory):
        def forward(self, ids):
            both.wait()
            return super().forward(ids)

    with Workers(2) as workers:
        options = {"seq_len": 8, "batch_tokens": 8, "workers": workers}
        score_documents(Meeting(), ByteTokenizer(), [b"1234567"] * 4, **options)
        stream_bits(Meeting(), np.arange(33), LENGTHS, **options)


def test_progress_counts_every_byte(model):
    done: list[int] = []
    score_documents(model, ByteTokenizer(), DOCUMENTS, batch_tokens=16, progress=done.append)
    assert sum(done) == sum(map(len, DOCUMENTS)) and len(done) > 1


def test_short_documents_are_not_padded_to_the_window(model):
    documents = [b"x" * n for n in (1, 1, 1, 1, 60)]
    score_documents(model, ByteTokenizer(), documents, seq_len=64, batch_tokens=64)
    assert sorted(model.calls) == [(1, 61), (4, 2)]


@pytest.mark.parametrize("model", MODELS)
def test_probabilities_sum_to_one(model):
    with torch.no_grad():
        logits = model(torch.randint(0, 257, (3, 20)))
        total = sum(
            torch.exp(-token_losses(logits, torch.full((3, 20), v))[0].double()) for v in range(257)
        )
    torch.testing.assert_close(total, torch.ones(3, 20, dtype=torch.float64), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model", MODELS)
def test_no_future_token_reaches_a_score(model):
    ids = torch.randint(0, 257, (2, 20))
    changed = ids.clone()
    changed[:, 12:] = torch.randint(0, 257, (2, 8))
    with torch.no_grad():
        torch.testing.assert_close(model(ids)[:, :12], model(changed)[:, :12])


def test_uniform_model_costs_what_a_uniform_code_costs():
    model = Memory()
    nn.init.zeros_(model.table.weight)
    score = score_documents(model, ByteTokenizer(), [b"abcd"], seq_len=8)
    assert score.bpb == pytest.approx(5 * math.log2(257) / 4)  # four bytes and the end
    assert score.loss == pytest.approx(math.log(257))
    assert score.ppl == pytest.approx(257)


def test_mode_is_restored_and_no_gradient_is_kept(model):
    model.train()
    score_documents(model, ByteTokenizer(), [b"abc"])
    assert model.training
    assert model.table.weight.grad is None
    assert torch.is_grad_enabled()


def test_training_goes_on_after_an_evaluation():
    """Nothing cached during the evaluation (rotary tables) may stop a later backward pass."""
    for model in (p.values[0] for p in MODELS):
        score_documents(model, ByteTokenizer(), [b"abc"])
        model.loss(torch.zeros(1, 4, dtype=torch.long), torch.ones(1, 4, dtype=torch.long))
        model(torch.zeros(1, 4, dtype=torch.long)).sum().backward()


def test_a_tokenizer_that_loses_bytes_is_an_error(model):
    class Lossy(ByteTokenizer):
        def encode_batch(self, texts):
            return [list(text)[1:] for text in texts]

    with pytest.raises(DataError, match="3 bytes into tokens of 2 bytes"):
        score_documents(model, Lossy(), [b"abc"])


@pytest.mark.parametrize("documents", [[], [b""]])
def test_nothing_to_score_is_an_error(model, documents):
    with pytest.raises(DataError, match="no text to score"):
        score_documents(model, ByteTokenizer(), documents)


def test_window_below_one_is_an_error(model):
    with pytest.raises(UsageError, match="seq_len=0"):
        score_documents(model, ByteTokenizer(), [b"abc"], seq_len=0)


LENGTHS = np.array([1] * 256 + [0])


def test_stream_covers_all_windows(model):
    tokens = np.random.default_rng(0).integers(0, 257, 101).astype(np.uint16)
    score = stream_bits(model, tokens, LENGTHS, seq_len=10, batch_tokens=30)
    expected = 0.0
    with torch.no_grad():
        for start in range(0, 100, 10):
            row = torch.from_numpy(tokens[start : start + 11].astype(np.int64))[None]
            expected += float(
                nn.functional.cross_entropy(model(row[:, :-1])[0], row[0, 1:], reduction="sum")
            )
    assert score.nats == pytest.approx(expected, rel=1e-5)
    assert score.tokens == 100
    assert score.bytes == int((tokens[1:101] != EOT).sum())


def test_stream_sample_is_spread_and_fixed(model):
    tokens = np.repeat(np.arange(10), 10).astype(np.uint16)
    tokens = np.append(tokens, 0).astype(np.uint16)
    seen = []
    original = model.forward
    model.forward = lambda ids: seen.append(ids[:, 0].tolist()) or original(ids)
    score = stream_bits(model, tokens, LENGTHS, seq_len=10, batch_tokens=80, max_tokens=50)
    assert seen == [[0, 2, 4, 6, 8]]
    assert score.tokens == 50
    again = stream_bits(model, tokens, LENGTHS, seq_len=10, batch_tokens=80, max_tokens=50)
    assert again.nats == score.nats


def test_stream_shorter_than_a_window(model):
    score = stream_bits(
        model, np.array([EOT, 1, 2]), LENGTHS, seq_len=64, batch_tokens=256, max_tokens=1
    )
    assert (score.tokens, score.bytes) == (2, 2)
    with pytest.raises(DataError, match="1 tokens"):
        stream_bits(model, np.array([1]), LENGTHS, seq_len=4)


def test_ignored_positions_cost_nothing():
    losses, guessed = token_losses(torch.randn(1, 3, 5), torch.tensor([[IGNORED, 2, IGNORED]]))
    assert losses[0, 0] == losses[0, 2] == 0 and losses[0, 1] > 0
    assert not guessed[0, 0] and not guessed[0, 2]


def test_word_count_is_that_of_the_literature():
    assert count_words([b" = Robert <unk> = \n", b" \n a b\nc"]) == 5 + 1 + 3 + 2


def test_empty_score_is_not_a_number():
    empty = Score()
    assert all(math.isnan(x) for x in (empty.bpb, empty.loss, empty.ppl, empty.accuracy))
    assert Score(nats=1e6, tokens=1).ppl == math.inf


def test_windows_of_an_odd_length():
    """Every window but the first is full, and scores only tokens that no earlier one scored."""
    assert list(windows(3, 12, 5)) == [
        Window(3, 0, 5, 0), Window(3, 3, 8, 2), Window(3, 6, 11, 2), Window(3, 7, 12, 4),
    ]  # fmt: skip
    assert list(windows(0, 5, 5)) == [Window(0, 0, 5, 0)]
    assert list(windows(0, 6, 5)) == [Window(0, 0, 5, 0), Window(0, 1, 6, 4)]
    assert Window(0, 2, 9, 1).length == 7


@pytest.mark.parametrize("seq_len", [1, 8, 64])
def test_nats_stand_at_their_position_in_the_document(model, seq_len):
    """Positions are rounded up to a power of two; the first predicted token is at 1."""
    document = bytes(range(97, 117))
    got = score_documents(model, ByteTokenizer(), [document], seq_len=seq_len)
    assert [(end, n) for end, (_, n) in got.by_position.items()] == [
        (1, 1), (2, 1), (4, 2), (8, 4), (16, 8), (32, 5),
    ]  # fmt: skip
    end = naive_end(model, document[:1], seq_len)
    first = naive(model, [document[:1]], seq_len)[0] - end
    assert got.by_position[1][0] == pytest.approx(first, rel=1e-4)
    assert sum(nats for nats, _ in got.by_position.values()) == pytest.approx(got.nats)


def naive_end(model, document, seq_len):
    """Return the nats that the end of a document costs."""
    row = [EOT, *document]
    with torch.no_grad():
        logits = model(torch.tensor([row[-seq_len:]]))[0, -1]
    return -float(logits.double().log_softmax(-1)[EOT])


def test_the_usual_batch_depends_on_the_vocabulary_and_the_device():
    class On(nn.Module):
        def __init__(self, device):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1, device=device))

    assert usual_batch(On("cpu"), 2048) == 1024
    assert usual_batch(On("cpu"), 2**14) == 512  # 32 MiB of logits
    assert usual_batch(On("meta"), 2048) == 4096  # as a GPU


def test_a_batch_holds_at_least_a_window(model):
    score_documents(model, ByteTokenizer(), [b"x" * 1500, b"y" * 40], seq_len=1300)
    assert model.calls[0] == (1, 1300)
    model.calls.clear()
    score_documents(model, ByteTokenizer(), [b"x" * 300])
    assert model.calls[0][1] == 256  # by default
    model.calls.clear()
    score_documents(model, ByteTokenizer(), [b"x" * 255] * 9)
    assert model.calls == [(4, 256), (4, 256), (1, 256)]  # 1,024 tokens


def test_documents_are_sorted_in_blocks_of_text(model, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_BYTES", 6)
    sizes = [[len(d) for d in block] for block in module._blocks([b"abc", b"", b"de", b"f", b"g"])]
    assert sizes == [[3, 2, 1], [1]]
    assert list(module._blocks([])) == []


def test_whole_documents_until_there_are_enough():
    documents = [b"abc", b"de", b"fgh"]
    assert list(first_bytes(documents, 5)) == [b"abc", b"de"]
    assert list(first_bytes(documents, 6)) == documents
    assert list(first_bytes(documents, 1)) == [b"abc"]
    assert list(first_bytes(documents)) == documents
    assert module.FINAL_BYTES == 2_000_000


def test_windows_are_shared_out_in_batches():
    assert [len(b) for b in batches_of(torch.zeros(9, 256))] == [4, 4, 1]
    assert [len(b) for b in batches_of(torch.zeros(2, 2000))] == [1, 1]


def test_the_mode_comes_back_after_an_error(model):
    model.train()
    with pytest.raises(ValueError), evaluating(model):
        assert not model.training and not torch.is_grad_enabled()
        raise ValueError
    assert model.training and torch.is_grad_enabled()
    model.eval()
    with evaluating(model):
        assert not model.training
    assert not model.training


def test_the_window_of_a_validation_is_that_of_trainings(monkeypatch):
    asked = []
    monkeypatch.setattr(module, "score_documents", lambda *a, **more: asked.append((a, more)))

    class Of:
        def __init__(self, longest):
            self.config = ModelConfig(
                "transformer", "a", vocab_size=257, d_model=32, head_dim=16, d_ff=48,
                max_seq_len=longest,
            )  # fmt: skip

    usual = TrainConfig().seq_len
    for longest in (usual // 2, 2 * usual):
        validation_score(Of(longest), "tokenizer", ["text"], "workers")
    assert [more["seq_len"] for _, more in asked] == [usual // 2, usual]
    assert asked[0][0][1:] == ("tokenizer", ["text"]) and asked[0][1]["workers"] == "workers"


def test_guesses_are_counted_in_a_stream(model):
    tokens = np.arange(41) % 7
    with torch.no_grad():
        for at in range(1, 30):  # what the model guesses; then what it doesn't
            begin = (at - 1) // 8 * 8
            tokens[at] = model(torch.from_numpy(tokens[None, begin:at]))[0, -1].argmax()
        rows = torch.from_numpy(np.stack([tokens[s : s + 9] for s in range(0, 40, 8)]))
        guessed = int((model(rows[:, :-1]).argmax(-1) == rows[:, 1:]).sum())
    model.calls.clear()
    score = stream_bits(model, tokens, LENGTHS, seq_len=8)
    assert 29 <= guessed < 40
    assert (score.correct, score.tokens, score.bytes) == (guessed, 40, 40)
    assert score.by_position == {}
    sizes = [size for size, _ in model.calls]
    assert sizes == [5]  # all windows are one batch


def test_a_stream_is_scored_in_part_as_asked(model):
    tokens = np.arange(101) % 7
    for most, expected in ((None, 100), (1000, 100), (35, 30), (9, 10), (1, 10)):
        found = stream_bits(model, tokens, LENGTHS, seq_len=10, max_tokens=most)
        assert found.tokens == expected
    with pytest.raises(DataError) as caught:
        stream_bits(model, np.array([], dtype=int), LENGTHS, seq_len=4)
    assert str(caught.value) == "a stream of 0 tokens: expected at least 2 to score one"
    assert stream_bits(model, np.array([1, 2]), LENGTHS, seq_len=4).tokens == 1


def test_refusals_in_full(model):
    for documents, options, words in (
        ([], {}, "there is no text to score: expected at least one document of one byte"),
        ([b"a"], {"seq_len": 0}, "seq_len=0: expected at least 1 token"),
    ):
        with pytest.raises((DataError, UsageError)) as caught:
            score_documents(model, ByteTokenizer(), documents, **options)
        assert str(caught.value) == words
    assert score_documents(model, ByteTokenizer(), [b"a"], seq_len=1).tokens == 2


def test_losses_are_nats_in_float32():
    logits = torch.tensor([[[0.0, math.log(3)], [2.0, 0.0]]], dtype=torch.bfloat16)
    losses, guessed = token_losses(logits, torch.tensor([[1, 1]]))
    assert losses.dtype == torch.float32
    assert losses[0].tolist() == pytest.approx(
        [math.log(4 / 3), 2 + math.log1p(math.exp(-2))], rel=3e-3
    )
    assert guessed.tolist() == [[True, False]]
