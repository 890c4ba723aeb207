"""One valid call of every public function and class that needs torch or a model."""

from __future__ import annotations

import copy

import datasets
import numpy as np
from small_transformers import tiny

import torch
from stope import data, weighting
from stope.encoders import save_encoder, static_encoder
from stope.training import NegativeRefresh, batches

TEXTS = [f"{word} ore of the {place} mine" for word in ("iron", "tin") for place in "abcdef"]


def pairs():
    return data.Pairs.from_texts(TEXTS[:6], TEXTS[6:], TEXTS)


def matrix(rows=2, columns=3):
    return torch.arange(rows * columns, dtype=torch.float32).reshape(rows, columns) / 7


def cube():
    return torch.arange(24, dtype=torch.float32).reshape(2, 3, 4) / 7


def ranking_calls():
    labels = torch.tensor([0, 1])
    relevance = torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 0.0]])
    rankings = torch.tensor([[[0, 1, 2]], [[2, 1, 0]]])
    retrieved = torch.tensor([[0, 1, 2], [2, 1, 0]])
    twins = {"positive_scores": matrix(2, 1)[:, 0], "negative_scores": matrix()}
    return {
        "adaptive_relevance_margin": {
            "positive_scores": matrix(2, 1)[:, 0],
            "negative_scores": matrix(2, 1)[:, 0],
            "document_scores": matrix(2, 1)[:, 0],
        },
        "angle_loss": {"first": matrix(2, 4), "second": matrix(2, 4), "labels": labels},
        "angle_similarity": {"first": matrix(2, 4), "second": matrix(2, 4)},
        "append_missing_positives": {"retrieved": retrieved, "positives": retrieved[:, :1]},
        "center_loss": {"embeddings": matrix(), "labels": labels, "centers": matrix()},
        "CenterLoss": {"num_classes": 2, "dim": 3},
        "class_means": {"embeddings": matrix(), "labels": labels, "num_classes": 2},
        "cosent_loss": {"scores": matrix()[0], "labels": torch.tensor([1.0, 0.0, 2.0])},
        "dynamic_listwise_distillation": {"scores": matrix(), "reranker_scores": matrix()},
        "embedding_distillation": {"student": matrix(), "teacher": matrix()},
        "in_batch_margin_mse": {"scores": matrix(), "teacher_scores": matrix()},
        "kl_distillation": {"scores": matrix(), "teacher_scores": matrix()},
        "lambda_mrr": {"scores": matrix(), "relevance": relevance},
        "logit_distillation": {"student_logits": matrix(), "teacher_logits": matrix()},
        "margin_mse": {
            **twins,
            "teacher_positive_scores": matrix(2, 1)[:, 0],
            "teacher_negative_scores": matrix(),
        },
        "ndcg_gains": {"ranked": relevance[:, None], "relevance": relevance},
        "orthogonal_projection": dict(twins),
        "partial_plackett_luce": {
            "preferred_scores": matrix(3, 3),
            "dispreferred_scores": matrix(3, 3),
        },
        "plackett_luce_log_prob": {"scores": matrix(), "rankings": rankings},
        "plackett_luce_policy_gradient": {"scores": matrix(), "relevance": relevance},
        "pooled_late_interaction": {"query_tokens": cube(), "targets": matrix(2, 4)},
        "predicted_ranks": {"scores": matrix()},
        "prototype_triplet": {"embeddings": matrix(), "labels": labels, "prototypes": matrix()},
        "rank_weighted_distillation": {"scores": matrix(), "teacher_scores": matrix()},
        "sample_plackett_luce": {"scores": matrix(), "num_samples": 2},
        "soft_late_interaction": {"query_tokens": cube(), "target_tokens": cube()},
        "soft_neighbors": {"embeddings": matrix(), "labels": labels, "k": 1},
        "summed_positive_contrast": {
            "positive_scores": torch.rand(1, 2, 2),
            "negative_scores": matrix(),
        },
    }


def library_calls(folder, model):
    """Of what has sentence-transformers' names."""
    small, rows = tiny(folder / "small"), np.random.default_rng(1).standard_normal((9, 8))
    pairs = datasets.Dataset.from_dict({"query": TEXTS[:5], "answer": TEXTS[5:10]})
    ranked = {"q": "iron"}, {"d": "ore", "e": "sea"}, {"q": {"d"}}
    losses = {
        "MultipleNegativesRankingLoss": {"model": model},
        "MultipleNegativesSymmetricRankingLoss": {"model": model},
        "GISTEmbedLoss": {"model": model, "guide": model},
        "CachedMultipleNegativesRankingLoss": {"model": small},
        "CachedMultipleNegativesSymmetricRankingLoss": {"model": small},
        "CachedGISTEmbedLoss": {"model": small, "guide": small},
    }
    others = {
        "mine_hard_negatives": {
            "dataset": pairs,
            "model": model,
            "num_negatives": 1,
            "anchor_column_name": "query",
            "positive_column_name": "answer",
            "range_max": 4,
            "max_score": 1.0,
            "min_score": -1.0,
            "absolute_margin": 0.1,
            "relative_margin": 0.1,
            "verbose": False,
        },
        "semantic_search": {"query_embeddings": rows[:2], "corpus_embeddings": rows},
        "paraphrase_mining": {"model": model, "sentences": TEXTS[:4]},
        "paraphrase_mining_embeddings": {"embeddings": rows},
        "community_detection": {"embeddings": rows, "threshold": 0.5, "min_community_size": 2},
        "InformationRetrievalEvaluator": dict(
            zip(("queries", "corpus", "relevant_docs"), ranked, strict=True)
        ),
    }
    return {
        f"stope.integrations.sentence_transformers.{name}": call
        for name, call in {**losses, **others}.items()
    }


