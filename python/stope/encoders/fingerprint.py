"""A name for what an encoder computes: its weights, tokenizer, prompts and settings.

Two encoders of equal fingerprint give equal embeddings for equal texts (batching aside, which can
move last bits). A path or a model name is no part of it: a model that is being trained keeps both.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from stope._extras import need

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
