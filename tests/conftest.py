"""What every test file shares: reproducible hypothesis runs, and threads put back after each test.

Tests run on the instruction set that STOPE_ISA names (the widest by default); those that compare
instruction sets loop over `stope.isa.available()` themselves.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import hypothesis
import pytest

# Models are made, or come with a package: nobody waits for a network that is not there.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Ray runs workers at niceness 15: beside the other processes of a test run they would wait.
os.environ.setdefault("RAY_worker_niceness", "0")
SUPPORT = Path(__file__).with_name("support")

hypothesis.settings.register_profile("stope", derandomize=True, deadline=None, max_examples=60)
hypothesis.settings.load_profile("stope")


def why_no_gpu():
    """A reason not to run the tests marked `gpu`, or None."""
    import stope

    if "STOPE_CUDA=ON" not in stope.build_info()["flags"]:
        return "this build has no CUDA core (cmake option STOPE_CUDA=ON)"
    if not any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/dxg")):
        return "this machine has no NVIDIA GPU"
    return None


def why_no_browser():
    """A reason not to run the tests marked `browser`, or None."""
    from browser import why_no_browser

    return why_no_browser()


NEEDS = {"gpu": why_no_gpu, "browser": why_no_browser}


def pytest_collection_modifyitems(config, items):
    for marker, why_not in NEEDS.items():
        marked = [item for item in items if item.get_closest_marker(marker)]
        if marked and why_not() is not None:
            items[:] = [item for item in items if item not in marked]
            config.hook.pytest_deselected(items=marked)


def pytest_terminal_summary(terminalreporter):
    for marker, why_not in NEEDS.items():
        if why_not() is not None:  # tests may have been collected by other processes
            terminalreporter.write_line(f"tests marked {marker} did not run: {why_not()}")


@pytest.fixture
def threads():
    """set_num_threads, undone after the test."""
    import stope

    before = stope.get_num_threads()
    yield stope.set_num_threads
    stope.set_num_threads(before)


@pytest.fixture
def python(tmp_path):
    """python(code, **environment) -> the finished process of a fresh interpreter."""

    def run(code, *, timeout=120, **environment):
        path = os.pathsep.join(
            [os.path.join(os.path.dirname(__file__), "support"), os.environ.get("PYTHONPATH", "")]
        )
        env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "2", **environment}
        return subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            env={name: value for name, value in env.items() if value is not None},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run


@pytest.fixture
def succeeds(python):
    """succeeds(code, **environment) -> stdout of code that must end well."""

    def run(code, **options):
        done = python(code, **options)
        assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return run
