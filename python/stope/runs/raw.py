"""Pairs from raw text, as a source of a configuration asks for them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from stope import data
from stope.data import Pairs, iter_beir_corpus, read_rows, read_texts
from stope.runs.options import unknown

KINDS: dict[str, Callable[..., Any]] = {
    "crops": data.independent_crops,
    "inverse_cloze": data.inverse_cloze,
    "recurring_spans": data.recurring_spans,
    "title": data.title_to_body,
}
_OURS = ("seed", "first_row")


def check_raw_pairs(given: Any, path: str) -> dict[str, Any]:
    """How pairs are made from raw text: a kind, or a mapping of kind and options.

    >>> check_raw_pairs("crops", "data.pairs_from")
    {'kind': 'crops'}
    """
    named = {"kind": given} if isinstance(given, str) else given
    if not isinstance(named, Mapping) or "kind" not in named:
        raise ValueError(f"{path} is {given!r}; give one of {', '.join(KINDS)}, or kind: with it")
    if named["kind"] not in KINDS:
        hint = ""
        if named["kind"] == "query_as_context":
            hint = "; query_as_context needs a model of yours: call stope.data.query_as_context"
        raise ValueError(f"{path} is {named['kind']!r}; give one of {', '.join(KINDS)}{hint}")
    names = [name for name in _options(named["kind"]) if name not in _OURS]
    for key in named:
        if key not in ("kind", *names):
            raise ValueError(unknown(str(key), path, ["kind", *names]))
    return dict(named)


def pairs_from_text(source: Any, seed: int) -> Pairs:
    """Make the pairs that ``source.pairs_from`` names from the documents at its path.

    Raises:
        ValueError: no row gave a pair (the sentence says why), or an option out of range.
    """
    given = dict(source.pairs_from)
    kind = given.pop("kind")
    if "seed" in _options(kind):
        given["seed"] = seed
    path = Path(source.path).expanduser()
    rows: Any
    if path.is_dir():
        rows = [(title, text) for _, title, text in iter_beir_corpus(path)]
    elif kind == "title":
        rows = _titled(path, source.text_column)
    else:
        rows = read_texts(path, source.text_column, source.id_column)[1]
    queries, positives = KINDS[kind](rows, **given).columns()
    if source.corpus is None:
        return Pairs.from_texts(queries, positives)
    ids, documents = read_texts(Path(source.corpus).expanduser())
    return Pairs.from_texts(queries, positives, documents, corpus_ids=ids)


def _options(kind: str) -> list[str]:
    parameters = inspect.signature(KINDS[kind]).parameters.values()
    return [one.name for one in parameters if one.kind is inspect.Parameter.KEYWORD_ONLY]


def _titled(path: Path, text_column: str | None) -> list[tuple[str, str]]:
    text = text_column or "text"
    found = []
    for where, row in read_rows(path):
        for name in ("title", text):
            if not isinstance(row.get(name), str):
                raise ValueError(
                    f'{where}: there is no text in the column "{name}"; pairs_from: title needs '
                    "the columns title and text (data.text_column)"
                )
        found.append((row["title"], row[text]))
    return found
