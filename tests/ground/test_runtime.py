"""Instruction sets, threads, fork, Ctrl-C, progress, the GIL and import."""

from __future__ import annotations

import importlib.metadata
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import cases
import numpy as np
import pytest
import reference

import stope
from stope import _core

# --- instruction sets --------------------------------------------------------------------------


def test_isa_names():
    available = stope.isa.available()
    assert available[0] == "generic"
    known = ("generic", "avx2", "avxvnni", "avx512", "avx512_bf16", "amx")
    assert available == [isa for isa in known if isa in available]
    assert stope.isa.current() == os.environ.get("STOPE_ISA", available[-1])


def test_available_follows_the_cpu():
    with open("/proc/cpuinfo") as lines:
        flags = set(next(line for line in lines if line.startswith("flags")).split())
    assert ("avx2" in stope.isa.available()) == ({"avx2", "fma", "f16c"} <= flags)
    assert ("avxvnni" in stope.isa.available()) == (
        "avx2" in stope.isa.available() and "avx_vnni" in flags
    )
    assert ("avx512" in stope.isa.available()) <= (
        {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= flags
    )
    assert ("avx512_bf16" in stope.isa.available()) == (
        "avx512" in stope.isa.available() and "avx512_bf16" in flags
    )
    assert ("amx" in stope.isa.available()) <= ("amx_tile" in flags)


def test_only_is_a_context_that_nests_and_is_undone():
    before = stope.isa.current()
    with stope.isa.only("generic"):
        assert stope.isa.current() == "generic"
        with stope.isa.only(before):
            assert stope.isa.current() == before
        assert stope.isa.current() == "generic"
    assert stope.isa.current() == before
    with pytest.raises(KeyError), stope.isa.only("generic"):
        raise KeyError
    assert stope.isa.current() == before


def test_an_unknown_isa_is_refused():
    before = stope.isa.current()
    with pytest.raises(ValueError, match=r"'sse9'.*generic"), stope.isa.only("sse9"):
        pass
    with pytest.raises(TypeError, match="isa is 3; give one of generic"), stope.isa.only(3):
        pass
    assert stope.isa.current() == before


def test_the_environment_chooses_the_isa(python, succeeds):
    for isa in stope.isa.available():
        out = succeeds("import stope; print(stope.isa.current())", STOPE_ISA=isa)
        assert out.strip() == isa
    done = python("import stope; stope.isa.current()", STOPE_ISA="sse9")
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert "STOPE_ISA" in last
    assert "sse9" in last
    assert "generic" in last


def kernels_of(isa):
    """The words of a table that are addresses of the library's code."""
    with open("/proc/self/maps") as lines:
        mapped = [line.split() for line in lines if "/_core." in line and " r-xp " in line]
    borders = [[int(end, 16) for end in line[0].split("-")] for line in mapped]
    words = _core.kernel_words(isa)
    return {word for word in words if any(first <= word < last for first, last in borders)}


@pytest.mark.parametrize("isa", [name for name in stope.isa.available() if name != "generic"])
def test_isas_do_the_arithmetic_themselves(isa):
    """Of a table that is filled anew no kernel is another's; later ones take over what they had."""
    kernels, others = kernels_of(isa), set()
    before = stope.isa.available()[: stope.isa.available().index(isa)]
    for other in before:
        others |= kernels_of(other)
    assert len(kernels) > 40
    if isa in ("avx2", "avxvnni", "avx512"):
        assert not kernels & others
    else:
        assert len(kernels - others) >= 4
        assert kernels & others


def test_build_info():
    info = stope.build_info()
    assert info["version"] == importlib.metadata.version("stope")
    assert {"compiler", "flags", "cuda"} <= set(info)


# --- threads -----------------------------------------------------------------------------------


def test_set_num_threads(threads):
    for count in (1, 2, 9):
        threads(count)
        assert stope.get_num_threads() == count
    for wrong in (0, -1, 1025, 2**70):
        with pytest.raises(ValueError, match=rf"num_threads is {wrong}; it must be from 1 to 1024"):
            stope.set_num_threads(wrong)
    for wrong in ("two", 2.0, None, True):
        with pytest.raises(TypeError, match=r"num_threads is .*; give an integer"):
            stope.set_num_threads(wrong)
    assert stope.get_num_threads() == 9


def test_the_environment_sizes_the_pool(python, succeeds):
    code = "import stope; print(stope.get_num_threads())"
    assert succeeds(code, STOPE_NUM_THREADS="3", OMP_NUM_THREADS="5").strip() == "3"
    assert succeeds(code, STOPE_NUM_THREADS=None, OMP_NUM_THREADS="5").strip() == "5"
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert succeeds(code, STOPE_NUM_THREADS=None, OMP_NUM_THREADS=None).strip() == str(usable)
    for wrong in ("many", "0", "-2"):
        done = python(code, STOPE_NUM_THREADS=wrong)
        last = done.stderr.strip().splitlines()[-1]
        assert done.returncode != 0
        assert "STOPE_NUM_THREADS" in last
        assert wrong in last


def test_two_python_threads_at_once():
    problems = [cases.make("gaussian", 20 + i, 3000 + 7 * i, 40, seed=i) for i in range(6)]
    expected = [stope.topk(q, x, 30) for q, x in problems]
    with ThreadPoolExecutor(3) as pool:
        for _ in range(5):
            results = pool.map(lambda problem: stope.topk(*problem, 30), problems)
            for got, want in zip(results, expected, strict=True):
                reference.assert_same(got, (want.scores, want.ids))


def test_one_thread_may_change_the_settings_while_another_searches(threads):
    queries, corpus = cases.make("gaussian", 40, 6000, 40)
    expected = stope.topk(queries, corpus, 30)
    stop = threading.Event()

    def meddle():
        while not stop.is_set():
            for count in (1, 4, 2):
                stope.set_num_threads(count)
                with stope.isa.only("generic"):
                    time.sleep(0.001)

    with ThreadPoolExecutor(1) as pool:
        meddling = pool.submit(meddle)
        try:
            for _ in range(30):
                got = stope.topk(queries, corpus, 30)
                reference.assert_same(got, (expected.scores, expected.ids))
        finally:
            stop.set()
        meddling.result()


def test_the_gil_is_released():
    """Another Python thread keeps running while an operation works."""
    queries, corpus = cases.make("gaussian", 1000, 40_000, 64)
    ticks, stop = [], threading.Event()

    def tick():
        while not stop.wait(0.002):
            ticks.append(time.perf_counter())

    clock = threading.Thread(target=tick)
    clock.start()
    try:
        with stope.isa.only("generic"):
            for work in (
                lambda: stope.topk(queries, corpus, 10),
                lambda: stope.similarity(queries[:300], corpus),
                lambda: stope.mine_hard_negatives(queries, corpus, np.arange(1000), 5),
            ):
                start = time.perf_counter()
                work()
                end = time.perf_counter()
                inside = [t for t in ticks if start < t < end]
                gaps = np.diff([start, *inside, end])
                assert gaps.max() < max(0.25, 0.3 * (end - start)), (end - start, gaps.max())
    finally:
        stop.set()
        clock.join()


# --- fork --------------------------------------------------------------------------------------

FORK = """
import os, signal, sys
import numpy as np
import cases, reference, stope
stope.set_num_threads(3)
queries, corpus = cases.make("gaussian", 30, 4000, 40)
expected = stope.topk(queries, corpus, 20)           # the pool is alive now
signal.alarm(60)
for generation in range(3):
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        try:
            assert stope.get_num_threads() == 3
            reference.assert_same(stope.topk(queries, corpus, 20), (expected.scores, expected.ids))
            grandchild = os.fork()
            if grandchild == 0:
                assert (stope.topk(queries, corpus, 20).ids == expected.ids).all()
                os._exit(0)
            os._exit(os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]))
        except BaseException as error:
            print("child", repr(error), flush=True)
            os._exit(1)
    reference.assert_same(stope.topk(queries, corpus, 20), (expected.scores, expected.ids))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == 0, status
print("fine")
"""

FORK_WHILE_BUSY = """
import os, signal, threading
import cases, reference, stope
stope.set_num_threads(3)
queries, corpus = cases.make("gaussian", 60, 6000, 40)
expected = stope.topk(queries, corpus, 20)
signal.alarm(60)
stop = threading.Event()
def work():
    while not stop.is_set():
        stope.topk(queries, corpus, 20)
worker = threading.Thread(target=work)
worker.start()
for _ in range(20):
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        try:
            reference.assert_same(stope.topk(queries, corpus, 20), (expected.scores, expected.ids))
        except BaseException as error:
            print("child", repr(error), flush=True)
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == 0, status
stop.set()
worker.join()
print("fine")
"""


@pytest.mark.parametrize("code", [FORK, FORK_WHILE_BUSY], ids=["pool alive", "pool busy"])
def test_fork(code, succeeds):
    assert "fine" in succeeds(code)


# --- progress and Ctrl-C -----------------------------------------------------------------------


def operations(progress):
    queries, corpus = cases.make("gaussian", 300, 20_000, 32)
    yield lambda: stope.topk(queries, corpus, 5, progress=progress)
    yield lambda: stope.mine_hard_negatives(queries, corpus, np.arange(300), 5, progress=progress)
    yield lambda: stope.FlatIndex(corpus).search(queries, 5, progress=progress)


@pytest.mark.parametrize("number", range(3), ids=["topk", "mine", "index"])
def test_progress_rises_to_the_total(number):
    calls = []
    plain = list(operations(None))[number]()
    with_progress = list(operations(lambda *arguments: calls.append(arguments)))[number]()
    assert calls
    assert all(len(call) == 2 and type(call[0]) is type(call[1]) is int for call in calls)
    done, totals = zip(*calls, strict=True)
    assert len(set(totals)) == 1
    assert done[-1] == totals[0]
    assert list(done) == sorted(done)
    assert done[0] >= 0
    np.testing.assert_array_equal(with_progress.ids, plain.ids)


@pytest.mark.parametrize("number", range(3), ids=["topk", "mine", "index"])
def test_an_error_in_progress_comes_out_and_nothing_hangs(number):
    def fail(done, total):
        raise LookupError("from the callback")

    with pytest.raises(LookupError, match="from the callback"):
        list(operations(fail))[number]()
    list(operations(None))[number]()


def test_progress_must_be_callable():
    queries, corpus = cases.make("gaussian", 3, 50, 8)
    with pytest.raises(TypeError, match="progress"):
        stope.topk(queries, corpus, 3, progress=True)


INTERRUPT = """
import signal, sys, time
import numpy as np
import stope
signal.signal(signal.SIGINT, signal.default_int_handler)
rng = np.random.default_rng(0)
queries = rng.standard_normal((6000, 128), dtype=np.float32)
corpus = rng.standard_normal((200_000, 128), dtype=np.float32)
work = {
    "topk": lambda: stope.topk(queries, corpus, 10),
    "mine": lambda: stope.mine_hard_negatives(queries, corpus, np.arange(6000), 5),
    "index": lambda: stope.FlatIndex(corpus).search(queries, 10),
    "similarity": lambda: stope.similarity(queries, corpus[:40_000]),
    "pairs_above": lambda: stope.pairs_above(corpus, threshold=99),
    "nearest_earlier": lambda: stope.nearest_earlier(corpus),
    "knn_graph": lambda: stope.knn_graph(corpus, 10),
}[sys.argv[1]]
out = stope.topk(queries[:3], corpus[:1000], 10)
print("ready", flush=True)
start = time.perf_counter()
try:
    work()
    print("completed after", time.perf_counter() - start)
except KeyboardInterrupt:
    print("interrupted", flush=True)
again = stope.topk(queries[:3], corpus[:1000], 10)
assert (again.ids == out.ids).all()
print("works", flush=True)
"""


@pytest.mark.parametrize(
    "operation",
    ["topk", "mine", "index", "similarity", "pairs_above", "nearest_earlier", "knn_graph"],
)
def test_ctrl_c_stops_promptly(operation):
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPT, operation],
        env={**os.environ, "STOPE_ISA": "generic", "STOPE_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        start = time.perf_counter()
        assert process.stdout.readline() == "interrupted\n"
        assert time.perf_counter() - start < 5.0  # of minutes, on a busy machine
        assert process.stdout.readline() == "works\n"
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.communicate()


# --- import ------------------------------------------------------------------------------------


def test_import_needs_numpy_only(succeeds):
    succeeds(
        """
        import sys
        class Refuse:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in blocked:
                    raise ModuleNotFoundError(name)
        blocked = {"torch", "cupy", "ml_dtypes", "sentence_transformers", "datasets", "tokenizers",
                   "bm25s", "hnswlib", "ir_measures", "typer", "rich", "pyarrow", "scipy", "pandas"}
        sys.meta_path.insert(0, Refuse())
        import numpy as np
        import stope
        assert not blocked & set(sys.modules)
        rows = np.eye(3, dtype=np.float32)
        assert stope.topk(rows, rows, 1).ids[:, 0].tolist() == [0, 1, 2]
        """
    )


@pytest.mark.parametrize(
    ("module", "library"),
    [
        ("stope.torch", "torch"),
        ("stope.training", "pydantic"),
        ("stope.runs", "pydantic"),
        ("stope.adapters", "pydantic"),
        ("stope.demo", "pydantic"),
        ("stope.integrations.sentence_transformers.loss", "sentence_transformers"),
    ],
)
def test_a_room_without_its_library_names_the_command(succeeds, module, library):
    text = succeeds(
        f"""
        import sys
        sys.modules["{library}"] = None
        try:
            import {module}
        except ImportError as error:
            print(error)
        """
    )
    command = 'pip install "stope[train]"'
    assert text.strip() == f"{library} is not installed. Install it with: {command}"


def test_import_is_quick(succeeds):
    stdout = succeeds(
        """
        import time, numpy
        start = time.process_time()
        import stope
        print(time.process_time() - start)
        """
    )
    assert float(stdout) < 0.5
