"""`itera bench filter`: the noise, the lines, the scorers, the record and the table, KenLM."""

import importlib.util
import math
import random
import shutil
import stat
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from itera_lite.bench import filter as filter_module
from itera_lite.bench import filter_text
from itera_lite.bench.filter_scorers import (
    STATISTICS,
    ContrastScorer,
    ModelScorer,
    NgramScorer,
    build_kenlm,
    find_lmplz,
    words_of,
)
from itera_lite.bench.filter_text import (
    NOISES,
    as_line,
    draws_of,
    foreign,
    held_out,
    misread,
    noisy,
    usable,
)
from itera_lite.commands.bench_filter import bench_filter
from itera_lite.data.corpus import Corpus
from itera_lite.errors import DataError, UsageError
from itera_lite.records import Filtering

LINES = [f"The {a} dog {b} to the old house, don't you see?" for a in ("red", "big", "sad")
         for b in ("ran", "went", "walked", "came")]  # fmt: skip


def changed(name: str, line: str) -> tuple[list[str], list[str]]:
    """The words of a line, and of the line with noise."""
    words = draws_of([b"cat cat moon"])
    (setting,) = (one for one in noisy([line], words, seed=3) if one.name == name)
    assert list(setting.clean) == [0] and setting.bad[0] != line
    return line.split(), setting.bad[0].split()


@pytest.mark.parametrize("line", [*LINES, "\tif a  ==  b and c: # 'why'\u2003é"])
def test_noise_is_what_its_label_says(line: str) -> None:
    before, after = changed("swapped", line)
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 2
    assert sorted(before) == sorted(after)
    before, after = changed("shuffled", line)
    assert before != after and sorted(before) == sorted(after)
    before, after = changed("word", line)
    (new,) = [b for a, b in zip(before, after, strict=True) if a != b]
    assert new in ("cat", "moon")
    (setting,) = (one for one in noisy([line], draws_of([b"a"]), 0) if one.name == "letter")
    (pair,) = [(a, b) for a, b in zip(line, setting.bad[0], strict=True) if a != b]
    assert pair[0].isalpha() and pair[1].isalpha() and pair[0].isupper() == pair[1].isupper()
    before, after = changed("repeated", line)
    more = Counter(after) - Counter(before)
    assert 4 <= more.total() <= 10 and all(n % 2 == 0 for n in more.values())
    span = more.total() // 2
    assert any(after[i : i + span] == after[i + span : i + 2 * span] == after[i + 2 * span :][:span]
               for i in range(len(after)))  # fmt: skip


def test_white_space_stays_where_words_move() -> None:
    line = "  a   b\tc \u2003d"
    (setting,) = (one for one in noisy([line], draws_of([b"a"]), 0) if one.name == "swapped")
    assert "".join(setting.bad[0].split()) != "abcd"
    blank = [part for part in setting.bad[0] if part.isspace()]
    assert blank == [part for part in line if part.isspace()]


def test_misread() -> None:
    words = draws_of([b"a"])
    rng = random.Random(0)
    assert misread("don't", rng, words) == "donâ€™t"
    assert misread('"é”', rng, words) == "â€œÃ©â€\u009d"
    assert misread("xyz a", rng, words) == "xyz Ã¡"
    assert misread("xyz", rng, words) == "xyz"


def test_noise_depends_on_the_seed_and_the_line_alone() -> None:
    words = draws_of([b"one two three"])
    first, again, other = (
        {one.name: one.bad for one in noisy(lines, words, seed)}
        for lines, seed in ((LINES, 0), (LINES[::-1], 0), (LINES, 1))
    )
    assert set(first) == set(NOISES)
    for name, lines in first.items():
        assert list(lines) == list(again[name])[::-1]
        assert lines != other[name] or name == "misread"


def test_held_out_lines() -> None:
    texts = [f"This is line {i} of it.".encode() for i in range(60)]
    train = [*texts[:20], b"Another one is here."]
    corpus = Corpus("set", {}, {"train": train, "valid": [*texts, texts[0], b"Too short."]})
    lines, known = held_out(corpus, "line", "valid", 30, seed=0)
    assert known == 20 and len(lines) == len(set(lines)) == 30
    assert set(lines) < {text.decode() for text in texts[20:]}
    assert held_out(corpus, "line", "valid", 99, seed=0)[0][:30] == lines
    assert held_out(corpus, "line", "valid", 30, seed=1)[0] != lines
    with pytest.raises(DataError, match=r"split 'test': expected .* valid"):
        held_out(corpus, "line", "test", 30, seed=0)
    with pytest.raises(DataError, match="has 10 different units"):
        few = Corpus("set", {}, {"train": train, "valid": texts[:30]})
        held_out(few, "line", "valid", 30, seed=0)
    assert as_line(b" a\n b ", "sentence") == "a b" and as_line(b" a ", "line") == " a "
    assert usable([b"a b c", b"a b c d", b"x" * 5000 + b" a b c d"], "line") == ["a b c d"]


