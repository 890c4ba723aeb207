"""`stope select`: the documents of a corpus that are worth most, for a benchmark or not."""

from __future__ import annotations

import math
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stope._checks import counted
from stope.cli import corpus as corpora
from stope.cli import options, terminal
from stope.cli.examples import embedded, read_examples
from stope.cli.options import option, without_effect
from stope.cli.vectors import holds_vectors

if TYPE_CHECKING:
    from stope.neighbors import Selection, Selector


class Method(str, Enum):
    """Selectors."""

    betr = "betr"
    betr_mean = "betr-mean"
    craft = "craft"
    vote_k = "vote-k"
    k_center = "k-center"
    facility = "facility"
    prototypes = "prototypes"
    d4 = "d4"


_FOR_EXAMPLES = (Method.betr, Method.betr_mean, Method.craft)
_CLUSTERED = (Method.prototypes, Method.d4)
_KEPT = (*_CLUSTERED, Method.vote_k)  # methods whose graph or clusters --cache keeps


@corpora.of_corpus
def select(
    context: typer.Context,
    corpus: corpora.CorpusPath,
    num_documents: Annotated[
        int, option("Documents to choose.", "--num-documents", "-n", default=False, min=1)
    ],
    examples: Annotated[
        Path | None,
        option(
            "Examples of what is wanted, such as a benchmark's training queries: same kinds as "
            "CORPUS; betr, betr-mean and craft need them.",
            "--for",
            metavar="BENCHMARK",
            default="none",
        ),
    ] = None,
    output: Annotated[
        Path, option("Chosen documents, the first one first: .jsonl.", "--output", "-o")
    ] = Path("chosen.jsonl"),
    ids: Annotated[
        Path | None,
        option("Also write their ids with rank, score and reasons, as JSON lines.", default="none"),
    ] = None,
    method: Annotated[
        Method,
        option(
            "betr: best rank for an example, betr-mean: mean of log ranks; craft: near to single "
            "examples and to all. Without --for, vote-k: what many documents are near to; k-center "
            "and facility: no document is far from them; prototypes and d4: the least typical of "
            "their clusters, d4 without duplicates.",
        ),
    ] = Method.betr,
    clusters: Annotated[int, option("Clusters of prototypes and d4.", min=1)] = 100,
    seed: Annotated[int, option("Of the clusters.", min=0)] = 0,
    query_prompt: Annotated[
        str | None, option("Put before every example.", panel="Embeddings")
    ] = None,
    split: options.Split = "train",
    query_column: options.QueryColumn = None,
    query_id_column: options.QueryIdColumn = None,
) -> None:
    """Choose documents by the similarity of embeddings (cosine); ranks are exact.

    [b]Example:[/b] stope select corpus.jsonl --for queries.tsv -n 10000 -o chosen.jsonl
    """
    corpora.check_files(context, *((path, corpora.JSON_LINES) for path in (output, ids)))
    _refuse_idle(context, method, examples)
    from stope.data import write_jsonl
    from stope.report.neighbors import selection_page

    encodes = examples is not None and not holds_vectors(examples)
    documents = corpora.read_corpus(context, encodes_more=encodes)
    if documents.vectors is not None and not encodes and method not in _KEPT:
        why = f"embeddings are there, and of --method {method.value} nothing is kept"
        without_effect(context, ["cache"], why)
    size = counted(len(documents.ids), "documents")
    if num_documents > len(documents.ids):
        raise ValueError(f"-n is {num_documents} but {corpus} has {size}; lower it")
    if method in _CLUSTERED and clusters >= len(documents.ids):
        raise ValueError(
            f"--clusters is {clusters} but {corpus} has {size}, each of which would be one; "
            "lower it"
        )
    wanted = None if examples is None else read_examples(context, examples, documents)
    quiet = context.params["quiet"]
    with terminal.bars(quiet) as bars:
        rows = documents.embeddings(bars)
        targets = None if wanted is None else embedded(wanted, documents, rows, bars)
        if not quiet:
            terminal.say(f"choosing {num_documents:,} of {size} by {method.value}.")
        chosen = _selector(context, method, targets)(rows, num_documents, progress=bars.show)
    if ids is not None:
        write_jsonl(ids, _described(documents, chosen, [] if wanted is None else wanted.ids))
    write_jsonl(output, documents.rows(chosen.ids.tolist()))
    counts: dict[str, int | str] = {"documents": len(rows)}
    if targets is not None:
        counts["examples"] = len(targets)
    counts["documents chosen"] = len(chosen.ids)
    if "rank" in chosen.reasons:
        counts["their worst rank for an example"] = int(chosen.reasons["rank"].max())
        reached = len(set(chosen.reasons["target"].tolist()))
        counts["examples that brought a document"] = reached
    beside = None if wanted is None else wanted.shown
    corpora.show_results(
        context,
        "Selection",
        counts,
        lambda about: selection_page(about, documents.shown, counts, chosen, beside),
        {"method": method.value},
    )
    _show_examples(documents, chosen, wanted)
    _say_copies(documents, chosen, wanted)
    terminal.tell(f"{counted(len(chosen.ids), 'documents')} in {output}")


