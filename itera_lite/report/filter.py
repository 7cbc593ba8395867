"""The filter's benchmark in words and cells, for the terminal and for the documentation."""

from __future__ import annotations

from itera_lite.records import Filtering, FilterScorer


def filter_rows(record: Filtering) -> tuple[list[str], list[list[str]]]:
    """The header, and a row a setting with each scorer's AUC; then means, speed and statistic.

    A star marks the AUC of a scorer that is clearly above the peer's, a dagger one clearly below.
    """
    header = ["AUC", *(one.name for one in record.scorers)]
    rows = []
    for number, setting in enumerate(record.settings):
        found = [one.separations[number] for one in record.scorers]
        marks = {"ours": " *", "peer": " †", None: ""}
        cells = [f"{one.auc:.3f}{marks[one.winner]}" for one in found]
        rows.append([setting.label, *cells])
    rows.append(["mean", *(f"{mean_auc(one):.3f}" for one in record.scorers)])
    rows.append(["mean, usual statistic", *(f"{_usual_mean(one):.3f}" for one in record.scorers)])
    rows.append(["MB/s, one core", *(f"{one.mb_per_second.median:.2f}" for one in record.scorers)])
    rows.append(["statistic", *(one.statistic for one in record.scorers)])
    return header, rows


def filter_notes(record: Filtering) -> list[str]:
    """What must be known about the table, and the verdicts, a sentence each."""
    peer = record.peer
    notes = [
        f"{record.lines:,} lines ({record.unit}, {record.bytes:,} bytes) of {record.source}, split "
        f"{record.split}, that the training text doesn't have; {record.chosen_on:,} others chose "
        f"the statistics. Trained or counted on {record.train_bytes / 1e6:.1f} MB. "
        f"* clearly above {peer}, † clearly below: the 95 % interval of the difference, "
        f"{record.resamples:,} paired resamples, doesn't hold 0.",
    ]
    if record.without_kenlm:
        notes.append(f"Without KenLM: {record.without_kenlm}.")
    for scorer in record.scorers:
        other = (
            f", trained on the unit {scorer.unit}" if scorer.unit not in (None, record.unit) else ""
        )
        notes.append(f"{scorer.name}: {scorer.how}{other}.")
        if scorer.words_mb_per_second:
            speed = scorer.words_mb_per_second.median
            notes.append(f"{scorer.name}, where the words are given: {speed:.2f} MB/s.")
    notes += [
        verdict(scorer, peer) for scorer in record.scorers if scorer.kind in ("model", "contrast")
    ]
    return notes


def verdict(scorer: FilterScorer, peer: str) -> str:
    """In how many settings a scorer is above and below the peer, and where it is below."""
    won = [one for one in scorer.separations if one.winner == "ours"]
    lost = [one for one in scorer.separations if one.winner == "peer"]
    text = (
        f"{scorer.name}: clearly above {peer} in {len(won)} of {len(scorer.separations)} settings"
    )
    if not lost:
        return f"{text}, clearly below in none."
    worst = ", ".join(f"{one.setting} by {-(one.lead or 0):.3f}" for one in lost)
    return f"{text}, clearly below in {len(lost)}: {worst}."


def mean_auc(scorer: FilterScorer) -> float:
    """Over the settings, by the chosen statistic."""
    return sum(one.auc for one in scorer.separations) / len(scorer.separations)


def _usual_mean(scorer: FilterScorer) -> float:
    return sum(one.usual_auc for one in scorer.separations) / len(scorer.separations)
