"""Write a file or a folder whole or not at all: temporary name beside it, fsync, rename.

The temporary name says which process on which machine writes. What a killed process has left is
removed by the next write to the same folder, what a living one is writing is left alone. Files and
folders get the permissions that the umask leaves.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import shutil
import socket
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from os import PathLike
from pathlib import Path
from typing import IO

from stope._checks import path as checked_path


class AtomicFile:
    """What `open_atomic` yields: `write` adds text; a failing write is an OSError in a sentence."""

    def __init__(self, path: Path, text: IO[str]) -> None:
        self.path = path
        self._text = text

    def write(self, text: str) -> None:
        """Append `text` as UTF-8: ValueError for a lone surrogate, OSError when the write fails."""
        try:
            self._text.write(text)
        except OSError as error:
            raise _failure(self.path, error) from error
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{self.path}: a text cannot be written as UTF-8 (lone surrogate "
                f"{error.object[error.start]!r} in {error.object[:60]!r}); take it out"
            ) from error


@contextmanager
def open_atomic(path: str | PathLike[str]) -> Iterator[AtomicFile]:
    """Open `path` for writing UTF-8 text (gzip when it ends in .gz); it appears when complete.

    The text goes to a temporary name in the same folder, is flushed to the disk and renamed over
    `path` when the block ends. When the block raises, whatever it raises, the temporary file is
    removed and an earlier file at `path` is left as it was.

    Raises:
        OSError: the folder does not exist, cannot be written, or the disk is full.

    Memory: buffers of a few kilobytes.

    Example:
        >>> import pathlib, tempfile
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> with open_atomic(folder / "note.txt") as file:
        ...     file.write("whole or not at all")
        >>> [entry.name for entry in folder.iterdir()]
        ['note.txt']
    """
    target = checked_path(path, "path")
    with atomic_path(target) as temporary:
        try:
            raw = temporary.open("xb")
        except OSError as error:
            raise _failure(target, error) from error
        packed = gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if target.suffix == ".gz" else None
        text = io.TextIOWrapper(packed or raw, encoding="utf-8", newline="")
        try:
            yield AtomicFile(target, text)
            try:
                text.flush()
                text.detach()
                if packed is not None:
                    packed.close()
                raw.flush()
            except OSError as error:
                raise _failure(target, error) from error
        finally:
            # After a failed write the buffers hold bytes that cannot be written: closing tries
            # again and fails again, which adds nothing to the error already on its way.
            for opened in (text, packed, raw):
                with suppress(OSError, ValueError):
                    if opened is not None:
                        opened.close()


@contextmanager
def atomic_path(path: str | PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`: renamed at the end, removed when the block raises.

    Where `path` is a link, that is the file it leads to, and the link stays.
    """
    target = checked_path(path, "path")
    target = target.resolve() if target.is_symlink() else target
    if target.is_dir():
        raise IsADirectoryError(f"cannot write {target}: it is a folder; name a file")
    if not target.parent.is_dir():
        raise FileNotFoundError(
            f"cannot write {target}: the folder {target.parent} does not exist; create it first"
        )
    temporary = temporary_beside(target)
    try:
        yield temporary
        try:
            flush_to_disk(temporary)
            os.replace(temporary, target)
        except OSError as error:
            raise _failure(target, error) from error
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


@contextmanager
def atomic_folder(folder: str | PathLike[str], *, replace: bool = False) -> Iterator[Path]:
    """Yield a new folder beside `folder` that takes its name when the block ends, with all in it.

    What is in it is flushed to the disk first. When the block raises it is removed.

    Args:
        folder: new, or an empty folder.
        replace: what is there, if anything, is removed once the new one is whole.

    Raises:
        FileExistsError: `folder` exists and is not an empty folder.
        FileNotFoundError: the folder that should hold it does not exist.
    """
    target = checked_path(folder, "folder").absolute()
    if not replace and target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target} exists and is not an empty folder; name another")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"The folder {target.parent} does not exist; create it first")
    temporary, before = temporary_beside(target), temporary_beside(target)
    try:
        temporary.mkdir()
        yield temporary
        flush_tree(temporary)
        if replace and target.exists():
            os.replace(target, before)
        try:
            os.replace(temporary, target)
        except OSError:
            if before.exists():
                os.replace(before, target)
            raise
        flush_to_disk(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(before, ignore_errors=True)


def temporary_beside(target: Path) -> Path:
    """A name that nobody has, in the same folder; what killed processes left there is removed."""
    _remove_leftovers(target.parent)
    # File systems allow 255 bytes; a letter may take four.
    name = os.fsencode(target.name)[:100].decode(sys.getfilesystemencoding(), errors="ignore")
    return target.with_name(f".{name}.{_machine()}-{os.getpid()}-{uuid.uuid4().hex[:12]}.tmp")


_TEMPORARY = re.compile(r"\..*\.([0-9a-f]{12})-([0-9]{1,9})-[0-9a-f]{12}\.tmp", re.DOTALL)


def _remove_leftovers(folder: Path) -> None:
    try:
        names = os.listdir(folder)
    except OSError:  # a folder that may be written to and not read
        return
    for name in names:
        match = _TEMPORARY.fullmatch(name)
        if match is None or match[1] != _machine() or _lives(int(match[2])):
            continue
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()


@cache
def _machine() -> str:
    """Where a process number means the same process: the machine, and the container on it."""
    try:
        numbers = os.readlink("/proc/self/ns/pid")
    except OSError:
        numbers = ""
    return hashlib.sha256(f"{socket.gethostname()} {numbers}".encode()).hexdigest()[:12]


def _lives(process: int) -> bool:
    if sys.platform == "win32":  # which knows no harmless signal
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def flush_tree(folder: Path) -> None:
    """`flush_to_disk` for a folder and everything in it."""
    for path in [*folder.rglob("*"), folder]:
        flush_to_disk(path)


def flush_to_disk(path: Path) -> None:
    """Return when the disk has the file, or what the folder says of its entries (not they).

    Raises:
        OSError: the disk does not take it.
    """
    # Some systems flush a file only for who may write it; no folder can be opened for writing.
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _failure(path: Path, error: OSError) -> OSError:
    reason = error.strerror or str(error)
    return OSError(error.errno, f"cannot write {path}: {reason}; no partial file is left behind")