def test_lines_of_other_sources_have_the_length_of_their_partners() -> None:
    rng = random.Random(5)
    lines = ["x" * rng.randint(20, 60) for _ in range(50)] + ["x" * 1000]
    others = ["é" * rng.randint(5, 40) + str(i) for i in range(200)]
    setting = foreign("books", lines, others, seed=0)
    assert len(setting.bad) == len(set(setting.bad)) == 50 and len(set(setting.clean)) == 50
    assert 50 not in setting.clean, "nothing is nearly as long"
    sizes = [
        (len(lines[i]), len(bad.encode()))
        for i, bad in zip(setting.clean, setting.bad, strict=True)
    ]
    assert all(max(pair) <= 1.25 * min(pair) for pair in sizes)
    assert sum(abs(a - b) for a, b in sizes) / 50 < 2
    assert len(foreign("few", lines, others[:3], seed=0).bad) <= 3


def test_statistics() -> None:
    nats = np.array([1.0, 2.0, 3.0, 0.0])
    expected = [6 / math.log(2) / 5, 1.5, 6]
    for power, total in ((2, 14), (3, 36), (4, 98)):
        expected += [(total / 4) ** (1 / power), (total / 5) ** (1 / power)]
    expected += [3, 2]
    assert [of(nats, 5) for of in STATISTICS.values()] == pytest.approx(expected)
    assert [*STATISTICS.values()][-1](nats[:2], 5) == 1.5


def test_scorers_agree_with_what_they_score_with(tiny_pair: dict[str, Path]) -> None:
    lines = ["one line", "a longer line, é", "x"]
    model = ModelScorer(tiny_pair["itera_lite_test"])
    for number, line in enumerate(lines):
        (score,) = model.model.score(line)
        found = {name: values[number] for name, values in model.statistics(lines).items()}
        expected = {"bits a byte": score.bits_per_byte, "surprise": score.surprise}
        assert found == pytest.approx(expected, rel=1e-5)
    ngram = NgramScorer([b"one line", b"two lines"], 3)
    for line, nats in zip(lines, ngram.nats(lines), strict=True):
        assert len(nats) == len(line.encode()) + 1
        assert nats.sum() == pytest.approx(ngram.model.nats([line.encode()]).sum())


