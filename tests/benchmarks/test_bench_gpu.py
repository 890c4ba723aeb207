"""The benchmark of the CUDA core without a GPU: its rows on the CPU, its script beside stubs."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the benchmark of the CUDA core is measured beside torch")

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import bench_gpu

    return bench_gpu


@pytest.fixture
def rows(bench):
    """rows(*names) -> the rows of the table, measured on the CPU."""

    def measured(*names):
        meter, found = bench.Meter("cpu"), []
        sizes = bench.SIZES["tiny"]
        peak, bandwidth = bench.peaks(meter, 64, 4096)
        bench.measure(meter, sizes, names, peak, bandwidth, found.append, compiled=False)
        return found

    return measured


def test_every_row_is_measured_and_right(bench, rows):
    found = {row.name: row for row in rows(*bench.ROWS)}
    assert list(found) == bench.ROWS
    assert list(found)[3:7] == ["graph", "pairs", "earlier", "kmeans"]
    for row in found.values():
        assert row.seconds > 0
        assert not row.wrong
        assert row.target
        assert row.line().startswith(row.name)
        json.dumps(dataclasses.asdict(row))
    shares = [found[name].of_peak for name in ("topk", "huge", "square")]
    assert all(share > 0 for share in shares)
    assert set(found["topk"].ratios) == {"torch"}
    assert set(found["square"].ratios) == {"torch"}  # Triton needs a GPU
    assert set(found["square"].errors) == {"loss of stope", "loss of torch"}


def test_rows_may_be_chosen(bench, rows):
    assert [row.name for row in rows("square", "one")] == ["one", "square"]
    options = bench.arguments(["--quick", "--rows", "huge", "--json", "there/gpu.json"])
    assert (options.quick, options.rows, options.json) == (True, ["huge"], Path("there/gpu.json"))
    assert bench.arguments([]).rows == bench.ROWS
    with pytest.raises(SystemExit):
        bench.arguments(["--rows", "faster"])


def test_full_sizes_are_those_of_the_targets(bench):
    sizes = bench.SIZES["full"]
    assert sizes.huge == (80_000, 480_000, 1_024)
    assert sizes.square == (32_768, 32_768, 768)


def test_a_wrong_answer_is_told(bench, rows, monkeypatch):
    """Each contender's losses are compared with float64: one that is off by 1 is found."""
    import gpu_losses

    right = gpu_losses.expected_losses
    monkeypatch.setattr(gpu_losses, "expected_losses", lambda *given: right(*given) + 1)
    huge, square = rows("huge", "square")
    assert len(huge.wrong) == 1
    assert len(square.wrong) == 2
    assert "WRONG" in huge.line()


@pytest.mark.parametrize("name", ["graph", "pairs", "earlier", "kmeans"])
def test_a_wrong_neighbour_is_told(rows, name, monkeypatch):
    import gpu_neighbors

    operation = {"graph": "knn_graph", "pairs": "pairs_above", "earlier": "nearest_earlier"}
    right = getattr(gpu_neighbors.stope, operation.get(name, "kmeans"))

    def off(x, *others, **options):  # one row is the opposite of what it is
        if name == "kmeans":
            return right(x, *others, **{**options, "max_iterations": 0})
        x = x.clone()
        x[1] = -x[1]
        return right(x, *others, **options)

    monkeypatch.setattr(gpu_neighbors.stope, operation.get(name, "kmeans"), off)
    (row,) = rows(name)
    assert row.wrong


def test_an_error_that_is_no_number_is_wrong(bench):
    row = bench.Row("huge", "1 x 1 x 1", 1.0)
    row.check("loss", 0.0, 1e-3)
    row.check("gradient", float("nan"), 1e-3)
    assert row.wrong == ["huge: gradient is nan, allowed 0.001"]


def test_without_a_gpu_nothing_is_measured(bench, capsys, monkeypatch):
    monkeypatch.setattr(bench.torch.cuda, "is_available", lambda: False)
    assert bench.main([]) == 2
    assert "nothing to measure" in capsys.readouterr().err


# --- gpu_check.sh ------------------------------------------------------------------------------

STUBS = {
    "nvidia-smi": 'echo "NVIDIA H200"',
    "nvcc": "true",
    "compute-sanitizer": 'echo "sanitized $2"; shift 4; "$@"',
    "python": """
        echo "python $*" >>calls.txt
        case "$*" in
          *"-m pip"*) echo "no compiler" ; exit "${BUILD_STATUS:-0}" ;;
          *bench_gpu.py*) echo "the table"; echo "{}" >"${@: -1}" ;;
        esac""",
}


@pytest.fixture
def check(tmp_path):
    """check(*parts, **environment) -> the finished script, in a repository of stubs."""
    bash = shutil.which("bash")
    for folder in ("bin", "tests/cuda", "benchmarks/results"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(BENCHMARKS / "gpu_check.sh", tmp_path / "benchmarks")
    (tmp_path / "tests/cuda/test_gpu.py").touch()
    (tmp_path / "tests/cuda/test_cuda_host.py").touch()
    for name, text in STUBS.items():
        stub = tmp_path / "bin" / name
        stub.write_text(f"#!{bash}\n{text}\n")
        stub.chmod(0o755)

    def run(*parts, **environment):
        path = os.pathsep.join([str(tmp_path / "bin"), os.environ["PATH"]])
        environment = {**os.environ, "PATH": path, "PYTHON": "python", **environment}
        environment.pop("OUT", None)
        command = [bash, str(tmp_path / "benchmarks/gpu_check.sh"), *parts]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    return run


def test_the_script_does_every_part_and_keeps_the_results(check, tmp_path):
    done = check()
    assert done.returncode == 0, done.stderr
    assert "all passed" in done.stdout
    assert (tmp_path / "benchmarks/results/gpu_nvidia_h200.txt").read_text() == "the table\n"
    assert (tmp_path / "benchmarks/results/gpu_nvidia_h200.json").exists()
    logs = tmp_path / "build/gpu/logs"
    for tool in ("memcheck", "racecheck", "initcheck"):
        assert (logs / f"{tool}.txt").read_text().startswith(f"sanitized {tool}")
    calls = (tmp_path / "calls.txt").read_text()
    assert calls.index("pip install") < calls.index("-m pytest") < calls.index("bench_gpu")
    assert "-k small and not graph" in calls


def test_the_script_stops_at_what_fails_and_says_where_to_look(check, tmp_path):
    done = check(BUILD_STATUS="3")
    assert done.returncode == 1
    assert "no compiler" in done.stdout
    assert "FAILED: build: status 3; all it said is in" in done.stderr
    assert "-m pytest" not in (tmp_path / "calls.txt").read_text()


def test_the_script_does_the_parts_it_is_given(check, tmp_path):
    assert check("measure").returncode == 0
    calls = (tmp_path / "calls.txt").read_text()
    assert "bench_gpu.py" in calls
    assert "-m pip" not in calls
    assert "-m pytest" not in calls
    done = check("measured")
    assert done.returncode == 1
    assert "there is no part 'measured'" in done.stderr
