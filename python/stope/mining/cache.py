"""Embeddings on disk: found again only for the same encoder, prompt and texts; resumed by shards.

One folder per key holds ``manifest.json`` and ``embeddings.npy`` (``embeddings.partial`` while it
grows). The manifest is replaced after each shard, once the shard's bytes are on the disk, and
carries its SHA-256. So a run that was stopped anywhere goes on after its last whole shard.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from io import FileIO
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stope.data import open_atomic
from stope.mining.fingerprint import fingerprint_encoder, fingerprint_texts
from stope.retrieval import encode_corpus, encode_queries

_FORMAT = "stope.embeddings"
_VERSION = 1
_ENCODE = {"query": encode_queries, "corpus": encode_corpus}


@dataclass
class _Manifest:
    key: str
    encoder: str
    role: str
    prompt: str | None
    texts: str
    rows: int
    shard_size: int
    dim: int = 0
    shards: list[str] = field(default_factory=list)
    complete: bool = False
    format: str = _FORMAT
    version: int = _VERSION


class EmbeddingCache:
    """Embeddings kept in a folder under a fingerprint of all that decides them.

    The key is a SHA-256 of the encoder's weights, tokenizer, prompts and settings
    (`fingerprint_encoder`), the role, the prompt, and the texts in order. The batch size is no part
    of it. Nothing is deleted: old keys stay until the folder is removed.

    Args:
        folder: created where missing.
        shard_size: texts that are embedded between two saves.

    Raises:
        ValueError: shard_size below 1.
        OSError: the folder cannot be made.
    """

    def __init__(self, folder: str | PathLike[str], *, shard_size: int = 16_384) -> None:
        if shard_size < 1:
            raise ValueError(f"shard_size is {shard_size}; it must be at least 1.")
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.shard_size = shard_size

    def embeddings(
        self,
        encoder: Any,
        texts: Sequence[str],
        *,
        role: str,
        prompt: str | None = None,
        batch_size: int = 256,
        progress: Callable[[int, int], object] | None = None,
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
            ValueError: the encoder has no fingerprint, or the stored file was altered.
            OSError: the disk is full; shards already saved are kept and used next time.
            RuntimeError: another process is filling the same key.

        Memory: one shard.
        """
        if role not in _ENCODE:
            raise ValueError(f"role is {role!r}; it must be query or corpus.")
        if not len(texts):
            raise ValueError("texts is empty; there is nothing to embed.")
        wanted = self._manifest(encoder, texts, role, prompt)
        folder = self.folder / f"{role}-{wanted.key[:32]}"
        folder.mkdir(exist_ok=True)
        with _locked(folder):
            state = _read_manifest(folder / "manifest.json", wanted)
            final, partial = folder / "embeddings.npy", folder / "embeddings.partial"
            if not state.complete:
                if not final.exists():
                    with partial.open("a+b", buffering=0) as file:
                        _resume(file, state)
                        self._fill(file, state, folder, encoder, texts, batch_size, progress)
                    os.replace(partial, final)
                state.complete = True
                _write_manifest(folder / "manifest.json", state)
            elif progress is not None:
                progress(state.rows, state.rows)
            return _open_checked(final, state)

    def _manifest(
        self, encoder: Any, texts: Sequence[str], role: str, prompt: str | None
    ) -> _Manifest:
        encoder_print, texts_print = fingerprint_encoder(encoder), fingerprint_texts(texts)
        named = json.dumps([_FORMAT, _VERSION, encoder_print, role, prompt, texts_print])
        key = hashlib.sha256(named.encode()).hexdigest()
        return _Manifest(key, encoder_print, role, prompt, texts_print, len(texts), self.shard_size)

    def _fill(
        self,
        file: FileIO,
        state: _Manifest,
        folder: Path,
        encoder: Any,
        texts: Sequence[str],
        batch_size: int,
        progress: Callable[[int, int], object] | None,
    ) -> None:
        for start in range(len(state.shards) * state.shard_size, state.rows, state.shard_size):
            part = texts[start : start + state.shard_size]
            step = None if progress is None else _shifted(progress, start, state.rows)
            rows = _ENCODE[state.role](
                encoder, part, prompt=state.prompt, batch_size=batch_size, progress=step
            )
            if not state.shards:
                state.dim = rows.shape[1]
                _write(file, _header(state))
            if rows.shape[1] != state.dim:
                raise ValueError(
                    f"encoder gave {rows.shape[1]} columns for text {start} but {state.dim} before."
                )
            data = rows.astype("<f4", copy=False).tobytes()
            _write(file, data)
            state.shards.append(hashlib.sha256(data).hexdigest())
            _write_manifest(folder / "manifest.json", state)


