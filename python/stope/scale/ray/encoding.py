"""Encoding as a job: a pool of actors with the encoder in each."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stope._checks import choice, flag
from stope._checks import texts as texts_of
from stope._kinds import at_least, kinds, maybe, string
from stope.data.arrow import to_arrow
from stope.data.readers.texts import Document, iter_documents
from stope.encoders import encode_corpus, encode_queries, fingerprint_encoder, load_encoder
from stope.encoders.encode import has_encode, put_together
from stope.progress import Progress
from stope.scale.plan import Layout, Search
from stope.scale.ray.block_answers import Span, write_columns
from stope.scale.ray.job import Answer, Job
from stope.scale.ray.jobs import OF_JOBS
from stope.scale.ray.matrix_files import paths_of
from stope.scale.ray.pool import Cluster, Pool

Role = Literal["query", "corpus"]
_BATCHES = 16  # of a block


@kinds(
    **OF_JOBS,
    **dict.fromkeys(("prompt", "text_column", "id_column"), maybe(string)),
    batch_size=at_least(1),
    by_length=flag,
)
def encode(
    encoder: Any,
    texts: Any,
    output: str | PathLike[str],
    *,
    role: Role = "corpus",
    prompt: str | None = None,
    batch_size: int = 256,
    by_length: bool = True,
    text_column: str | None = None,
    id_column: str | None = None,
    cluster: Cluster | None = None,
    progress: Progress | None = None,
) -> Answer:
    """Embed texts on a Ray cluster, by an encoder in each worker (on a GPU with ``num_gpus``).

    Blocks of 16 batches go to whichever worker is free. ``topk`` and the others take the folder.

    Args:
        encoder: folder or name of a sentence-transformers model, which each worker loads; or an
            object with ``encode(list of strings) -> array``, which is sent to each.
        texts: a file of documents as `stope.data.iter_documents` takes it, or a folder of such, all
            with ids; a `ray.data.Dataset`; or a list of texts.
        role: "corpus" or "query", as `stope.encoders.encode_corpus` and `encode_queries` ask.
        prompt, batch_size: as for `stope.encoders.encode_corpus`.
        by_length: batch texts of a block by their length, which saves padding. Without, batches are
            those of `encode_corpus`.
        text_column, id_column: as for `stope.data.iter_documents`.
        output, cluster: as for `topk`.
        progress: called with (texts done, texts).

    Returns:
        `Answer`; parts have the columns id and embedding, a list of float32.

    Raises:
        ValueError, TypeError: as `stope.encoders.encode_corpus`, and what reading raises.
        FileNotFoundError, RuntimeError: as `topk`.

    Memory: in the driver the texts of two blocks a worker, and their embeddings; files are read
    twice, once for a checksum of all texts.
    """
    choice(role, "role", ("query", "corpus"))
    if not isinstance(encoder, str | PathLike):
        has_encode(encoder, "encoder")
    read = _reader(texts, text_column, id_column)
    with Job.at(output, cluster, progress) as job:
        count, checksum = 0, hashlib.sha256()
        for name, text, _ in read():
            count += 1
            for said in (name, text):
                told = said.encode("utf-8", "surrogatepass")
                checksum.update(len(told).to_bytes(8, "little") + told)
        model = load_encoder(str(encoder)) if isinstance(encoder, str | PathLike) else encoder
        operation = _Encoding(_named(encoder), role, prompt, batch_size, by_length)
        if not callable(getattr(model, "fingerprint", None)) and not hasattr(model, "state_dict"):
            raise ValueError(
                f"encoder is {type(model).__name__}, which has no weights that can be read; "
                "give it a method fingerprint() -> str that changes whenever its output does: a "
                "job goes on with the same encoder alone"
            )
        options = {
            "operation": "encode",
            "encoder": fingerprint_encoder(model),
            "texts": checksum.hexdigest(),
            "role": role,
            "prompt": prompt,
            "batch_size": batch_size,
            "by_length": by_length,
        }
        rows = batch_size * _BATCHES
        plan = f"every worker has the encoder; {count:,} texts in blocks of {rows:,}"
        memory = job.cluster.memory or 0
        cut = Layout("replicate", 1, 1, -(-count // rows), rows, memory, plan)
        stream, at = read(), 0

        def tell(first: int, end: int) -> tuple[Any, ...]:
            nonlocal at
            documents = list(islice(stream, first - at, end - at))
            at = end
            return [each.id for each in documents], [each.text for each in documents]

        return job.run(operation, options, Search(count, 1, 1, 1), tell=tell, cut=cut)


@dataclass
class SharedEncoder:
    """An encoder in each worker, which encodes what `encode_corpus` and `encode_queries` are asked.

    A call of the encoder has the texts that it has without a cluster, so that embeddings have the
    same bits where workers have the same kind of processor and the same versions. Workers start
    when they are first asked, and hold their place on the cluster until `close`.
    """

    encoder: Any  # a name, which each worker loads; or an object, which is sent
    cluster: Cluster
    pool: Pool | None = None

    def __call__(
        self,
        texts: list[str],
        role: Role,
        prompt: str | None,
        batch_size: int,
        progress: Progress | None,
    ) -> NDArray[np.float32]:
        """The embeddings of the texts, a batch by each worker that is free."""
        if self.pool is None:
            operation = _Batches(_named(self.encoder))
            self.pool = Pool(self.cluster, operation, self.cluster.memory or 0)
        starts = range(0, len(texts), batch_size)

        def tell(number: int) -> tuple[Any, ...]:
            first = starts[number]
            return texts[first : first + batch_size], role, prompt, batch_size

        answers = self.pool.answers(range(len(starts)), tell)
        batches = ((starts[number], rows) for number, rows, _ in answers)
        name = "queries" if role == "query" else "corpus"
        return put_together(batches, len(texts), name, progress)

    def close(self) -> None:
        """Let the workers go; others start when texts are to be encoded again."""
        if self.pool is not None:
            self.pool.close()
            self.pool = None


@dataclass
class _Batches:
    """Texts to embeddings, by an encoder that each worker loads once; there is one shard."""

    encoder: Any

    @cached_property
    def model(self) -> Any:
        """The encoder."""
        return load_encoder(self.encoder) if isinstance(self.encoder, str) else self.encoder

    def part(self, shard: Any, *asked: Any) -> Any:
        """The embeddings of some texts."""
        texts, role, prompt, batch_size = asked
        ask = encode_corpus if role == "corpus" else encode_queries
        return ask(self.model, texts, prompt=prompt, batch_size=batch_size)

    def merge(self, parts: Sequence[Any]) -> Any:
        """The only one."""
        (part,) = parts
        return part


@dataclass
class _Encoding(_Batches):
    """Texts of a block to embeddings, batched by their length, as a job writes them."""

    role: Role
    prompt: str | None
    batch_size: int
    by_length: bool

    def part(self, shard: Any, *asked: Any) -> NDArray[np.float32]:
        """Their embeddings."""
        _, _, texts = asked
        order = np.arange(len(texts))
        if self.by_length:
            order = np.argsort([-len(text) for text in texts], kind="stable")
        batches = [texts[row] for row in order], self.role, self.prompt, self.batch_size
        made: NDArray[np.float32] = super().part(shard, *batches)
        rows = np.empty_like(made)
        rows[order] = made
        return rows

    def write(self, path: Path, whole: Any, block: Span, ids: list[str], texts: list[str]) -> None:
        """A row for each text: id and embedding."""
        write_columns(path, id=ids, embedding=to_arrow(whole))


def _named(encoder: Any) -> Any:
    """A folder or name as workers know it, who run in other folders; an object as it is."""
    if not isinstance(encoder, str | PathLike):
        return encoder
    return str(Path(encoder).absolute()) if Path(encoder).is_dir() else str(encoder)


def _reader(
    texts: Any, text_column: str | None, id_column: str | None
) -> Callable[[], Iterator[Document]]:
    """Reads the documents, each time from the beginning."""
    if type(texts).__module__.startswith("ray.data"):
        return lambda: iter_documents(texts.iter_rows(), text_column, id_column)
    if isinstance(texts, str | PathLike):
        paths = paths_of(texts, "texts", _ENDINGS)
        ids: Any = "usual" if len(paths) == 1 else "named"
        return lambda: (
            document
            for path in paths
            for document in iter_documents(path, text_column, id_column, ids=ids)
        )
    listed = texts_of(texts, "texts")
    return lambda: (Document(str(row), text) for row, text in enumerate(listed))


_PLAIN = (".jsonl", ".tsv", ".csv", ".txt")
_ENDINGS = (".parquet", *_PLAIN, *(f"{each}.gz" for each in _PLAIN))
