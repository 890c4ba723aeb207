"""Each kernel object exports one strong symbol, its fill function, and no weak one.

A weak symbol (an inline function, a template, anything of the STL) in an object built with AVX-512
flags may be the copy the linker keeps for the whole library, which then fails on a smaller CPU. The
kernel sources are compiled with the flags that CMakeLists.txt gives them; the built objects are
looked at too where the build folder still exists.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import stope

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "cpp" / "kernels").glob("*.cpp"))
COMPILER = (
    os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++") or shutil.which("clang++")
)

needs_nm = pytest.mark.skipif(shutil.which("nm") is None, reason="nm (binutils) is not installed")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler is installed")


def exported(objects):
    """(type, demangled name) of the defined global symbols."""
    command = ["nm", "--demangle", "--extern-only", "--defined-only", "--format=posix", objects]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines = [re.match(r"(.*) ([A-Za-z]) [0-9a-f]+ ?[0-9a-f]*$", line) for line in out.splitlines()]
    return sorted((match[2], match[1]) for match in lines if match)


def flags_of(source):
    """The instruction-set flags that CMakeLists.txt gives to the file."""
    text = re.sub(r"#[^\n]*", "", (ROOT / "CMakeLists.txt").read_text())
    settings = re.findall(r"\bset\((\w+)\s+([^()]*)\)", text)
    variables = dict(reversed(settings))  # the first one holds; later ones are for build options
    given = re.search(
        rf"set_source_files_properties\(\s*[\w/]*/{source.name}\s+PROPERTIES([^()]*)\)", text
    )
    options = given[1] if given else ""
    while "${" in options:
        options = re.sub(r"\$\{(\w+)\}", lambda name: variables[name[1]], options)
    return re.findall(r"(?<![\w-])-m[\w.-]+", options)


def check(symbols, stem):
    fill = rf"stope::fill_\w*{stem.split('_')[0]}\w*\(stope::KernelTable\*\)"
    assert [kind for kind, _ in symbols] == ["T"], symbols
    assert re.fullmatch(fill, symbols[0][1]), symbols


def built_kernels():
    """{name of the source: its object}, empty where the build folder is gone."""
    folder = Path(stope.build_info()["build_dir"])
    stems = {path.stem for path in SOURCES}
    objects = folder.rglob("*.o")
    named = {path.name.removesuffix(".o").removesuffix(".cpp"): path for path in objects}
    return {stem: path for stem, path in named.items() if stem in stems and "kernels" in str(path)}


@needs_nm
@needs_compiler
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_compiled_kernels_export_their_fill_function_only(source, tmp_path):
    flags = flags_of(source)
    assert flags or source.stem == "generic", f"no flags found for {source.name}"
    target = tmp_path / f"{source.stem}.o"
    include = [f"-I{ROOT / 'cpp' / folder}" for folder in ("include", "kernels")] + [
        f"-I{ROOT / 'cpp'}"
    ]
    # Unoptimised, nothing is inlined away; what was built optimised is looked at below.
    for level in ("-O0",) if built_kernels() else ("-O3", "-O0"):
        command = [
            COMPILER,
            "-std=c++20",
            level,
            "-fPIC",
            *flags,
            *include,
            "-c",
            str(source),
            "-o",
            str(target),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if level == "-O0" and done.returncode and "immediate" in done.stderr:
            continue  # some intrinsics need optimisation to see their constant operand
        assert done.returncode == 0, done.stderr
        check(exported(target), source.stem)


@needs_nm
def test_built_kernels_export_their_fill_function_only():
    built = built_kernels()
    if not built:
        pytest.skip(f"the build folder is gone ({stope.build_info()['build_dir']})")
    assert set(built) == {path.stem for path in SOURCES}
    for stem, path in built.items():
        check(exported(path), stem)


@needs_nm
def test_the_extension_exports_its_module_and_needs_neither_torch_nor_openmp():
    from stope import _core

    command = ["nm", "--dynamic", "--defined-only", "--extern-only", _core.__file__]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    names = [line.split()[-1].split("@")[0] for line in out.splitlines()]
    assert "PyInit__core" in names
    assert not [name for name in names if "fill_" in name], "kernel tables are private"
    if shutil.which("readelf"):
        dynamic = subprocess.run(
            ["readelf", "-d", _core.__file__], capture_output=True, text=True, check=True
        )
        needed = re.findall(r"NEEDED.*\[(.*)\]", dynamic.stdout)
        assert needed
        assert not [lib for lib in needed if re.search(r"torch|gomp|iomp|libomp|cuda|mkl", lib)]
