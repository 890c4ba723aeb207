"""Who may include or import whom (docs/architecture.md), read from #include and import lines."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "python" / "stope"
CONTRACTS = {path.name for path in (ROOT / "cpp/include/stope").glob("*.h")}
INTRINSICS = {
    "immintrin.h",
    "x86intrin.h",
    "arm_neon.h",
    "xmmintrin.h",
    "emmintrin.h",
    "amxintrin.h",
}
FOREIGN = re.compile(r"Python\.h|pybind11|numpy/|torch/|ATen|cuda|cub/|omp\.h")
PLAIN = {"stdint.h", "stddef.h", "string.h", "math.h", "cstdint", "cstddef", "cstring", "cmath"}


def sources(folder):
    folder = ROOT / folder
    return sorted(p for p in folder.rglob("*") if p.suffix in {".h", ".cpp", ".cu", ".cuh"})


def without_comments(text):
    return re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.S)


def includes(path):
    """(name, quoted) of every #include line."""
    found = re.findall(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', path.read_text(), flags=re.M)
    return [(name, mark == '"') for mark, name in found]


def is_contract(name):
    return name.startswith("stope/") and name.removeprefix("stope/") in CONTRACTS


def is_standard(name, quoted):
    """A header of the C or C++ library or of the operating system."""
    return not quoted and name not in INTRINSICS and not FOREIGN.search(name)


def relative(path):
    return str(path.relative_to(ROOT))


def every(folder):
    paths = sources(folder)
    assert paths, f"{folder} holds no sources: this test would check nothing"
    return pytest.mark.parametrize("path", paths, ids=relative)


# --- C++ ---------------------------------------------------------------------------------------


@every("cpp/include/stope")
def test_contracts(path):
    allowed = {"cstdint", "cstddef", "stdexcept"}
    for name, _ in includes(path):
        assert name in allowed or is_contract(name), f"{relative(path)} includes {name}"


@every("cpp/kernels")
def test_kernels(path):
    """Nothing of cpp/shared, whose functions would be built with an ISA's flags, is on the list."""
    own = path.stem.split("_")[0]
    simd = {f"simd/{own}.h"} | ({"simd/avx512.h"} if own == "amx" else set())
    # An emulation is built by a build option alone and must be able to fault as hardware does.
    allowed = PLAIN | INTRINSICS | ({"cstdlib"} if path.stem.endswith("_emulated") else set())
    beside = {entry.name for entry in (ROOT / "cpp/kernels").glob("*.inl.h")} | {"kernel_table.h"}
    for name, quoted in includes(path):
        if path.parent.name == "simd":
            ours = name == "kernel_table.h" or (
                own == "amx" and name.removeprefix("simd/") == "avx512.h"
            )
        elif path.name == "kernel_table.h":
            ours = False
        else:
            ours = name in beside or (path.suffix == ".cpp" and name in simd)
        ok = ours or name == "stope/dtype.h" or (not quoted and name in allowed)
        assert ok, f"{relative(path)} includes {name}"


@every("cpp/kernels")
def test_kernels_keep_everything_to_themselves(path):
    text = without_comments(path.read_text())
    if path.name == "kernel_table.h":  # the contract; the next test looks at it
        return
    if path.suffix == ".h":
        assert re.search(r"namespace\s*\{", text), f"{relative(path)} has no anonymous namespace"
    plain = r"u?int\d+_t|size_t|uintptr_t|fma\w?|mem\w+"
    if path.stem.endswith("_emulated"):
        plain += "|abort"
    assert not re.search(rf"\bstd::(?!({plain})\b)\w+", text), relative(path)


def test_headers_that_kernels_include_hold_no_functions():
    """An inline function there becomes a weak symbol, perhaps built with AVX-512 flags."""
    for name in ("cpp/include/stope/dtype.h", "cpp/kernels/kernel_table.h"):
        text = without_comments((ROOT / name).read_text())
        assert not re.search(r"\)\s*(const)?\s*(noexcept)?\s*\{", text), (
            f"{name} defines a function"
        )


@every("cpp/runtime")
def test_runtime(path):
    for name, quoted in includes(path):
        own = (ROOT / "cpp/runtime" / Path(name).name).exists() and name.split("/")[0] in {
            "runtime",
            Path(name).name,
        }
        ok = own or is_contract(name) or name == "kernel_table.h" or is_standard(name, quoted)
        assert ok, f"{relative(path)} includes {name}"
        assert not name.startswith("ops/")
    assert not re.search(r"\b_mm\d*_|\b_tile_", without_comments(path.read_text())), relative(path)


@every("cpp/shared")
def test_shared(path):
    for name, quoted in includes(path):
        ours = quoted and (ROOT / "cpp/shared" / name).exists()
        assert ours or is_contract(name) or is_standard(name, quoted), (
            f"{relative(path)} includes {name}"
        )


# scan -> ops: what consumers share knows no consumer.
CORE_LAYERS = {"scan": {"scan"}, "ops": {"scan", "ops"}}


@pytest.mark.parametrize("path", sources("cpp/scan") + sources("cpp/ops"), ids=relative)
def test_scan_and_ops(path):
    for name, quoted in includes(path):
        below = CORE_LAYERS[path.parent.name] | {"shared", "runtime"}
        ours = "/" not in name and any((ROOT / "cpp" / layer / name).exists() for layer in below)
        ok = ours or is_contract(name) or name == "kernel_table.h" or is_standard(name, quoted)
        assert ok, f"{relative(path)} includes {name}"
    assert not re.search(r"\b_mm\d*_|\b_tile_|__m\d{3}", without_comments(path.read_text())), (
        relative(path)
    )


def test_ops_holds_consumers_only():
    """A header there would be shared; topk's plan is a page of topk."""
    headers = {path.name for path in sources("cpp/ops") if path.suffix == ".h"}
    assert headers <= {"topk_plan.h"}


# What a folder of cuda/ may include by name: device -> kernels -> ops, and cpp/shared from kernels
# on; emulated/ takes device's and runtime's place in a build without nvcc, header by header, and
# ops/*plan.* is plain C++.
CUDA_LAYERS = {
    "device": {"device"},
    "runtime": {"runtime"},
    "emulated": {"emulated"},
    "kernels": {"device", "kernels"},
    "ops": {"device", "runtime", "kernels", "ops"},
}
CUDA_HEADERS = re.compile(r"cuda_runtime(_api)?\.h|cuda_(fp16|bf16)\.h|cub/.+")


@every("cuda")
def test_cuda(path):
    where = path.parent.name
    plain = where not in {"device", "runtime"}
    for name, quoted in includes(path):
        said = f"{relative(path)} includes {name}"
        ours = quoted and any(
            (ROOT / "cuda" / layer / Path(name).name).exists() and "/" not in name
            for layer in CUDA_LAYERS.get(where, ())
        )
        if where in {"kernels", "ops"}:
            ours = ours or (quoted and (ROOT / "cpp/shared" / name).exists())
        nvidia = not quoted and CUDA_HEADERS.fullmatch(name)
        assert ours or is_contract(name) or nvidia or is_standard(name, quoted), said
        assert not (plain and nvidia), f"{said}: only device/ and runtime/ know CUDA's headers"
        if where in {"device", "kernels"} and path.suffix == ".cuh":
            assert ours or is_contract(name) or nvidia or name == "cstdint", said
    if path.stem in {"plan", "infonce_plan"}:
        beside = {f"{path.stem}.h", "types.h", "infonce_types.h"}
        for name, quoted in includes(path):
            assert not quoted or is_contract(name) or name in beside, relative(path)


def test_the_emulated_machine_has_the_headers_of_the_real_one():
    real = {p.name for p in sources("cuda/device") + sources("cuda/runtime")} - {"check.h"}
    assert real <= {p.name for p in sources("cuda/emulated")}


def test_nothing_asks_whether_cuda_is_there():
    """The build chooses between stub, device code and emulator; no line of code does, except the
    one macro of functions for both devices."""
    macro = ROOT / "cpp/shared/host_device.h"
    for path in {*sources("cpp"), *sources("python/bindings"), *sources("cuda")} - {macro}:
        assert not re.search(r"#\s*if.*CUDA", path.read_text()), relative(path)


@pytest.mark.parametrize("path", sources("cuda/kernels") + sources("cuda/ops"), ids=relative)
def test_cuda_results_do_not_depend_on_the_order_of_threads(path):
    """Atomics are on integers (device/thread.cuh has no others), and kernels start by launch()."""
    text = without_comments(path.read_text())
    assert not re.search(r"\batomic[A-Z]\w*|__\w+_sync\b|<<<|\basm\b", text), relative(path)


@every("python/bindings")
def test_bindings(path):
    for name, quoted in includes(path):
        own = quoted and (ROOT / "python/bindings" / name).exists()
        standard = is_standard(name, quoted)
        pybind = re.fullmatch(r"pybind11/(?!numpy|eigen)\w+\.h", name)
        ok = own or is_contract(name) or standard or pybind
        assert ok, f"{relative(path)} includes {name}"


def test_flags_of_one_instruction_set_reach_only_its_kernels():
    text = (ROOT / "CMakeLists.txt").read_text()
    assert len(text.splitlines()) <= 160
    code = re.sub(r"#[^\n]*", "", text)
    assert not re.search(r"march=native|\bGLOB", code)
    for flag in re.finditer(r"-m(?:avx|amx|fma|f16c|sse|bmi)", code):
        statement = code[: flag.start()].rpartition(")")[2].strip()
        assert re.match(
            r"set\(\w+_flags\b|set_source_files_properties\(\s*cpp/kernels/\w+\.cpp\s", statement
        ), statement


# --- Python ------------------------------------------------------------------------------------


def modules():
    return sorted(path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)


def imports(path):
    """(absolute module name, runs at import time) of every import in the file."""
    package = ("stope", *path.relative_to(PACKAGE).parent.parts)
    found = []

    def visit(node, top):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            found.extend((alias.name, top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            found.extend((f"{module}.{alias.name}", top) for alias in node.names)
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, top and not inside)

    visit(ast.parse(path.read_text()), True)
    return found


# Every top-level name of the package, lowest first. A name may import what stands on an earlier
# line, and from its own room; names of one line do not see each other, except those of GROUND.
GROUND = "_kinds _arrays _checks _core _extras _files _host _moved _named errors isa lists progress"
ORDER = (
    GROUND + " scale.processes",
    "ops",
    "indexes scale.shards",
    "torch weighting",
    "data",
    "encoders",
    "retrieval",
    "neighbors mining evaluation",
    "integrations",
    "training",
    "adapters",
    "runs scale",
    "report",
    "demo",
    "cli",
    "__init__ __main__",
)
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names.split()}
# `import stope` gives operations and indexes: what imports it stands above both.
RANK["stope"] = RANK["indexes"]
# Foreign libraries, by the first room that may import them.
FOREIGN_ROOMS = {
    "torch": "torch",
    "sentence_transformers": "encoders",
    "transformers": "encoders",
    "tokenizers": "encoders",
    "safetensors": "encoders",
    "h5py": "data",
    "zarr": "data",
    "lance": "data",
    "scipy": "encoders",
    "peft": "encoders",
    "bm25s": "retrieval",
    "hnswlib": "retrieval",
    "sklearn": "neighbors",
    "ir_measures": "evaluation",
    **dict.fromkeys(
        ("mteb", "langchain_core", "llama_index", "haystack", "vicinity", "txtai"), "integrations"
    ),
    "pydantic": "training",
    "yaml": "runs",
    "ray": "scale",
    "rich": "demo",
    "typer": "cli",
}


def room(module):
    """The place in ORDER of a module of the package, None for one of another library."""
    if module == "stope":
        return "stope"
    parts = module.split(".")
    if parts[0] != "stope":
        return None
    pair = ".".join(parts[1:3])
    if pair in RANK:
        return pair
    return parts[1] if parts[1] in RANK else "stope"  # a name that __init__ exports


def module_of(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(["stope", *(parts[:-1] if parts[-1] == "__init__" and parts[1:] else parts)])


def test_every_top_level_name_has_its_place():
    there = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py"} | {
        path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"
    }
    assert there - set(RANK) == set(), "give each new room a line of ORDER"


@pytest.mark.parametrize("path", modules(), ids=relative)
def test_python(path):
    where = room(module_of(path))
    for name, top in imports(path):
        said = f"{relative(path)} imports {name}"
        root = name.split(".")[0]
        first = FOREIGN_ROOMS.get(root)
        assert first is None or RANK[where] >= RANK[first], f"{said}, which begins in {first}/"
        if RANK[where] <= RANK["indexes"] and top:
            assert root in {"stope", "numpy", "__future__"} | set(sys.stdlib_module_names), said
        target = room(name)
        if target is None or where in {"__init__", "__main__"}:
            continue
        if target == where:
            if where == "ops" and path.name != "__init__.py":
                ours = name.split(".")[
                    2
                ]  # what operations share lies in a module with an underscore
                assert ours.startswith("_") or ours == path.stem, f"{said}, sideways"
            continue
        both_ground = RANK[where] == RANK[target] == 0
        assert RANK[target] < RANK[where] or both_ground, f"{said}, against the order"
        if target in {"_core", "_arrays"}:
            assert RANK[where] <= RANK["indexes"], f"{said}: operations and indexes alone know it"


def test_nothing_is_unpickled():
    for path in modules():
        text = path.read_text()
        assert not re.search(
            r"\b(pickle|joblib|dill|marshal|shelve)\b|allow_pickle\s*=\s*True", text
        ), relative(path)
        assert not re.search(r"torch\.load\((?![^)]*weights_only\s*=\s*True)", text), relative(path)


def test_files_have_one_purpose():
    folders = ("cpp", "cuda", "python", "tests", "benchmarks")
    for folder in folders:
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".py", ".h", ".cpp", ".cu", ".cuh", ".pyi"}:
                assert len(path.read_text().splitlines()) <= 450, relative(path)
