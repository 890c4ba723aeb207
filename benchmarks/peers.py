"""Every contender of the benchmarks, stope among them, behind one call: prepare, then run.

`prepare(name, work, inputs)` makes what the contender keeps between searches (an index, tensors)
and returns a function without arguments that does the work once. A contender is named after its
package; `stope@avx2` is stope restricted to one instruction set. Results are (scores, ids) arrays
for top-k, and a `Mined` for mining. Libraries are imported when they are first prepared, so the
memory of one contender never counts another's imports. Those of `stope bench`
(stope.cli.contenders) answer less: ids alone, of float32, without scores, options and isas.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from inputs import ClusterWork, Inputs, LossWork, MiningWork, NeighborWork, TopKWork, Work

TORCH_CHUNK_BYTES = 64 << 20  # scores of one block of queries x rows in the torch contender
TORCH_QUERY_BLOCK = 512


class Mined(NamedTuple):
    """Negatives of each query by falling score; ids padded with -1."""

    ids: np.ndarray
    scores: np.ndarray | None


Run = Callable[[], Any]


def available(work: Work, wanted: list[str]) -> list[str]:
    """Names among `wanted` ("all" for every one) that are installed and can do `work`."""
    known = _contenders(work)
    found = []
    for name, (module, _, able) in known.items():
        asked = "all" in wanted or name in wanted
        if name != "stope" and asked and able(work) and importlib.util.find_spec(module):
            found.append(name)
    return found


def prepare(name: str, work: Work, inputs: Inputs) -> Run:
    """Import the contender, let it build what it keeps, and return its run function."""
    known = _contenders(work)
    package, _, isa = name.partition("@")
    make = known[package][1]
    if not isa:
        return make(work, inputs)
    import stope

    with stope.isa.only(isa):
        run = make(work, inputs)

    def run_on_isa() -> Any:
        with stope.isa.only(isa):
            return run()

    return run_on_isa


@contextlib.contextmanager
def threads_of(name: str, count: int) -> Any:
    """Give the contender `count` threads inside the block."""
    package = name.partition("@")[0]
    with contextlib.ExitStack() as undo:
        if package.startswith(("stope", "own")):
            import stope

            undo.callback(stope.set_num_threads, stope.get_num_threads())
            stope.set_num_threads(count)
        torch_is_used = package.startswith(("torch", "sentence", "mnrl", "cached"))
        if torch_is_used or "torch" in sys.modules:  # stope's own step runs torch's encoder
            import torch

            undo.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(count)
        if package in ("faiss", "faiss-knn", "faiss-panorama", "sentence-transformers"):
            import faiss

            undo.callback(faiss.omp_set_num_threads, faiss.omp_get_max_threads())
            faiss.omp_set_num_threads(count)
        yield


def _contenders(work: Work) -> dict[str, tuple[str, Callable[..., Run], Callable[[Any], bool]]]:
    if isinstance(work, LossWork):
        import loss_peers  # which needs the types of this file

        return loss_peers.contenders(work)
    if isinstance(work, (ClusterWork, NeighborWork)):
        import neighbor_peers

        if isinstance(work, ClusterWork):
            return neighbor_peers.CLUSTERS
        return neighbor_peers.GRAPH if work.k else neighbor_peers.PAIRS
    return MINING if isinstance(work, MiningWork) else TOPK


def import_packages(name: str, work: Work) -> None:
    """Import what the contender needs, so that its memory does not count the libraries' code."""
    importlib.import_module(_contenders(work)[name.partition("@")[0]][0])
    if isinstance(work, LossWork):
        import loss_peers

        loss_peers.import_packages(name, work)
    if name == "sentence-transformers":
        for module in ("datasets", "faiss", "sentence_transformers.util"):
            importlib.import_module(module)


def result_bytes(result: Any) -> int:
    """Bytes of the arrays a run returned (zero for a `datasets.Dataset` and for numbers)."""
    if not isinstance(result, tuple):
        return 0
    return sum(getattr(part, "nbytes", 0) for part in result)


def threads_for(work: Work) -> int:
    """Threads the row asks for; all the cores this process may use when it does not say."""
    return work.threads or cores()


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))


