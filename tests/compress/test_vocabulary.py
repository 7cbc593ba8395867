# ruff: noqa: F811  (fixtures are imported, and named as arguments)
"""A smaller vocabulary: what is carried over, what the verb leaves, how a size is chosen."""

from copy import deepcopy

import pytest
import torch

from itera_lite.checkpoint.folder import load_checkpoint
from itera_lite.commands.compress_vocab import vocab, warn_of_loss
from itera_lite.compress import start as start_module
from itera_lite.compress import vocabulary
from itera_lite.compress.vocabulary import carry_over, cheapest, pieces_of
from itera_lite.data.prepare import prepare
from itera_lite.data.tokenizer import Tokenizer
from itera_lite.engine import Model
from itera_lite.errors import CheckpointError, DataError, UsageError
from itera_lite.export.gguf import export_gguf
from itera_lite.records import Summary, VocabularyChoice, VocabularySize
from tests.compress.checkpoints import GPT2, ITERA, TRANSFORMER, files, old, save, text  # noqa: F401
from tests.export.models import random_model

SHAPES = pytest.mark.parametrize("shape", [ITERA, TRANSFORMER, GPT2], ids=lambda c: c.family)


def out(path) -> dict:
    return {"checkpoints": path / "c", "results": path / "r", "workers": 1, "quiet": True}


@SHAPES
def test_the_same_tokenizer_carries_over_to_the_same_model(shape, old):
    model = random_model(shape)
    carried = carry_over(model, old, old)
    assert carried.config == model.config
    for name, value in model.state_dict().items():
        assert torch.equal(carried.state_dict()[name], value)


@SHAPES
@torch.no_grad()
def test_kept_tokens_keep_their_logits(shape, old, text):
    """On a text of tokens that both have, each of these is as probable as before."""
    new = prepare(str(text), vocab_size=280, quiet=True).tokenizer
    model = random_model(shape)
    pieces = pieces_of(new, old)
    assert all(len(p) == 1 for p in pieces), "fewer merges of one text are a part of the more"
    kept = torch.tensor(pieces)[:, 0]
    ids = torch.randint(0, 280, (2, 50))
    assert torch.equal(carry_over(model, old, new)(ids), model(kept[ids])[..., kept])


def test_a_new_token_is_the_mean_of_its_pieces(old):
    new = Tokenizer.train([b"zebra quux zebra quux " * 9], 264)
    model = random_model(ITERA)
    rows = carry_over(model, old, new).embedding.weight
    made = [i for i, pieces in enumerate(pieces_of(new, old)) if len(pieces) > 1]
    assert made
    for index in made:
        mean = model.embedding.weight[old.encode(new.token_bytes[index])].mean(dim=0)
        torch.testing.assert_close(rows[index], mean)
    assert torch.equal(rows[new.eot_id], model.embedding.weight[old.eot_id])


@SHAPES
def test_pieces_spell_their_token(shape, old):
    new = Tokenizer.train(["größer größer \u2014 naïve naïve ".encode() * 5], 270)
    for token, pieces in zip(new.token_bytes, pieces_of(new, old), strict=True):
        assert old.decode_bytes(pieces) == token


@SHAPES
def test_the_verb_leaves_a_smaller_model_and_the_old_one(shape, save, text, tmp_path):
    checkpoint = save(shape)
    before = files(checkpoint)
    summary = vocab(checkpoint, data=str(text), size=280, tokens="8K", **out(tmp_path))
    assert files(checkpoint) == before
    model, tokenizer = load_checkpoint(tmp_path / "c" / "given_v280")
    assert model.config == shape.replace(vocab_size=280)
    same = prepare(str(text), vocab_size=280, quiet=True).tokenizer
    assert tokenizer.sha256 == same.sha256 == summary.dataset.tokenizer_sha256
    record = summary.compression
    assert record.start.vocab_size == 310
    assert record.rows_kept == 280 and record.rows_made == 0
    assert record.bytes_per_token.after < record.bytes_per_token.before
    assert record.bpb.adapted == summary.valid.bpb < record.bpb.carried_over
    assert Summary.read(tmp_path / "r" / "given_v280_summary.json") == summary


def test_without_adaptation_the_model_is_the_carried_one(save, text, tmp_path, old):
    checkpoint = save(ITERA)
    summary = vocab(checkpoint, data=str(text), size=280, minutes=0, name="mine", **out(tmp_path))
    model, tokenizer = load_checkpoint(tmp_path / "c" / "mine")
    expected = carry_over(random_model(ITERA), old, tokenizer)
    for name, value in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)
    assert summary.compression.bpb.adapted is None
    assert summary.valid.bpb == summary.compression.bpb.carried_over
    path = export_gguf(tmp_path / "c" / "mine", "f32").path
    documents = [d.decode() for d in prepare(str(text), quiet=True, vocab_size=280)
                 .documents("valid")]  # fmt: skip
    scores = Model.load(path).score(documents)
    bits = sum(s.bits_per_byte * len(d.encode()) for s, d in zip(scores, documents, strict=True))
    measured = bits / sum(len(d.encode()) for d in documents)
    assert measured == pytest.approx(summary.valid.bpb, rel=1e-3)


