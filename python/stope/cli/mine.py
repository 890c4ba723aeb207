"""`stope mine`: hard negatives for one's own pairs."""

from __future__ import annotations

import shlex
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stope._checks import counted
from stope.cli import mining_job, on_ray, options, terminal
from stope.cli.mined import give, show_mined, show_suspects, show_written
from stope.cli.options import option, switch, without_effect
from stope.cli.terminal import reported

if TYPE_CHECKING:
    from stope.data import Pairs
    from stope.mining import Summary


class Format(str, Enum):
    """Formats of training rows."""

    triplet = "triplet"
    n_tuple = "n-tuple"
    labeled_pair = "labeled-pair"
    labeled_list = "labeled-list"
    flagembedding = "flagembedding"
    tevatron = "tevatron"


class Counts(str, Enum):
    """What ranks count."""

    eligible = "eligible"
    window = "window"
    raw = "raw"


class Sampling(str, Enum):
    """How negatives are taken from the range."""

    top = "top"
    random = "random"
    simans = "simans"
    teacher_margin = "teacher_margin"
    uniform = "uniform"


_FEWEST_REFUSED = 1000  # negatives of a query, of which fewer documents just give fewer
_LIMITS = "Which documents may be negatives"
_JOB = "A job: mining that survives kills, from several sources"
_EMBEDDING = "Embeddings"


def _limit(text: str) -> Any:
    return option(text, default="no limit", panel=_LIMITS)


