"""A vocabulary of the conventional size for any text."""

from itera_lite.data import prepare as prepare_module
from itera_lite.data.prepare import prepare_general


def test_a_large_text_gets_a_tokenizer_of_its_own(tmp_path):
    (tmp_path / "a.txt").write_text("the cat sees the dog and the dog sees the cat. " * 50)
    found = prepare_general(str(tmp_path), 270, quiet=True)
    assert found.tokenizer.vocab_size == 270
    assert b" sees" in found.tokenizer.token_bytes


def test_a_small_text_gets_tokens_from_elsewhere_too(tmp_path, monkeypatch):
    own, other = tmp_path / "own", tmp_path / "other"
    for folder, words in ((own, "cat dog"), (other, "gamma")):
        folder.mkdir()
        for i in range(20):
            (folder / f"{i}.txt").write_text(f"{i} " + f"{words} " * 20)
    monkeypatch.setattr(prepare_module, "GENERAL", str(other))
    found = prepare_general(str(own), 270, quiet=True)
    assert found.tokenizer.vocab_size == 270
    assert {b" cat", b" gamma"} <= set(found.tokenizer.token_bytes)
    assert b"".join(found.documents("train")).count(b"cat") >= 20  # its own text alone
    assert b"gamma" not in b"".join(found.documents("train"))
