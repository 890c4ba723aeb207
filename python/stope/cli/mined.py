"""What was mined, as the terminal shows it: what was kept, why not the rest, what to do next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from stope._checks import counted
from stope.cli import terminal

_HUB_TIMES, _HUB_SHARE = 20, 0.05  # of queries with the same negative

if TYPE_CHECKING:
    from stope.data import ExportSummary
    from stope.mining import MiningJob, Summary


def show_mined(counts: Summary, job: MiningJob | None) -> None:
    """A table of counts; of a job, a second one by source."""
    sources = {} if job is None else {name: n for name, n in job.counts.items() if name != "corpus"}
    limits = list(dict.fromkeys(reason for numbers in sources.values() for reason in numbers))
    several = len(sources) > 1
    rows = [
        ("queries", f"{counts.num_queries:,}"),
        ("documents", f"{counts.num_corpus:,}"),
        ("queries' positives", f"{counts.num_pairs:,}"),
        ("negatives found", f"{counts.num_negatives:,}"),
        (f"queries with all {counts.num_negatives_wanted}", f"{counts.complete:,}"),
        ("queries with fewer", f"{counts.short:,}"),
        ("queries with none", f"{counts.empty:,}"),
    ]
    rows += [
        (f"turned away: {reason.replace('_', ' ')}", f"{number:,}")
        for reason, number in counts.rejected.items()
        if number and not (several and reason in limits)
    ]
    often = [f"{terminal.beginning(name)} ({times:,})" for name, times in counts.hubs.items()]
    if often:
        rows.append(("most often a negative (of queries)", ", ".join(often)))
    terminal.show_table("Hard negatives", ["", ""], rows, named=False)
    scores = {
        "positives (the lowest of a query)": counts.positive_quantiles,
        "negatives": counts.score_quantiles,
        "positive less negative": counts.margin_quantiles,
    }
    terminal.show_table(
        "Scores",
        ["", "least", "25%", "median", "75%", "most"],
        [[name, *(f"{score:.4f}" for score in five)] for name, five in scores.items() if five],
    )
    if not several:
        return
    terminal.show_table(
        "By source (a document that several sources name counts for each that looked at it)",
        ["source", *(reason.replace("_", " ") for reason in limits)],
        [
            [name, *(f"{numbers.get(reason, 0):,}" for reason in limits)]
            for name, numbers in sources.items()
        ],
    )


def show_written(counts: Summary, written: ExportSummary) -> None:
    """The rows of the file and what they add up from, what the numbers mean, and what to do."""
    rows = counted(written.rows, "rows")
    terminal.tell(f"{rows} in {written.path}: {_sum_of(counts, written)}")
    if written.dropped:
        terminal.say(f"left out: {counted(written.dropped, written.dropped_reason)}.")
    if counts.never_positive:
        share = counts.never_positive / counts.num_negatives
        terminal.tell(
            f"negatives that answer no query here: {counts.never_positive:,} of "
            f"{counts.num_negatives:,} ({share:.0%}). Trained on, they move away from every query: "
            "right if nobody will ask for them, harmful if somebody will; --among positives leaves "
            "them out."
        )
    for remark in _meaning(counts):
        terminal.tell(remark)


def _meaning(counts: Summary) -> Iterator[str]:
    """What the numbers say about the negatives, and what to do about it.

    >>> from stope.mining import Summary
    >>> counts = Summary(9, 99, 5, 40, 0, 10, 40, 7, 1, 1, {}, [], [], [], 10, {"d1": 6})
    >>> for remark in _meaning(counts):
    ...     print(remark[:55])
    10 of the 40 negatives (25%) score at least as high as
    2 of 9 queries have fewer than 5 negatives: limits turn
    >>> list(_meaning(Summary(9, 99, 5, 45, 0, 10, 45, 9, 0, 0, {}, [], [], [], 0, {"d1": 2})))
    []
    """
    if counts.above_positive:
        share = counts.above_positive / counts.num_negatives
        yield (
            f"{counts.above_positive:,} of the {counts.num_negatives:,} negatives ({share:.0%}) "
            "score at least as high as their positive: many of these may be answers that nobody "
            "marked. --relative-margin 0.05 keeps away from the positive."
        )
    fewer = counts.num_queries - counts.complete
    if fewer:
        yield (
            f"{fewer:,} of {counts.num_queries:,} queries have fewer than "
            f"{counted(counts.num_negatives_wanted, 'negatives')}: limits turned the others away, "
            "or there are no more documents. Loosen the limits if that is too few."
        )
    hub = max(counts.hubs, key=lambda name: counts.hubs[name], default="")
    times = counts.hubs.get(hub, 0)
    if times >= max(_HUB_TIMES, _HUB_SHARE * counts.num_queries):
        yield (
            f"{hub} is a negative of {times:,} of {counts.num_queries:,} queries: it may fit "
            "everything, as empty phrases do, or answer many. Read it."
        )


def show_suspects(job: MiningJob) -> None:
    """Where the job's table is, and what to do about documents that may be answers."""
    from stope.mining.jobs.miner import SUSPECTED

    table = job.folder / "negatives.parquet"
    suspected = any(counts.get(reason) for counts in job.counts.values() for reason in SUSPECTED)
    terminal.tell(f"{table} has all of this by ids, with scores, sources and reasons.")
    if suspected:
        terminal.tell(
            "Its rows whose reason is neither kept nor positive scored like answers: read some."
        )


def give(counts: Summary, job: MiningJob | None, written: ExportSummary | None, path: Path) -> None:
    """All counts, for --json."""
    facts = {**asdict(counts), "output": str(path), "rows": 0 if written is None else written.rows}
    if written is not None:
        facts |= {"format": written.format, "dropped": written.dropped}
    if job is not None:
        facts |= {"job": str(job.folder), "by_source": job.counts, "unknown": job.unknown}
    terminal.give(facts)


def _sum_of(counts: Summary, written: ExportSummary) -> str:
    """Why a file has so many rows.

    >>> from stope.data import ExportSummary
    >>> from stope.mining import Summary
    >>> counts = Summary(9, 99, 5, 45, 0, 10, 50, 9, 0, 0, {}, [], [])
    >>> _sum_of(counts, ExportSummary(Path("x"), "triplet", 50, 0, ""))
    '10 pairs of a query and a positive x 5 negatives'
    """
    pairs = counted(counts.num_pairs, "pairs of a query and a positive")
    wanted = counted(counts.num_negatives_wanted, "negatives")
    whole = counts.complete == counts.num_queries
    kept = f"{counts.num_pairs - written.dropped:,} of the {pairs}" if written.dropped else pairs
    if written.format == "triplet":
        return f"{kept} x {'' if whole else 'up to '}{wanted}"
    if written.format == "labeled-pair":
        return f"{pairs} + {counted(counts.num_negatives, 'negatives')}"
    if written.format in ("flagembedding", "tevatron"):
        queries = counted(written.rows, "queries")
        return f"one for each of {queries}, with all its positives and negatives"
    exactly = "" if whole or written.format == "n-tuple" else "up to "
    return f"one for each of {kept}, with {exactly}{wanted}"
