"""Measures how well scores separate clean text from bad: what `itera bench filter` does.

Our models, KenLM and a byte n-gram of the same training text score the same lines. Half of the
lines choose a statistic for each scorer and the case of KenLM's words; the other half are judged.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Container, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from itera_lite.bench.filter_scorers import (
    ContrastScorer,
    KenlmScorer,
    LineScorer,
    ModelScorer,
    NgramScorer,
    Reading,
    Scores,
    build_kenlm,
    find_lmplz,
    words_of,
)
from itera_lite.bench.filter_text import (
    LEAST_LINES,
    Setting,
    Words,
    draws_of,
    foreign,
    held_out,
    noisy,
    other_sources,
)
from itera_lite.bench.turns import Rounds, measure_in_turns, progress_bar
from itera_lite.config import Unit
from itera_lite.data.corpus import load_documents
from itera_lite.errors import DataError
from itera_lite.evaluate.baselines import MAX_TRAIN_BYTES, NGRAM_ORDER
from itera_lite.evaluate.documents import sample_documents
from itera_lite.machine.provenance import Provenance
from itera_lite.records import Filtering, FilterScorer, FilterSeparation, FilterSetting
from itera_lite.stats.auc import RESAMPLES, Separation, resamples, separation
from itera_lite.stats.comparison import Measurement
from itera_lite.stats.load import Load
from itera_lite.stats.samples import Stat
from itera_lite.stats.targets import Target

MB_PER_SECOND = 0.8  # a core, that a model must reach to be chosen
_TIMED_BYTES = 200_000  # read in a turn


@dataclass(frozen=True)
class Lines:
    """Clean lines, and the settings that they are in."""

    clean: list[str]
    settings: list[Setting]

    @classmethod
    def of(cls, clean: list[str], words: Words, others: dict[str, list[str]], seed: int) -> Lines:
        """Those settings that have enough lines."""
        found = [*noisy(clean, words, seed)]
        found += [foreign(name, clean, lines, seed) for name, lines in others.items()]
        return cls(clean, [setting for setting in found if len(setting.bad) >= LEAST_LINES])

    def scored(self, scorer: LineScorer) -> tuple[Scores, dict[str, Scores]]:
        """Of the clean lines, and of each setting's bad ones."""
        clean = scorer.statistics(self.clean)
        return clean, {one.name: scorer.statistics(one.bad) for one in self.settings}

    def separations(
        self, scorer: LineScorer, drawn: _Drawn, only: Container[str] | None = None
    ) -> dict[str, dict[str, Separation]]:
        """By statistic (``only`` these) and setting."""
        clean, bad = self.scored(scorer)
        return {
            statistic: {
                one.name: separation(
                    values[list(one.clean)], bad[one.name][statistic], drawn.of(len(one.bad))
                )
                for one in self.settings
            }
            for statistic, values in clean.items()
            if only is None or statistic in only
        }


class _Drawn:
    """The resamples for each number of pairs."""

    def __init__(self, repeats: int) -> None:
        self._repeats = repeats
        self._kept: dict[int, NDArray[np.int64]] = {}

    def of(self, pairs: int) -> NDArray[np.int64]:
        if pairs not in self._kept:
            self._kept[pairs] = resamples(pairs, self._repeats)
        return self._kept[pairs]


