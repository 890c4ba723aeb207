"""`stope report RUN QRELS`: what its options say of a `stope.report.of_run`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from stope.cli import terminal

if TYPE_CHECKING:
    from stope.report import Page

OF_RUNS = ("baseline", "metric", "queries")
_OF_SEARCH = {"query_id", "document_id", "score"}
_OF_MINING = ("positive_score", "reason", "source")


def is_run(path: Path) -> bool:
    """Whether a file is a run: by its ending, TREC's six columns, or what `stope search` writes.

    What `stope mine --ids` writes has a positive_score beside.
    """
    from stope.data.readers.jsonl import JSON_ENDINGS, read_jsonl
    from stope.data.readers.lines import plain_name, read_lines

    if not path.is_file():
        return False
    if plain_name(path).endswith(JSON_ENDINGS):
        row = next(iter(read_jsonl(path)), {})
        return row.keys() >= _OF_SEARCH and not any(name in row for name in _OF_MINING)
    if plain_name(path).endswith((".trec", ".run")):
        return True
    if not plain_name(path).endswith((".txt", ".tsv", ".res")):
        return False
    line = next((line for _, line in read_lines(path) if line.strip()), "")
    words = line.split()
    return len(words) == 6 and words[1] == "Q0"


def page_of_run(context: typer.Context, run: Path, qrels: Path | None, corpus: Path | None) -> Page:
    """The page of a run, read with the judgements and texts that the command names."""
    from stope.cli.evaluate import metric_names, refuse_unlike
    from stope.data import read_beir, read_qrels, read_queries, read_run
    from stope.evaluation.metrics import ranking
    from stope.report import of_run
    from stope.report.ranking import METRICS

    chosen = context.params
    if qrels is None:
        raise typer.BadParameter(
            f"{run} is a run; give its judgements after it, a file or a BEIR folder",
            param_hint="QRELS",
        )
    other, queries, documents = chosen["baseline"], {}, {}
    if other is not None and other.resolve() == run.resolve():
        raise ValueError(f"--baseline is {other}, the run itself; name another")
    metrics = metric_names(chosen["metric"], METRICS)
    results = read_run(run)
    earlier = None if other is None else read_run(other)
    if qrels.is_dir():
        split, unknown = chosen["split"] or "test", chosen["unknown_ids"].value
        skipped: Counter[str] = Counter()
        collection = read_beir(qrels, [split], unknown_ids=unknown, skipped=skipped)
        terminal.say_left_out(qrels, skipped)
        judged: Any = collection.split(split).qrels
        queries = dict(zip(collection.query_ids, collection.query_texts, strict=True))
        documents = dict(zip(collection.corpus_ids, collection.corpus_texts, strict=True))
    else:
        judged = read_qrels(qrels)
        if chosen["queries"] is not None:
            columns = chosen["query_column"], chosen["query_id_column"]
            texts = read_queries(chosen["queries"], *columns, ids="needed")  # as stope search
            queries = dict(zip(*texts, strict=True))
        if corpus is not None:
            wanted = {name for grades in judged.values() for name in grades}
            for each in (results, earlier or {}):
                wanted |= {
                    name for query in judged for name in ranking(query, each.get(query, {}))[:1]
                }
            documents = _texts(corpus, wanted, chosen["text_column"], chosen["id_column"])
    refuse_unlike(run, results, qrels, judged)
    if other is not None:
        refuse_unlike(other, earlier or {}, qrels, judged)
    names = [run.name] if other is None else [run.name, other.name]
    if len(set(names)) < len(names):
        names = [str(run), str(other)]
    return of_run(
        results, judged, earlier, names=names, metrics=metrics,
        queries=queries, documents=documents,
    )  # fmt: skip


def _texts(
    corpus: Path, wanted: set[str], text_column: str | None, id_column: str | None
) -> dict[str, str]:
    from stope.data import iter_documents

    documents = iter_documents(corpus, text_column, id_column, ids="needed")
    return {each.id: each.text for each in documents if each.id in wanted}
