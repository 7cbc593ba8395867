"""The report against invented result files: what it must say, and what it must never say."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from itera_lite.commands.report import report
from itera_lite.errors import IteraError
from itera_lite.report.metrics import length_words, of_one_budget
from itera_lite.report.results import load_results
from itera_lite.report.table import comparison_table

from .reading import FILES, ITERA, TRANSFORMER, edit, markdown, row, section, verdict
from .synthetic import seed_run, write_ladder, write_results, write_seeds

ROOT = Path(__file__).resolve().parents[2]
SECTIONS = (
    "Summary", "1. Model overview", "2. Training results", "3. Parameter count",
    "4. Computational efficiency", "5. Memory", "6. System resources", "7. Quality",
    "8. Efficiency comparison", "9. Compression potential", "10. Path to 100-300x",
    "11. Recommendations", "12. Appendix",
)  # fmt: skip


def test_sections_are_those_of_the_old_report_in_order(results):
    assert tuple(re.findall(r"^## (.+)$", markdown(results), re.M)) == SECTIONS


def test_summary_has_five_lines(results):
    lines = [x for x in section(markdown(results), "Summary").splitlines() if x.startswith("- ")]
    assert len(lines) == 5
    assert all("better by" in line or "no clear difference" in line for line in lines)


@pytest.mark.parametrize(
    ("bpb", "speed", "quality", "decoding"),
    [
        ((0.77, 0.80), (2000, 1000), "Itera", "Itera"),
        ((0.80, 0.77), (1000, 2000), "Transformer", "Transformer"),
    ],
)
def test_verdicts_follow_the_numbers_both_ways(tmp_path, bpb, speed, quality, decoding):
    write_results(
        tmp_path, itera_bpb=bpb[0], transformer_bpb=bpb[1], itera_speed=speed[0],
        transformer_speed=speed[1],
    )  # fmt: skip
    text = markdown(tmp_path)
    assert verdict(text, "Bits per byte").startswith(f"{quality} better by 1.039×")
    assert verdict(text, "Decoding, batch 1, context 128").startswith(f"{decoding} better by ")
    assert f"{quality} better by" in text.split("**Quality.**")[1].splitlines()[0]
    assert f"{decoding} better by" in text.split("**Speed.**")[1].splitlines()[0]
    assert f"{decoding} decodes one sequence faster" in section(text, "11. Recommendations")


def test_noise_as_large_as_the_gap_is_no_clear_difference(tmp_path):
    write_results(tmp_path, itera_speed=1000, transformer_speed=1010, noise=0.2)
    found = verdict(markdown(tmp_path), "Decoding, batch 1, context 128")
    assert found == "no clear difference (the intervals overlap)"


def test_numbers_in_the_report_are_those_of_the_files(results):
    text = markdown(results)
    table = section(text, "8. Efficiency comparison")
    for column, name in ((1, ITERA), (2, TRANSFORMER)):
        evaluation = json.loads((results / f"{name}_eval.json").read_text())
        benchmark = json.loads((results / f"{name}_benchmark.json").read_text())
        summary = json.loads((results / f"{name}_summary.json").read_text())
        assert row(table, "Bits per byte")[column] == f"{evaluation['bpb']:.4f} bits/byte"
        assert row(table, "Perplexity per token")[column] == f"{evaluation['ppl']:.3f}"
        assert row(table, "Parameters, total")[column] == f"{summary['model']['params']['total']:,}"
        flops = benchmark["flops_per_token"]["forward"] / 1e6
        assert row(table, "FLOPs/token, forward")[column] == f"{flops:.3f} MFLOPs"
        weights = benchmark["memory"]["weights_bytes"] / 1e6
        assert row(table, "Weights")[column] == f"{weights:.3f} MB"
        for entry in benchmark["decode"]:
            label = f"Decoding, batch {entry['batch']}, context {entry['context']:,}"
            stat = entry["tokens_per_second"]
            shown = row(table, label)[column].replace(",", "")
            value, low, high, n = re.fullmatch(
                r"([\d.]+) tokens/s \[([\d.]+) – ([\d.]+)\] n = (\d+)", shown
            ).groups()
            assert float(value) == pytest.approx(stat["median"], rel=1e-3)
            assert stat["min"] * 0.999 <= float(low) <= float(value) <= float(high)
            assert float(high) <= stat["max"] * 1.001
            assert int(n) == stat["repeats"]


def test_units_and_repeats_stand_beside_timed_numbers(results):
    table = section(markdown(results), "8. Efficiency comparison")
    for label in ("Peak resident memory", "Model load time", "Decoding, batch 8, context 128"):
        for cell in row(table, label)[1:3]:
            assert re.fullmatch(r"[\d,.]+ \S+ \[.+ – .+\], n = \d+", cell), cell


def test_estimated_energy_says_estimated_wherever_it_stands(results):
    text = markdown(results)
    lines = [x for x in text.splitlines() if re.search(r"\d m?J\b", x)]
    assert lines and all("estimated" in line for line in lines)
    for name in (ITERA, TRANSFORMER):
        edit(results / f"{name}_benchmark.json", lambda r: r["energy"].update(method="rapl"))
    assert "estimated" not in section(markdown(results), "8. Efficiency comparison")


def test_energy_found_in_two_ways_is_not_compared(results):
    edit(results / f"{ITERA}_benchmark.json", lambda r: r["energy"].update(method="rapl"))
    assert verdict(markdown(results), "Energy per token (estimated)").startswith("not comparable")


def test_seeds_settle_the_quality_verdict(results):
    assert "one run each" in verdict(markdown(results), "Bits per byte")
    write_seeds(results, gap=0.03)
    line = markdown(results).split("**Quality.**")[1].splitlines()[0]
    assert "equal training time (4.9 M tokens): **Itera better by" in line
    assert "(3 and 3 runs)" in line
    write_seeds(results, gap=0.001)
    line = markdown(results).split("**Quality.**")[1].splitlines()[0]
    assert "no clear difference (the intervals overlap at 3 repeats)" in line


def test_seeds_of_different_lengths_are_not_mixed():
    def runs(name, amount, *values):
        tokens = int(float(amount[:-1]) * 1e6)
        return [seed_run(name, "tokens", v, amount=amount, tokens=tokens) for v in values]

    long, short = runs("a", "9M", 0.7), runs("a", "3M", 0.9, 0.8) + runs("b", "3M", 0.95, 0.85)
    sides = of_one_budget(long + short, ("a", "b"), "tokens")
    assert [[run.valid_bpb for run in side] for side in sides] == [[0.9, 0.8], [0.95, 0.85]]
    assert length_words(sides) == " (3 M tokens)"
    more = runs("b", "9M", 0.75)  # two seeds of 3 M still say more than one of 9 M
    assert of_one_budget(long + short + more, ("a", "b"), "tokens") == sides
    assert of_one_budget(long + more, ("a", "b"), "tokens") == [long, more]
    assert of_one_budget(long, ("a", "b"), "tokens") == [long, []]
    assert of_one_budget(long + runs("b", "3M", 0.8), ("a", "b"), "tokens") == [long, []]
    assert of_one_budget(long, ("a", "b"), "time") == [[], []]


@pytest.mark.parametrize(
    ("kind", "section_title", "command"),
    [
        ("eval.json", "7. Quality", f"itera eval checkpoints/{ITERA}"),
        ("benchmark.json", "4. Computational efficiency", "itera bench"),
        ("training_speed.json", "4. Computational efficiency", "itera bench train"),
        ("benchmark.json", "5. Memory", "itera bench"),
        ("benchmark.json", "6. System resources", "itera bench"),
        ("summary.json", "2. Training results", "itera train --model both"),
        ("metrics.csv", "2. Training results", "itera train --model both"),
    ],
)
def test_a_missing_file_is_named_with_its_command(results, kind, section_title, command):
    (results / f"{ITERA}_{kind}").unlink()
    gap = section(markdown(results), section_title)
    line = next(x for x in gap.splitlines() if x.startswith("> **Not measured:**") and ITERA in x)
    assert f"`{command}`" in line and TRANSFORMER not in line


@pytest.mark.parametrize("kept", [*range(1, 1 << 14, 433), 16, (1 << 14) - 1])
def test_any_subset_of_files_gives_a_whole_report_without_invented_values(results, kept):
    """``kept`` is a bit mask of the fourteen files."""
    names = [f"{model}_{kind}" for model in (ITERA, TRANSFORMER) for kind in FILES]
    for i, name in enumerate(names):
        if not kept >> i & 1:
            (results / name).unlink()
    text = markdown(results)
    assert tuple(re.findall(r"^## (.+)$", text, re.M)) == SECTIONS
    assert not re.search(r"\b(None|nan|NaN|inf|null|True|False)\b|\{\}|\[\]", text)


def test_a_field_that_cannot_be_leaves_the_record_out_and_is_named(results):
    edit(results / f"{ITERA}_benchmark.json", lambda r: r["memory"].update(weights_bytes=None))
    edit(results / f"{ITERA}_summary.json", lambda r: r.update(samples=None))
    found = load_results(results)
    assert len(found.left_out) == 2
    for note, name, field in zip(
        found.left_out, ("benchmark", "summary"), ("memory.weights_bytes", "samples"), strict=True
    ):
        assert f"{ITERA}_{name}.json" in note and f"`$.{field}`" in note
    text = markdown(results)
    assert not re.search(r"\b(None|nan|NaN|null)\b", text)
    assert row(text, "Weights")[1] == "—"


def test_peers_stand_beside_our_speed_and_those_left_out_are_named(results):
    text = section(markdown(results), "4. Computational efficiency")
    peers = text.split("Other runtimes")[1]
    record = json.loads((results / f"{ITERA}_benchmark.json").read_text())
    own = next(r for r in record["decode"] if (r["batch"], r["context"]) == (1, 128))
    for kind in ("transformers", "engine"):
        (line,) = (x for x in peers.splitlines() if f"`{ITERA}` | {kind} |" in x)
        peer = record["peers"][kind]["decode"][0]["tokens_per_second"]["median"]
        shown = [float(cell.split("[")[0].replace(",", "")) for cell in line.split(" | ")[3:5]]
        assert shown == pytest.approx([peer, own["tokens_per_second"]["median"]], rel=1e-2)
    assert "- engine: batch 1 only\n" in peers
    assert peers.count("- llama.cpp: not measured, it isn't installed") == 1


def test_floors_are_those_of_the_same_text(results):
    edit(results / f"{TRANSFORMER}_eval.json", lambda r: r.update(bytes=1))
    line = next(x for x in markdown(results).splitlines() if "the best of them" in x)
    assert ITERA in line and TRANSFORMER not in line


def test_models_from_different_runs_of_the_benchmark_get_no_speed_verdict(results):
    for name in (ITERA, TRANSFORMER):
        edit(results / f"{name}_benchmark.json", lambda r: r.update(interleaved_with=[]))
    text = markdown(results)
    found = verdict(text, "Decoding, batch 1, context 128")
    assert found.startswith("not comparable: not measured in one run")
    assert verdict(text, "Weights").startswith("Itera better")


def test_models_on_different_text_get_no_quality_verdict(results):
    edit(results / f"{ITERA}_summary.json", lambda r: r["dataset"].update(sha256="99" * 32))
    assert (
        verdict(markdown(results), "Bits per byte") == "not comparable: trained on different text"
    )


def test_different_tokenizers_compare_in_bits_per_byte_alone(results):
    edit(results / f"{ITERA}_summary.json", lambda r: r["dataset"].update(tokenizer_sha256="99"))
    text = markdown(results)
    assert verdict(text, "Bits per byte").startswith("Itera better")
    for label in ("Loss per token", "Perplexity per token", "FLOPs/token, forward"):
        assert verdict(text, label) == "not comparable: different tokenizers"


def test_a_winner_that_had_more_of_everything_proves_nothing(results):
    edit(results / f"{ITERA}_summary.json",
         lambda r: r["training"].update(seconds=9000.0, tokens=90_000_000))  # fmt: skip
    assert "trained for longer" in verdict(markdown(results), "Bits per byte")


def test_the_report_is_the_same_for_the_same_files(whole, tmp_path):
    results, first = whole
    second = report(results=results, reports=tmp_path / "again")
    assert first.keys() == second.keys() and len(first) > 6
    for key, path in first.items():
        assert path.read_bytes() == second[key].read_bytes(), key


def test_bounds_are_arithmetic_and_labelled(results):
    text = section(markdown(results), "9. Compression potential")
    params = json.loads((results / f"{ITERA}_summary.json").read_text())["model"]["params"]
    saved = row(text, "Half the vocabulary: saves (bound, not measured)")[1]
    assert saved.startswith(f"{params['embedding'] / 2 * 4 / 1e3:.1f} kB")
    for name, bits in (("8-bit (Q8_0)", 8.5), ("4-bit (Q4_0)", 4.5)):
        cell = row(text, f"{name} storage (bound, not measured)")[1]
        value, prefix = re.match(r"([\d.]+) (k|M)B", cell).groups()
        size = float(value) * {"k": 1e3, "M": 1e6}[prefix]
        assert size == pytest.approx(params["total"] * bits / 8, rel=1e-3)


def test_path_shows_promised_against_measured(results):
    assert row(markdown(results), "All together: 100-300x")[1].startswith("not measured")
    write_ladder(results)
    text = markdown(results)
    assert "rung '4-bit'" in row(text, "All together: 100-300x")[1]
    assert row(text, "Distillation")[1] == "not measured (no such rung)"
    rungs = json.loads((results / "ladder.json").read_text())["rungs"]
    ratio = rungs[0]["bytes_on_disk"] / rungs[5]["bytes_on_disk"]
    assert f"size on disk {ratio:.1f}× lower" in row(text, "All together: 100-300x")[1]
    ratio = rungs[0]["bytes_compressed"] / rungs[5]["bytes_compressed"]
    assert f"size on disk, compressed {ratio:.1f}× lower" in row(text, "All together: 100-300x")[1]


def test_every_factor_is_given_against_both_references(results):
    """No headline without llama.cpp: its factors, or that they weren't measured."""
    write_ladder(results, in_llama=True)
    text = markdown(results)
    ladder = json.loads((results / "ladder.json").read_text())
    last, first, second = ladder["rungs"][-1], ladder["rungs"][0], ladder["quantized"]
    cells = row(text, "CPU time per 1,000 bytes of text")
    for place, reference in ((1, first), (4, second)):
        ratio = reference["cpu_seconds_per_kb"]["median"] / last["cpu_seconds_per_kb"]["median"]
        assert float(cells[place].removesuffix("× lower")) == pytest.approx(ratio, rel=0.01)
    assert cells[2:4] == cells[5:7] == ["at least 10.0×", "met"]
    cells = row(text, "Size on disk, compressed")
    assert cells[2:4] == ["at least 100×", "not measured"] and cells[5:] == ["—", "—"]
    for place, reference in ((1, first), (4, second)):
        ratio = reference["bytes_compressed"] / last["bytes_compressed"]
        assert float(cells[place].removesuffix("× lower")) == pytest.approx(ratio, rel=0.01)
    head = next(x for x in section(text, "Summary").splitlines() if "Compression" in x)
    assert "reference: CPU time" in head and "Against the reference in llama.cpp, Q4" in head
    assert "3 seeds are 1.2 % apart: within the 2 %" in text
    size = second["bytes_on_disk"] / last["bytes_on_disk"]
    assert f"size on disk {size:.2f}× lower" in head and "**missed**" in head
    both = row(text, "All together: 100-300x")[1]
    assert "Against the same model in llama.cpp" in both
    for wanted in ("q4_0 6.00 MB, 0.8300 (taken)", "the student that was taught is deployed"):
        assert wanted in text
    write_ladder(results)
    assert "llama.cpp: not measured" in row(markdown(results), "All together: 100-300x")[1]


