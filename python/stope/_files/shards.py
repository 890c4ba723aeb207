"""A float32 array in a folder: it grows shard by shard, and is given only for what it was made of.

The folder holds ``manifest.json`` and ``<name>.npy`` (``<name>.partial`` while it grows). The
manifest is replaced after each shard, once the shard's bytes are on the disk, and carries its
SHA-256. So a run that was stopped anywhere goes on after its last whole shard.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from io import FileIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stope._files.arrays import npy_header
from stope._files.atomic import open_atomic
from stope._files.manifest import read_manifest
from stope.progress import Progress

FORMAT = "stope.embeddings"
VERSION = 1
_KIND = {
    **dict.fromkeys(("key", "encoder", "role", "texts"), str),
    **dict.fromkeys(("rows", "shard_size", "dim"), int),
    "prompt": (str, None),
    "shards": [str],
    "complete": bool,
    "format": (FORMAT,),
    "version": (VERSION,),
}
_MOST = 1 << 40  # rows, columns
_TAKEN = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)  # what a lock of another's says


@dataclass
class Manifest:
    """What an array was made of, and how far it has come.

    Attributes:
        key: digest of all that decides its content.
        encoder: fingerprint of the encoder or teacher.
        role: of the texts.
        prompt: put before each of them.
        texts: fingerprint of the texts.
        rows: of the whole array.
        shard_size: rows of each shard but the last.
        dim: columns; 0 until the first shard is there.
        shards: SHA-256 of each that is on the disk.
        complete: whether all are.
        format, version: of the folder.
    """

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
    format: str = FORMAT
    version: int = VERSION


def kept_array(
    folder: Path,
    name: str,
    wanted: Manifest,
    compute: Callable[[int, int], NDArray[np.float32]],
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """The array that the folder holds, made whole where it is not.

    Args:
        folder: made where missing; of this array alone.
        wanted: what the array is of.
        compute: ``compute(start, stop) -> [stop - start, dim]``, asked for what is missing alone.
        progress: called once with (rows, rows) where nothing is missing.

    Returns:
        float32 ``[rows, dim]``, a read-only memory map.

    Raises:
        ValueError: the file was altered, the manifest is of something else, or compute changed the
            number of columns.
        OSError: the disk is full; shards already saved are kept and used next time.
        RuntimeError: another process is filling the same folder.

    Memory: one shard.
    """
    folder.mkdir(parents=True, exist_ok=True)
    manifest, final, partial = (
        folder / file for file in ("manifest.json", f"{name}.npy", f"{name}.partial")
    )
    with locked(folder):
        state = _read_manifest(manifest, wanted)
        if state.complete:
            if progress is not None:
                progress(state.rows, state.rows)
        else:
            if not final.exists():
                with partial.open("a+b", buffering=0) as file:
                    _resume(file, state)
                    _fill(file, state, manifest, compute)
                os.replace(partial, final)
            state.complete = True
            _write_manifest(manifest, state)
        return _open_checked(final, state)


def complete_array(folder: Path, name: str, encoder: str) -> NDArray[np.float32] | None:
    """The whole array of this encoder or teacher that a folder of `kept_array` has, or None.

    Raises:
        ValueError: the file was altered.
    """
    manifest = folder / "manifest.json"
    if not manifest.exists():
        return None
    state = Manifest(**read_manifest(manifest, _KIND, f"remove the folder {folder}"))
    if state.encoder != encoder or not state.complete:
        return None
    return _open_checked(folder / f"{name}.npy", state)


def _fill(
    file: FileIO,
    state: Manifest,
    manifest: Path,
    compute: Callable[[int, int], NDArray[np.float32]],
) -> None:
    for start in range(len(state.shards) * state.shard_size, state.rows, state.shard_size):
        rows = compute(start, min(start + state.shard_size, state.rows))
        if not state.shards:
            state.dim = rows.shape[1]
            _write(file, _header(state))
        if rows.shape[1] != state.dim:
            raise ValueError(
                f"rows from {start} on have {rows.shape[1]} columns but those before {state.dim}; "
                "the encoder must give equally many for every text"
            )
        data = rows.astype("<f4", copy=False).tobytes()
        _write(file, data)
        state.shards.append(hashlib.sha256(data).hexdigest())
        _write_manifest(manifest, state)


def _header(state: Manifest) -> bytes:
    return npy_header("<f4", (state.rows, state.dim))


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


def _resume(file: FileIO, state: Manifest) -> None:
    """Cut the file after the last shard that is whole and unaltered, and stand there."""
    header = _header(state) if state.shards else b""
    file.seek(0)
    if file.read(len(header)) != header:
        state.shards = []
    size = min(state.shard_size, state.rows) * state.dim * 4
    for place, known in enumerate(state.shards):
        if hashlib.sha256(file.read(size)).hexdigest() != known:
            del state.shards[place:]
            break
    rows = min(len(state.shards) * state.shard_size, state.rows)
    file.truncate(len(header) + rows * state.dim * 4 if state.shards else 0)
    file.seek(0, os.SEEK_END)


def _open_checked(path: Path, state: Manifest) -> NDArray[np.float32]:
    """Map the file, after its bytes have been compared with the manifest."""
    header, size = _header(state), min(state.shard_size, state.rows) * state.dim * 4
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
            f"remove the folder {path.parent} and run again"
        )
    shape = (state.rows, state.dim)
    return np.memmap(path, dtype="<f4", mode="r", offset=len(header), shape=shape)


def _read_manifest(path: Path, wanted: Manifest) -> Manifest:
    """Return what was saved under this key, or a fresh state."""
    if not path.exists():
        return wanted
    remedy = f"remove the folder {path.parent} and run again"
    state = Manifest(**read_manifest(path, _KIND, remedy))
    if (problem := _contradiction(state)) is not None:
        raise ValueError(f"{path} is damaged: {problem}; {remedy}")
    same = ("key", "encoder", "role", "prompt", "texts", "rows")
    different = [name for name in same if getattr(state, name) != getattr(wanted, name)]
    if different:
        raise ValueError(
            f"{path} is of another encoder or of other texts ({', '.join(different)} differ); "
            f"{remedy}"
        )
    return state


def _contradiction(state: Manifest) -> str | None:
    if not 0 < state.shard_size <= _MOST or state.dim > _MOST or state.rows > _MOST:
        return f"it tells of {state.rows} rows, {state.dim} columns, {state.shard_size} a shard"
    shards = -(-state.rows // state.shard_size)
    if len(state.shards) > shards or (state.complete and len(state.shards) < shards):
        return f"it lists {len(state.shards)} shards where {state.rows} rows make {shards}"
    return None


def _write_manifest(path: Path, state: Manifest) -> None:
    with open_atomic(path) as file:
        file.write(json.dumps(asdict(state), indent=1) + "\n")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
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
            if error.errno not in _TAKEN:
                raise
            raise RuntimeError(
                f"Another process or thread is filling {folder}; wait for it, or use another folder"
            ) from error
        yield