def test_auto_tries_what_fits_and_says_why(save, text, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("itera_lite.compress.vocabulary.SIZES", (270, 290, 1024))
    options = out(tmp_path) | {"quiet": False}
    summary = vocab(save(ITERA), data=str(text), auto=True, minutes=0, name="best", **options)
    sizes = summary.compression.sizes
    assert [row.size for row in sizes.tried] == [270, 290]
    assert sizes.before.size == 310
    chosen = next(row for row in sizes.tried if row.size == sizes.chosen)
    model, tokenizer = load_checkpoint(tmp_path / "c" / "best")
    assert tokenizer.vocab_size == chosen.size == model.config.vocab_size
    assert chosen.bpb == summary.valid.bpb
    exported = export_gguf(tmp_path / "c" / "best", "q8_0").path.stat().st_size
    assert chosen.file_q8_0 == pytest.approx(exported, abs=64)  # the name is stored inside
    assert chosen.tokens_per_byte == summary.valid.tokens / summary.valid.bytes
    shown, warned = capsys.readouterr()
    lost = chosen.bpb / sizes.before.bpb - 1
    assert ("above the model as it was" in warned) == (lost > 0.01)
    assert "as it was" in shown and "chosen" in shown and sizes.rule in shown
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["best"]
    assert Summary.read(tmp_path / "r" / "best_summary.json") == summary


def test_a_choice_that_was_cut_off_between_two_writes_goes_on(save, text, tmp_path, monkeypatch):
    monkeypatch.setattr(vocabulary, "SIZES", (270, 290))
    options = {"data": str(text), "auto": True, "minutes": 0, "name": "best", **out(tmp_path)}
    checkpoint, original, saved = save(ITERA), start_module.save_checkpoint, []

    def cut(folder, *parts):
        original(folder, *parts)
        saved.append(folder.name)
        if saved == ["best_270", "best_290"]:
            raise KeyboardInterrupt

    monkeypatch.setattr(start_module, "save_checkpoint", cut)
    with pytest.raises(KeyboardInterrupt):
        vocab(checkpoint, **options)
    summary = vocab(checkpoint, resume=True, **options)
    assert saved == ["best_270", "best_290", "best_290"]
    assert [row.size for row in summary.compression.sizes.tried] == [270, 290]


def test_a_summary_is_whole_from_its_first_writing_on(save, text, tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(Summary, "write", lambda self, path: written.append(deepcopy(self)))
    summary = vocab(save(ITERA), data=str(text), size=280, tokens="8K", **out(tmp_path))
    assert written == [summary]
    assert written[0].compression.bpb.adapted == summary.valid.bpb


def test_a_replaced_model_leaves_nothing_that_goes_on_from_it(save, text, tmp_path):
    checkpoint = save(ITERA)
    options = {"data": str(text), "size": 280, "name": "mine", **out(tmp_path)}
    vocab(checkpoint, tokens="8K", **options)
    assert (tmp_path / "c" / "mine-last").is_dir()
    vocab(checkpoint, minutes=0, overwrite=True, **options)
    assert not (tmp_path / "c" / "mine-last").exists()
    assert not (tmp_path / "r" / "mine_metrics.csv").exists()


@pytest.mark.parametrize(("bpb", "warned"), [(1.005, False), (1.2, True)])
def test_a_choice_that_lost_much_is_warned_of(bpb, warned, capsys):
    small, before = (
        VocabularySize(size, b, 10, 40, 9, 0.3) for size, b in ((512, bpb), (2048, 1.0))
    )
    warn_of_loss(VocabularyChoice("", 512, [small], before), 0.01)
    found = capsys.readouterr().err
    assert ("20.0% above the model as it was (1.2000 against 1.0000" in found) == warned
    assert bool(found) == warned


def test_the_cheapest_that_is_good_enough_is_chosen():
    def row(size, bpb, file, flops):
        return VocabularySize(size, bpb, file, 4 * file, flops, 0.3)

    small, middle, large = row(512, 1.2, 10, 10), row(1024, 1.009, 11, 9), row(2048, 1.0, 20, 20)
    assert cheapest([small, middle, large], 0.01) is middle
    assert cheapest([small, middle, large], 0.001) is large
    assert cheapest([small, middle, large], 0.5) is middle, "99 is below 100"


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"size": 310}, UsageError, "vocabulary of 310 already"),
        ({"size": 999}, UsageError, "smaller"),
        ({"size": 100}, UsageError, "from 256 to 65,536"),
        ({"size": 280, "auto": True}, UsageError, "leave out --size"),
        ({"auto": True}, UsageError, "none of 512"),
        ({"size": 280, "minutes": -1}, UsageError, "--minutes -1"),
        ({"size": 280, "minutes": 1, "tokens": "2M"}, UsageError, "give one of them"),
        ({"size": 280, "max_loss": "2"}, UsageError, "such as 1%"),
        ({"size": 280, "name": "given"}, UsageError, "give another --name"),
        ({"size": 280, "data": "/no/such/text"}, DataError, "no/such"),
    ],
)
def test_wrong_use_is_told_and_the_original_untouched(options, error, told, save, text, tmp_path):
    checkpoint = save(ITERA)
    before = files(checkpoint)
    arguments = {"data": str(text), "workers": 1, "quiet": True} | options
    with pytest.raises(error, match=told):
        vocab(checkpoint, checkpoints=tmp_path, results=tmp_path / "r", **arguments)
    assert files(checkpoint) == before


def test_a_text_that_is_too_small_says_what_it_supports(save, tmp_path):
    (tmp_path / "few.txt").write_text("one two one two\n\nthree four three four\n" * 3)
    with pytest.raises(DataError, match="supports at most"):
        vocab(save(ITERA), data=str(tmp_path / "few.txt"), size=300, **out(tmp_path))


def test_a_damaged_checkpoint_is_one_clear_error(save, text, tmp_path):
    checkpoint = save(ITERA)
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="damaged"):
        vocab(checkpoint, data=str(text), size=280, **out(tmp_path))