def calls(folder):
    """The calls; paths lie in the folder."""
    model = static_encoder(TEXTS, dim=8, vocab_size=60)
    rows = np.random.default_rng(0).standard_normal((12, 8), dtype=np.float32)
    numbers = batches.RowNumbers(np.arange(4), np.arange(4))
    tensor = torch.from_numpy(rows[:3])
    lines = [f"{query}\t{text}" for query, text in zip(TEXTS[:6], TEXTS[6:], strict=True)]
    pairs_file = folder / "pairs.tsv"
    pairs_file.write_text("\n".join(["query\tpositive", *lines]))
    source = {"path": str(pairs_file)}
    made = {
        "stope.adapters.AdapterRecipe": {},
        "stope.encoders.fingerprint_encoder": {"encoder": model},
        "stope.encoders.save_encoder": {"model": model, "folder": folder / "saved"},
        "stope.encoders.static_encoder": {"texts": TEXTS, "dim": 8, "vocab_size": 60},
        "stope.integrations.sentence_transformers.InfoNCECollator": {"model": model},
        "stope.integrations.sentence_transformers.InfoNCELoss": {"model": model},
        "stope.integrations.sentence_transformers.CachedInfoNCELoss": {
            "model": tiny(folder / "transformer")
        },
        **library_calls(folder, model),
        "stope.runs.Config": {"data": source, "output": {"folder": "run"}},
        "stope.runs.run": {
            "config": {
                "data": source,
                "encoder": {"static": {"dim": 8}},
                "schedule": {"epochs": 1},
                "output": {"folder": str(folder / "run")},
            },
            "resume": True,
        },
        "stope.torch.InfoNCELoss": {},
        "stope.torch.SigmoidLoss": {},
        "stope.torch.distributed.DistributedInfoNCELoss": {},
        "stope.torch.distributed.average_gradients": {"parameters": [tensor]},
        "stope.torch.distributed.gather_rows": {"tensor": tensor},
        "stope.torch.distributed.own_rows": {"rows": 3},
        "stope.torch.distributed.rank": {},
        "stope.torch.distributed.sum_of_all": {"tensor": tensor},
        "stope.torch.distributed.world_size": {},
        "stope.torch.infonce": {"queries": tensor, "documents": tensor},
        "stope.training.Clustered": {"clusters": 2},
        "stope.training.Distillation": {"temperature": 0.1, "teacher_temperature": 1.0},
        "stope.training.Distinct": {},
        "stope.training.EvaluationPart": {},
        "stope.training.Homogeneous": {},
        "stope.training.Shuffled": {},
        "stope.training.LiveNegatives": {"pairs": pairs(), "num_negatives": 2},
        "stope.training.GuardPart": {},
        "stope.training.LossPart": {},
        "stope.training.Mixed": {},
        "stope.training.NegativeRefresh": {"every_epochs": 1, "num_negatives": 2, "pool": 4},
        "stope.training.OutputPart": {},
        "stope.training.NegativeRefreshCallback": {
            "run": NegativeRefresh(num_negatives=1).start(pairs(), model)
        },
        "stope.training.QuerySideLoss": {
            "model": model,
            "pairs": pairs(),
            "corpus_embeddings": rows,
            "k": 2,
        },
        "stope.training.Recipe": {},
        "stope.training.SchedulePart": {},
        "stope.training.batches.RowNumbers": {
            "query_numbers": np.arange(4),
            "positive_numbers": np.arange(4),
        },
        "stope.training.batches.batch_sampler": {"spec": batches.Distinct(), "table": numbers},
        "stope.training.batches.batch_spec_names": {},
        "stope.training.contrastive_loss": {"model": model, "weighting": weighting.Constant()},
        "stope.training.pairs_dataset": {"pairs": pairs()},
        "stope.training.query_document_model": {
            "query_model": model,
            "document_model": copy.deepcopy(model),
        },
        "stope.training.train": {
            "model": model,
            "examples": [("a", "b"), ("c", "d")],
            "columns": {"weight": [1.0, 2.0]},
            "recipe": {"schedule": {"epochs": 1}},
        },
        "stope.training.training_dataset": {"queries": ["a", "b"], "positives": ["c", "d"]},
    }
    save_encoder(model, folder / "loaded")
    made["stope.encoders.load_encoder"] = {"name_or_path": folder / "loaded"}
    places = {f"stope.torch.ranking.{name}": call for name, call in ranking_calls().items()}
    return {**made, **places}
