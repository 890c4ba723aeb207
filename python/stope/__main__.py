"""The `stope` command: ``stope`` after installation, or ``python -m stope``."""

from __future__ import annotations

import importlib.util
import sys

_NEEDED = ("typer", "rich")


def main() -> None:
    """Run the command line; exits 0 when done, 1 on failure, 2 on wrong usage, 130 on Ctrl-C."""
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


if __name__ == "__main__":
    main()
