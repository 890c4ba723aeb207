"""One valid call of every public function and class: name -> keyword arguments.

What stope returns and nobody else makes stands in RESULTS, what cannot be called in NO_CALLS.
"""

from __future__ import annotations

import numpy as np
import valid_mining_calls
import valid_neighbors_calls
import valid_plugs_calls
import valid_scale_calls
import valid_weighting_calls
from valid_mining_calls import CORPUS, QUERIES, TEXTS, mined, pairs

import stope
import torch
from encoders import HashEncoder
from stope import data, encoders, evaluation, retrieval
from stope.integrations import faiss

RESULTS = {
    "stope.data.Document",
    "stope.data.SourceData",
    "stope.data.SourcePairs",
    "stope.integrations.sentence_transformers.Clock",
    "stope.integrations.sentence_transformers.RowTable",
    "stope.HardNegatives",
    "stope.InfoNCE",
    "stope.InfoNCEGradients",
    "stope.KMeans",
    "stope.PairsAbove",
    "stope.TopK",
    "stope.indexes.InRange",
    "stope.data.AtomicFile",
    "stope.data.Exclusions",
    "stope.data.ExportSummary",
    "stope.data.NegativeRows",
    "stope.data.RawPair",
    "stope.data.RawPairs",
    "stope.data.Split",
    "stope.data.TrainingExample",
    "stope.evaluation.Comparison",
    "stope.evaluation.Evaluation",
    "stope.mining.Consistency",
    "stope.mining.Mined",
    "stope.mining.Summary",
    "stope.mining.TeacherScores",
    "stope.neighbors.Components",
    "stope.neighbors.Contexts",
    "stope.report.Page",
    "stope.neighbors.Deduplicated",
    "stope.neighbors.DuplicateGroups",
    "stope.neighbors.Path",
    "stope.neighbors.Selection",
    "stope.neighbors.SemDeDup",
    "stope.runs.RunReport",
    "stope.scale.plan.Layout",
    "stope.scale.plan.Plan",
    "stope.scale.shards.NegativesPart",
    "stope.scale.simulation.Completion",
    "stope.scale.simulation.Sweep",
    "stope.torch.Statistics",
    "stope.torch.ranking.RetrievedList",
    "stope.training.RefreshReport",
    "stope.training.TrainingReport",
    "stope.training.RefreshRun",
    "stope.training.batches.Plan",
    "stope.training.batches.Sizes",
    "stope.weighting.WeightSummary",
}
# Protocols, bases and names of types: nobody calls them.
NO_CALLS = (
    {
        "stope.integrations.faiss.WrongArgumentError",
        "stope.data.Qrels",
        "stope.data.Run",
        "stope.neighbors.Selector",
        "stope.retrieval.Retriever",
        "stope.training.batches.Table",
        "stope.training.batches.BatchSpec",
        "stope.weighting.Weighting",
        "stope.weighting.Formula",
        "stope.weighting.OfSignal",
        "stope.weighting.OfWeights",
    }
    | valid_plugs_calls.FOREIGN
    | valid_scale_calls.ON_RAY
)

