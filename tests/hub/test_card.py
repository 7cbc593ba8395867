"""The model card: what is written from which record, and what is found wrong without a network."""

import re
from pathlib import Path

import pytest

from itera_lite.engine.check import check
from itera_lite.errors import CheckpointError, UsageError
from itera_lite.records import Continuation, Source, TextBefore
from tests.hub.conftest import evaluation_of, summary_of

pytest.importorskip("huggingface_hub")

from huggingface_hub import ModelCard, parse_eval_result_entries

from itera_lite.hub.card import Facts, eval_results, hub_set, metadata_of, write_card
from itera_lite.hub.card_check import card_problems
from itera_lite.hub.push import prepare_upload

NAME = "itera_lite_test"


@pytest.fixture(scope="module")
def facts(tiny_pair: dict[str, Path]) -> Facts:
    folder = tiny_pair[NAME]
    return Facts(
        "me/stories",
        check(folder),
        summary_of(NAME, folder),
        evaluation_of(NAME, folder),
        "mit",
        ("en",),
        ("me/teacher",),
    )


def changed(facts: Facts, **changes: object) -> Facts:
    return Facts(**{**vars(facts), **changes})  # type: ignore[arg-type]


def test_every_number_comes_from_a_record(facts: Facts) -> None:
    card = write_card(facts)
    assert card_problems(card) == []
    data = ModelCard(card).data
    assert (data.license, data.language, data.datasets) == (
        "mit",
        ["en"],
        ["roneneldan/TinyStories"],
    )
    assert (data.pipeline_tag, data.library_name) == ("text-generation", "transformers")
    assert (data.base_model, data["base_model_relation"]) == (["me/teacher"], "finetune")
    values = {result.metric_type: result.metric_value for result in data.eval_results}
    assert values == {"bits_per_byte": 1.0398, "perplexity": 14.54}
    assert {result.dataset_type for result in data.eval_results} == {"roneneldan/TinyStories"}
    for text in (
        f"{facts.checked.parameters:,} parameters",
        "| bits per byte | 1.0398 |",
        "3,000,000 tokens (0.78 passes over the text) in 4.23 minutes",
        "2.3100 bits per byte",
        "itera pull me/stories",
        'AutoModelForCausalLM.from_pretrained("me/stories")',
        "trained on 256 tokens of context",
    ):
        assert text in card, text


def test_without_records_nothing_is_made_up(facts: Facts) -> None:
    bare = changed(facts, summary=None, evaluation=None, languages=(), base_models=())
    card = write_card(bare)
    assert card_problems(card) == []
    data = ModelCard(card).data.to_dict()
    assert not {"model-index", "datasets", "language", "base_model", "metrics"} & data.keys()
    assert "Not measured." in card and "There is no record of the training." in card
    assert eval_results(bare) is None
    only = changed(facts, evaluation=None)
    assert "| bits per byte | 1.0412 |" in write_card(only), "the score at the training's end"
    assert eval_results(only) is None


def test_a_private_text_is_named_without_its_path(facts: Facts, tiny_pair: dict) -> None:
    folder = tiny_pair[NAME]
    summary = summary_of(NAME, folder)
    assert summary.dataset is not None
    summary.dataset.source, summary.dataset.name = "/home/ann/secret/diary.txt", "diary"
    summary.provenance.command = "itera train /home/ann/secret/diary.txt"
    evaluation = evaluation_of(NAME, folder, source="/home/ann/secret/diary.txt")
    own = changed(facts, summary=summary, evaluation=evaluation)
    card = write_card(own)
    assert card_problems(card) == []
    assert "diary" in card and "/home" not in card and "secret" not in card
    assert "datasets" not in ModelCard(card).data.to_dict() or not ModelCard(card).data.datasets
    assert eval_results(own) is None


def test_a_model_that_was_trained_further_has_both_texts(facts: Facts, tiny_pair: dict) -> None:
    record = Continuation(
        start=Source("stories", "start", "ab" * 32),
        learning_rate_factor=0.3,
        text=TextBefore("/home/ann/plays", "cd" * 32, 1000, 2.5, 1.9),
        earlier=TextBefore("tinystories", "ab" * 32, 1000, 1.04, 1.31),
    )
    summary = summary_of(NAME, tiny_pair[NAME], continuation=record)
    card = write_card(changed(facts, summary=summary))
    assert "Trained further from `stories`" in card
    assert "plays: 2.5000, 1.9000" in card and "1.0400, 1.3100" in card and "/home" not in card


