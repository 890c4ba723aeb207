"""Pairs from the raw text of a file, by the name of what makes them."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from stope._checks import shown
from stope.data.pairs import Pairs
from stope.data.raw_pairs.cloze import inverse_cloze
from stope.data.raw_pairs.crops import independent_crops
from stope.data.raw_pairs.queries import title_to_body
from stope.data.raw_pairs.spans import recurring_spans
from stope.data.readers.beir import iter_beir_corpus
from stope.data.readers.tables import read_rows
from stope.data.readers.texts import iter_documents, read_texts

KINDS: dict[str, Callable[..., Any]] = {
    "crops": independent_crops,
    "inverse_cloze": inverse_cloze,
    "recurring_spans": recurring_spans,
    "title": title_to_body,
}
_NOT_OPTIONS = ("seed", "first_row")


def check_kind(asked: Any, argument: str) -> dict[str, Any]:
    """How pairs are made from raw text: a kind, or a mapping of kind and options.

    Raises:
        ValueError: no such kind, or an option that it does not have.

    >>> check_kind("crops", "pairs_from")
    {'kind': 'crops'}
    """
    named = {"kind": asked} if isinstance(asked, str) else asked
    if not isinstance(named, Mapping) or "kind" not in named:
        known = ", ".join(KINDS)
        raise ValueError(f"{argument} is {shown(asked)}; give one of {known}, or kind: with it")
    kind = named["kind"]
    if not isinstance(kind, str) or kind not in KINDS:
        hint = ""
        if kind == "query_as_context":
            hint = "; query_as_context needs a model of yours: call stope.data.query_as_context"
        raise ValueError(f"{argument} is {shown(kind)}; give one of {', '.join(KINDS)}{hint}")
    known_options = [name for name in _options(kind) if name not in _NOT_OPTIONS]
    for name in named:
        if name not in ("kind", *known_options):
            raise ValueError(
                f'{argument} has no key "{name}"; its keys are kind, {", ".join(known_options)}'
            )
    return dict(named)


def make_pairs(
    asked: Any,
    path: Path,
    corpus: str | PathLike[str] | None,
    text_column: str | None,
    id_column: str | None,
    skip_empty: bool,
    seed: int,
    left_out: Counter[str],
) -> Pairs:
    """Make pairs from the documents at a path, a file or a BEIR folder; see `stope.data.Source`.

    Rows that are left out count in left_out.

    Raises:
        ValueError: no row gave a pair (the sentence says why), or an option out of range.
    """
    options = check_kind(asked, "pairs_from")
    kind = options.pop("kind")
    if "seed" in _options(kind):
        options["seed"] = seed
    rows: Any
    if path.is_dir():
        rows = [(title, text) for _, title, text in iter_beir_corpus(path)]
    elif kind == "title":
        rows = _titled(path, text_column)
    else:
        _, rows = read_texts(path, text_column, id_column, skip_empty=skip_empty, skipped=left_out)
    queries, positives = KINDS[kind](rows, **options).columns()
    if corpus is None:
        return Pairs.from_texts(queries, positives)
    file = Path(corpus).expanduser()
    documents = list(iter_documents(file, skip_empty=skip_empty, skipped=left_out))
    return Pairs.from_texts(
        queries,
        positives,
        [document.text for document in documents],
        corpus_ids=[document.id for document in documents],
        corpus_titles=[document.title for document in documents],
    )


def _options(kind: str) -> list[str]:
    parameters = inspect.signature(KINDS[kind]).parameters.values()
    return [each.name for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY]


def _titled(path: Path, text_column: str | None) -> list[tuple[str, str]]:
    text = text_column or "text"
    rows = []
    for where, row in read_rows(path):
        for name in ("title", text):
            if not isinstance(row.get(name), str):
                raise ValueError(
                    f'{where}: there is no text in the column "{name}"; pairs_from: title needs '
                    "the columns title and text (text_column)"
                )
        rows.append((row["title"], row[text]))
    return rows
