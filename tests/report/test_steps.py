"""Section 4 on training speed: the numbers of `itera bench train`, and verdicts on them."""

import json
import re

import pytest

from .reading import ITERA, edit, markdown, row, section


def steps_row(text: str, label: str) -> list[str]:
    """The row of one who trains the Itera model, in section 4."""
    return row(section(text, "4. Computational efficiency"), f"`{ITERA}` | {label}")


def test_training_steps_show_the_numbers_of_the_file(results):
    record = json.loads((results / f"{ITERA}_training_speed.json").read_text())
    text = markdown(results)
    first, *others = record["runtimes"]
    for label, entry in record["runtimes"].items():
        cells, speed = steps_row(text, label), entry["tokens_per_second"]
        assert cells[2] == entry["precision"]
        assert re.fullmatch(rf"{speed['median']:,.0f} \[[\d,]+ – [\d,]+\], n = 7", cells[3])
        assert float(cells[4]) == pytest.approx(speed["spread"], rel=0.01)
        share, peak = re.fullmatch(r"([\d.]+) % of ([\d.]+) GFLOPS", cells[5]).groups()
        assert float(share) == pytest.approx(100 * entry["share_of_peak"], abs=0.06)
        assert float(peak) == pytest.approx(entry["peak_gflops"], rel=0.01)
    assert steps_row(text, first)[-2:] == ["—", "—"]
    for label in others:
        ratio = f"{record['speedup_of_first'][label]:.2f}×"
        found = steps_row(text, label)[-2:]
        assert found == [f"{ratio} higher (better)", f"{first} better by {ratio}"]
    assert "1,431,552 parameters, 8 sequences of 256" in text
    assert f"`{ITERA}_training_speed.json`" in section(text, "12. Appendix")


def test_verdicts_on_training_steps_follow_the_numbers(results):
    path, peer = results / f"{ITERA}_training_speed.json", "transformers, 2 threads"

    def scale(factor, repeats=7):
        def change(record):
            speed = record["runtimes"][peer]["tokens_per_second"]
            speed["median"] *= factor
            speed["samples"] = [x * factor for x in speed["samples"][:repeats]]

        edit(path, change)
        return steps_row(markdown(results), peer)[-1]

    assert scale(4).startswith(f"{peer} better by ")
    assert scale(0.5) == "no clear difference (the intervals overlap)"
    assert scale(0.9, repeats=2).startswith("no clear difference (too few repeats: 2")


def test_training_steps_without_the_peer_are_a_gap(results):
    path = results / f"{ITERA}_training_speed.json"
    edit(path, lambda r: r["runtimes"].pop("transformers, 2 threads"))
    edit(path, lambda r: r["model"]["params"].update(total=7))
    text = section(markdown(results), "4. Computational efficiency")
    assert f"beside `transformers` of `{ITERA}`. `itera bench train` fills this gap." in text
    assert "7 parameters (the trained model has 1,431,552)" in text
