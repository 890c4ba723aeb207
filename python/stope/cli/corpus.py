"""The documents that a command is about: read with their ids, embedded, and written again."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import typer
from numpy.typing import NDArray

import stope
from stope._checks import counted, counted_all, shown
from stope._extras import need
from stope.cli import on_ray, options, terminal
from stope.cli.options import option, without_effect
from stope.cli.vectors import holds_vectors, not_finite, parquet_ids, read_vectors, rows_where

if TYPE_CHECKING:
    from stope.report import Page
    from stope.report.neighbors import Documents

_PANEL = "Embeddings"

CorpusPath = Annotated[
    Path,
    typer.Argument(
        metavar="CORPUS",
        help="Documents: .txt, .jsonl, .tsv, .csv (also .gz, .xz, .bz2), .parquet, or a BEIR "
        "folder; or embeddings alone, .npy or .parquet.",
    ),
]
EncoderName = Annotated[
    str | None,
    option(
        "Folder or name of a sentence-transformers model.",
        default="a static model of these texts, which compares words",
        panel=_PANEL,
        metavar="PATH",
    ),
]
EmbeddingsPath = Annotated[
    Path | None,
    option(
        "One row per document: .npy, .parquet, .arrow, .lance, .h5 or .zarr; FILE::COLUMN where "
        "there are several.",
        panel=_PANEL,
    ),
]
Prompt = Annotated[str | None, option("Put before every document.", panel=_PANEL)]
Cache = Annotated[
    Path | None,
    option(
        "Folder that keeps embeddings and what was computed of them, from which a stopped command "
        "goes on.",
        panel=_PANEL,
    ),
]
BatchSize = Annotated[int, option("Texts per call of the encoder.", panel=_PANEL, min=1)]
Summary = Annotated[Path | None, option("Also write the counts as JSON.", default="none")]
ReportPath = Annotated[
    Path | None, option("Also write a page to look at, with figures: .html.", default="none")
]

JSON_LINES = (".jsonl", ".jsonl.gz")
EXAMPLES = 3  # of anything, on a terminal


def _shared(
    *,
    summary: Summary = None,
    report: ReportPath = None,
    encoder: EncoderName = None,
    embeddings: EmbeddingsPath = None,
    corpus_prompt: Prompt = None,
    cache: Cache = None,
    batch_size: BatchSize = 256,
    text_column: options.CorpusColumn = None,
    id_column: options.IdColumn = None,
    skip_empty: options.SkipEmpty = False,
    threads: options.Threads = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """The options of every command about a corpus, which are read from its context."""


def of_corpus(command: Callable[..., None]) -> Callable[..., None]:
    """Make a function that has its own options alone a command with those of its corpus."""
    return terminal.reported(options.shared(_shared)(command))


def check_files(context: typer.Context, *outputs: tuple[Path | None, tuple[str, ...]]) -> None:
    """Refuse files that could not be written, or a report without its library; then size the pool.

    Args:
        outputs: those of the command alone, with the endings of their names.
    """
    chosen = context.params
    inputs = [chosen["corpus"], chosen["embeddings"], chosen.get("examples")]
    more = [(chosen["summary"], (".json",)), (chosen["report"], (".html",))]
    options.check_outputs(inputs, [*outputs, *more])
    if chosen["cache"] is not None:
        options.check_new_folder(chosen["cache"])
    if chosen["report"] is not None:
        need("vl_convert", extra="report")
    options.set_threads(chosen["threads"])


def show_results(
    context: typer.Context,
    title: str,
    counts: dict[str, int | str],
    page: Callable[[str], Page],
    facts: dict[str, Any],
) -> None:
    """Show what was counted; write it and the page (made of a sentence on what it is of) if asked.

    Args:
        facts: what the summary has besides.
    """
    from stope.data import open_atomic

    chosen = context.params
    words = {re.sub(r"\W+", "_", name): value for name, value in counts.items()}  # stable keys
    told = {**words, **facts}
    if chosen["summary"] is not None:
        with open_atomic(chosen["summary"]) as file:
            file.write(json.dumps(told, ensure_ascii=False, indent=2) + "\n")
    if chosen["report"] is not None:
        page(f"stope {context.info_name} of {chosen['corpus']}.").write(chosen["report"])
        terminal.tell(f"A page to look at in {chosen['report']}")
    terminal.give(told)
    terminal.show_counts(title, counts)


def operations(context: typer.Context) -> Any:
    """Who computes in this process: the module stope, or what keeps answers in --cache."""
    folder = context.params["cache"]
    if folder is None or context.params.get("ray") is not None:  # whose jobs keep their own
        return stope
    from stope.neighbors import KeptOperations

    return KeptOperations(folder / "answers")


@dataclass
class Corpus:
    """Documents of a file, as the command's options say; without texts where it holds embeddings.

    `vectors` are embeddings that the user has; `places` those of documents with texts among the
    rows of the file, some of which may be left out.
    """

    context: typer.Context
    path: Path
    ids: list[str]
    texts: list[str] | None = None
    vectors: NDArray[Any] | None = None
    id_column: str | None = None
    model: Any = None
    places: Sequence[int] = ()

    def embeddings(self, bars: terminal.Bars, rows: NDArray[np.int64] | None = None) -> Any:
        """The embeddings of the documents, or of some of them."""
        if self.vectors is not None:
            made: Any = self.vectors if rows is None else self.vectors[rows]
        else:
            texts = self.texts or []
            chosen = texts if rows is None else [texts[row] for row in rows]
            made = self.encode(chosen, "corpus", bars)
        zero = list(rows_where(made, lambda part: np.asarray(~part.any(axis=1))))
        if zero:
            first = self.ids[zero[0] if rows is None else rows[zero[0]]]
            terminal.say(
                f"documents whose embedding is all zeros: {len(zero):,}, such as {shown(first)}; "
                "the encoder knows nothing in them, and their cosine with any other is 0."
            )
        return made

    def encode(
        self, texts: list[str], role: Literal["query", "corpus"], bars: terminal.Bars
    ) -> Any:
        """Embeddings by the encoder, from the cache where there is one."""
        from stope.encoders import EmbeddingCache, encode_corpus, encode_queries

        chosen = self.context.params
        if self.model is None and chosen["encoder"] is not None:
            self.model = on_ray.load_encoder(self.context, chosen["encoder"])
        elif self.model is None:
            self.model = _of_words(self)
        of_role = {
            "prompt": chosen["corpus_prompt"] if role == "corpus" else None,
            "batch_size": chosen["batch_size"],
            "progress": bars.stage("documents" if role == "corpus" else "examples"),
        }
        if chosen["cache"] is not None:
            cache = EmbeddingCache(chosen["cache"])
            made: Any = cache.embeddings(self.model, texts, role=role, **of_role)
        else:
            encode = encode_corpus if role == "corpus" else encode_queries
            made = encode(self.model, texts, **of_role)
        broken = next(rows_where(made, not_finite), None)
        if broken is not None:
            raise ValueError(
                f"the encoder gives NaN or infinity for {shown(texts[broken])}; leave that text "
                "out, or give another --encoder"
            )
        return made

    @property
    def shown(self) -> Documents:
        """The documents as a page shows them."""
        from stope.report.neighbors import Documents

        return Documents(self.ids, self.texts)

    def rows(self, places: Iterable[int]) -> list[dict[str, Any]]:
        """These of the documents with all columns of the file, as they stand there.

        Where it has no column of ids, "_id" is the number of the row.
        """
        chosen = list(places)
        names = [self.ids[place] for place in chosen]
        if self.texts is None:
            return [{"_id": name} for name in names]
        from stope.data import read_rows
        from stope.data.readers.lines import plain_name

        if plain_name(self.path).endswith(".txt"):
            return [{"_id": self.ids[place], "text": self.texts[place]} for place in chosen]
        rows: dict[int, Any] = dict.fromkeys(self.places[place] for place in chosen)
        for number, (_, row) in enumerate(read_rows(self.path)):
            if number in rows:
                rows[number] = {"_id": str(number), **row} if self.id_column is None else row
        whole = [rows[self.places[place]] for place in chosen]
        known = self.id_column or "_id"
        if [row and str(row.get(known)) for row in whole] != names:
            raise ValueError(f"{self.path} changed while its documents were read; start again")
        return whole


def read_corpus(context: typer.Context, *, encodes_more: bool = False) -> Corpus:
    """Read what the argument CORPUS and the options beside it name.

    Args:
        encodes_more: whether the encoder is needed also where documents have embeddings.
    """
    from stope.data import read_rows
    from stope.data.readers.beir import beir_file
    from stope.data.readers.columns import ID_COLUMNS, first_of
    from stope.data.readers.embeddings import vector_column
    from stope.data.readers.lines import plain_name
    from stope.data.readers.texts import numbered_documents

    chosen = context.params
    path, of_columns = chosen["corpus"], (chosen["text_column"], chosen["id_column"])
    of_encoder = ["corpus_prompt", *([] if encodes_more else ["encoder", "batch_size"])]
    if path.suffix == ".npy":
        without_effect(context, ["id_column"], f"{path} has no columns")
    if holds_vectors(path, of_columns[0]):
        of_encoder += ["cache"] if chosen.get("ray") is not None else []
        why = f"{path} holds embeddings and no texts"
        without_effect(context, ["embeddings", "text_column", "skip_empty", *of_encoder], why)
        vectors = read_vectors(path, "CORPUS")
        ids = [str(row) for row in range(len(vectors))]
        if path.suffix == ".parquet":
            ids = parquet_ids(path, chosen["id_column"]) or ids
        return Corpus(context, path, ids, vectors=vectors)
    required: Literal["usual", "named"] = "usual"
    if path.is_dir():
        why = f"{path} is a BEIR folder, which has no columns"
        without_effect(context, ["text_column", "id_column"], why)
        path, required = beir_file(path, "corpus.jsonl"), "named"
    skipped: Counter[str] = Counter()
    places, documents = zip(
        *numbered_documents(path, required, *of_columns, chosen["skip_empty"], skipped), strict=True
    )
    ids, texts = [document.id for document in documents], [document.text for document in documents]
    corpus = Corpus(context, path, ids, texts, places=places)
    if not plain_name(path).endswith(".txt"):
        corpus.id_column = chosen["id_column"] or first_of(next(read_rows(path))[1], ID_COLUMNS)
        _refuse_unwritable(path)
    if skipped or not chosen["quiet"]:
        numbered = "" if corpus.id_column else ", whose ids are the numbers of their rows, from 0"
        left_out = f"; left out: {counted_all(skipped)}" if skipped else ""
        terminal.say(f"{path}: {counted(len(ids), 'documents')}{numbered}{left_out}.")
    if chosen["embeddings"] is not None:
        of_encoder += ["cache"] if chosen.get("ray") is not None else []
        without_effect(context, of_encoder, "it has no effect beside --embeddings")
        corpus.vectors = read_vectors(chosen["embeddings"], "--embeddings", rows=len(ids))
    elif chosen["encoder"] is None and path.suffix == ".parquet":
        with suppress(ValueError):  # several such columns: none of them is meant
            if column := vector_column(path):
                terminal.say(
                    f'{path} has embeddings, too, in "{column}", which are not used; '
                    f"--embeddings {path} takes them."
                )
    return corpus


def _of_words(documents: Corpus) -> Any:
    """A static encoder of these texts, untrained: it compares words, the rare ones most."""
    from stope.encoders import static_encoder

    texts = documents.texts or []
    letters = set().union(*(unicodedata.normalize("NFKC", text).lower() for text in texts))
    if not any(letter.isalnum() for letter in letters):
        raise ValueError(
            f"{documents.path} holds no letter or digit, and without --encoder documents are "
            "compared by their words; name an --encoder"
        )
    if not documents.context.params["quiet"]:
        terminal.say("no --encoder: documents are compared by their words, the rare ones most.")
    # A Unigram vocabulary holds every letter, of which scripts without blanks have thousands. Words
    # of the same documents would be alike with smoothing, and long texts with one another.
    return static_encoder(texts, vocab_size=8000 + len(letters), smoothing=0.0)


def _refuse_unwritable(path: Path) -> None:
    """Refuse now what JSON lines could not hold at the end: dates, bytes, NaN in Parquet."""
    from stope.data import read_rows

    if path.suffix != ".parquet":
        return
    for where, row in read_rows(path):
        for name, value in row.items():
            try:
                json.dumps(value, allow_nan=False)
            except (TypeError, ValueError):
                raise ValueError(
                    f'{where}: the column "{name}" holds {shown(value)}, which JSON lines cannot '
                    "hold; leave the column out, or make it text"
                ) from None