def _refuse_idle(context: typer.Context, method: Method, examples: Path | None) -> None:
    """Refuse options that this selection would not read, and a method without its examples."""
    if method in _FOR_EXAMPLES and examples is None:
        raise typer.BadParameter(
            f"--method {method.value} needs examples; give a file of them, or a --method without, "
            "such as k-center",
            param_hint="--for",
        )
    why = f"it has no effect with --method {method.value}"
    if method not in _FOR_EXAMPLES:
        of_examples = ["examples", "query_prompt", "split", "query_column", "query_id_column"]
        without_effect(context, of_examples, why)
    elif examples is not None and examples.is_dir():
        why = f"{examples} is a BEIR folder, which has no columns"
        without_effect(context, ["query_column", "query_id_column"], why)
    else:
        without_effect(context, ["split"], f"{examples} is no BEIR folder")
    if method not in _CLUSTERED:
        without_effect(context, ["clusters", "seed"], why)


def _selector(context: typer.Context, method: Method, targets: Any) -> Selector:
    from stope import neighbors

    if method in (Method.betr, Method.betr_mean):
        aggregate: Any = "best" if method is Method.betr else "mean"
        return neighbors.BenchmarkTargeted(targets, aggregate=aggregate)
    if method is Method.craft:
        return neighbors.CraftMix(targets)
    operations = corpora.operations(context)
    if method in _CLUSTERED:
        clustered = neighbors.D4 if method is Method.d4 else neighbors.Prototypes
        chosen = context.params
        return clustered(chosen["clusters"], seed=chosen["seed"], operations=operations)
    if method is Method.vote_k:
        return neighbors.VoteK(operations=operations)
    plain: dict[Method, Any] = {
        Method.k_center: neighbors.KCenter,
        Method.facility: neighbors.FacilityLocation,
    }
    selector: Selector = plain[method]()
    return selector


def _described(
    documents: corpora.Corpus, chosen: Selection, names: list[str]
) -> Iterator[dict[str, Any]]:
    for rank, (row, score) in enumerate(zip(chosen.ids, chosen.scores.tolist(), strict=True)):
        entry = {"document_id": documents.ids[row], "rank": rank + 1}
        if math.isfinite(score):  # the first row of k-center has none
            entry["score"] = score + 0.0  # no -0.0
        for reason, values in chosen.reasons.items():
            value = values[rank].item()
            if reason in ("target", "few_shot"):
                entry["example_id"] = names[value] if value >= 0 else None
            elif math.isfinite(value):  # nothing is before d4's first row, to be like it
                entry["example_rank" if reason == "rank" else reason] = value
        yield entry


def _show_examples(
    documents: corpora.Corpus, chosen: Selection, wanted: corpora.Corpus | None
) -> None:
    """The first ones chosen, beside the examples that brought them."""
    reason = chosen.reasons.get("target", chosen.reasons.get("few_shot"))
    by_rank = documents.context.params["method"] is Method.betr
    ranks = chosen.reasons["rank"] if by_rank else None  # which say more than their logarithms
    rows = []
    for place, row in enumerate(chosen.ids[: corpora.EXAMPLES].tolist()):
        cells = [documents.texts[row] if documents.texts else documents.ids[row]]
        if reason is not None and wanted is not None:
            example = int(reason[place])
            about = "all of them" if example < 0 else (wanted.texts or wanted.ids)[example]
            cells.insert(0, about)
        score = chosen.scores[place]
        number = f"{score + 0.0:.4f}" if math.isfinite(score) else ""
        cells.append(number if ranks is None else f"{ranks[place]:,}")
        rows.append([terminal.beginning(cell, 50) for cell in cells])
    header = ["document", "score" if ranks is None else "rank for it"]
    header = ["example", *header] if reason is not None else header
    terminal.show_table("Chosen first", header, rows, words=len(header) - 1)


def _say_copies(
    documents: corpora.Corpus, chosen: Selection, wanted: corpora.Corpus | None
) -> None:
    """Say how many chosen documents are the text of an example, or of one chosen before."""
    from stope.data import text_key

    if documents.texts is None:
        return
    keys = {row: text_key(documents.texts[row]) for row in chosen.ids.tolist()}
    known = set(map(text_key, (wanted and wanted.texts) or []))
    leaked = [row for row, key in keys.items() if key in known]
    first = {key: row for row, key in reversed(keys.items())}
    copies = [row for row, key in keys.items() if first[key] != row]
    for rows, words, remedy in (
        (leaked, "are the text of an example", "whoever trains on them has seen it"),
        (copies, "are the text of one chosen before", "stope dedup takes copies out first"),
    ):
        if rows:
            example = terminal.beginning(documents.ids[rows[0]], 30)
            terminal.say(
                f"chosen documents that {words}: {len(rows):,}, such as {example}; {remedy}."
            )