@dataclass
class Judged:
    """A scorer with the statistic that was chosen for it, and what that and the usual one give."""

    scorer: LineScorer
    statistic: str
    mean_auc: dict[str, float]
    found: dict[str, dict[str, Separation]]

    @classmethod
    def of(cls, scorer: LineScorer, choosing: Lines, judged: Lines, drawn: _Drawn) -> Judged:
        tried = choosing.separations(scorer, _Drawn(1))
        means = {
            statistic: float(np.mean([one.value for one in by_setting.values()]))
            for statistic, by_setting in tried.items()
        }
        best = max(means, key=lambda statistic: means[statistic])
        wanted = {best, scorer.usual}
        return cls(scorer, best, means, judged.separations(scorer, drawn, wanted))

    def record(self, peer: Judged, speed: Stat, words: Stat | None) -> FilterScorer:
        scorer = self.scorer
        return FilterScorer(
            name=scorer.name,
            kind=scorer.kind,
            how=scorer.how,
            statistic=self.statistic,
            usual=scorer.usual,
            mean_auc=self.mean_auc,
            separations=[self._separation(name, peer) for name in self.found[self.statistic]],
            mb_per_second=speed,
            words_mb_per_second=words,
            params=scorer.params,
            unit=scorer.unit,
        )

    def _separation(self, setting: str, peer: Judged) -> FilterSeparation:
        own = self.found[self.statistic][setting]
        found = FilterSeparation(
            setting=setting,
            auc=own.value,
            low=own.measurement.low,
            high=own.measurement.high,
            usual_auc=self.found[self.scorer.usual][setting].value,
        )
        if peer is not self:
            lead = (own - peer.found[peer.statistic][setting]).measurement
            found.lead, found.lead_low, found.lead_high = lead.value, lead.low, lead.high
            found.winner = _winner(lead)
        return found


def _winner(lead: Measurement) -> Literal["ours", "peer"] | None:
    if lead.low <= 0 <= lead.high:
        return None
    return "ours" if lead.value > 0 else "peer"


def unit_of_models(scorers: Sequence[LineScorer]) -> Unit:
    """What the first model that has a unit was trained on; sentences where none has one."""
    return next((scorer.unit for scorer in scorers if scorer.unit is not None), "sentence")


def measure_filter(
    models: Sequence[Path],
    *,
    contrast: tuple[Path, Path] | None,
    data: str,
    split: str,
    unit: Unit | None,
    lines: int,
    others: Sequence[str] | None,
    lmplz: Path | None,
    repeats: int,
    seed: int,
) -> Filtering:
    """Score, choose, judge, and take the time in turns.

    The arguments are the options of `itera bench filter`.

    Raises:
        DataError, UsageError, MissingExtra: a text, a model or a program can't be used.
    """
    builder = find_lmplz(lmplz)
    ours = [ModelScorer(path) for path in models]
    scorers: list[LineScorer] = [*ours]
    if contrast is not None:
        scorers.append(ContrastScorer(*contrast))
    unit = unit or unit_of_models(scorers)
    corpus = load_documents(data).in_units(unit)
    train = corpus.splits["train"]
    clean, in_training = held_out(corpus, unit, split, 2 * lines, seed)
    sources = other_sources(others, data, unit)
    words = draws_of(train)
    half = len(clean) // 2
    choosing = Lines.of(clean[:half], words, *_part(sources, 0, seed))
    judged = Lines.of(clean[half:], words, *_part(sources, 1, seed))
    common = {one.name for one in choosing.settings} & {one.name for one in judged.settings}
    if not common:
        raise DataError(
            f"'{data}': in no setting {LEAST_LINES} of the {half} lines can be made bad: give more "
            "--lines, or a text of words"
        )
    for part in (choosing, judged):
        part.settings[:] = [one for one in part.settings if one.name in common]
    counted = sample_documents(train, MAX_TRAIN_BYTES)
    drawn = _Drawn(RESAMPLES)
    found = []
    with progress_bar("bench filter", len(scorers) + 2) as progress:
        for scorer in scorers:
            progress(scorer.name)
            found.append(Judged.of(scorer, choosing, judged, drawn))
        if not isinstance(builder, str):
            progress("KenLM")
            found.append(_kenlm(builder, train, choosing, judged, drawn))
        progress("byte n-gram")
        found.append(Judged.of(NgramScorer(counted, NGRAM_ORDER), choosing, judged, drawn))
    peer = found[len(scorers)]  # KenLM, or the byte n-gram where that isn't there
    speeds, by_words, rounds = _speeds([one.scorer for one in found], judged.clean, repeats)
    isa = next((model.model.isa for model in ours), None)
    origin = Provenance.now(engine_isa=isa, load_by_others=rounds.load.by_others)
    return Filtering(
        source=corpus.name,
        split=split,
        unit=unit,
        lines=len(judged.clean),
        bytes=_bytes(judged.clean),
        chosen_on=len(choosing.clean),
        in_training=in_training,
        train_lines=len(train),
        train_bytes=sum(map(len, train)),
        ngram_bytes=sum(map(len, counted)),
        peer=peer.scorer.name,
        settings=[FilterSetting(one.name, one.label, len(one.bad)) for one in judged.settings],
        scorers=[
            one.record(peer, speed, by_words if one.scorer.kind == "kenlm" else None)
            for one, speed in zip(found, speeds, strict=True)
        ],
        resamples=RESAMPLES,
        without_kenlm=builder if isinstance(builder, str) else "",
        targets=_targets(ours, speeds, origin.load),
        repeated_rounds=rounds.repeated,
        provenance=origin,
    )


