#!/usr/bin/env bash
# Everything that needs a GPU, in one call of under ten minutes: bash benchmarks/gpu_check.sh
#
# Builds with STOPE_CUDA=ON, runs the tests marked gpu, repeats the small ones under
# compute-sanitizer, and measures. The Python it is given (PYTHON=..., default python3) needs torch
# with CUDA, NumPy, pytest, hypothesis and ml_dtypes; nvcc must be on the path. What it finds goes to
# $OUT (default build/gpu): tests.txt, memcheck.txt, racecheck.txt, initcheck.txt, measured.json.
# Every part runs even where one before it failed; the status at the end is 0 only if all passed.
set -uo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
out=$(mkdir -p "${OUT:-build/gpu}" && cd "${OUT:-build/gpu}" && pwd)
here=build/gpu
bin=$here/venv/bin
failed=()

part() { printf '\n=== %s (at %d s)\n' "$*" "$SECONDS"; }
# run <seconds> <name> <command...>: its output is kept as <name>.txt, its end shown.
run() {
  local limit=$1 name=$2
  shift 2
  timeout "$limit" "$@" >"$out/$name.txt" 2>&1 || failed+=("$name (status $?)")
  tail -n 15 "$out/$name.txt"
}

part "The machine"
nvidia-smi --query-gpu=name,compute_cap,memory.total,driver_version --format=csv | tee "$out/gpu.txt"
nvcc --version | tail -n 2

part "Build"
"$python" -m venv --system-site-packages "$here/venv" || exit 1
isolation=()
"$python" -c 'import pybind11, scikit_build_core' 2>/dev/null && isolation=(--no-build-isolation)
SKBUILD_CMAKE_DEFINE="STOPE_CUDA=ON" run 240 build "$bin/python" -m pip install "${isolation[@]}" \
  --no-deps --force-reinstall .
[[ ${#failed[@]} == 0 ]] || { echo "the build failed: $out/build.txt"; exit 1; }

part "Tests"
run 150 tests "$bin/python" -m pytest -q -m gpu tests

if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck initcheck; do
    part "compute-sanitizer $tool, small shapes"
    # torch's caching allocator would hide what lies beyond an array.
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 run 60 "$tool" compute-sanitizer --tool "$tool" \
      --error-exitcode 9 "$bin/python" -m pytest -q -m gpu -k small tests
  done
else
  echo "compute-sanitizer is not here: nothing was sanitized"
  failed+=("compute-sanitizer is missing")
fi

part "Measure"
run 120 measured "$bin/python" benchmarks/bench_gpu.py --out "$out/measured.json"

part "Done"
if ((${#failed[@]})); then
  printf 'FAILED: %s\n' "${failed[@]}"
  exit 1
fi
echo "all passed; the results are in $out"
