"""The page of a mining table: what was kept, by how much, how often, and what may be an answer.

A negative's margin is the lowest score of its query's positives minus its own. Suspected of being
an answer is a document that

- scores as high as a positive of its query, or higher ("above");
- scores less than a share below it ("near"), 5% unless another is given, as in relative_margin;
- has the letters of a positive's text (`letters_key`: punctuation and case do not count; "same
  text"), where there are texts;
- a teacher scores as high as a positive ("teacher"), where one was asked.

A hub is a document that is a negative of ten queries at least, and of ten times as many as the
documents that are some query's negative are on average. Few of them are answers; they teach little.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stope._checks import counted, real
from stope._checks import path as path_kind
from stope._kinds import a, at_least, kinds, maybe
from stope.data.pairs import Pairs
from stope.data.readers.columns import Layout
from stope.data.text_identity import letters_key
from stope.lists import Ids
from stope.report.figures import Figure, Series, histogram, worded
from stope.report.mining_tables import MinedTable, Names, Numbers, read_mined
from stope.report.pages import Column, Page, Section, Table

_LETTERS = 1000  # of a text in the page
_HUBS = 200
_LEAST_OF_A_HUB, _TIMES_THE_MEAN = 10, 10


@kinds(
    path=path_kind,
    pairs=maybe(a(Pairs)),
    layout=maybe(a(Layout)),
    near=real,
    most_rows=at_least(1),
)
def of_table(
    path: str | PathLike[str],
    pairs: Pairs | None = None,
    *,
    layout: Layout | None = None,
    near: float = 0.05,
    most_rows: int = 50_000,
) -> Page:
    r"""The page of what `stope mine` wrote.

    Shown are the scores of positives and negatives, margins, what was turned away and why,
    negatives per query, hubs, how often documents are positives and negatives, and all negatives
    and all documents that were turned away beside the positive that they were compared with, the
    suspected ones first (the head of this module says what that means). What the file does not have
    is said and not guessed.

    Args:
        path: a job's folder or its negatives.parquet; the JSON lines of ``stope mine --ids``; or
            training rows in any format of `stope.data.export_negatives`.
        pairs: what was mined: texts for ids, and ids for texts.
        layout: which columns of training rows hold what.
        near: share of a positive's score below it within which a negative is suspected, 0 to 1.
        most_rows: of documents listed, the most suspicious first; the page says how many there are.

    Raises:
        ValueError: another kind of file, a damaged row, no negative, ids or texts that pairs does
            not have; near out of range.
        FileNotFoundError: no such file. ImportError: pyarrow is not installed.

    Memory: the table, its texts, and 16 bytes per text.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "ids.jsonl")
        >>> row = '"query_id": "q", "document_id": "{}", "score": {}, "positive_score": 0.5}}\n'
        >>> _ = path.write_text("".join("{" + row.format(n, n / 4) for n in range(3)))
        >>> page = of_table(path)
        >>> page.facts()["negatives that score as high as a positive"]
        '1 of 3 (33.3%)'
    """
    real(near, "near", 0, 1)
    source = Path(path)
    table = read_mined(source, pairs, layout)
    view = _view(table, near)
    sections = [
        _summary(view),
        *_scores(view),
        *_turned_away(view),
        _per_query(view),
        _hubs(view),
        _exposure(view),
        _listed(view, most_rows),
    ]
    rows = counted(len(table.query), "rows")
    about = f"Made of {source} with {rows} of a query and a document."
    return Page("Hard negatives", about, sections)


class _View(NamedTuple):
    """A table, and what is computed of it once.

    Attributes:
        near: as in `of_table`.
        kept, positive: bool ``[rows]``.
        lowest: of each row, the lowest score of its query's positives; NaN without.
        shown: of each row, the document of that score, or the positive with its text.
        suspicions: bool ``[rows]`` by word.
        negatives, answers: of each document, how many queries have it as one or the other.
    """

    table: MinedTable
    near: float
    kept: NDArray[np.bool_]
    positive: NDArray[np.bool_]
    lowest: Numbers
    shown: Ids
    suspicions: dict[str, NDArray[np.bool_]]
    negatives: Ids
    answers: Ids

    @property
    def margin(self) -> Numbers:
        """Of each row."""
        return self.lowest - self.table.scores()

    def share(self, rows: NDArray[np.bool_]) -> str:
        """How many negatives are among the rows."""
        count, total = int((rows & self.kept).sum()), int(self.kept.sum())
        return f"{count:,} of {total:,} ({count / total:.1%})"


def _view(table: MinedTable, near: float) -> _View:
    kept, positive = table.reason.rows("kept"), table.reason.rows("positive")
    scores, teacher = table.scores(), table.scores("teacher_score")
    lowest, shown = _lowest(table, scores, positive)
    np.fmin.at(lowest, table.query, table.scores("positive_score"))
    limit, shown = lowest[table.query], shown[table.query]
    suspicions = {"above": scores >= limit}
    suspicions["near"] = ~suspicions["above"] & (scores > limit - near * np.abs(limit))
    if np.isfinite(teacher).any():
        suspicions["teacher"] = teacher >= _lowest(table, teacher, positive)[0][table.query]
    original = _same_text(table, positive)
    suspicions["same text"] = original >= 0
    suspicions = {word: rows & ~positive for word, rows in suspicions.items()}
    shown = np.where(suspicions["same text"], original, shown)
    times = (
        np.bincount(table.document[r], minlength=len(table.documents)) for r in (kept, positive)
    )
    return _View(table, near, kept, positive, limit, shown, suspicions, *times)


def _lowest(table: MinedTable, scores: Numbers, positive: NDArray[np.bool_]) -> tuple[Numbers, Ids]:
    """Of each query its positives' lowest score and the document of that score; NaN and -1."""
    rows = np.flatnonzero(positive)
    rows = rows[np.lexsort((scores[rows], table.query[rows]))]  # NaN comes last
    queries, first = np.unique(table.query[rows], return_index=True)
    lowest, documents = np.full(len(table.queries), np.nan), np.full(len(table.queries), -1)
    lowest[queries], documents[queries] = scores[rows[first]], table.document[rows[first]]
    return lowest, documents


