"""Encoders: texts to embeddings, kept in a cache; new ones, their prompts, folders and updates.

`encode_queries` and `encode_corpus` need NumPy alone. What builds or loads a model needs the extra
"train", which is imported when a function is called.
"""

from stope.encoders.cache import EmbeddingCache, fingerprint_encoder
from stope.encoders.encode import encode_corpus, encode_queries
from stope.encoders.lora import Lora
from stope.encoders.models import load_encoder, save_encoder, static_encoder
from stope.encoders.prompts import TaskPrompts
from stope.encoders.student import static_student

__all__ = [
    "EmbeddingCache", "Lora", "TaskPrompts", "encode_corpus", "encode_queries",
    "fingerprint_encoder", "load_encoder", "save_encoder", "static_encoder", "static_student",
]  # fmt: skip
