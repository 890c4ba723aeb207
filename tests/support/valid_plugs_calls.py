"""Valid calls of what connects stope with other libraries, as valid_calls.py has them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa


class MtebModel:
    """As much of an encoder of mteb's as is looked at before a task is run."""

    mteb_model_meta = None


def calls():
    """Name -> keyword arguments."""
    vectors = pa.array([[1, 2], [3, 4]], pa.list_(pa.float32(), 2))
    return {
        "stope.data.from_arrow": {"column": vectors},
        "stope.data.to_arrow": {"rows": np.ones((2, 2), np.float32)},
        "stope.integrations.mteb.StopeSearch": {"model": MtebModel()},
        "stope.integrations.mteb.StopeSearchIndex": {},
    }
