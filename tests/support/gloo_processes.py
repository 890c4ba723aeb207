"""Several processes of a test that talk by gloo on this machine.

A test module defines ``worker(here, count, folder)`` at its top level and asks `together`, with its
``__file__``, for what it returns in each of the processes.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path

import torch


def together(module, folder, count=2, timeout=600):
    """What the module's worker returns in each of count processes: tensors, numbers, containers.

    As soon as one fails, all are ended, since the others may wait for it for ever.
    """
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "STOPE_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, __file__, module, str(folder), str(count), str(timeout)],
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return [torch.load(folder / f"{here}.pt", weights_only=True) for here in range(count)]


def main(module, folder, count, timeout):
    """Import once, then fork: a process costs a fraction of a second, and has no threads yet."""
    torch.set_num_threads(1)
    spec = importlib.util.spec_from_file_location(Path(module).stem, module)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    signal.signal(signal.SIGALRM, lambda *_: sys.exit(f"still running after {timeout} s"))
    signal.alarm(timeout)
    running = [os.fork() or work(loaded.worker, here, count, folder) for here in range(count)]
    try:
        while running:
            process, status = os.wait()
            running.remove(process)
            if status:
                sys.exit(f"a process ended with {os.waitstatus_to_exitcode(status)}")
    finally:
        for process in running:
            os.kill(process, signal.SIGKILL)


def work(worker, here, count, folder):
    """One of the processes, which ends here."""
    status = 1
    try:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{folder}/meeting", rank=here, world_size=count
        )
        torch.save(worker(here, count, folder), folder / f"{here}.pt")
        torch.distributed.destroy_process_group()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
