"""Results of several sizes: paired by size, and a model without its pair misleads nobody."""

import pytest

from itera_lite.report.results import load_results
from itera_lite.report.table import comparison_table

from .reading import ITERA, TRANSFORMER, between_models, edit, markdown, section
from .synthetic import write_model


def test_one_model_only_compares_nothing_and_says_so(results):
    for path in results.glob(f"{TRANSFORMER}_*"):
        path.unlink()
    text = markdown(results)
    assert "Nothing is compared" in section(text, "Summary")
    assert "`itera train --model both`" in section(text, "8. Efficiency comparison")
    assert "better by" not in between_models(text)
    assert "Nothing to compare" in comparison_table(results)


def test_two_sizes_are_paired_by_size(results):
    for name, family, partner in (
        ("itera_lite_small", "itera", "transformer_small"),
        ("transformer_small", "transformer", "itera_lite_small"),
    ):
        write_model(results, name, family, bpb=0.7, speed=500, partner=partner)
    pairs = load_results(results).pairs
    assert [(a.name, b.name) for a, b in pairs] == [
        (ITERA, TRANSFORMER), ("itera_lite_small", "transformer_small"),
    ]  # fmt: skip
    text = markdown(results)
    assert text.count("### `itera_lite_") == 2
    summary = section(text, "Summary")
    assert "also compares `itera_lite_small` against `transformer_small`" in summary
    assert "Not compared" not in text
    names = "`itera_lite_tiny` | `transformer_tiny` | `itera_lite_small` | `transformer_small`"
    assert f"| {names} |" in section(text, "4. Computational efficiency")


@pytest.mark.parametrize(("total", "paired"), [(1_047_000, True), (953_000, True),
                                               (1_053_000, False), (947_000, False)])  # fmt: skip
def test_models_of_no_preset_are_paired_by_their_parameters(results, total, paired):
    write_model(results, "wide_itera_tiny", "itera", bpb=0.7, speed=500, partner="")
    write_model(results, "wide_transformer_tiny", "transformer", bpb=0.7, speed=500, partner="")

    def shape(parameters):
        def change(record):
            record["model"]["size"] = None
            record["model"]["params"]["total"] = parameters

        return change

    for name, parameters in (("wide_itera_tiny", total), ("wide_transformer_tiny", 1_000_000)):
        for path in results.glob(f"{name}_*.json"):
            if "decode" not in path.name:
                edit(path, shape(parameters))
        (results / f"{name}_decode.json").unlink()
    pairs = [(a.name, b.name) for a, b in load_results(results).pairs]
    assert (("wide_itera_tiny", "wide_transformer_tiny") in pairs) == paired
    assert (ITERA, TRANSFORMER) in pairs


def test_a_model_without_its_pair_is_named_and_compared_with_nothing(results):
    before = between_models(markdown(results)).count("better by")
    write_model(results, "itera_lite_small", "itera", bpb=0.7, speed=500, partner="")
    (results / "itera_lite_small_benchmark.json").unlink()
    (results / "itera_lite_small_training_speed.json").unlink()
    text = markdown(results)
    assert between_models(text).count("better by") == before
    for title in ("Summary", "8. Efficiency comparison"):
        line = next(x for x in section(text, title).splitlines() if "Not compared" in x)
        assert "`itera_lite_small`" in line and ITERA not in line
        assert "`itera train --model transformer --config small`" in line
    speed = section(text, "4. Computational efficiency")
    assert "`itera bench checkpoints/itera_lite_small` fills" in speed
    assert "`itera bench train --config small` fills" in speed


def test_two_sizes_without_a_pair_are_not_compared_with_each_other(results):
    for path in results.glob(f"{ITERA}_*"):
        path.unlink()
    write_model(results, "itera_lite_small", "itera", bpb=0.7, speed=500, partner=TRANSFORMER)
    assert load_results(results).pairs == []
    assert "better by" not in between_models(markdown(results))


def test_one_model_of_another_size_gets_the_commands_of_its_size(results):
    for path in results.iterdir():
        path.unlink()
    write_model(results, "itera_lite_small", "itera", bpb=0.7, speed=500, partner="")
    text = markdown(results)
    assert "`itera train --model both --config small`" in section(text, "Summary")
    both = "`itera bench checkpoints/itera_lite_small checkpoints/transformer_small`"
    assert both in section(text, "8. Efficiency comparison")
    assert "--model both`" not in text
    (results / "itera_lite_small_eval.json").unlink()
    assert "`itera eval checkpoints/itera_lite_small` fills" in markdown(results)
