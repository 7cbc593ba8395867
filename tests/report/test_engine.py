"""Section 4 on the native engine, and its table in docs/results.md."""

import json

import pytest

from itera_lite.errors import IteraError
from itera_lite.report.results import load_results
from tools.readme import engine_table, renew

from .reading import ITERA, edit, markdown, row, section


def engine_section(folder):
    return section(markdown(folder), "4. Computational efficiency").split("### The native engine")[
        1
    ]


def test_speeds_ratios_and_verdicts_are_the_file_s(results):
    record = json.loads((results / f"{ITERA}_decode.json").read_text())
    text = engine_section(results)
    for kind, found in record["decoding"]["types"].items():
        escaped = kind.upper().replace("_", r"\_")
        for runtime, speed in found["runtimes"].items():
            cells = row(text, f"`{ITERA}` | {escaped} | {runtime}")
            assert cells[3].startswith(f"{speed['tokens_per_second']['median']:,.0f} [")
    peer = row(text, rf"`{ITERA}` | Q4\_0 | llama.cpp")
    assert peer[5:] == [r"10.0× faster (Q4\_0)", "itera-lite better by 10.0×"]
    assert row(text, rf"`{ITERA}` | Q4\_0 | itera-lite")[4] == "71 %"
    assert row(text, f"`{ITERA}` | FP32 | transformers")[5] == r"150× faster (Q8\_0)"
    assert "after 8,192 takes 1.9" in text and "attention over it takes 17" in text


def test_a_slower_engine_is_said_to_be_slower(results):
    def slower(record):
        for one in record["decoding"]["ratios"]:
            one.update(ratio=0.5, verdict="llama.cpp better by 2.00×", winner="other")

    edit(results / f"{ITERA}_decode.json", slower)
    assert row(engine_section(results), rf"`{ITERA}` | Q8\_0 | llama.cpp")[5:] == [
        r"2.00× slower (Q8\_0)", "llama.cpp better by 2.00×",
    ]  # fmt: skip
    assert (
        "(2.00× slower)"
        in row(engine_table(load_results(results)), rf"`{ITERA}`, decoding, Q8\_0")[2]
    )


def test_targets_carry_their_verdicts(results):
    text = engine_section(results)
    met = row(text, rf"`{ITERA}` | Decoding Q8\_0, against llama.cpp")
    assert met[2:] == ["10.0×", "at least 8.00×", "met"]
    assert row(text, f"`{ITERA}` | Scoring, two threads against one")[-1] == "missed"


def test_no_engine_files_no_section(results):
    for path in (*results.glob("*_decode.json"), *results.glob("*_scoring.json")):
        path.unlink()
    assert "The native engine" not in markdown(results)
    with pytest.raises(IteraError, match="itera bench decode"):
        engine_table(load_results(results))


def test_tables_are_renewed_between_their_marks(results, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "before\n<!-- table: engine results -->\nold\n<!-- end -->\n\n"
        "<!-- table: models results -->\nold\n<!-- end -->\nafter\n"
    )
    renew(page, results.parent)
    text = page.read_text()
    assert "old" not in text and text.startswith("before\n<!-- table: engine results -->\n| tokens")
    assert "<!-- end -->\n\n<!-- table: models results -->\n|  |" in text
    assert text.endswith("after\n")
    cells = row(text, rf"`{ITERA}`, scoring, Q8\_0")
    assert cells[2].endswith("(7.00× faster)") and cells[3].endswith("(5.00× faster)")
    assert row(text, r"Decoding Q8\_0, against llama.cpp")[1:] == ["10.0×", "at least 8.00×", "met"]
