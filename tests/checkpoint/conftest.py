"""A tokenizer and checkpoints, as the tests of the export have them."""

from tests.export.conftest import save_random, tokenizer

__all__ = ["save_random", "tokenizer"]