def test_a_worse_rung_claims_nothing(results):
    write_ladder(results, worse=0.1)
    assert row(markdown(results), "All together: 100-300x")[1].startswith("none:")


def test_appendix_has_commands_commit_versions_and_hashes(results):
    text = section(markdown(results), "12. Appendix")
    for wanted in ("itera train --model itera --data synthetic", "itera bench\n",
                   f"itera eval checkpoints/{TRANSFORMER}", "0123456789ab", "torch 2.13.0",
                   "Synthetic CPU", "ab" * 32):  # fmt: skip
        assert wanted in text, wanted
    commands = text.split("```sh\n")[1].split("```")[0].splitlines()
    assert len(commands) == len(set(commands))


def test_model_text_is_shown_as_it_is_and_breaks_nothing(results):
    text = markdown(results)
    sample = 'there was a *dog* <b>named</b> Tim. ```He``` ran | jumped.\n"Look!" said Tim.'
    assert f"````text\nOnce upon a time, {sample}\n````" in text


def test_no_results_say_what_to_run(tmp_path):
    with pytest.raises(IteraError, match="itera demo"):
        report(results=tmp_path, reports=tmp_path / "r")
    with pytest.raises(IteraError, match="doesn't exist"):
        report(results=tmp_path / "none", reports=tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_terminal_table_has_both_sides_and_verdicts(results):
    text = comparison_table(results)
    line = next(x for x in text.splitlines() if x.startswith("Bits per byte"))
    assert "0.7710 bits/byte" in line and "0.8020 bits/byte" in line
    assert line.endswith("Itera better by 1.040× (one run each)")
    assert text == comparison_table(load_results(results))
    assert all(len(x) < 130 for x in text.splitlines())


def test_generate_report_script(results, tmp_path):
    for path in results.iterdir():
        if not path.name.endswith("eval.json"):  # fewer plots, less time
            path.unlink()
    command = [sys.executable, ROOT / "generate_report.py", "--results", results]
    done = subprocess.run(
        [*command, "--reports", tmp_path / "out"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/efficiency_report.md").read_text().startswith("# Efficiency report")
    assert (tmp_path / "out/efficiency_report.html").exists()
