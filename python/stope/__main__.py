"""The `stope` command: ``stope`` after installation, or ``python -m stope``."""

from __future__ import annotations

import gc
import importlib.util
import io
import os
import stat
import sys
from typing import Any

_NEEDED = ("typer", "rich")
_UNREAD = 141  # 128 + SIGPIPE, which is what a shell shows of a program that ends so


def main() -> None:
    """Run the command line; exits 0 when done, 1 on failure, 2 on wrong usage, 130 on Ctrl-C.

    141 where nobody reads any more what it prints, as in ``stope doctor | head -1``.
    """
    _end_when_unread()
    if sys.argv[1:2] != ["bench"]:  # which measures libraries as they are
        # These make half a million objects as they are imported, which by default are looked
        # through again and again meanwhile, and twice at the end: a fifth of a second each time.
        gc.set_threshold(100_000, 50, 100)
        _sleep_while_waiting()
    if isinstance(sys.stdout, io.TextIOWrapper):  # whose encoding may lack letters of a text
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
        if not missing:
            from stope.cli.app import app

            app(prog_name="stope")
        elif sys.argv[1:] == ["doctor"]:
            from stope.cli.installation import describe, plain_text

            print(plain_text(describe()))
        else:
            needs = " and ".join(missing)
            sys.exit(f'stope: the command needs {needs}; install with: pip install "stope[cli]"')
    except KeyboardInterrupt:
        print("stope: interrupted.", file=sys.stderr)
        sys.exit(130)
    finally:
        if sys.stdout is not None:
            sys.stdout.flush()
        gc.freeze()


class _Pipe(io.FileIO):
    """A pipe, behind whose last reader the command ends: quietly, as `cat` does."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())  # for what is still in buffers
            os.close(nowhere)
            sys.exit(_UNREAD)


def _end_when_unread() -> None:
    """Write stdout and stderr, where they are pipes, through `_Pipe`.

    Else rich and typer end with 1, as a failure does, and print with a sentence about the pipe.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, io.TextIOWrapper):  # closed, or a program's that calls `main`
            continue
        if not stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode):
            continue
        pipe: Any = _Pipe(stream.fileno(), "wb", closefd=False)
        made = io.TextIOWrapper(
            pipe if stream.write_through else io.BufferedWriter(pipe),
            encoding=stream.encoding,
            errors=stream.errors,
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )
        setattr(sys, name, made)


def _sleep_while_waiting() -> None:
    """Let OpenMP's threads (torch's) sleep soon while they wait, unless the user says how to.

    By default they spin for milliseconds, longer than a static encoder's steps last: with two
    threads that took four times the processor time, and on a busy machine as much more time.
    OpenMP reads it once, when torch is imported. No result depends on it.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & set(os.environ):
        os.environ["OMP_WAIT_POLICY"] = "passive"
        os.environ["GOMP_SPINCOUNT"] = "1000"  # some 20 microseconds, which bridge short gaps


if __name__ == "__main__":
    main()
