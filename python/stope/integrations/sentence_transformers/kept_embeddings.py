"""Normalised embeddings of queries and documents, as mine_hard_negatives asks a model for them.

Where a folder keeps them, it does so as `stope.encoders.EmbeddingCache`, under the library's names.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stope._checks import choice
from stope._files.shards import Manifest, kept_array
from stope.data.text_identity import fingerprint_texts
from stope.encoders.cache import fingerprint_encoder

Side = tuple[list[str], str | None, str | None]  # texts, the prompt's name, the prompt
_SHARD_SIZE = 16_384


def check_prompt_name(model: Any, prompt_name: str | None, argument: str) -> None:
    """Refuse a name that is not among those of the model's prompts, where it says which it has."""
    prompts = getattr(model, "prompts", None)
    if prompt_name is not None and prompts is not None:
        choice(prompt_name, argument, prompts)


def embedded(
    model: Any,
    corpus: Side,
    queries: Side,
    *,
    batch_size: int,
    processes: list[str] | bool,
    folder: str | PathLike[str] | None,
    say: Callable[[str], object],
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The embeddings of the corpus and of the queries, one row per text.

    Args:
        model: SentenceTransformer.
        corpus, queries: texts and prompts.
        batch_size: texts at a time.
        processes: devices of as many processes, or whether there are any.
        folder: that keeps them, or None.
        say: is told what was read and written there.

    Raises:
        ValueError: a folder and a model whose weights cannot be read; a file that was altered.
        RuntimeError: another process is filling the same file.
    """
    pools: list[Any] = []

    def encode(role: str, side: Side) -> NDArray[Any]:
        texts, name, prompt = side
        call = model.encode_document if role == "corpus" else model.encode_query

        def encoded(start: int, stop: int) -> NDArray[Any]:
            if processes and not pools:
                devices = None if isinstance(processes, bool) else processes
                pools.append(model.start_multi_process_pool(target_devices=devices))
            rows = call(
                texts[start:stop],
                pool=pools[0] if pools else None,
                batch_size=batch_size,
                normalize_embeddings=True,
                convert_to_numpy=True,
                show_progress_bar=True,
                prompt_name=name,
                prompt=prompt,
            )
            return np.asarray(rows)

        if folder is None:
            return encoded(0, len(texts))
        prints = fingerprint_encoder(model), fingerprint_texts(texts)
        named = json.dumps(["normalized", *prints, role, name, prompt])
        key = hashlib.sha256(named.encode()).hexdigest()
        place = Path(folder) / f"{role}_embeddings_{key[:32]}"
        there = (place / "embeddings.npy").exists()
        wanted = Manifest(key, prints[0], role, prompt, prints[1], len(texts), _SHARD_SIZE)
        rows = kept_array(place, "embeddings", wanted, encoded)
        word = "Loaded" if there else "Saved"
        say(f"[Cache] {word} {role} embeddings in {place} (shape={rows.shape})")
        return rows

    try:
        return encode("corpus", corpus), encode("query", queries)
    finally:
        if pools:
            model.stop_multi_process_pool(pools[0])
