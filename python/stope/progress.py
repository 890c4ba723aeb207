"""How long operations tell how far they are: one protocol for all, with or without stages."""

from __future__ import annotations

from typing import Protocol

from stope._checks import shown


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


def check_progress(progress: object) -> None:
    """Refuse what is neither a function nor None."""
    if progress is not None and not callable(progress):
        raise TypeError(
            f"progress is {shown(progress)}; give a function of (done, total), or None for none"
        )


def silent(*told: object, **facts: object) -> None:
    """Report nothing."""
