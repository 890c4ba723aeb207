"""An adapter as modules of sentence-transformers, which load without any code of stope."""

from __future__ import annotations

from typing import Any

import numpy as np

from stope._extras import need
from stope.adapters.maps import Map, ResidualMLP, matrix
from stope.encoders.versions import dimension, part


def attach(queries: Map | None, documents: Map | None, shared: bool, model: Any) -> Any:
    """A new model with model's modules and these maps; see `Adapter.attach`."""
    models = part("models")
    library: Any = need("sentence_transformers", extra="train")
    one = queries or documents
    assert one is not None
    dim, wanted = dimension(model), one.shape[1]
    if getattr(model, "truncate_dim", None) is not None:
        raise ValueError(
            f"model cuts its embeddings off (truncate_dim={model.truncate_dim}), which would happen"
            " after the adapter; set model.truncate_dim = None and train the adapter on whole rows"
        )
    if dim != wanted:
        raise ValueError(f"model gives embeddings of dim {dim} but the adapter has {wanted}")
    if shared:
        added = _modules(queries, models)
    elif hasattr(getattr(models, "Router", None), "for_query_document"):
        added = [
            models.Router.for_query_document(
                query_modules=_modules(queries, models),
                document_modules=_modules(documents, models),
            )
        ]
    else:
        raise ImportError(
            "Queries and documents that differ need a Router, which sentence-transformers"
            f" {library.__version__} does not have. Install version 5 or newer, or use"
            " adapter.apply on embeddings and adapter.save"
        )
    # What model says about its prompts stays true of the longer one.
    return library.SentenceTransformer(
        modules=[*model.children(), *added],
        device=str(model.device),
        prompts=dict(model.prompts),
        default_prompt_name=model.default_prompt_name,
    )


def _modules(transform: Map | None, models: Any) -> list[Any]:
    """The map and a Normalize after it."""
    if transform is None:
        return [models.Normalize()]
    if not isinstance(transform, ResidualMLP):
        return [_dense(matrix(transform), None, models), models.Normalize()]
    # gelu(x) - gelu(-x) = x Phi(x) + x Phi(-x) = x: the residual passes through the hidden layer.
    identity = np.eye(transform.shape[1], dtype=np.float32)
    torch: Any = need("torch", extra="train")
    return [
        models.Normalize(),
        _dense(np.vstack([transform.inner, identity, -identity]), torch.nn.GELU(), models),
        _dense(np.hstack([transform.outer, identity, -identity]), None, models),
        models.Normalize(),
    ]


def _dense(weight: Any, activation: Any, models: Any) -> Any:
    torch: Any = need("torch", extra="train")
    return models.Dense(
        weight.shape[1],
        weight.shape[0],
        bias=False,
        activation_function=activation or torch.nn.Identity(),
        init_weight=torch.from_numpy(np.ascontiguousarray(weight, dtype=np.float32)).clone(),
    )
