"""The `stope` command: ``stope`` after installation, or ``python -m stope``."""

from __future__ import annotations

import importlib.util
import io
import os
import sys

_NEEDED = ("typer", "rich")


def main() -> None:
    """Run the command line; exits 0 when done, 1 on failure, 2 on wrong usage, 130 on Ctrl-C."""
    if sys.argv[1:2] != ["bench"]:  # which measures libraries as they are
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
