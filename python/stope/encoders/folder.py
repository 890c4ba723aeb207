"""Load an encoder from a folder or by name, and save one so that the folder is whole or absent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stope._checks import path, shown
from stope._extras import need
from stope._files.atomic import atomic_folder
from stope._kinds import kinds
from stope.encoders.encode import has_encode

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


@kinds(name_or_path=path)
def load_encoder(name_or_path: str | Path) -> SentenceTransformer:
    """Load a sentence-transformers model from a folder, or by its name on the Hugging Face hub.

    Raises:
        ValueError: there is no such folder and the hub does not have it or cannot be reached.
        ImportError: the extra "train" is missing.
    """
    library: Any = need("sentence_transformers", extra="train")
    folder = path(name_or_path, "name_or_path")
    if folder.is_dir() and not (folder / "modules.json").exists():
        raise ValueError(
            f"{folder} is not a sentence-transformers model: it has no modules.json. Name the "
            "folder that save_encoder or SentenceTransformer.save_pretrained wrote"
        )
    try:
        return _load(library, str(name_or_path))
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"The encoder {shown(str(name_or_path))} is neither a folder here nor a model that the "
            f"Hugging Face hub gave ({type(error).__name__}: {str(error).splitlines()[0]})"
        ) from error


def _load(library: Any, name: str) -> SentenceTransformer:
    """Load from a folder or the hub's local cache, and only then ask the hub."""
    try:
        return library.SentenceTransformer(name, local_files_only=True)
    except (OSError, ValueError, RuntimeError):
        if Path(name).is_dir():
            raise
        return library.SentenceTransformer(name)


@kinds(model=has_encode, folder=path)
def save_encoder(model: SentenceTransformer, folder: str | Path) -> None:
    """Save model as a sentence-transformers folder, which appears under its name when complete.

    Args:
        model: the encoder.
        folder: new, or an empty folder.

    Raises:
        FileExistsError: folder exists and is not an empty folder.
        FileNotFoundError: the folder that should hold it does not exist.
    """
    with atomic_folder(folder) as temporary:
        model.save_pretrained(str(temporary), create_model_card=False)
