"""Float32 gradients against float64, beside torch's: `python benchmarks/infonce_accuracy_peers.py`.

Norm-wise errors of the queries' and documents' gradients on MiniLM's embeddings of real pairs
(`bench_drop.pairs`): InfoNCE of 1,024 queries against 4,096 documents, beside cross-entropy over
the matrix; GIST by sentence-transformers' formula (query-document, query-query and
document-document in one softmax, cosines element by element), mean of four draws of 96 pairs, with
a guide that is the same embeddings and noise.
"""

from __future__ import annotations

import argparse

import numpy as np
from torch.nn import functional

import bench_drop
import stope
import torch

NOISE = 0.03  # of the guide, per coordinate
GIST = ("query_to_document", "query_to_query", "document_to_document")


def infonce(queries, documents, temperature):
    """The loss of the matrix; document i answers query i."""
    scores = functional.normalize(queries) @ functional.normalize(documents).T / temperature
    return functional.cross_entropy(scores, torch.arange(len(queries)))


def cosines(rows, columns):
    """As sentence-transformers' GISTEmbedLoss computes them."""
    return functional.cosine_similarity(rows.unsqueeze(1), columns.unsqueeze(0), dim=-1)


def gist(queries, documents, temperature, guides):
    """GISTEmbedLoss with absolute margin 0."""
    guide = [torch.tensor(rows, dtype=queries.dtype) for rows in guides]
    least = cosines(*guide).diagonal().view(-1, 1)
    own = torch.eye(len(queries), dtype=torch.bool)
    logits = []
    for rows, columns in ((0, 1), (0, 0), (1, 1)):
        block = cosines((queries, documents)[rows], (queries, documents)[columns])
        false = cosines(guide[rows], guide[columns]) > least
        hidden = false & ~own if rows != columns else false | own
        logits.append(block.masked_fill(hidden, -torch.inf))
    return functional.cross_entropy(torch.cat(logits, 1) / temperature, torch.arange(len(queries)))


def of_torch(loss, given, dtype, *options):
    """Gradients of `loss` by autograd."""
    rows = [torch.tensor(part, dtype=dtype, requires_grad=True) for part in given]
    loss(*rows, *options).backward()
    return [part.grad.double().numpy() for part in rows]


def of_stope(given, **options):
    """The same by stope."""
    forward = stope.infonce_forward(*given, **options)
    return stope.infonce_backward(*given, forward, **options)[:2]


def errors(gradients, exact):
    """Of queries' and documents' gradients, by their norms."""
    return [
        float(np.linalg.norm(mine - theirs) / np.linalg.norm(theirs))
        for mine, theirs in zip(gradients, exact, strict=True)
    ]


def beside(loss, given, options, *more):
    """(stope's errors, torch's)."""
    temperature = options["temperature"]
    exact = of_torch(loss, given, torch.float64, temperature, *more)
    theirs = of_torch(loss, given, torch.float32, temperature, *more)
    return errors(of_stope(given, **options), exact), errors(theirs, exact)


def main():
    """Print one line per collection, temperature and loss."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("collections", nargs="*", default=["medquad", "wordnet_gloss"])
    parser.add_argument("--temperatures", nargs="+", type=float, default=[0.01, 0.02, 0.05])
    asked = parser.parse_args()
    print(f"isa {stope.isa.current()}, torch {torch.__version__}; queries / documents")
    for collection in asked.collections:
        queries, documents = bench_drop.pairs(collection)
        for temperature in asked.temperatures:
            rng = np.random.default_rng(0)
            order = rng.permutation(len(queries))
            batch = queries[order[:1024]], documents[order]
            told = {"infonce": beside(infonce, batch, {"temperature": temperature})}
            draws = []
            for _ in range(4):
                chosen = rng.permutation(len(queries))[:96]
                given = queries[chosen], documents[chosen]
                guides = [
                    (part + NOISE * rng.standard_normal(part.shape)).astype(np.float32)
                    for part in given
                ]
                options = {
                    "temperature": temperature,
                    "directions": GIST,
                    "absolute_margin": 0.0,
                    "guide_queries": guides[0],
                    "guide_documents": guides[1],
                }
                draws.append(beside(gist, given, options, guides))
            told["gist"] = np.mean(draws, axis=0)
            for name, (mine, theirs) in told.items():
                pair = " / ".join(f"{error:.1e}" for error in mine)
                peer = " / ".join(f"{error:.1e}" for error in theirs)
                print(f"{collection:14} {temperature:5} {name:8} stope {pair}, torch {peer}")


if __name__ == "__main__":
    main()
