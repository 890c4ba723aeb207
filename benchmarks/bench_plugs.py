"""stope inside other frameworks against their own search: mteb, and SemHash on vicinity's backends.

    python benchmarks/bench_plugs.py [mteb] [mteb-backends] [semhash] [--json PATH]

Embeddings are made before the clock starts, and the encoder only hands them out: timed is the
search with what the framework does around it. Contenders take turns after an unmeasured call each;
medians of wall clock and of processor time.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import report

DOCUMENTS, QUERIES, DIM = 100_000, 2_000, 384
RECORDS, THRESHOLD = 20_000, 0.7


def clustered(rows: int, seed: int) -> np.ndarray:
    """Unit rows around 2,000 centres, as embeddings of texts lie."""
    centres = np.random.default_rng(0).standard_normal((2_000, DIM), dtype=np.float32)
    rng = np.random.default_rng(seed)
    points = centres[rng.integers(len(centres), size=rows)]
    points = points + 0.7 * rng.standard_normal(points.shape, dtype=np.float32)
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def in_turns(contenders: dict[str, Callable[[], Any]], repeat: int) -> dict[str, dict[str, Any]]:
    """Wall clock and processor seconds of each contender."""
    results = {name: run() for name, run in contenders.items()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for _ in range(repeat):
        for name, run in contenders.items():
            before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
            run()
            wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
            used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            times[name].append((wall, used))
    return {
        name: {
            "wall_s": statistics.median(wall for wall, _ in times[name]),
            "processor_s": statistics.median(used for _, used in times[name]),
            "samples": times[name],
            "result": results[name],
        }
        for name in contenders
    }


def mteb_search(
    repeat: int, documents: int = DOCUMENTS, queries: int = QUERIES, backends: bool = False
) -> dict[str, dict[str, Any]]:
    """The search of a retrieval task, top 1,000 as mteb asks for."""
    import mteb
    from datasets import Dataset, disable_progress_bars
    from mteb.models.search_encoder_index import FaissSearchIndex
    from mteb.models.search_wrappers import SearchEncoderWrapper

    from stope.integrations.mteb import StopeSearch, StopeSearchIndex

    disable_progress_bars()
    rows = {"document": clustered(documents, 1), "query": clustered(queries, 2)}

    class HandsOut:
        """An encoder of mteb's whose text is the row of its embedding."""

        mteb_model_meta = mteb.models.ModelMeta.create_empty(
            {
                "name": "stope/hands-out",
                "similarity_fn_name": mteb.models.model_meta.ScoringFunction.COSINE,
            }
        )

        def encode(self, inputs: Any, *, prompt_type: Any, **options: Any) -> np.ndarray:
            texts = np.array([int(text.split()[-1]) for batch in inputs for text in batch["text"]])
            return rows[prompt_type.value][texts]

        def similarity(self, first: Any, second: Any) -> Any:
            return mteb.similarity_functions.cos_sim(first, second)

        similarity_pairwise = similarity

    def texts(count: int) -> Dataset:
        return Dataset.from_dict(
            {"id": [f"d{row}" for row in range(count)], "text": [str(row) for row in range(count)]}
        )

    corpus, asked, model = texts(documents), texts(queries), HandsOut()
    task = mteb.get_task("SciFact")
    about = {"task_metadata": task.metadata, "hf_split": "test", "hf_subset": "default"}
    about["encode_kwargs"] = {"batch_size": 5_000, "show_progress_bar": False}

    def searched(search: Any) -> Callable[[], Any]:
        def run() -> Any:
            search.index(corpus, **about)
            return search.search(asked, **about, top_k=1_000)

        return run

    def encoded() -> None:
        """What every contender does besides: the loaders and handing out."""
        for kind, data in (("query", asked), ("document", corpus)):
            loader = mteb._create_dataloaders.create_dataloader(
                data, task_metadata=task.metadata, prompt_type=kind, batch_size=5_000
            )
            model.encode(loader, prompt_type=mteb.types.PromptType(kind))

    wrapped = {
        "mteb": SearchEncoderWrapper(model),
        "mteb, one chunk": SearchEncoderWrapper(model, corpus_chunk_size=documents),
        "mteb, faiss": SearchEncoderWrapper(model, index_backend=FaissSearchIndex(model)),
        "mteb, stope": SearchEncoderWrapper(model, index_backend=StopeSearchIndex()),
    }
    contenders = {
        "stope": StopeSearch(model),
        **(wrapped if backends else dict(list(wrapped.items())[:2])),
    }
    runs = {name: searched(search) for name, search in contenders.items()}
    times = in_turns({**runs, "loaders alone": encoded}, repeat)
    wanted = times["mteb"]["result"]
    for entry in times.values():
        result = entry.pop("result")
        if result is not None:
            entry["share_of_ids_equal"] = shared(result, wanted)
            entry["largest_difference"] = max(
                abs(score - wanted[query][document])
                for query, scores in result.items()
                for document, score in scores.items()
                if document in wanted[query]
            )
    return times


