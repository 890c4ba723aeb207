"""stope called inside its own callbacks, from other threads, while it is forked or at the exit.

Each case runs in a process of its own, which a time limit ends: before they were mended these hung
for ever or aborted.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMPILER = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")

SETUP = """
import os, signal, sys, threading, time
import numpy as np, numpy.testing
import cases, reference, stope
stope.set_num_threads(3)
queries, corpus = cases.make("gaussian", 400, 30_000, 48)
small = queries[:20]
expected = stope.topk(small, corpus, 20)
whole = stope.topk(queries, corpus, 5)
def search():
    found = stope.topk(small, corpus, 20)
    reference.assert_same(found, (expected.scores, expected.ids))
    return found
def outer(progress):
    found = stope.topk(queries, corpus, 5, progress=progress)
    reference.assert_same(found, (whole.scores, whole.ids))
calls = []
"""


def ends_well(succeeds, code, **options):
    assert "fine" in succeeds(SETUP + code + "\nprint('fine')", timeout=60, **options)


def test_a_search_inside_progress(succeeds):
    ends_well(
        succeeds,
        """
def progress(done, total):
    calls.append(done)
    search()
    stope.infonce_forward(small, small)
    stope.FlatIndex(corpus[:500]).add(corpus[:7])
outer(progress)
assert len(calls) >= 2  # one of them from within the loop
""",
        STOPE_ISA="generic",
    )


def test_a_search_inside_a_signal_handler(succeeds):
    ends_well(
        succeeds,
        """
signal.signal(signal.SIGALRM, lambda *_: calls.append(search()))
while len(calls) < 3:
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    outer(None)
""",
        STOPE_ISA="generic",
    )


def test_a_search_inside_del(succeeds):
    ends_well(
        succeeds,
        """
class Dying:
    def __del__(self):
        calls.append(search())
def progress(done, total):
    Dying()
outer(progress)
assert calls
""",
    )


@pytest.mark.parametrize("callback", ["progress", "signal"])
def test_a_callback_that_waits_for_another_threads_search(succeeds, callback):
    ends_well(
        succeeds,
        f"""
from concurrent.futures import ThreadPoolExecutor
pool = ThreadPoolExecutor(2)
def wait(*_):
    calls.extend(future.result() for future in [pool.submit(search) for _ in range(2)])
if {callback == "signal"}:
    signal.signal(signal.SIGALRM, wait)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    while not calls:
        outer(None)
else:
    outer(wait)
assert calls
pool.shutdown()
""",
        STOPE_ISA="generic",
    )


@pytest.mark.parametrize("ends", ["in the callback", "by returning"])
def test_a_fork_inside_a_callback(succeeds, ends):
    ends_well(
        succeeds,
        f"""
def progress(done, total):
    if calls:
        return
    calls.append(done)
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        try:
            search()
            if {ends == "in the callback"}:
                os._exit(0)
        except BaseException as error:
            print("child", repr(error), flush=True)
            os._exit(1)
        raise_later.append(True)
        return
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
raise_later = []
try:
    outer(progress)
except RuntimeError as error:
    assert raise_later and "forked inside a callback" in str(error)
else:
    assert not raise_later
search()
outer(None)
if raise_later:
    os._exit(0)
""",
        STOPE_ISA="generic",
    )


def test_a_daemon_thread_inside_stope_at_the_exit(python):
    """With and without a callback, however far it has come."""
    for wait in (0.05, 0.2):
        for progress in ("None", "lambda done, total: sum(range(2000))"):
            done = python(
                SETUP
                + f"""
def work():
    while True:
        stope.topk(queries, corpus, 5, progress={progress})
        search()
for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
time.sleep({wait})
print("fine", flush=True)
""",
                timeout=60,
                STOPE_ISA="generic",
            )
            assert done.returncode == 0, (done.returncode, done.stderr)
            assert done.stdout == "fine\n"
            assert done.stderr == ""


LIMIT = """
import os, resource
import stope
import numpy as np
rows = np.random.default_rng(0).standard_normal((4000, 32), dtype=np.float32)
stope.set_num_threads(1)
expected = stope.topk(rows, rows, 3)
stope.set_num_threads(4)
if os.geteuid() == 0:
    os.setuid(65534)  # root has no limit
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
for _ in range(2):
    try:
        stope.topk(rows, rows, 3)
    except RuntimeError as error:
        print(error)
stope.set_num_threads(1)
assert (stope.topk(rows, rows, 3).ids == expected.ids).all()
"""


def test_a_limit_of_threads_is_told_in_a_sentence(succeeds):
    lines = succeeds(LIMIT, timeout=60).splitlines()
    assert len(lines) == 2
    for line in lines:
        assert line.startswith("cannot start thread 2 of 4 (")
        assert line.endswith("STOPE_NUM_THREADS, or raise the limit of processes")


def test_the_pool_has_no_data_race(tmp_path):
    program = tmp_path / "probe"
    command = [COMPILER, "-std=c++20", "-g", "-O1", "-fsanitize=thread", "-pthread"]
    command += [f"-I{ROOT / folder}" for folder in ("cpp/runtime", "cpp/include")]
    sources = [ROOT / "tests/ground/thread_pool_probe.cpp", ROOT / "cpp/runtime/parallel.cpp"]
    subprocess.run([*command, *sources, "-o", program], check=True, capture_output=True, text=True)
    done = subprocess.run([program], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0 wrong\n", "")
