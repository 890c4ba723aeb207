"""How long operations tell how far they are: one protocol for all, with or without stages."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called with (done, total) now and then, and once at the end with done == total."""

    def __call__(self, done: int, total: int, /) -> object:
        """Take note."""


class StageProgress(Protocol):
    """The `Progress` of something with several stages: called with (stage, done, total)."""

    def __call__(self, stage: str, done: int, total: int, /) -> object:
        """Take note."""


def of_stage(progress: StageProgress | None, stage: str) -> Progress | None:
    """The progress of one stage; None where nobody wants to know.

    >>> of_stage(lambda stage, done, total: print(stage, done, total), "corpus")(3, 9)
    corpus 3 9
    """
    if progress is None:
        return None
    return lambda done, total: progress(stage, done, total)


def silent(*told: object, **facts: object) -> None:
    """Report nothing."""
