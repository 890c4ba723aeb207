"""Embeddings on disk: found again only for the same encoder, prompt and texts; resumed by shards.

One folder per key holds them (`stope._files.shards`): a run that was stopped anywhere goes on
after its last whole shard. The encoder's part of the key names what it computes: equal fingerprints
give equal embeddings (batching aside, which can move last bits). A path or a model name is no part
of it: a model that is being trained keeps both.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from os import PathLike
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stope._checks import choice, integer, path, text, text_rows
from stope._extras import need
from stope._files.shards import FORMAT, VERSION, Manifest, kept_array
from stope.data.text_identity import fingerprint_texts
from stope.encoders.encode import Encoder, encode_corpus, encode_queries
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

    def __init__(self, folder: str | PathLike[str], *, shard_size: int = 2048) -> None:
        integer(shard_size, "shard_size", 1)
        self.folder = path(folder, "folder")
        if self.folder.exists() and not self.folder.is_dir():
            raise FileExistsError(f"folder {self.folder} is a file; name a folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.shard_size = shard_size

    def embeddings(
        self,
        encoder: Encoder,
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
        texts = text_rows(texts, "texts")
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
        self, encoder: Encoder, texts: Sequence[str], role: str, prompt: str | None
    ) -> Manifest:
        encoder_print, texts_print = fingerprint_encoder(encoder), fingerprint_texts(texts)
        named = json.dumps([FORMAT, VERSION, encoder_print, role, prompt, texts_print])
        key = hashlib.sha256(named.encode()).hexdigest()
        return Manifest(key, encoder_print, role, prompt, texts_print, len(texts), self.shard_size)


def _shifted(progress: Progress, start: int, total: int) -> Progress:
    return lambda done, _: progress(start + done, total)


# What transformers sets in a fast tokenizer whenever it encodes; max_seq_length is hashed instead.
_TRANSIENT = ("truncation", "padding")
_SETTINGS = ("prompts", "default_prompt_name", "truncate_dim", "max_seq_length")


def fingerprint_encoder(encoder: Any) -> str:
    """Return a SHA-256 hex digest of everything that decides the encoder's output.

    An encoder with a method ``fingerprint() -> str`` answers for itself. A torch module
    (sentence-transformers included) is read: names, types, shapes and bytes of all weights and
    buffers, tokenizers, prompts, and the settings of its parts.

    Args:
        encoder: the object whose ``encode`` is to be cached.

    Raises:
        ValueError: the encoder has neither, or a tokenizer that cannot be read.

    Memory: one tensor on the CPU at a time.

    Example:
        >>> class Upper:
        ...     def fingerprint(self):
        ...         return "upper-1"
        >>> fingerprint_encoder(Upper())[:16]
        '00ca30034ae00649'
    """
    digest = hashlib.sha256()
    method = getattr(encoder, "fingerprint", None)
    if callable(method):
        named = method()
        if not isinstance(named, str) or not named:
            raise ValueError(f"{type(encoder).__name__}.fingerprint() must give a string")
        _add(digest, type(encoder).__qualname__, named)
        return digest.hexdigest()
    if not hasattr(encoder, "state_dict") or not hasattr(encoder, "named_modules"):
        raise ValueError(
            f"encoder is {type(encoder).__name__}, which has no weights that can be read, so "
            "embeddings cannot be cached safely; give it a method fingerprint() -> str that "
            "changes whenever its output does, or pass cache=None"
        )
    _add_weights(digest, encoder)
    for name in _SETTINGS:
        _add(digest, name, _json(getattr(encoder, name, None)))
    seen: set[int] = set()
    for name, module in encoder.named_modules():
        _add(digest, name, f"{type(module).__module__}.{type(module).__qualname__}")
        _add(digest, "settings", _json(_settings(module)))
        tokenizer = getattr(module, "tokenizer", None)
        if tokenizer is not None and id(tokenizer) not in seen:
            seen.add(id(tokenizer))
            _add(digest, "tokenizer", _tokenizer_text(tokenizer))
    return digest.hexdigest()


def _add_weights(digest: Any, encoder: Any) -> None:
    torch = need("torch", extra="train")
    for name, tensor in sorted(encoder.state_dict().items()):
        if not isinstance(tensor, torch.Tensor):
            _add(digest, name, _json(tensor))
            continue
        _add(digest, name, f"{tensor.dtype} {tuple(tensor.shape)}")
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy() if flat.numel() else b"")


def _settings(module: Any) -> Any:
    describe = getattr(module, "get_config_dict", None)
    settings = describe() if callable(describe) else None
    config = getattr(module, "config", None)
    if config is not None and callable(getattr(config, "to_dict", None)):
        named = {key: value for key, value in config.to_dict().items() if key != "_name_or_path"}
        return [settings, named]
    return settings


def _tokenizer_text(tokenizer: Any) -> str:
    if callable(getattr(tokenizer, "to_str", None)):
        return str(tokenizer.to_str())
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is not None:
        described = json.loads(fast.to_str())
        kept = {key: value for key, value in described.items() if key not in _TRANSIENT}
        return _json([kept, getattr(tokenizer, "model_max_length", None)])
    if callable(getattr(tokenizer, "get_vocab", None)):
        options = getattr(tokenizer, "init_kwargs", None)
        return _json([type(tokenizer).__qualname__, tokenizer.get_vocab(), options])
    raise ValueError(
        f"The tokenizer {type(tokenizer).__name__} cannot be read, so embeddings cannot be cached "
        "safely; give the encoder a method fingerprint() -> str, or pass cache=None"
    )


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=repr)


def _add(digest: Any, *parts: str) -> None:
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