def test_results_are_in_the_hubs_format(facts: Facts) -> None:
    text = eval_results(facts)
    assert text is not None
    card = ModelCard(f"---\nresults:\n{re.sub('^', '  ', text, flags=re.M)}\n---\n")
    (entry,) = parse_eval_result_entries(card.data["results"])
    assert (entry.dataset_id, entry.task_id) == ("roneneldan/TinyStories", "bits_per_byte")
    assert entry.value == pytest.approx(1.0398)
    assert "lower is better" in str(entry.notes) and entry.date


def test_sets_of_the_hub() -> None:
    assert hub_set("wikitext-2") == "Salesforce/wikitext"
    assert hub_set("hf:o/n/folder:text") == "o/n"
    assert hub_set("hf:o/n") == "o/n"
    assert hub_set("some/folder") is None and hub_set(None) is None and hub_set("python") is None


GOOD = """---
license: mit
tags: [a]
model-index:
- name: m
  results:
  - task: {type: text-generation}
    dataset: {type: o/n, name: N}
    metrics:
    - {type: perplexity, value: 3.5}
---

# A card
"""


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("---\nlicense", "license", "the card has no metadata"),
        ("license: mit", "license: [mit", "can't be read"),
        ("license: mit", "- license", "can't be read"),
        ("license: mit", "language: en", "license is missing"),
        ("license: mit", "license: 2", "license is 2: expected a text"),
        ("license: mit", "license: MIT", "Did you mean 'mit'?"),
        ("license: mit", "license: other", "needs a license_name"),
        ("tags: [a]", "tags: [1]", "tags holds 1"),
        ("tags: [a]", "language: english", "language 'english'"),
        ("tags: [a]", "datasets: ['a b']", "datasets 'a b'"),
        ("tags: [a]", "base_model: ./model", "base_model './model'"),
        ("tags: [a]", "base_model_relation: copy", "base_model_relation 'copy'"),
        ("{type: text-generation}", "{name: x}", "can't be read"),
        ("type: o/n, name: N", "type: o/n", "can't be read"),
        ("value: 3.5", "value: .nan", "perplexity is nan"),
        ("value: 3.5", "value: null", "perplexity has no value"),
        ("# A card", "", "no text after its metadata"),
        ("# A card", "x" * 1_000_001, "expected at most 1,000,000"),
    ],
)
def test_what_is_wrong_is_found_without_a_network(old: str, new: str, told: str) -> None:
    assert card_problems(GOOD) == []
    assert old in GOOD
    assert told in "; ".join(card_problems(GOOD.replace(old, new)))


def test_records_of_another_model_are_refused(tmp_path: Path, tiny_pair: dict) -> None:
    options = {"license": "mit", "languages": (), "base_models": ()}
    other = tiny_pair["transformer_test"]
    summary_of(NAME, other).write(tmp_path / f"{NAME}_summary.json")
    with pytest.raises(
        CheckpointError, match="about another model of this name, which has another"
    ):
        prepare_upload(tiny_pair[NAME], "me/stories", tmp_path, **options)
    (tmp_path / f"{NAME}_summary.json").unlink()
    evaluation_of(NAME, other).write(tmp_path / f"{NAME}_eval.json")
    with pytest.raises(CheckpointError, match="run `itera eval` again"):
        prepare_upload(tiny_pair[NAME], "me/stories", tmp_path, **options)


def test_a_card_that_was_pulled_keeps_what_the_user_decided(
    tmp_path: Path, tiny_pair: dict, facts: Facts
) -> None:
    """Written anew where there are records, kept where there are none."""
    import shutil

    folder = tmp_path / NAME
    shutil.copytree(tiny_pair[NAME], folder)
    before = write_card(facts)
    (folder / "README.md").write_text(before)
    options = {"license": None, "languages": (), "base_models": ()}
    kept = prepare_upload(folder, "me/again", tmp_path, **options)
    assert kept.own_card and kept.card == before
    with pytest.raises(UsageError, match="which is taken as it is: write --license"):
        prepare_upload(folder, "me/again", tmp_path, **{**options, "license": "mit"})
    summary_of(NAME, folder).write(tmp_path / f"{NAME}_summary.json")
    anew = prepare_upload(folder, "me/again", tmp_path, **options)
    assert not anew.own_card and "me/again" in anew.card and "1.0412" in anew.card
    assert metadata_of(anew.card) == metadata_of(before) == ("mit", ("en",), ("me/teacher",))
