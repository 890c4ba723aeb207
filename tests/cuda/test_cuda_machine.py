"""The emulated machine that runs CUDA kernels on the CPU: its instructions, and what it finds."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMPILER = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler is installed")


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    """probe(kernel, order) -> what the kernel of cuda_machine_probe.cpp prints."""
    program = tmp_path_factory.mktemp("probe") / "probe"
    command = [COMPILER, "-std=c++20", "-O1", "-ffp-contract=off", "-U_FORTIFY_SOURCE"]
    command += [f"-I{ROOT / folder}" for folder in ("cuda/emulated", "cpp/include")]
    sources = [
        ROOT / "tests/cuda/cuda_machine_probe.cpp",
        *sorted((ROOT / "cuda/emulated").glob("*.cpp")),
    ]
    subprocess.run([*command, *sources, "-o", program], check=True, capture_output=True, text=True)

    def run(kernel, order=0):
        environment = {**os.environ, "STOPE_EMULATED_ORDER": str(order)}
        done = subprocess.run(
            [program, kernel], env=environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout.strip()

    return run


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_instructions_do_what_the_manual_says_in_every_order(probe, order):
    assert probe("product", order) == "product is right"
    blocks, threads = 3, 128
    assert probe("sums", order).split()[0] == str(
        blocks * (threads * (threads - 1) // 2 + 1_000_000 * 16)
    )


def test_halves(probe):
    assert probe("halves") == "halves are right"


@pytest.mark.parametrize(
    ("kernel", "said"),
    [
        ("skips_a_barrier", "waits for a thread that never comes"),
        ("meets_another_instruction", "another instruction"),
        ("writes_too_far", "writes beyond its shared memory"),
        ("misaligned_copy", "no multiples of 16"),
    ],
)
def test_what_hardware_leaves_to_chance_is_an_error(probe, kernel, said):
    got = probe(kernel)
    assert got.startswith("DeviceError: kernel ")
    assert said in got


def test_a_missing_barrier_shows_in_another_order(probe):
    assert len({probe("races", order) for order in range(8)}) > 1


def test_a_copy_arrives_no_sooner_than_it_is_waited_for(probe):
    assert probe("does_not_wait") == "-1 5"
