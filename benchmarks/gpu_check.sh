#!/usr/bin/env bash
# Everything that needs a GPU, in one call of under ten minutes: bash benchmarks/gpu_check.sh
#
#   build      installs a build with STOPE_CUDA=ON into build/gpu/site; the Python stays as it is
#   tests      those marked gpu
#   measure    bench_gpu.py, kept as benchmarks/results/gpu_<name of the GPU>.{txt,json}
#   memcheck, racecheck, initcheck   the small tests under compute-sanitizer
# Arguments name some of the parts; all are run without. The first that fails ends the script, with
# the end of what it said; everything is in $OUT (default build/gpu/logs), a file to a part.
#
# The Python (PYTHON=..., default python3) needs pip, torch with CUDA, NumPy, pytest, hypothesis and
# ml_dtypes, and where there is no network pybind11, scikit-build-core, cmake and ninja too. nvcc and
# compute-sanitizer, of the CUDA toolkit, are on the path.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
all=(build tests measure memcheck racecheck initcheck)
parts=("${@:-${all[@]}}")
site=$PWD/build/gpu/site
out=${OUT:-build/gpu/logs}
mkdir -p "$out"
out=$(cd "$out" && pwd)
results=benchmarks/results
tests=("$python" -m pytest -q -p no:cacheprovider -m gpu tests/cuda/test_{gpu,cuda}*.py)

fail() { printf '\nFAILED: %s\n' "$*" >&2; exit 1; }
needs() { command -v "$1" >/dev/null || fail "$1 is not on the path; $2"; }

# run <seconds> <part> <command...>: what it says is kept as <part>.txt, and its end shown.
run() {
  local limit=$1 part=$2 status=0
  shift 2
  printf '\n=== %s (at %d s)\n' "$part" "$SECONDS"
  timeout "$limit" "$@" >"$out/$part.txt" 2>&1 || status=$?
  ((status == 0)) || { tail -n 40 "$out/$part.txt"; explain "$part" "$status" "$limit"; }
  tail -n 12 "$out/$part.txt"
}
explain() {
  local why="status $2"
  [[ $2 != 124 ]] || why="it took more than $3 s"
  fail "$1: $why; all it said is in $out/$1.txt"
}

build() {
  local isolation=()
  "$python" -c 'import pybind11, scikit_build_core' 2>/dev/null && isolation=(--no-build-isolation)
  rm -rf "$site"
  run 240 build env SKBUILD_CMAKE_DEFINE="STOPE_CUDA=ON" \
    "$python" -m pip install "${isolation[@]}" --no-deps --target "$site" .
}
sanitize() {
  # torch's caching allocator would hide what lies beyond an array; graphs need it, so are left out.
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 run 120 "$1" compute-sanitizer --tool "$1" --error-exitcode 9 \
    "${tests[@]}" -k "small and not graph"
}
measure() {
  local name
  name=$(nvidia-smi --id=0 --query-gpu=name --format=csv,noheader | tr 'A-Z ' 'a-z_')
  run 240 measure "$python" benchmarks/bench_gpu.py --json "$out/measure.json"
  cp "$out/measure.txt" "$results/gpu_$name.txt"
  cp "$out/measure.json" "$results/gpu_$name.json"
}

for part in "${parts[@]}"; do
  [[ " ${all[*]} " == *" $part "* ]] || fail "there is no part '$part'; the parts are ${all[*]}"
  case $part in
    build) needs nvcc "it comes with the CUDA toolkit" ;;
    *check) needs compute-sanitizer "it comes with the CUDA toolkit; name the other parts without" ;;
  esac
done
needs nvidia-smi "this machine seems to have no NVIDIA GPU"
nvidia-smi --query-gpu=name,compute_cap,memory.total,driver_version --format=csv | tee "$out/gpu.txt"
"$python" -c 'import hypothesis, ml_dtypes, numpy, pip, pytest, torch
assert torch.cuda.is_available(), "torch sees no GPU: install its CUDA build"
print("torch", torch.__version__)' || fail "$python is not fit for this; PYTHON=... names another"

export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
for part in "${parts[@]}"; do
  case $part in
    build) build ;;
    tests) run 180 tests "${tests[@]}" ;;
    measure) measure ;;
    *) sanitize "$part" ;;
  esac
  if [[ $part == build ]]; then
    "$python" -c 'import stope; assert "STOPE_CUDA=ON" in stope.build_info()["flags"], stope.__file__' ||
      fail "the stope that is imported has no CUDA"
  fi
done
printf '\nall passed in %d s: %s; their logs are in %s\n' "$SECONDS" "${parts[*]}" "$out"
