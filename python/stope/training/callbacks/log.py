"""The log of a training run: one JSON object per line in log.jsonl, and TensorBoard when asked.

    {"kind": "step", "step": 40, "time": 1790000000.125, "loss": 1.25, "learning_rate": 2e-05}

A line is written whole and flushed, so that a run can be followed while it trains. What a kill left
half written is dropped when the log is opened again.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from stope._extras import need
from stope._files.manifest import parse_json
from stope.data import open_atomic

LOG = "log.jsonl"
KINDS = ("start", "step", "evaluation", "refresh", "checkpoint", "end", "guard")


class TrainingLog:
    """Appends what happens in a run to ``folder/log.jsonl``.

    Args:
        folder: of the run; made if it does not exist. A log that is there already is gone on with.
        tensorboard: write the numbers to ``folder/tensorboard`` as well, as scalars that are named
            "kind/number".

    Raises:
        ImportError: tensorboard is not installed; the message has the pip command.
        OSError: the folder cannot be made, or the log not be written.

    Memory: none that grows; `cut` reads the log line by line.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> with TrainingLog(folder) as log:
        ...     log.write("step", 1, loss=2.5)
        ...     log.write("checkpoint", 1)
        ...     log.write("step", 2, loss=float("nan"))
        >>> [(line["step"], line.get("loss")) for line in read_log(folder)]
        [(1, 2.5), (1, None), (2, 'NaN')]
        >>> with TrainingLog(folder) as log:
        ...     log.cut(1)
        >>> len(list(read_log(folder)))
        2
    """

    def __init__(self, folder: str | os.PathLike[str], tensorboard: bool = False) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / LOG
        self._boards: Any = None
        self._board: Any = None
        if tensorboard:
            need("tensorboard", extra="log")
            self._boards = need("torch.utils.tensorboard", extra="log").SummaryWriter
            self._board = self._boards(str(self.folder / "tensorboard"))
        self._mend()
        self._open()

    def write(self, kind: str, step: int, **numbers: Any) -> None:
        """Append one line, flushed.

        Args:
            kind: "start", "step", "evaluation", "refresh", "checkpoint", "end" or "guard".
            step: optimiser steps done.
            **numbers: numbers (also NumPy's and tensors with one element), words, None, and lists
                and mappings of them. NaN and infinities, which JSON does not have, become the words
                "NaN", "Infinity" and "-Infinity".

        Raises:
            ValueError: another kind, or the log is closed.
            TypeError: a value that is none of these.
            OSError: the line cannot be written, such as on a full disk.
        """
        if kind not in KINDS:
            raise ValueError(f"kind is {kind!r}; give one of {', '.join(map(repr, KINDS))}")
        values = {name: _plain(value, name) for name, value in numbers.items()}
        line = {"kind": kind, "step": int(step), "time": round(time.time(), 3), **values}
        text = json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n"
        if self._file.closed:
            raise ValueError(f"the log {self.path} is closed")
        try:
            self._file.write(text.encode("utf-8", "replace"))
        except OSError as error:
            reason = error.strerror or str(error)
            raise OSError(error.errno, f"cannot write {self.path}: {reason}") from error
        if self._board is not None:
            for name, value in _scalars(numbers, kind):
                self._board.add_scalar(name, value, int(step))
            if kind != "step":
                self._board.flush()

    def cut(self, step: int) -> None:
        """Forget what came after the checkpoint of this step, for a run that goes on from there.

        Lines after the last "checkpoint" of the step go; where there is none, lines of later steps.
        The file is replaced whole or not at all. TensorBoard hides later steps of earlier runs.
        """
        self._file.close()
        place = None
        for number, line in enumerate(read_log(self.folder)):
            if line["kind"] == "checkpoint" and line["step"] == step:
                place = number
        with open_atomic(self.path) as file, self.path.open("rb") as old:
            for number, raw in enumerate(old):
                if number <= place if place is not None else json.loads(raw)["step"] <= step:
                    file.write(raw.decode("utf-8"))
        self._open()
        if self._board is not None:
            self._board.close()
            self._board = self._boards(str(self.folder / "tensorboard"), purge_step=int(step) + 1)

    def close(self) -> None:
        """Close the files; nothing can be written afterwards."""
        self._file.close()
        if self._board is not None:
            self._board.close()

    def __enter__(self) -> TrainingLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _open(self) -> None:
        self._file = self.path.open("ab", buffering=0)  # one write for one line

    def _mend(self) -> None:
        """Cut off what a kill or a full disk left of the last line."""
        if not self.path.exists():
            return
        whole = sum(len(raw) for raw in _whole_lines(self.path))
        if whole < self.path.stat().st_size:
            with self.path.open("r+b") as file:
                file.truncate(whole)


def read_log(folder: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """Yield the lines of ``folder/log.jsonl`` as dictionaries, without a half-written last one.

    Raises:
        FileNotFoundError: the folder has no log.
        ValueError: a line before the last one is none of a log.
    """
    for raw in _whole_lines(Path(folder) / LOG):
        yield json.loads(raw)


def _whole_lines(path: Path) -> Iterator[bytes]:
    """The lines, less a last one that was not written to its end."""
    with path.open("rb") as file:
        number, raw = 1, file.readline()
        while raw:
            after = file.readline()
            if _is_line(raw):
                yield raw
            elif after:
                raise ValueError(
                    f"{path}, line {number}, is no line of a training log: {raw[:60]!r}; mend it "
                    "or move the file away"
                )
            number, raw = number + 1, after


def _is_line(raw: bytes) -> bool:
    try:
        line = parse_json(raw) if raw.endswith(b"\n") else None
    except ValueError:
        return False
    return isinstance(line, dict) and "kind" in line and isinstance(line.get("step"), int)


def _plain(value: Any, name: str) -> Any:
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, name) for item in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    raise TypeError(
        f"{name} is a {type(value).__name__}; a line of the log holds numbers, words, lists and "
        "mappings"
    )


def _scalars(numbers: Mapping[str, Any], where: str) -> Iterator[tuple[str, float]]:
    for name, value in numbers.items():
        if isinstance(value, Mapping):
            yield from _scalars(value, f"{where}/{name}")
            continue
        if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
            value = value.item()
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{where}/{name}", float(value)
