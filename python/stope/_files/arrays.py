"""Arrays in a folder beside a JSON manifest that names them by their SHA-256.

Files are named after their contents and the manifest is replaced last, so a save that is stopped
anywhere leaves what the manifest named before.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stope._files.atomic import atomic_path, open_atomic
from stope._files.manifest import read_manifest


def digest(array: NDArray[Any]) -> str:
    """SHA-256 of an array's type, shape and elements, in hexadecimal.

    >>> digest(np.zeros(0, np.float32))[:8] == digest(np.zeros((0, 1), np.float32))[:8]
    False
    """
    found = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode())
    found.update(np.ascontiguousarray(array).data if array.size else b"")
    return found.hexdigest()


def npy_header(dtype: Any, shape: tuple[int, ...]) -> bytes:
    """The header of a .npy file, as long for any number of rows: files may grow.

    >>> {len(npy_header("<f4", (rows, 384))) for rows in (0, 10**12)}
    {128}
    """
    file = io.BytesIO()
    header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue()


def write_arrays(manifest: Path, described: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
    """Write the arrays beside the manifest, then the manifest; remove arrays it no longer names.

    Raises:
        OSError: the disk is full; what the manifest named before is still there.
    """
    manifest.parent.mkdir(parents=True, exist_ok=True)
    named = {}
    for name, array in arrays.items():
        sha256 = digest(array)
        path = manifest.with_name(f"{manifest.stem}-{name}-{sha256[:16]}.npy")
        if not path.exists():
            with atomic_path(path) as temporary, temporary.open("xb") as file:
                np.save(file, array, allow_pickle=False)
        named[name] = {"file": path.name, "sha256": sha256}
    with open_atomic(manifest) as out:
        out.write(json.dumps({**described, "arrays": named}, indent=1) + "\n")
    kept = {entry["file"] for entry in named.values()}
    for path in manifest.parent.glob(f"{manifest.stem}-*.npy"):
        if path.name not in kept:
            path.unlink()


_REMEDY = "start without it, or from another checkpoint"


def read_arrays(
    manifest: Path, described: Mapping[str, Any], names: Iterable[str], remedy: str = _REMEDY
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """What `write_arrays` wrote: the description and the arrays, both checked.

    The fields are of the kinds in described (`stope._files.manifest.checked`), the arrays' names
    those that there must be.

    Raises:
        ValueError: a file is missing, truncated or altered.
    """
    entry = {"file": str, "sha256": str}
    kind = {**described, "arrays": dict.fromkeys(names, entry)}
    try:
        values = read_manifest(manifest, kind, remedy)
        named = values.pop("arrays")
        arrays = {
            name: _read(manifest.with_name(Path(entry["file"]).name), entry["sha256"], remedy)
            for name, entry in named.items()
        }
    except FileNotFoundError as error:
        raise ValueError(f"{error.filename} is missing; {remedy}") from None
    return values, arrays


def _read(path: Path, sha256: str, remedy: str) -> NDArray[Any]:
    try:
        with path.open("rb") as file:
            array: NDArray[Any] = np.load(file, allow_pickle=False)
            more = file.read(1)
    except FileNotFoundError:
        raise
    except Exception as error:  # NumPy's reader has many for a damaged header
        raise ValueError(
            f"{path} is truncated or altered ({type(error).__name__}); {remedy}"
        ) from None
    if more or digest(array) != sha256:
        raise ValueError(f"{path} is altered: its SHA-256 is not the one in the manifest; {remedy}")
    return array
