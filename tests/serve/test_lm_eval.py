"""lm-eval through the server gives the engine's own log-likelihoods, and is right about greed."""

import math
from typing import Any

import pytest

lm_eval = pytest.importorskip("lm_eval", reason="lm-eval isn't installed")
pytest.importorskip("tenacity", reason="lm-eval's extra 'api' isn't installed")

STORIES = (
    "Once upon a time, there was a little girl named Lily. She liked to play in the park.",
    'Tom had a red ball. "Look, Mom!" he said. \u2603 The ball went up, up, up into the sky.',
)
QUESTIONS = (
    ("Once upon a", (" time", " ball", " zebra in the")),
    ("The cat sat on the", (" mat.", " quantum theory of fields.", " bed and")),
    ("", ("Once upon a time", "zzz")),
)
TASK = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{test: {file}}}
test_split: test
output_type: {kind}
{more}
metric_list:
{metrics}
"""
CHOICES = (
    'doc_to_text: "{{context}}"\ndoc_to_choice: choices\ndoc_to_target: 0\ntarget_delimiter: ""'
)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder with two tasks of our own: choices, and whole texts."""
    import json

    folder = tmp_path_factory.mktemp("tasks")
    questions = folder / "questions.jsonl"
    rows = [{"context": context, "choices": list(choices)} for context, choices in QUESTIONS]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    stories = folder / "stories.jsonl"
    stories.write_text("".join(json.dumps({"text": text}) + "\n" for text in STORIES))
    (folder / "choices.yaml").write_text(
        TASK.format(
            name="own_choices",
            file=questions,
            kind="multiple_choice",
            more=CHOICES,
            metrics="  - metric: acc",
        )
    )
    (folder / "rolling.yaml").write_text(
        TASK.format(
            name="own_rolling",
            file=stories,
            kind="loglikelihood_rolling",
            more='doc_to_text: ""\ndoc_to_target: "{{text}}"',
            metrics="  - metric: bits_per_byte",
        )
    )
    return folder


@pytest.fixture(scope="module")
def evaluated(program: Any, tasks: Any) -> Any:
    """What lm-eval finds, with requests of four prompts each."""
    from lm_eval.tasks import TaskManager

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_DATASETS_CACHE", str(tasks / "cache"))
        return lm_eval.simple_evaluate(
            model="local-completions",
            model_args={
                "model": "itera-lite-tiny-tinystories",
                "base_url": f"{program.url}/v1/completions",
                "max_length": 512,
                "num_concurrent": 2,
            },
            batch_size=4,
            tasks=["own_choices", "own_rolling"],
            task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
            bootstrap_iters=0,
            log_samples=True,
        )


def test_the_likelihoods_of_choices(evaluated, model):
    for sample, (context, choices) in zip(
        evaluated["samples"]["own_choices"], QUESTIONS, strict=True
    ):
        assert sample["doc"]["context"] == context
        for choice, (found, is_greedy) in zip(choices, sample["filtered_resps"], strict=True):
            before = [model.bos_id, *model.tokenize(context)]
            whole = [model.bos_id, *model.tokenize(context + choice)]
            scores = model.token_scores(whole, top=1)[len(before) :]
            expected = sum(score.log_probability for score in scores)
            assert float(found) == pytest.approx(expected, abs=1e-4)
            greedy = all(score.top[0][0] == score.id for score in scores)
            assert str(is_greedy) == str(greedy)
            values = model.score(context + choice, log_probabilities=True)[0].log_probabilities
            assert expected == pytest.approx(sum(values[len(before) - 1 : -1]), abs=1e-4)
    greedy = {str(g) for s in evaluated["samples"]["own_choices"] for _, g in s["filtered_resps"]}
    assert greedy == {"True", "False"}  # both occur, so the test could fail


def test_the_bits_of_whole_texts(evaluated, model):
    nats = size = 0.0
    for sample, text in zip(evaluated["samples"]["own_rolling"], STORIES, strict=True):
        (score,) = model.score(text, log_probabilities=True)
        expected = sum(score.log_probabilities[:-1])  # lm-eval doesn't score the end
        (found,) = sample["filtered_resps"]
        found = found[0] if isinstance(found, list | tuple) else found
        assert float(found) == pytest.approx(expected, abs=1e-4)
        nats, size = nats - expected, size + score.bytes
    bits = evaluated["results"]["own_rolling"]["bits_per_byte,none"]
    assert bits == pytest.approx(nats / math.log(2) / size, abs=1e-5)


def test_generation_without_a_tokenizer(program, model):
    from lm_eval.api.instance import Instance
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    api = LocalCompletionsAPI(
        model="itera-lite-tiny-tinystories",
        base_url=f"{program.url}/v1/completions",
        tokenizer_backend=None,
    )
    prompt = STORIES[0][:30]
    options = {"until": ["."], "max_gen_toks": 40, "temperature": 0}
    (found,) = api.generate_until([Instance("generate_until", {}, (prompt, options), 0)])
    assert found == model.generate(prompt, temperature=0, max_tokens=40, stop=".").text