def _part(sources: dict[str, list[str]], part: int, seed: int) -> tuple[dict[str, list[str]], int]:
    """One half of each source's lines, and a seed of that half's own."""
    halves = {}
    for name, lines in sources.items():
        mixed = random.Random(seed).sample(lines, len(lines))
        halves[name] = mixed[part::2]
    return halves, 2 * seed + part


def _kenlm(
    lmplz: Path, train: Sequence[bytes], choosing: Lines, judged: Lines, drawn: _Drawn
) -> Judged:
    """KenLM with the words as they are written or in lower case: whichever separates better."""
    texts = [text.decode("utf-8", "replace") for text in train]
    with tempfile.TemporaryDirectory(prefix="itera-") as folder:
        # The model's file stays mapped after it is removed.
        both = [build_kenlm(lmplz, texts, Path(folder), lower=lower) for lower in (False, True)]
        found = [Judged.of(scorer, choosing, judged, drawn) for scorer in both]
    return max(found, key=lambda one: max(one.mean_auc.values()))


def _speeds(
    scorers: Sequence[LineScorer], lines: Sequence[str], repeats: int
) -> tuple[list[Stat], Stat | None, Rounds]:
    """MB/s of each scorer; of KenLM also where the words are given; how they were measured."""
    read = list(lines) * -(-_TIMED_BYTES // _bytes(lines))
    size = _bytes(read)

    def reading(scorer: LineScorer) -> Reading:
        return Reading(scorer.name, lambda: scorer.read(read), size)

    entries = [reading(scorer) for scorer in scorers]
    kenlm = next((scorer for scorer in scorers if isinstance(scorer, KenlmScorer)), None)
    words = None
    if kenlm is not None:
        read_words = partial(kenlm.read_words, [words_of(line, kenlm.lower) for line in read])
        words = Reading("words", read_words, size)
    rounds = measure_in_turns("speed", [*entries, *([words] if words else [])], repeats)
    speeds = [Stat.of(entry.samples) for entry in entries]
    return speeds, Stat.of(words.samples) if words else None, rounds


def _targets(
    ours: Sequence[ModelScorer], speeds: Sequence[Stat], load: Load | None
) -> list[Target]:
    """The speed of the smallest model."""
    if not ours:
        return []
    least = min(range(len(ours)), key=lambda i: ours[i].model.parameters)
    label = f"Scoring lines with {ours[least].name}, a core"
    target = Target("mb_per_second", label, "at least", MB_PER_SECOND, unit="MB/s")
    found = Measurement.of_samples(speeds[least].samples)
    return [target.judged(found, load=load)]


def _bytes(lines: Sequence[str]) -> int:
    return sum(len(line.encode("utf-8")) for line in lines)
