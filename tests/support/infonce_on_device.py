"""The contrastive loss on the CUDA devices of tests."""

from __future__ import annotations

import numpy as np
from infonce_checks import backward_is_close, forward_is_close

import stope

MATRICES = ("guide_queries", "guide_documents", "queue", "guide_queue")


def moved(device, options):
    """The options with their matrices on the device."""
    return {
        name: device.to(value) if name in MATRICES and value is not None else value
        for name, value in options.items()
    }


def run(device, queries, documents, options, upstream=None, **more):
    """(InfoNCE, InfoNCEGradients) as NumPy, computed on the device."""
    there = device.to(queries), device.to(documents)
    given = moved(device, options)
    forward = stope.infonce_forward(*there, **given)
    weights = None if upstream is None else device.to(np.asarray(upstream, np.float32))
    back = stope.infonce_backward(*there, forward, weights, **given, **more)
    forward = stope.InfoNCE(*(device.back(part) for part in forward))
    documents = None if back.documents is None else device.back(back.documents)
    return forward, back._replace(queries=device.back(back.queries), documents=documents)


def check(device, queries, documents, options, upstream, expected, note=""):
    """`run`, near the oracle's (forward, backward)."""
    got = run(device, queries, documents, options, upstream)
    forward_is_close(got[0], expected[0], options, note)
    backward_is_close(got[1], expected[1], (queries, documents), options, upstream, note)
    return got
