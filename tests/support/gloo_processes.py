"""Several processes of a test that talk by gloo on this machine.

A test module defines ``worker(here, count, folder)`` at its top level and asks `together`, with its
``__file__``, for what it returns in each of the processes.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import torch


def together(module, folder, count=2, timeout=600):
    """What the module's worker returns in each of count processes: tensors, numbers, containers.

    As soon as one fails, all are ended, since the others may wait for it for ever.
    """
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("this torch has no gloo")
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "STOPE_NUM_THREADS": "1"}
    said = [folder / f"{here}.txt" for here in range(count)]
    running = []
    try:
        for here in range(count):
            arguments = [module, str(folder), str(count), str(here)]
            with said[here].open("w") as file:
                running.append(
                    subprocess.Popen(
                        [sys.executable, __file__, *arguments],
                        env=env,
                        stdout=file,
                        stderr=subprocess.STDOUT,
                    )
                )
        deadline = time.monotonic() + timeout
        while (codes := [process.poll() for process in running]) != [0] * count:
            assert not any(codes), "\n".join(file.read_text() for file in said)
            assert time.monotonic() < deadline, f"still running after {timeout} s: {codes}"
            time.sleep(0.01)
    finally:
        for process in running:
            process.kill()
            process.wait()
    return [torch.load(folder / f"{here}.pt", weights_only=True) for here in range(count)]


def main(module, folder, count, here):
    """One of the processes."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=here, world_size=count
    )
    spec = importlib.util.spec_from_file_location(Path(module).stem, module)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    torch.save(loaded.worker(here, count, folder), folder / f"{here}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