def _same_text(table: MinedTable, positive: NDArray[np.bool_]) -> Ids:
    """Of each row the positive of its query with the letters of its document; -1 for none."""
    codes = np.arange(len(table.documents))
    if table.documents.texts is not None:
        known: dict[bytes, int] = {}
        keys = map(letters_key, table.documents.texts)
        blank = -1 - codes
        codes = np.array(
            [
                blank[row] if key is None else known.setdefault(key, row)
                for row, key in enumerate(keys)
            ]
        )
    # A blank text is like no other: its code is negative, and another for each.
    key = table.query * (2 * len(codes) + 2) + codes[table.document] + len(codes) + 1
    of_positives, rows = np.unique(key[positive], return_index=True)
    if not len(rows):
        return np.full(len(key), -1)
    places = np.minimum(np.searchsorted(of_positives, key), len(rows) - 1)
    original = table.document[positive][rows][places]
    return np.where(of_positives[places] == key, original, -1)


def _summary(view: _View) -> Section:
    table, suspected = view.table, np.any(list(view.suspicions.values()), axis=0)
    facts = {
        "queries": worded(len(table.queries)),
        "positives": worded(int(view.positive.sum())),
        "negatives": worded(int(view.kept.sum())),
        "documents that are either": worded(int(((view.negatives + view.answers) > 0).sum())),
    }
    if table.num_corpus is not None:
        facts["documents in the corpus"] = worded(table.num_corpus)
    facts["suspected of being answers"] = view.share(suspected)
    text = (
        "Hard negatives are documents that score high for a query and are no known answer. Some "
        "are answers that nobody marked, and cost a training most. Read the suspected ones at the "
        "end of this page, select the answers, save their ids, and give that file to stope mine "
        "--exclude."
    )
    return Section("In short", [text], facts, missing=table.notes)


def _scores(view: _View) -> list[Section]:
    parts = {"positives": view.positive, "negatives": view.kept}
    scores = {name: view.table.scores()[rows] for name, rows in parts.items()}
    series = histogram(scores)
    if not series:
        return []
    facts = {
        f"score of {name}, median (5% to 95%)": _spread(part)
        for name, part in scores.items()
        if np.isfinite(part).any()
    }
    text = "Where the two overlap, the encoder does not tell an answer from a negative."
    figure = Figure("scores", "histogram", "Scores", "score", "rows", series)
    section = Section("Scores", [text], facts, [figure])
    series = histogram({"negatives": view.margin[view.kept]})
    if not series:
        why = "No query has a score of its positives here, so there are no margins."
        return [section, Section("Margins", missing=[why])]
    facts = {
        "negatives that score as high as a positive": view.share(view.suspicions["above"]),
        f"negatives up to {100 * view.near:.3g}% below it": view.share(view.suspicions["near"]),
        "margin, median (5% to 95%)": _spread(view.margin[view.kept]),
    }
    without = int((view.kept & ~np.isfinite(view.margin)).sum())
    why = (
        f"Not counted here: {counted(without, 'negatives')} without a score in this table, or "
        "without one of a positive of the query."
    )
    missing = [why] if without else []
    text = "Left of 0 are negatives that the encoder takes for better answers than a positive."
    what = "the lowest score of the query's positives minus the negative's"
    rule = {"as high as the positive": 0.0}
    figure = Figure("margins", "histogram", "Margins", what, "negatives", series, rule)
    return [section, Section("Margins", [text], facts, [figure], missing=missing)]