# top-k ---------------------------------------------------------------------------------------


def _topk_stope(work: TopKWork, inputs: Inputs) -> Run:
    import stope

    queries, k = inputs.queries, work.k
    if work.packed:
        index = stope.FlatIndex(inputs.corpus, metric=work.metric)
        return lambda: index.search(queries, k, precision=work.precision)
    corpus = inputs.corpus
    return lambda: stope.topk(queries, corpus, k, metric=work.metric, precision=work.precision)


def _topk_faiss(work: TopKWork, inputs: Inputs) -> Run:
    import faiss

    flat = faiss.IndexFlatL2 if work.metric == "euclidean" else faiss.IndexFlatIP
    index = flat(work.dim)
    index.add(inputs.corpus.astype(np.float32, copy=False))
    queries, k = inputs.queries, work.k
    return lambda: index.search(queries, k)


def _topk_panorama(work: TopKWork, inputs: Inputs) -> Run:
    """Rows turned to their principal axes, so that the first of eight levels decide most."""
    import faiss

    turn = faiss.PCAMatrix(work.dim, work.dim)
    turn.train(inputs.corpus[:: max(1, len(inputs.corpus) // 10_000)])
    index = faiss.IndexPreTransform(turn, faiss.IndexFlatL2Panorama(work.dim, 8))
    index.add(inputs.corpus)
    queries, k = inputs.queries, work.k
    return lambda: index.search(queries, k)


def _topk_faiss_knn(work: TopKWork, inputs: Inputs) -> Run:
    import faiss

    queries, corpus, k = inputs.queries, inputs.corpus, work.k

    def run() -> tuple[np.ndarray, np.ndarray]:
        return faiss.knn(
            queries, corpus.astype(np.float32, copy=False), k, metric=faiss.METRIC_INNER_PRODUCT
        )

    return run


def _topk_torch(work: TopKWork, inputs: Inputs) -> Run:
    import torch

    queries, k = torch.from_numpy(inputs.queries), work.k
    corpus = _tensor(inputs.corpus)
    block = min(TORCH_QUERY_BLOCK, len(queries))
    chunk = max(k, TORCH_CHUNK_BYTES // (4 * block))

    def search_block(some: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        best = torch.empty((len(some), 0))
        ids = torch.empty((len(some), 0), dtype=torch.int64)
        for start in range(0, len(corpus), chunk):
            scores = some @ corpus[start : start + chunk].float().T
            top, at = torch.topk(scores, min(k, scores.shape[1]), dim=1)
            best, ids = torch.cat([best, top], 1), torch.cat([ids, at + start], 1)
            best, kept = torch.topk(best, min(k, best.shape[1]), dim=1)
            ids = ids.gather(1, kept)
        return best, ids

    def run() -> tuple[np.ndarray, np.ndarray]:
        with torch.inference_mode():
            parts = [search_block(some) for some in queries.split(block)]
            scores, ids = (torch.cat(part) for part in zip(*parts, strict=True))
        return scores.numpy(), ids.numpy()

    return run


def _topk_usearch(work: TopKWork, inputs: Inputs) -> Run:
    from usearch.index import MetricKind, search

    queries, corpus, k, threads = inputs.queries, inputs.corpus, work.k, threads_for(work)

    def run() -> tuple[np.ndarray, np.ndarray]:
        found = search(corpus, queries, k, metric=MetricKind.IP, exact=True, threads=threads)
        ids = found.keys.astype(np.int64).reshape(len(queries), k)
        return 1.0 - found.distances.reshape(len(queries), k), ids

    return run


def _tensor(array: np.ndarray) -> Any:
    import torch

    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


# mining --------------------------------------------------------------------------------------


def _mine_stope(work: MiningWork, inputs: Inputs) -> Run:
    import stope

    queries, corpus, positives = inputs.queries, inputs.corpus, inputs.positives

    def run() -> Mined:
        mined = stope.mine_hard_negatives(
            queries,
            corpus,
            positives,
            work.k,
            relative_margin=work.relative_margin,
            absolute_margin=work.absolute_margin,
            range_max=work.range_max,
            sampling=work.sampling,
            exclude=inputs.excluded,
        )
        return Mined(mined.ids, mined.scores)

    return run


class PrecomputedModel:
    """What sentence-transformers' miner asks of a model, answered from the arrays."""

    def __init__(self, queries: np.ndarray, corpus: np.ndarray) -> None:
        import torch

        self.device = torch.device("cpu")
        self.queries, self.corpus = queries, corpus

    def encode_query(self, texts: list[str], **_: Any) -> np.ndarray:
        """Embeddings of all the queries; the miner keeps the order it was given."""
        return self._all(self.queries, texts)

    def encode_document(self, texts: list[str], **_: Any) -> np.ndarray:
        """Embeddings of all the documents; the miner keeps the order it was given."""
        return self._all(self.corpus, texts)

    def get_embedding_dimension(self) -> int:
        """Columns of the embeddings."""
        return self.corpus.shape[1]

    def similarity_pairwise(self, left: Any, right: Any) -> Any:
        """Cosine of each pair, the default of a sentence-transformers model."""
        from sentence_transformers.util import pairwise_cos_sim

        return pairwise_cos_sim(left, right)

    @staticmethod
    def _all(rows: np.ndarray, texts: list[str]) -> np.ndarray:
        first, last = int(texts[0][1:]), int(texts[-1][1:])
        if (len(texts), first, last) != (len(rows), 0, len(rows) - 1):
            raise RuntimeError(f"the miner asked for {len(texts)} texts, {len(rows)} were expected")
        return rows


def _mine_sentence_transformers(work: MiningWork, inputs: Inputs) -> Run:
    os.environ["TQDM_DISABLE"] = "1"
    from datasets import Dataset
    from sentence_transformers.util import mine_hard_negatives

    offsets, positive_ids = inputs.positives
    query_of = np.repeat(np.arange(work.queries), np.diff(offsets))
    corpus_texts = [f"d{row}" for row in range(len(inputs.corpus))]
    pairs = Dataset.from_dict(
        {
            "anchor": [f"q{row}" for row in query_of],
            "positive": [corpus_texts[row] for row in positive_ids],
        }
    )
    model = PrecomputedModel(inputs.queries, inputs.corpus)

    def run() -> Any:
        return mine_hard_negatives(
            pairs,
            model,
            corpus=corpus_texts,
            num_negatives=work.k,
            relative_margin=work.relative_margin,
            absolute_margin=work.absolute_margin,
            range_max=work.range_max,
            sampling_strategy=work.sampling,
            output_format="n-tuple",
            use_faiss=True,
            verbose=False,
        )

    return run


def negatives_of(result: Any, work: MiningWork) -> np.ndarray:
    """Ids [queries, k] padded with -1, from either contender's result (outside the clock).

    sentence-transformers' n-tuples, the format it makes fastest, have no row for a query that is
    short of negatives, so such a query is all -1.
    """
    if isinstance(result, Mined):
        return np.asarray(result.ids)
    ids = np.full((work.queries, work.k), -1, np.int64)
    rows = [int(anchor[1:]) for anchor in result["anchor"]]
    for column in range(work.k):
        ids[rows, column] = [int(document[1:]) for document in result[f"negative_{column + 1}"]]
    return ids


# Contender: the module that must be there, how it is prepared, and the work it can do.
TOPK: dict[str, tuple[str, Callable[..., Run], Callable[[Any], bool]]] = {
    "stope": ("stope", _topk_stope, lambda work: True),
    "faiss": ("faiss", _topk_faiss, lambda work: True),
    "faiss-knn": ("faiss", _topk_faiss_knn, lambda work: work.all_peers and not work.packed),
    "faiss-panorama": ("faiss", _topk_panorama, lambda work: work.metric == "euclidean"),
    "torch": ("torch", _topk_torch, lambda work: work.all_peers),
    "usearch": (
        "usearch",
        _topk_usearch,
        lambda work: work.all_peers and work.dtype == "float32",
    ),
}
MINING: dict[str, tuple[str, Callable[..., Run], Callable[[Any], bool]]] = {
    "stope": ("stope", _mine_stope, lambda work: True),
    "sentence-transformers": (
        "sentence_transformers",
        _mine_sentence_transformers,
        lambda work: not work.excluded,
    ),
}