# What a parameter takes besides the kind of its valid value, with no harm.
TAKEN = {
    "stope.adapters.Adapter.losses": {"a NaN array", "an array of three dimensions"},
    "stope.adapters.Adapter.evaluations": {
        "a nested list",
        "a NaN array",
        "an array of three dimensions",
    },
    "stope.adapters.Linear.weight": {"a NaN array"},  # `Adapter` looks at the numbers
    "stope.adapters.LowRank.left": {"a NaN array"},
    "stope.adapters.LowRank.right": {"a NaN array"},
    "stope.adapters.ResidualMLP.inner": {"a NaN array"},
    "stope.adapters.ResidualMLP.outer": {"a NaN array"},
    "stope.data.Collection.corpus_titles": {"an empty list"},
    "stope.data.Source.path": {"a text"},
    "stope.data.read_examples.source": {"an empty list"},
    "stope.data.read_flagembedding.source": {"an empty list"},
    "stope.data.write_jsonl.rows": {"a NaN array", "an array of three dimensions"},
    "stope.mining.merge_sources.lists": {"an array of three dimensions"},
    "stope.data.read_rows.source": {"an empty list"},
    "stope.data.to_arrow.rows": {"a NaN array"},
    "stope.data.read_tevatron.source": {"an empty list"},
    "stope.data.recurring_spans.stop_words": {"a mapping"},  # its keys
    "stope.encoders.Lora.alpha": {"a float"},
    "stope.neighbors.similarity_path.max_cluster": {"None"},
    "stope.retrieval.Tokenizer.stop_words": {"None", "an empty list", "a text"},
    "stope.torch.distributed.average_gradients.parameters": {
        "a nested list",
        "a set",
        "a NaN array",
        "an array of three dimensions",
    },
    "stope.torch.ranking.append_missing_positives.positives": {
        "a nested list",
        "an array of three dimensions",
    },
    "stope.torch.ranking.plackett_luce_policy_gradient.depth": {"None"},
    "stope.training.NegativeRefresh.relative_margin": {"None"},
    **{
        f"stope.{recipe}.{part}": {"a mapping"}
        for recipe in ("training.Recipe", "adapters.AdapterRecipe", "runs.Config")
        for part in ("adapter", "evaluation", "loss", "negatives", "output", "schedule")
    },
    "stope.runs.Config.data": {"a text"},
    "stope.runs.Config.encoder": {"a text", "a mapping"},
    "stope.runs.Config.output": {"a text"},
}
# Parameters of any kind, or whose kind another library looks at.
ANY = {
    *(
        f"stope.torch.distributed.{name}.group"
        for name in (
            "DistributedInfoNCELoss",
            "average_gradients",
            "gather_rows",
            "own_rows",
            "rank",
            "sum_of_all",
            "world_size",
        )
    ),
    "stope.torch.distributed.gather_rows.counts",
    "stope.torch.distributed.own_rows.device",
    "stope.integrations.sentence_transformers.InfoNCELoss.prompts",
    "stope.data.Pairs._looked_up",
    "stope.data.Source.min_relevance",
    "stope.data.Source.pairs_from",
    "stope.integrations.sentence_transformers.InfoNCECollator.prompts",
    "stope.integrations.sentence_transformers.InfoNCECollator.rows",
    "stope.training.LiveNegatives.sampling",
    "stope.training.LiveNegatives.sources",
    "stope.training.LossPart.guide",
    "stope.training.QuerySideLoss.metric_cut",
    "stope.training.contrastive_loss.clock",
    "stope.training.contrastive_loss.prompts",
    "stope.training.contrastive_loss.table",
}
# What a message calls a parameter.
CALLED = {
    "stope.adapters.Adapter.transform": "weight",
    "stope.adapters.train_adapter.recipe": "mapping with keys of",
    "stope.set_num_threads.count": "num_threads",
    "stope.torch.ranking.class_means.num_classes": "class",
    "stope.runs.run.config": "data",
    "stope.training.contrastive_loss.part": "loss",
    "stope.training.contrastive_loss.table": "rows",
}


def table():
    return mined().table()


def scored(name="RR@10"):
    return evaluation.Evaluation({name: 0.5}, {name: {"q1": 0.0, "q2": 1.0}})


def scores(rows=2, columns=3):
    return torch.arange(rows * columns, dtype=torch.float32).reshape(rows, columns) / 7


def static():
    return encoders.static_encoder(TEXTS * 3, dim=8)


def numbers(values):
    return np.array(values, dtype=np.float32)


def text_file(folder, name, content):
    path = folder / name
    path.write_text(content)
    return path


