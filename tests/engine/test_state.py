"""What a model remembers of a text: forked, saved, restored, and refused where it isn't its own."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from itera_lite.config import preset
from itera_lite.engine import Model
from itera_lite.errors import ModelFileError, UsageError
from tests.engine.conftest import Export
from tests.export.models import VOCAB

PROMPT = "Once upon a time, in a land far away, " * 3


@pytest.fixture(scope="module", params=["f32", "q8_0"])
def model(request: pytest.FixtureRequest, export: Export) -> Model:
    """The attention cache of a quantised model is quantised too."""
    return Model.load(export(preset("itera", "tiny", VOCAB), request.param))


def test_a_state_goes_on_as_one_pass_would(model: Model) -> None:
    ids = [model.eot_id, *model.tokenize(PROMPT)]
    state = model.state()
    assert len(state) == 0
    first = state.feed(ids[1:20])
    assert len(state) == 20, "the mark that begins a document was put in front"
    np.testing.assert_array_equal(first, model.logits(ids[:20])[-1])
    np.testing.assert_array_equal(state.feed(ids[20:]), model.logits(ids)[-1])
    assert len(model.state(PROMPT)) == len(ids)


def test_a_fork_is_independent(model: Model) -> None:
    base = model.state(PROMPT)
    before = base.save()
    fork = base.fork()
    fork.feed("another end")
    assert len(fork) > len(base) and base.save() == before
    np.testing.assert_array_equal(base.fork().feed("one"), base.fork().feed("one"))
    assert (base.fork().feed("one") != base.fork().feed("two")).any()


def test_the_bytes_of_a_state_are_what_it_holds_in_whole_pages(model: Model) -> None:
    state = model.state()
    empty = state.bytes
    state.feed(PROMPT)
    saved = len(state.save())
    assert saved - 64 < state.bytes < saved + 64 * 4096 and state.bytes % 4096 == 0
    assert empty < state.bytes == state.fork().bytes


def test_generating_from_a_state_leaves_it_and_equals_the_whole_prompt(model: Model) -> None:
    options = {"max_tokens": 20, "temperature": 1.0, "seed": 4}
    head, tail = model.tokenize(PROMPT)[:30], model.tokenize(PROMPT)[30:]
    state = model.state()
    state.feed(head)
    before = state.save()
    whole = model.generate(PROMPT, **options)
    for _ in range(2):
        # the tail's own text may tokenise otherwise, so compare where it does not
        assert model.tokenize(model.detokenize(tail)) == tail
        assert model.generate(model.detokenize(tail), state=state, **options) == whole
        assert state.save() == before


def test_saved_and_restored_it_is_the_same_even_in_another_instance(model: Model) -> None:
    state = model.state(PROMPT)
    saved = state.save()
    for target in (model, Model.load(model.path), Model.load(model.path, context=200)):
        restored = target.restore(saved)
        assert len(restored) == len(state) and restored.save() == saved
        np.testing.assert_array_equal(restored.feed(" end"), state.fork().feed(" end"))
    assert len(model.restore(model.state().save())) == 0


def test_a_state_outlives_the_name_of_its_model(gguf_pair: dict[str, Path]) -> None:
    state = Model.load(gguf_pair["itera_lite_test"]).state("abc")
    assert np.isfinite(state.fork().feed("d")).all()


def test_a_copy_keeps_its_model_alive_but_not_what_it_is_a_copy_of(model: Model) -> None:
    state, stream = model._engine.state(), model.start("abc", max_tokens=2)

    def references() -> list[int]:
        return [sys.getrefcount(each) for each in (model._engine, state, stream)]

    before = references()
    copies = [state.fork(), stream.state(), model._engine.restore(state.save())]
    during = references()
    del copies
    after = references()
    assert after == before and during == [before[0] + 3, *before[1:]]


def test_damaged_bytes_are_refused(model: Model) -> None:
    saved = model.state("some text").save()
    for bad in (b"", saved[:7], saved[:31], saved[:-1], saved + b"\0", b"\0" * len(saved)):
        with pytest.raises(ModelFileError, match="saved state"):
            model.restore(bad)
    for at in [*range(40), *range(40, len(saved), 997), len(saved) - 1]:
        changed = bytearray(saved)
        changed[at] ^= 0x40
        with pytest.raises(ModelFileError, match="saved state"):
            model.restore(bytes(changed))


def test_a_state_of_another_model_is_refused(model: Model, export: Export) -> None:
    saved = model.state("some text").save()
    for config, type in (
        (preset("transformer", "tiny", VOCAB), "f32"),
        (preset("itera", "small", VOCAB), "f32"),
        (preset("itera", "tiny", VOCAB), "f16"),
    ):
        with pytest.raises(ModelFileError, match="another model"):
            Model.load(export(config, type)).restore(saved)


def test_room_is_checked(gguf_pair: dict[str, Path]) -> None:
    small = Model.load(gguf_pair["itera_lite_test"], context=16)
    assert small.context == 16
    state = small.state("a" * 15)
    with pytest.raises(UsageError, match=re.escape("17 tokens: there is room for 16")):
        state.feed("b")
    assert len(state) == 16
    large = Model.load(gguf_pair["itera_lite_test"], context=64)
    with pytest.raises(ModelFileError, match="room for 16"):
        small.restore(large.state("a" * 30).save())
    for context in (0, -1, 1 << 40):
        with pytest.raises(UsageError, match="context="):
            Model.load(gguf_pair["itera_lite_test"], context=context)
    with pytest.raises(UsageError, match="no tokens"):
        large.state("a").feed("")
