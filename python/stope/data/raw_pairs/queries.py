"""Queries that are there already, or that a model writes: titles, and query as context."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from stope._checks import integer, shown
from stope.data.raw_pairs.pairs import RawPair, RawPairs, Row, check_rows
from stope.data.raw_pairs.splitting import tokens
from stope.data.readers.fields import join_title

Generate = Callable[[list[str]], Sequence[str] | Sequence[Sequence[str]]]


def title_to_body(
    rows: Iterable[tuple[str, str]],
    *,
    min_title_tokens: int = 1,
    min_tokens: int = 1,
    first_row: int = 0,
) -> RawPairs:
    r"""Make (title, text) of every row, without a first line of the text that is the title again.

    Rows with a title of fewer than min_title_tokens, or a text of fewer than min_tokens, are
    skipped. Nothing is left to chance.

    Example:
        >>> [pair] = title_to_body([("Copper", "Copper\nA soft metal.")])
        >>> pair
        RawPair(query='Copper', positive='A soft metal.', row=0)
    """
    check_rows(rows, "rows")
    integer(min_title_tokens, "min_title_tokens", 1)
    integer(min_tokens, "min_tokens", 1)

    def make(pairs: RawPairs) -> Iterator[RawPair]:
        for row, title, text in pairs.numbered():
            query, body = title.strip(), text.strip()
            if len(tokens(query)) < min_title_tokens:
                pairs.skipped["title too short" if query else "no title"] += 1
                continue
            # "Copper ore is ..." under the title "Copper" is a sentence, not a heading.
            first, _, rest = body.partition("\n")
            if first.strip() == query:
                body = rest.strip()
            if len(tokens(body)) < min_tokens:
                pairs.skipped["text too short" if body else "no text"] += 1
                continue
            yield RawPair(query, body, row)

    return RawPairs(rows, make, first_row)


def query_as_context(
    passages: Iterable[Row],
    generate: Generate,
    *,
    batch_size: int = 32,
    min_tokens: int = 1,
    first_row: int = 0,
) -> RawPairs:
    """Make (generated query, passage) of every passage, with a model of yours that writes queries.

    Args:
        passages: texts, or (title, text), which generate and the positive get as one text.
        generate: called with a list of passages; returns for each a query or a list of queries.
        batch_size: passages per call.
        min_tokens: shorter passages are skipped.

    Returns:
        The pairs; of queries that are the same for one passage, the first. If generate always gives
        the same for the same batch, so does this.

    Raises:
        TypeError: generate is not callable or returns something else than strings.
        ValueError: generate returns another number of results than it got passages, no query or an
            empty one for a passage; the message has the row.

    Memory: one batch.

    Source: Wu et al. 2022 (query-as-context pre-training).

    Example:
        >>> ask = lambda passages: [f"what is {text.split()[0].lower()}?" for text in passages]
        >>> [pair[:2] for pair in query_as_context(["Ore is rock with metal."], ask)]
        [('what is ore?', 'Ore is rock with metal.')]
    """
    check_rows(passages, "passages")
    if not callable(generate):
        raise TypeError(f"generate is {shown(generate)}; give a function of a list of passages")
    integer(batch_size, "batch_size", 1)
    integer(min_tokens, "min_tokens", 1)

    def ask(batch: list[tuple[int, str]]) -> Iterator[RawPair]:
        answers = generate([text for _, text in batch])
        if isinstance(answers, str) or not isinstance(answers, Sequence):
            raise TypeError(f"generate returned a {type(answers).__name__}; return a list")
        if len(answers) != len(batch):
            raise ValueError(
                f"generate returned {len(answers)} results for {len(batch)} passages from row"
                f" {batch[0][0]} on; return one for each, in their order"
            )
        for (row, text), answer in zip(batch, answers, strict=True):
            for query in dict.fromkeys(_queries(answer, row)):
                yield RawPair(query, text, row)

    def make(pairs: RawPairs) -> Iterator[RawPair]:
        batch: list[tuple[int, str]] = []
        for row, title, text in pairs.numbered():
            if len(tokens(text)) < min_tokens:
                pairs.skipped["too short"] += 1
                continue
            batch.append((row, join_title(title, text)))
            if len(batch) == batch_size:
                yield from ask(batch)
                batch = []
        if batch:
            yield from ask(batch)

    return RawPairs(passages, make, first_row)


def _queries(answer: str | Sequence[str], row: int) -> list[str]:
    queries = answer if isinstance(answer, Sequence) and not isinstance(answer, str) else [answer]
    for text in queries:
        if not isinstance(text, str):
            raise TypeError(f"generate returned {shown(text)} for row {row}; return text")
    if not len(queries) or not all(query.strip() for query in queries):
        what = "an empty query" if len(queries) else "no query"
        raise ValueError(f"generate returned {what} for row {row}; leave the passage out instead")
    return [query.strip() for query in queries]
