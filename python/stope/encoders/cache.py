"""Embeddings on disk: found again only for the same encoder, prompt and texts; resumed by shards.

One folder per key holds them (`stope._files.shards`): a run that was stopped anywhere goes on
after its last whole shard.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from os import PathLike
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stope._checks import choice, integer, path, text
from stope._checks import texts as texts_of
from stope._files.shards import FORMAT, VERSION, Manifest, kept_array
from stope.data.text_identity import fingerprint_texts
from stope.encoders.encode import encode_corpus, encode_queries
from stope.encoders.fingerprint import fingerprint_encoder
from stope.progress import Progress, check_progress

Role = Literal["query", "corpus"]
_ENCODE = {"query": encode_queries, "corpus": encode_corpus}


class EmbeddingCache:
    """Embeddings kept in a folder under a fingerprint of all that decides them.

    The key is a SHA-256 of the encoder's weights, tokenizer, prompts and settings
    (`fingerprint_encoder`), the role, the prompt, and the texts in order. The batch size is no part
    of it. Nothing is deleted: old keys stay until the folder is removed.

    Thread safety: threads and processes may share a folder: one fills a key, and others who ask for
    it meanwhile get a RuntimeError. Arrays that were given are read-only maps and stay as they are.

    Args:
        folder: created where missing.
        shard_size: texts that are embedded between two saves.

    Raises:
        ValueError: shard_size below 1.
        OSError: the folder cannot be made.
    """

    def __init__(self, folder: str | PathLike[str], *, shard_size: int = 16_384) -> None:
        integer(shard_size, "shard_size", 1)
        self.folder = path(folder, "folder")
        if self.folder.exists() and not self.folder.is_dir():
            raise FileExistsError(f"folder {self.folder} is a file; name a folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.shard_size = shard_size

    def embeddings(
        self,
        encoder: Any,
        texts: Sequence[str],
        *,
        role: Role,
        prompt: str | None = None,
        batch_size: int = 256,
        progress: Progress | None = None,
    ) -> NDArray[np.float32]:
        """Return the embeddings of the texts, from the folder or from the encoder.

        Args:
            encoder: see `fingerprint_encoder` for what can be cached.
            texts: strings.
            role: "query" or "corpus".
            prompt: put before every text; None leaves the encoder's own in force.
            batch_size: texts per call of the encoder.
            progress: called with (texts embedded, texts).

        Returns:
            float32 ``[len(texts), dim]``, a read-only memory map.

        Raises:
            TypeError: texts, role or prompt of a wrong kind.
            ValueError: the encoder has no fingerprint, or the stored file was altered.
            OSError: the disk is full; shards already saved are kept and used next time.
            RuntimeError: another process is filling the same key.

        Memory: one shard.
        """
        choice(role, "role", _ENCODE)
        if prompt is not None:
            text(prompt, "prompt", "give a text, or None", blank=True)
        texts = texts_of(texts, "texts")
        integer(batch_size, "batch_size", 1)
        check_progress(progress)
        wanted = self._manifest(encoder, texts, role, prompt)

        def encoded(start: int, stop: int) -> NDArray[np.float32]:
            step = None if progress is None else _shifted(progress, start, len(texts))
            return _ENCODE[role](
                encoder, texts[start:stop], prompt=prompt, batch_size=batch_size, progress=step
            )

        folder = self.folder / f"{role}-{wanted.key[:32]}"
        return kept_array(folder, "embeddings", wanted, encoded, progress)

    def _manifest(
        self, encoder: Any, texts: Sequence[str], role: str, prompt: str | None
    ) -> Manifest:
        encoder_print, texts_print = fingerprint_encoder(encoder), fingerprint_texts(texts)
        named = json.dumps([FORMAT, VERSION, encoder_print, role, prompt, texts_print])
        key = hashlib.sha256(named.encode()).hexdigest()
        return Manifest(key, encoder_print, role, prompt, texts_print, len(texts), self.shard_size)


def _shifted(progress: Progress, start: int, total: int) -> Progress:
    return lambda done, _: progress(start + done, total)