def semhash(repeat: int) -> dict[str, dict[str, Any]]:
    """SemHash.self_deduplicate of 20,000 records, with its own backend and with stope's."""
    from semhash import SemHash

    from stope.integrations.vicinity import StopeBackend

    rows = clustered(RECORDS, 1)
    records = [f"record {row}" for row in range(len(rows))]

    def deduplicated(backend: str, on_stope: bool = False) -> Callable[[], Any]:
        def run() -> Any:
            made = SemHash.from_embeddings(rows, records, model=None, ann_backend=backend)
            if on_stope:
                made.index.backend = StopeBackend.from_vectors(made.index.vectors)
            return made.self_deduplicate(threshold=THRESHOLD).selected

        return run

    contenders = {
        "stope": deduplicated("basic", on_stope=True),
        "usearch": deduplicated("usearch"),  # SemHash's default
        "basic": deduplicated("basic"),  # vicinity's exact one
    }
    times = in_turns(contenders, repeat)
    exact = set(times["basic"]["result"])
    for entry in times.values():
        kept = entry.pop("result")
        entry["records_kept"] = len(kept)
        entry["kept_as_exact"] = len(exact & set(kept)) / len(exact)
    return times


def shared(first: dict[str, Any], second: dict[str, Any]) -> float:
    """How many of the first's documents the second has, too."""
    return statistics.mean(
        len(first[name].keys() & second[name].keys()) / len(second[name]) for name in second
    )


def mteb_backends(repeat: int) -> dict[str, dict[str, Any]]:
    """mteb's search with a backend, of fewer rows: it looks up each id in the data set."""
    return mteb_search(repeat, documents=20_000, queries=200, backends=True)


BENCHMARKS = {"mteb": mteb_search, "mteb-backends": mteb_backends, "semhash": semhash}


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("names", nargs="*", choices=[*BENCHMARKS])
    options.add_argument("--repeat", type=int, default=3, help="samples of each contender")
    options.add_argument("--json", type=Path, help="write everything measured there")
    chosen = options.parse_args()
    measured = {}
    for name in chosen.names or BENCHMARKS:
        measured[name] = BENCHMARKS[name](chosen.repeat)
        print(f"{name}\n{'':16}{'wall clock':>12}{'processor':>12}")
        for contender, entry in measured[name].items():
            others = "  ".join(
                f"{key} {value:.6g}"
                for key, value in entry.items()
                if key not in {"wall_s", "processor_s", "samples"}
            )
            print(
                f"{contender:16}{entry['wall_s']:10.2f} s{entry['processor_s']:10.2f} s  {others}"
            )
    if chosen.json:
        about = {"machine": report.machine(), "versions": report.versions(), "command": sys.argv}
        chosen.json.write_text(json.dumps({**about, "measured": measured}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