def _header(state: _Manifest) -> bytes:
    """Bytes of a .npy header, version 1.0, for float32 [rows, dim]."""
    named = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({state.rows}, {state.dim}), }}"
    padded = named + " " * (-(len(named) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded.encode("latin1")


def _write(file: FileIO, data: bytes) -> None:
    try:
        left = memoryview(data)
        while left:
            left = left[file.write(left) :]
        os.fsync(file.fileno())
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot write {file.name}: {error.strerror}; the shards saved before are kept and "
            "will be used by the next run",
        ) from error


def _resume(file: FileIO, state: _Manifest) -> None:
    """Cut the file after the last shard that is whole and unaltered, and stand there."""
    header = _header(state) if state.shards else b""
    file.seek(0)
    if file.read(len(header)) != header:
        state.shards = []
    size = state.shard_size * state.dim * 4
    for place, known in enumerate(state.shards):
        if hashlib.sha256(file.read(size)).hexdigest() != known:
            del state.shards[place:]
            break
    rows = min(len(state.shards) * state.shard_size, state.rows)
    file.truncate(len(header) + rows * state.dim * 4 if state.shards else 0)
    file.seek(0, os.SEEK_END)


def _open_checked(path: Path, state: _Manifest) -> NDArray[np.float32]:
    """Map the file, after its bytes have been compared with the manifest."""
    header, size = _header(state), state.shard_size * state.dim * 4
    try:
        with path.open("rb") as file:
            whole = path.stat().st_size == len(header) + state.rows * state.dim * 4
            whole = whole and file.read(len(header)) == header
            whole = whole and all(
                hashlib.sha256(file.read(size)).hexdigest() == known for known in state.shards
            )
    except FileNotFoundError:
        whole = False
    if not whole:
        raise ValueError(
            f"{path} is missing, truncated or altered: it is not what its manifest.json describes; "
            f"remove the folder {path.parent} and run again."
        )
    shape = (state.rows, state.dim)
    return np.memmap(path, dtype="<f4", mode="r", offset=len(header), shape=shape)


def _read_manifest(path: Path, wanted: _Manifest) -> _Manifest:
    """Return what was saved under this key, or a fresh state."""
    if not path.exists():
        return wanted
    try:
        state = _Manifest(**json.loads(path.read_text("utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{path} is no manifest of this version; remove the folder {path.parent} and run again."
        ) from error
    same = ("format", "version", "key", "encoder", "role", "prompt", "texts", "rows")
    different = [name for name in same if getattr(state, name) != getattr(wanted, name)]
    if different:
        raise ValueError(
            f"{path} describes other embeddings ({', '.join(different)} differ); "
            f"remove the folder {path.parent} and run again."
        )
    return state


def _write_manifest(path: Path, state: _Manifest) -> None:
    with open_atomic(path) as file:
        file.write(json.dumps(asdict(state), indent=1) + "\n")


def _shifted(
    progress: Callable[[int, int], object], start: int, total: int
) -> Callable[[int, int], object]:
    return lambda done, _: progress(start + done, total)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder against other processes; the system lets go of it when a process ends."""
    if sys.platform == "win32":
        import msvcrt

        def lock(number: int) -> None:
            msvcrt.locking(number, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        def lock(number: int) -> None:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)

    with (folder / "lock").open("a+b") as file:
        try:
            lock(file.fileno())
        except OSError as error:
            raise RuntimeError(
                f"Another process is filling {folder}; wait for it, or use another cache folder."
            ) from error
        yield