@reported
@options.shared(options.of_pairs, before="threads")
@options.shared(on_ray.of_cluster, before="quiet")
def mine(
    context: typer.Context,
    pairs: Annotated[
        Path,
        typer.Argument(
            metavar="PAIRS",
            help="Queries with their positives: .jsonl, .tsv, .csv (also .gz), .parquet, or a BEIR "
            "folder.",
        ),
    ],
    corpus: Annotated[
        Path | None,
        typer.Argument(
            metavar="CORPUS",
            help="Documents to find negatives in, same kinds or .txt.",
            show_default="the positives",
        ),
    ] = None,
    output: Annotated[
        Path, option("File to write: .jsonl, .jsonl.gz or .parquet.", "--output", "-o")
    ] = Path("negatives.jsonl"),
    format: Annotated[Format, option("Format of the rows.")] = Format.triplet,
    scores: Annotated[bool, switch("--scores", "Write scores too.")] = False,
    num_negatives: Annotated[
        int, option("Negatives per query, at most.", "--num-negatives", "-n", min=1)
    ] = 5,
    ids: Annotated[
        Path | None,
        option(
            "Also write the ids of the negatives, with rank and scores, as JSON lines.",
            default="none",
        ),
    ] = None,
    summary: Annotated[
        Path | None, option("Also write the counts as JSON.", default="none")
    ] = None,
    as_json: options.Json = False,
    job: Annotated[
        Path | None,
        option(
            "Folder that keeps embeddings and what is mined; after a kill the same command goes on "
            "from it, to the same table (negatives.parquet).",
            default="none",
            panel=_JOB,
        ),
    ] = None,
    quotas: Annotated[
        str | None,
        option(
            "Negatives by source, such as dense=4,bm25=1,random=1; also run and siblings.",
            default="--num-negatives of dense",
            panel=_JOB,
        ),
    ] = None,
    run: Annotated[
        Path | None,
        option("Of the source run: TREC or .jsonl, as stope search writes it.", panel=_JOB),
    ] = None,
    groups: Annotated[
        Path | None,
        option(
            "Of the source siblings, which are of the group of a positive: rows of document_id and "
            "group.",
            panel=_JOB,
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        option(
            "Folder or name of a cross-encoder, a late-interaction model or an encoder, or a file "
            "of scores: scores candidates.",
            panel=_JOB,
            metavar="PATH",
        ),
    ] = None,
    teacher_margin: Annotated[
        float | None,
        option(
            "At most this share below the positive by the teacher's score.",
            default="no limit",
            panel=_JOB,
            min=0.0,
        ),
    ] = None,
    near_positive: Annotated[
        float | None,
        option(
            "A document whose cosine with a positive is at least this answers too.",
            default="no limit",
            panel=_JOB,
        ),
    ] = None,
    encoder: Annotated[
        str | None,
        option(
            "Folder or name of a sentence-transformers model.",
            default="a static model, trained on these files first",
            panel=_EMBEDDING,
            metavar="PATH",
        ),
    ] = None,
    query_embeddings: Annotated[
        Path | None,
        option(".npy with one row per pair (or BEIR query), in order.", panel=_EMBEDDING),
    ] = None,
    corpus_embeddings: Annotated[
        Path | None, option(".npy with one row per document.", panel=_EMBEDDING)
    ] = None,
    query_prompt: Annotated[str | None, option("Put before every query.", panel=_EMBEDDING)] = None,
    corpus_prompt: Annotated[
        str | None, option("Put before every document.", panel=_EMBEDDING)
    ] = None,
    cache: Annotated[
        Path | None,
        option(
            "Folder that keeps embeddings, found again only for the same weights and texts.",
            panel=_EMBEDDING,
        ),
    ] = None,
    batch_size: Annotated[
        int, option("Texts per call of the encoder.", panel=_EMBEDDING, min=1)
    ] = 256,
    metric: Annotated[options.Metric, option("Similarity.", panel=_LIMITS)] = options.Metric.cosine,
    among: Annotated[
        options.Among,
        option("All documents, or only those that are a positive of some query.", panel=_LIMITS),
    ] = options.Among.corpus,
    relative_margin: Annotated[
        float | None, _limit("At most this share below the positive: 0.05 keeps up to 95% of it.")
    ] = None,
    absolute_margin: Annotated[
        float | None, _limit("At most the positive's score minus this.")
    ] = None,
    max_score: Annotated[float | None, _limit("Highest score.")] = None,
    min_score: Annotated[float | None, _limit("Lowest score.")] = None,
    range_min: Annotated[int, option("Ranks to skip.", panel=_LIMITS, min=0)] = 0,
    range_max: Annotated[int | None, _limit("Rank to stop at.")] = None,
    range_counts: Annotated[
        Counts,
        option(
            "Ranks count documents that may be negatives (window: among the best range-max alone, "
            "as sentence-transformers), or all of them.",
            panel=_LIMITS,
        ),
    ] = Counts.eligible,
    sampling: Annotated[
        Sampling,
        option(
            "Hardest of the range, or drawn: random of the range; simans (near the positive's "
            "score), teacher_margin (easy and hard alike) or uniform of the pool.",
            panel=_LIMITS,
        ),
    ] = Sampling.top,
    pool: Annotated[
        int,
        option(
            "Hardest documents that simans, teacher_margin and uniform draw from.",
            panel=_LIMITS,
            min=1,
        ),
    ] = 200,
    seed: Annotated[int, option("Of the random choice.", panel=_LIMITS, min=0)] = 0,
    exclude: options.Exclude = None,
    keep_query_text: Annotated[
        bool,
        switch(
            "--keep-query-text",
            "Let a document that is the query's own text be a negative.",
            _LIMITS,
        ),
    ] = False,
    threads: options.Threads = None,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Find hard negatives: documents that score high for a query but do not answer it.

    The search is exact and limits apply inside it, so a query gets all the negatives that exist.
    Where no query gets any, no rows are written and the exit code is 1.

    [b]Examples:[/b]

    · stope mine pairs.tsv corpus.jsonl -o negatives.jsonl --relative-margin 0.05

    · stope mine pairs.tsv corpus.jsonl --encoder model --job mined --quotas dense=4,bm25=1
    """
    options.check_outputs(
        [pairs, corpus, query_embeddings, corpus_embeddings, *(exclude or ()), run, groups, job],
        [
            (output, (".jsonl", ".jsonl.gz", ".parquet")),
            (ids, (".jsonl", ".jsonl.gz")),
            (summary, (".json",)),
        ],
    )
    options.of_files(context, pairs, corpus)
    embedded = [path is not None for path in (query_embeddings, corpus_embeddings)]
    ranged = bool(range_min) or range_max is not None
    _refuse_idle(context, sampling, ranged=ranged, embedded=embedded)
    mining_job.check(context, job)
    options.set_threads(threads)
    from stope.data import (
        Source,
        open_atomic,
        read_embeddings,
        read_source,
        write_jsonl,
    )
    from stope.mining import Limits
    from stope.mining import mine as mine_pairs

    limits = Limits(
        among=among.value,
        num_negatives=num_negatives,
        metric=metric.value,
        absolute_margin=absolute_margin,
        relative_margin=relative_margin,
        max_score=max_score,
        min_score=min_score,
        range_min=range_min,
        range_max=range_max,
        range_counts=range_counts.value,
        sampling=sampling.value,
        pool=pool,
        seed=seed,
    )
    source = Source(pairs, negatives="leave", **options.of_source(context))
    data = read_source(source, folder=None if job is None or job.is_file() else job)
    table = data.pairs
    if not quiet:
        terminal.say(f"{data.described()}.")
    else:
        terminal.say_left_out(pairs, data.left_out)
    wanted = sum(mining_job.quotas_of(quotas).values()) if quotas else num_negatives
    if wanted > max(len(table.corpus_ids), _FEWEST_REFUSED):
        option_name = "--quotas" if quotas else "-n"
        size = counted(len(table.corpus_ids), "documents")
        raise ValueError(f"{option_name} asks for {wanted:,} negatives of {size}; lower it")
    embeddings: dict[str, Any] = {
        name: read_embeddings(path, f"--{name.replace('_', '-')}")
        for name, path in (
            ("query_embeddings", query_embeddings),
            ("corpus_embeddings", corpus_embeddings),
        )
        if path is not None
    }
    jobs = None
    with terminal.bars(quiet) as bars, on_ray.operations(context, output) as operations:
        model = None
        if encoder is not None:
            model = on_ray.load_encoder(context, encoder)
        elif not embeddings:
            model = _trained_here(table, bars)
        if job is not None:
            jobs = mining_job.make(context, table, model, embeddings, limits)
            mined = jobs.run(bars.show, spread=getattr(operations, "mined", None))
        else:
            mined = mine_pairs(
                table,
                model,
                **embeddings,
                limits=limits,
                exclude_query_text=not keep_query_text,
                query_prompt=query_prompt,
                corpus_prompt=corpus_prompt,
                batch_size=batch_size,
                cache=cache,
                operations=operations,
                progress=bars.show,
            )
    counts = mined.summary()
    if summary is not None:
        with open_atomic(summary) as file:
            file.write(counts.to_json() + "\n")
    refused = _refusal(counts, format)
    if refused and counts.num_negatives and ids is None and jobs is None:
        ids = output.with_name(f"{output.name.partition('.')[0]}.ids.jsonl")
        refused += f". What was found is in {ids}"
    if ids is not None and counts.num_negatives:
        write_jsonl(ids, mined.rows())
    written = None if refused else mined.export(output, format.value, scores=scores)
    show_mined(counts, jobs)
    if jobs is not None:
        mining_job.say_unknown(jobs)
    give(counts, jobs, written, output)
    if written is None:
        raise ValueError(refused)
    show_written(counts, written)
    if jobs is not None:
        show_suspects(jobs)
    words = [job or ids or output, pairs, *([] if corpus is None else [corpus])]
    report = shlex.join(map(str, ["stope", "report", *words]))
    terminal.tell(f"See it, and choose what to --exclude: {report}")


def _refuse_idle(
    context: typer.Context, sampling: Sampling, *, ranged: bool, embedded: list[bool]
) -> None:
    """Refuse options that this mining would not read."""
    if sampling is Sampling.top:
        without_effect(
            context, ["seed"], "it has no effect without --sampling random or another draw"
        )
    if sampling in (Sampling.top, Sampling.random):
        why = f"it has no effect with --sampling {sampling.value}"
        without_effect(context, ["pool"], why)
    if not ranged:
        why = "it has no effect without --range-min or --range-max"
        without_effect(context, ["range_counts"], why)
    why = "it has no effect where both sides have embeddings"
    if all(embedded):
        of_encoders = ("encoder", "query_prompt", "corpus_prompt", "cache", "batch_size")
        without_effect(context, of_encoders, why)
    for side, there in zip(("query", "corpus"), embedded, strict=True):
        if there:
            why = f"it has no effect beside --{side}-embeddings"
            without_effect(context, [f"{side}_prompt"], why)


def _trained_here(pairs: Pairs, bars: terminal.Bars) -> Any:
    """Train the static default encoder on the pairs themselves."""
    from stope.encoders import static_encoder
    from stope.training import pairs_dataset, train

    examples = pairs_dataset(pairs)
    if len(examples) < 2:
        raise ValueError(
            "one pair is too few to train a static encoder on; give more pairs, or an --encoder "
            "that is trained"
        )
    model = static_encoder([*pairs.corpus_texts, *pairs.query_texts])
    if not train(model, examples, progress=bars.stage("training")).steps:
        raise ValueError(
            f"no batch without duplicates can be made from {len(examples)} pairs; give more pairs, "
            "or an --encoder that is trained"
        )
    return model


def _refusal(counts: Summary, format: Format) -> str | None:
    """Why there would be a file without rows, or without a negative in them."""
    if not counts.num_negatives:
        why = "no query has a negative"
    elif format is Format.n_tuple and not counts.complete:
        why = (
            f"no query has the {counted(counts.num_negatives_wanted, 'negatives')} that a row of "
            "n-tuple needs"
        )
    else:
        return None
    return (
        f"{why}, so no rows were written; loosen the limits that turned documents away (counts "
        "above; --among is one), lower --num-negatives, or give a larger CORPUS"
    )
