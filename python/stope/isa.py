"""Which instruction set the kernels use.

The best one that the processor and the operating system can run is chosen once, when the library
is first used; the environment variable ``STOPE_ISA`` overrides the choice. Results are the same
bits on every instruction set; only the speed differs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from stope import _core
from stope._checks import text


def available() -> list[str]:
    """Instruction sets that this machine can run, from the plainest to the widest.

    >>> "generic" in available()
    True
    """
    return _core.available_isas()


def current() -> str:
    """The instruction set in use.

    >>> current() in available()
    True
    """
    return _core.current_isa()


@contextmanager
def only(name: str) -> Iterator[None]:
    """Use one instruction set inside a ``with`` block, for the whole process, all its threads.

    Raises ``ValueError`` when this machine cannot run it, ``TypeError`` when it is no name.

    >>> with only("generic"):
    ...     current()
    'generic'
    """
    previous = _core.current_isa()
    _core.select_isa(text(name, "isa", f"give one of {', '.join(available())}"))
    try:
        yield
    finally:
        _core.select_isa(previous)