def test_the_unit_is_that_of_the_first_model_also_of_a_pair(
    tiny_pair: dict[str, Path], request: pytest.FixtureRequest
) -> None:
    good, bad = tiny_pair.values()
    unknown = ModelScorer(good)
    assert filter_module.unit_of_models([unknown]) == "sentence"
    request.getfixturevalue("trained_on_lines")
    assert filter_module.unit_of_models([unknown, ContrastScorer(good, bad)]) == "line"


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stories whose sentences have one order of words."""
    rng = random.Random(0)
    who, did, what = (
        [f"{stem}{i}" for i in range(30)] for stem in ("Tom", "saw", "cat")
    )  # fmt: skip
    stories = [
        " ".join(
            f"{rng.choice(who)} {rng.choice(did)} the {rng.choice(what)} at home." for _ in "123"
        )
        for _ in range(500)
    ]
    folder = tmp_path_factory.mktemp("stories")
    (folder / "stories.txt").write_text("\n<|endoftext|>\n".join(stories))
    return folder / "stories.txt"


def test_the_record_and_the_table(
    text: Path,
    tiny_pair: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(filter_module, "_TIMED_BYTES", 2000)
    a, b = tiny_pair.values()
    record = bench_filter(
        a, good=a, bad=b, data=str(text), lines=20, others=["python-documentation"],
        repeats=2, results=tmp_path,
    )  # fmt: skip
    assert Filtering.read(tmp_path / "filter.json") == record
    assert record.unit == "sentence" and record.source == "stories"
    assert record.lines == 20 and record.chosen_on == 20
    assert "lmplz isn't on PATH" in record.without_kenlm and record.peer == "byte 10-gram"
    assert [one.kind for one in record.scorers] == ["model", "contrast", "ngram"]
    assert [one.name for one in record.settings][:6] == [*NOISES]
    model, contrast, ngram = record.scorers
    assert model.params and ngram.params is None
    assert set(model.mean_auc) == {"bits a byte", "surprise"} and len(contrast.mean_auc) == 1
    assert set(ngram.mean_auc) == set(STATISTICS)
    assert model.statistic == max(model.mean_auc, key=model.mean_auc.__getitem__)
    for one in record.scorers:
        assert one.mb_per_second.repeats == 2 and one.mb_per_second.min > 0
        assert [found.setting for found in one.separations] == [s.name for s in record.settings]
        for found in one.separations:
            assert found.low <= found.auc <= found.high
            assert (found.lead is None) == (one is ngram)
            if found.lead is not None:
                judged = found.lead_low > 0 or found.lead_high < 0
                assert (found.winner is not None) == judged
    by_name = {found.setting: found for found in ngram.separations}
    assert by_name["shuffled"].auc > 0.9, "the order is all that there is to learn"
    # Random weights separate less than counts of the very text.
    lead = {found.setting: found for found in model.separations}["shuffled"]
    assert lead.winner == "peer" and lead.lead_high < 0
    assert [target.key for target in record.targets] == ["mb_per_second"]
    out = capsys.readouterr().out
    assert "all words shuffled" in out and f"{by_name['shuffled'].auc:.3f}" in out
    assert "Without KenLM: KenLM's builder lmplz" in out
    again = bench_filter(a, data=str(text), lines=20, others=[], repeats=1, results=tmp_path)
    assert again.scorers[0].mean_auc != model.mean_auc, "other settings"
    assert again.scorers[-1].separations[0] == ngram.separations[0]


def test_wrong_use(text: Path, tiny_pair: dict[str, Path], tmp_path: Path) -> None:
    model = tiny_pair["itera_lite_test"]
    with pytest.raises(UsageError, match="--good and --bad"):
        bench_filter(model, good=model, data=str(text), results=tmp_path)
    with pytest.raises(UsageError, match="lmplz"):
        bench_filter(model, data=str(text), lmplz=tmp_path / "nothing", results=tmp_path)
    with pytest.raises(UsageError, match="lines"):
        bench_filter(model, data=str(text), lines=3, results=tmp_path)
    (failing := tmp_path / "lmplz").write_text("#!/bin/sh\necho no room >&2\nexit 3\n")
    failing.chmod(failing.stat().st_mode | stat.S_IXUSR)
    with pytest.raises(DataError, match="failed with 3: no room"):
        build_kenlm(failing, ["a line"], tmp_path, lower=False)


def test_words_for_kenlm() -> None:
    assert words_of('He said: "Don’t go!"\tÉté...', lower=False) == (
        'He said : " Don’t go ! " Été . . .'
    )
    assert words_of("<unk> Tom's", lower=True) == "< unk > tom's"


@pytest.mark.skipif(
    shutil.which("lmplz") is None or importlib.util.find_spec("kenlm") is None,
    reason="needs the package kenlm and its builder lmplz on PATH",
)
def test_kenlm(text: Path, tiny_pair: dict[str, Path], tmp_path: Path) -> None:
    path = find_lmplz(None)
    assert isinstance(path, Path)
    lines = [f"the {a} sat on the {b}" for a in ("cat", "dog") for b in ("mat", "rug")] * 5
    scorer = build_kenlm(path, lines, tmp_path, lower=True)
    known, odd = scorer.nats(["The cat sat on the mat", "mat the on sat cat the"])
    assert len(known) == len(odd) == 7, "six words and the end"
    assert known.sum() < odd.sum()
    total = -scorer._model.score("the cat sat on the mat") * math.log(10)
    assert known.sum() == pytest.approx(total, rel=1e-4)
    record = bench_filter(
        tiny_pair["itera_lite_test"], data=str(text), lines=20, others=[], repeats=1,
        lmplz=path, results=tmp_path,
    )  # fmt: skip
    assert record.peer == "KenLM 5-gram" and not record.without_kenlm
    kenlm = record.scorers[1]
    assert kenlm.kind == "kenlm" and kenlm.words_mb_per_second is not None
    assert kenlm.words_mb_per_second.median > kenlm.mb_per_second.median / 2
    assert {one.setting: one.auc for one in kenlm.separations}["shuffled"] > 0.9
    assert filter_text.LEAST_LINES == 20
