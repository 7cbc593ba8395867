"""A small text and a small model, so that a training takes a second."""

import random
from pathlib import Path

import pytest

from tests.train.small import make_small


@pytest.fixture(scope="session")
def text(tmp_path_factory) -> Path:
    """A folder of 200 short documents with something to learn in them."""
    draw = random.Random(0)
    people = ("the cat", "a dog", "my friend", "the old man", "a small bird", "the queen")
    acts = ("sees", "likes", "follows", "asks", "paints", "finds")
    folder = tmp_path_factory.mktemp("text")
    for i in range(200):
        lines = [
            f"{draw.choice(people)} {draw.choice(acts)} {draw.choice(people)}."
            for _ in range(draw.randint(4, 20))
        ]
        (folder / f"{i}.txt").write_text("\n".join(lines))
    return folder


@pytest.fixture
def small(monkeypatch) -> None:
    """Makes the tiny presets smaller still."""
    make_small(monkeypatch)