def _turned_away(view: _View) -> list[Section]:
    if view.table.turned_away is None:
        return []
    totals: dict[str, dict[str, int]] = {}  # by source and reason
    for source, reason, count in view.table.turned_away:
        if reason not in ("kept", "positive"):
            of_source = totals.setdefault(source, {})
            of_source[reason] = of_source.get(reason, 0) + count
    if not totals:
        return [Section("Turned away", ["No document was turned away: there were no limits."])]
    reasons = list(dict.fromkeys(reason for counts in totals.values() for reason in counts))
    names = {reason: reason.replace("_", " ") for reason in reasons}
    series = tuple(
        Series(source, list(names.values()), [counts.get(reason, 0) for reason in reasons])
        for source, counts in totals.items()
    )
    facts = {
        f"turned away: {name}": worded(sum(counts.get(reason, 0) for counts in totals.values()))
        for reason, name in names.items()
    }
    text = (
        "A document that several sources name counts for each that looked at it; corpus stands for "
        "what is known beforehand: copies of positives, and what was excluded."
    )
    figure = Figure("turned-away", "bars", "Turned away", "reason", "documents", series)
    return [Section("Turned away", [text], facts, [figure])]


def _per_query(view: _View) -> Section:
    counts = np.bincount(view.table.query[view.kept], minlength=len(view.table.queries))
    middle, most = float(np.median(counts)), int(counts.max())
    facts = {
        "negatives per query, median (least to most)": f"{middle:g} ({counts.min():,} to {most:,})",
        "queries without negatives": worded(int((counts == 0).sum())),
    }
    missing = []
    if view.table.num_corpus is None and not view.positive.any():
        missing = ["A query without negatives is not in this table, and so not counted."]
    figure = Figure(
        *("negatives-per-query", "bars", "Negatives per query", "negatives of a query", "queries"),
        (_tally("queries", counts, most < 20),),
    )
    return Section("Negatives per query", (), facts, [figure], missing=missing)


def _hubs(view: _View) -> Section:
    times, named = view.negatives, view.table.documents
    least = max(_LEAST_OF_A_HUB, int(np.ceil(_TIMES_THE_MEAN * times[times > 0].mean())))
    hubs = np.flatnonzero(times >= least)
    hubs = hubs[np.argsort(-times[hubs], kind="stable")]
    share = times[hubs].sum() / times.sum()
    text = (
        f"A hub is a negative of at least {least:,} queries: of ten, and of ten times the mean of "
        "the documents that are a negative at all. What is near to everything is seldom an answer, "
        "and teaches little; --sampling spreads the negatives, and so does a hub's id in --exclude."
    )
    facts = {"hubs": f"{len(hubs):,} (with {share:.1%} of the negatives)" if len(hubs) else "0"}
    figure = Figure(
        *("hubs", "bars", "Documents by how many queries have them as a negative", "queries"),
        "documents",
        (_tally("documents", times[times > 0]),),
    )
    table, listed = None, hubs[:_HUBS]
    if len(hubs):
        counts = (("negative of", times), ("positive of", view.answers))
        columns = [Column(name, part[listed], "number") for name, part in counts]
        table = Table(
            (*_named(named, listed, "document"), *columns),
            f"The largest {len(listed):,} of {counted(len(hubs), 'hubs')}; saved ids are of all "
            "queries",
            browse=True,
            export={} if named.ids is None else {"document_id": "document id"},
        )
    return Section("Hubs", [text], facts, [figure], table)


def _exposure(view: _View) -> Section:
    classes = ("never", "once", "2 to 3 times", "4 to 7 times", "more often")
    both = [np.digitize(times, [1, 2, 4, 8]) for times in (view.answers, view.negatives)]
    cells = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(cells, tuple(both), 1)
    missing = []
    if view.table.num_corpus is not None:
        cells[0, 0] += view.table.num_corpus - len(view.table.documents)
    else:
        missing = ["Documents that are neither are not in this table, and so not counted."]
    columns = [Column("a positive", classes)]
    columns += [
        Column(name if place else "a negative never", cells[:, place], "number")
        for place, name in enumerate(classes)
    ]
    text = (
        "A document that is only ever a negative moves away from every query: right if nobody will "
        "ask for it, harmful if somebody will (--among positives leaves such documents out). One "
        "that is a positive as often as a negative stays where it is."
    )
    facts = {}
    if view.positive.any():
        never = (view.answers == 0)[view.table.document]
        facts["negatives that are no query's positive"] = view.share(never)
    else:
        missing = ["This table does not name positives, so all documents count as never positive."]
    caption = "Documents by how often they are a positive (rows) and a negative (columns)"
    return Section("Exposure", [text], facts, table=Table(tuple(columns), caption), missing=missing)


