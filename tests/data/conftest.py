"""Small texts for the data tests, and an empty cache for each."""

import random
from pathlib import Path

import pytest


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of this test alone."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("ITERA_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def stories() -> list[bytes]:
    """400 different little stories."""
    rng = random.Random(7)
    nouns = ["cat", "dog", "ball", "tree", "girl", "boat", "bird", "hat"]
    words = ["the", "a", "sat", "ran", "saw", "big", "red", "happy", "went", "home", *nouns]
    texts = []
    for number in range(400):
        lines = [" ".join(rng.choices(words, k=rng.randint(4, 12))) + "." for _ in range(4)]
        texts.append(f"Story {number}.\n".encode() + "\n".join(lines).encode())
    return texts


@pytest.fixture
def story_file(tmp_path: Path, stories: list[bytes]) -> Path:
    """The stories in one file, each followed by a line ``<|endoftext|>``."""
    file = tmp_path / "stories.txt"
    file.write_bytes(b"".join(text + b"\n<|endoftext|>\n" for text in stories))
    return file