def calls(folder):
    """The calls that need no model; paths lie in the folder."""
    rows = [{"query": "ore", "positive": "rock"}]
    jsonl = text_file(folder, "rows.jsonl", '{"query": "ore", "positive": "rock", "text": "x"}\n')
    qrels = {"q1": {"d1": 1}}
    run = {"q1": {"d1": 0.5}}
    collection = data.Collection(["d1"], ["ore"], ["q1"], ["rock"], {"test": qrels})
    data.write_beir(collection, folder / "beir")
    trec = text_file(folder, "run.trec", "q1 Q0 d1 1 0.5 x\n")
    tsv = text_file(folder, "qrels.tsv", "query-id\tcorpus-id\tscore\nq1\td1\t1\n")
    passages = text_file(folder, "flag.jsonl", '{"query": "a", "pos": ["b"], "neg": ["c"]}\n')
    tevatron = text_file(
        folder,
        "tevatron.jsonl",
        '{"query_id": "1", "query": "a", "positive_passages": [{"docid": "1", "title": "", '
        '"text": "b"}], "negative_passages": []}\n',
    )
    npy = folder / "rows.npy"
    np.save(npy, CORPUS)
    negative_ids = folder / "negatives.jsonl"
    data.write_jsonl(negative_ids, mined().rows())
    found = retrieval.Ranking(np.array([[0, 1]]), numbers([[0.5, 0.25]]))
    bm25 = retrieval.Bm25(TEXTS)
    texts = [(" ".join(f"word{n}" for n in range(40)) + ".") for _ in range(2)]
    forward = stope.infonce_forward(QUERIES, QUERIES, temperature=0.1)
    encoder = HashEncoder(8)
    return {
        "stope.FlatIndex": {
            "corpus": CORPUS,
            "metric": "dot",
            "ids": [3, 1, 4, 15, 9, 2],
            "storage": "float16",
        },
        "stope.integrations.faiss.IndexFlat": {"d": 8, "metric": 1},
        "stope.integrations.faiss.IndexFlatIP": {"d": 8},
        "stope.integrations.faiss.IndexFlatL2": {"d": 8},
        "stope.integrations.faiss.IndexIDMap": {"index": faiss.IndexFlatIP(8)},
        "stope.build_info": {},
        "stope.get_num_threads": {},
        "stope.set_num_threads": {"count": 1},
        "stope.kmeans": {"x": CORPUS, "k": 2, "init": "random"},
        "stope.similarity": {"queries": QUERIES, "corpus": CORPUS, "metric": "dot"},
        "stope.knn_graph": {"x": CORPUS, "k": 2, "metric": "dot"},
        "stope.nearest_earlier": {"x": CORPUS, "metric": "dot"},
        "stope.pairs_above": {
            "x": CORPUS,
            "y": QUERIES,
            "threshold": 0.5,
            "metric": "dot",
            "max_pairs": 99,
        },
        "stope.topk_blocks": {"queries": QUERIES, "blocks": [CORPUS], "k": 2},
        "stope.topk": {"queries": QUERIES, "corpus": CORPUS, "k": 2, "exclude": [[0], [], []]},
        "stope.mine_hard_negatives": {
            "queries": QUERIES,
            "corpus": CORPUS,
            "positives": np.arange(3),
            "num_negatives": 2,
            "absolute_margin": 0.1,
            "relative_margin": 0.1,
            "max_score": 1.0,
            "min_score": -1.0,
            "range_max": 4,
        },
        "stope.infonce_forward": {"queries": QUERIES, "documents": QUERIES},
        "stope.infonce_backward": {"queries": QUERIES, "documents": QUERIES, "forward": forward},
        "stope.adapters.Adapter": {"transform": np.eye(8, dtype=np.float32), "side": "both"},
        "stope.adapters.Linear": {"weight": np.eye(8, dtype=np.float32)},
        "stope.adapters.LowRank": {
            "left": np.ones((8, 2), np.float32),
            "right": np.ones((8, 2), np.float32),
        },
        "stope.adapters.ResidualMLP": {
            "inner": np.ones((8, 2), np.float32),
            "outer": np.ones((2, 8), np.float32),
        },
        "stope.adapters.train_adapter": {
            "query_embeddings": QUERIES,
            "corpus_embeddings": CORPUS,
            "positives": np.arange(3),
            "epochs": 1,
        },
        "stope.data.Collection": {
            "corpus_ids": ["d"],
            "corpus_texts": ["x"],
            "query_ids": ["q"],
            "query_texts": ["y"],
            "qrels": {"test": {"q": {"d": 1}}},
        },
        "stope.data.NegativeTable": {
            "query_ids": ["q"],
            "query_texts": ["x"],
            "document_ids": ["a", "b"],
            "document_texts": ["y", "z"],
            "positives": [[0]],
            "negatives": [[1]],
        },
        "stope.data.Layout": {},
        "stope.data.Source": {"path": str(jsonl)},
        "stope.data.iter_documents": {"source": jsonl, "text_column": "text"},
        "stope.data.join_pairs": {"parts": {"a": pairs(), "b": pairs()}},
        "stope.data.normal_text": {"text": "ore"},
        "stope.data.text_key": {"text": "ore"},
        "stope.data.read_embeddings": {"path": npy},
        "stope.data.embedding_blocks": {"path": npy},
        "stope.data.read_examples": {"source": jsonl},
        "stope.data.read_negative_ids": {"path": negative_ids, "pairs": pairs()},
        "stope.data.read_exclusions": {"path": negative_ids, "pairs": pairs()},
        "stope.data.read_queries": {"source": jsonl, "query_column": "query"},
        "stope.data.Pairs": {
            "query_ids": ["q"],
            "query_texts": ["x"],
            "corpus_ids": ["d"],
            "corpus_texts": ["y"],
            "positives": (np.array([0, 1]), np.array([0])),
            "query_rows": np.array([0]),
            "corpus_rows": np.array([0]),
            "num_queries_given": 1,
            "num_corpus_given": 1,
        },
        "stope.data.atomic_path": {"path": folder / "new"},
        "stope.data.open_atomic": {"path": folder / "new"},
        "stope.data.export_negatives": {
            "path": folder / "out.jsonl",
            "format": "triplet",
            "table": table(),
        },
        "stope.data.independent_crops": {"texts": texts},
        "stope.data.inverse_cloze": {"texts": [f"{text} {text}" for text in texts]},
        "stope.data.recurring_spans": {"texts": texts},
        "stope.data.title_to_body": {"rows": [("title", "a longer body")]},
        "stope.data.query_as_context": {
            "passages": ["ore is rock"],
            "generate": lambda passages: [["what"] for _ in passages],
        },
        "stope.data.raw_pairs.sentences": {"text": "One. Two."},
        "stope.data.raw_pairs.tokens": {"text": "one two"},
        "stope.data.iter_beir_corpus": {"folder": folder / "beir"},
        "stope.data.iter_texts": {"source": jsonl, "text_column": "text", "id_column": "query"},
        "stope.data.negative_rows": {"table": table(), "format": "triplet"},
        "stope.data.negatives_dataset": {"table": table(), "format": "triplet"},
        "stope.data.read_beir": {"folder": folder / "beir", "splits": ["test"]},
        "stope.data.read_flagembedding": {"source": passages},
        "stope.data.read_tevatron": {"source": tevatron, "documents": {}},
        "stope.data.read_jsonl": {"path": jsonl},
        "stope.data.read_pairs": {
            "source": jsonl,
            "query_column": "query",
            "positive_column": "positive",
        },
        "stope.data.read_qrels": {"path": tsv},
        "stope.data.read_rows": {"source": jsonl},
        "stope.data.read_source": {"source": data.Source(str(jsonl))},
        "stope.data.read_sources": {"sources": [data.Source(str(jsonl))]},
        "stope.data.read_run": {"path": trec},
        "stope.data.read_texts": {"source": jsonl, "text_column": "text", "id_column": "query"},
        "stope.data.write_beir": {"collection": collection, "folder": folder / "written"},
        "stope.data.write_jsonl": {"path": folder / "w.jsonl", "rows": rows},
        "stope.data.write_qrels": {"qrels": qrels, "path": folder / "w.tsv"},
        "stope.data.write_run": {"run": run, "path": folder / "w.trec"},
        "stope.encoders.EmbeddingCache": {"folder": folder / "cache", "shard_size": 4},
        "stope.encoders.Lora": {"rank": 4, "target_modules": ["query"]},
        "stope.encoders.static_student": {"corpus_texts": TEXTS * 3, "teacher": encoder},
        "stope.encoders.TaskPrompts": {"tasks": {"a": ("q: ", "d: ")}, "default": ("q: ", "d: ")},
        "stope.encoders.encode_corpus": {"encoder": encoder, "texts": TEXTS, "prompt": "x"},
        "stope.encoders.encode_queries": {"encoder": encoder, "texts": TEXTS, "prompt": "x"},
        "stope.evaluation.RetrievalEvaluation": {
            "query_ids": ["q"],
            "query_texts": ["ore"],
            "corpus_ids": ["d"],
            "corpus_texts": ["ore"],
            "qrels": {"q": {"d": 1}},
            "metrics": ("nDCG@10",),
        },
        "stope.evaluation.compare": {
            "baseline": scored(),
            "candidate": scored(),
            "metric": "RR@10",
            "num_samples": 9,
        },
        "stope.evaluation.confidence_interval": {
            "evaluation": scored(),
            "metric": "RR@10",
            "num_samples": 9,
        },
        "stope.evaluation.evaluate": {"run": run, "qrels": qrels, "metrics": ["nDCG@10"]},
        "stope.report.of_run": {
            "run": run,
            "qrels": qrels,
            "baseline": run,
            "queries": {"q1": "ore?"},
            "documents": {},
            "metrics": ["RR@10"],
        },
        "stope.report.of_table": {
            "path": negative_ids,
            "pairs": pairs(),
            "layout": data.Layout(),
        },
        "stope.retrieval.Bm25": {"corpus": TEXTS},
        "stope.retrieval.DenseRetriever": {"encoder": encoder, "corpus": TEXTS},
        "stope.retrieval.HnswRetriever": {"encoder": encoder, "corpus": TEXTS},
        "stope.retrieval.HybridRetriever": {"retrievers": [bm25], "weights": [1.0]},
        "stope.retrieval.Ranking": {"ids": np.array([[0]]), "scores": numbers([[0.5]])},
        "stope.retrieval.Tokenizer": {},
        "stope.retrieval.fuse": {"rankings": [found], "weights": [1.0], "k": 1},
        "stope.retrieval.search": {
            "retriever": bm25,
            "query_ids": ["q"],
            "query_texts": ["ore"],
            "corpus_ids": TEXTS,
            "k": 2,
        },
        **valid_mining_calls.calls(folder, trec),
        **valid_neighbors_calls.calls(),
        **valid_plugs_calls.calls(),
        **valid_scale_calls.calls(folder),
        **valid_weighting_calls.calls(),
    }