def _listed(view: _View, most_rows: int) -> Section:
    """All that is no positive, beside a positive: suspected, turned away, and then the rest."""
    table, rows = view.table, np.flatnonzero(~view.positive)
    suspected = np.any(list(view.suspicions.values()), axis=0)
    state = np.where(~view.kept, 1, np.where(suspected, 0, 2))
    rows = rows[np.lexsort((view.margin[rows], state[rows]))][:most_rows]
    marks = list(view.suspicions)
    codes = np.zeros(len(rows), np.int64)
    for bit, mark in enumerate(marks):
        codes |= view.suspicions[mark][rows].astype(np.int64) << bit
    words = [
        "; ".join(mark for bit, mark in enumerate(marks) if code >> bit & 1)
        for code in range(2 ** len(marks))
    ]
    numbers = {"score": table.scores(), "positive's score": view.lowest, "margin": view.margin}
    numbers |= {"rank": table.scores("rank"), "teacher's score": table.scores("teacher_score")}
    origins = [
        Column(name, part.codes[rows], "word", part.words)
        for name, part in (("reason", table.reason), ("source", table.source))
        if part is not None and np.ptp(part.codes[rows])
    ]
    columns = [
        Column("suspicion", codes, "word", words),
        *origins,
        *_named(table.queries, table.query[rows], "query"),
        *_named(table.documents, view.shown[rows], "positive"),
        *_named(table.documents, table.document[rows], "document"),
        *(
            Column(name, values[rows], "number")
            for name, values in numbers.items()
            if np.isfinite(values).any()
        ),
    ]
    export = {"query_id": "query id", "document_id": "document id"}
    facts = {
        f"suspected: {mark}": view.share(part)
        for mark, part in view.suspicions.items()
        if mark not in ("above", "near")  # which stand with the margins
    }
    terms = (
        "Above: it scores as high as a positive of its query, or higher. Near: less than "
        f"{100 * view.near:.3g}% of that score below it. Same text: the letters of a positive. "
        "Teacher: a teacher scores it as high as a positive. A reason other than kept says why it "
        "was turned away, and is no negative now."
    )
    cut = f"Texts are cut after {_LETTERS:,} characters; ids are saved whole."
    missing, total = [], int((~view.positive).sum())
    if len(rows) < total:
        missing = [f"Listed are {len(rows):,} of {total:,} rows, the most suspicious first."]
    listed = Table(
        tuple(columns),
        "Negatives, and documents that were turned away, beside a positive of their query",
        browse=True,
        export=export if table.queries.ids and table.documents.ids else {},
    )
    title = "Suspected answers, and all negatives"
    return Section(title, [terms, cut], facts, (), listed, missing)


def _named(names: Names, rows: Ids, what: str) -> list[Column]:
    """Columns of texts and ids, whichever there are; -1 is none."""
    if (rows < 0).all():
        return []
    columns = []
    if names.texts is not None:
        used, places = np.unique(rows, return_inverse=True)
        texts = ["" if row < 0 else _beginning(names.texts[row]) for row in used.tolist()]
        columns.append(Column(what, places.reshape(-1), "text", texts))
    if names.ids is not None:
        kind = "text" if names.texts is None else "id"
        columns.append(Column(f"{what} id", rows, kind, names.ids))
    return columns


def _beginning(text: str) -> str:
    return text if len(text) <= _LETTERS else text[:_LETTERS] + "…"


def _spread(values: Numbers) -> str:
    low, middle, high = map(worded, np.nanquantile(values, [0.05, 0.5, 0.95]).tolist())
    return f"{middle} ({low} to {high})"


def _tally(name: str, counts: Ids, singly: bool = False) -> Series:
    """How many counts are 0, 1, 2 to 3, 4 to 7, ...; or each number, where they are few."""
    most = int(counts.max())
    if singly:
        numbers = [str(number) for number in range(most + 1)]
        return Series(name, numbers, np.bincount(counts, minlength=most + 1))
    starts = [*([0] if counts.min() == 0 else []), *(1 << bit for bit in range(most.bit_length()))]
    names = [f"{low:,}" if low < 2 else f"{low:,} to {2 * low - 1:,}" for low in starts]
    return Series(name, names, np.histogram(counts, [*starts, most + 1])[0])
