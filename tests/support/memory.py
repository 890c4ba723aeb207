"""Memory of this process; for tests that start a fresh one."""

from __future__ import annotations

import threading
import time


def private_bytes():
    with open("/proc/self/status") as lines:
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def peak_mib(work):
    """MiB that work() takes at its peak beyond what there was before."""
    before, peak, stop = private_bytes(), 0, threading.Event()

    def watch():
        nonlocal peak
        while not stop.is_set():
            peak = max(peak, private_bytes())
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    kept = work()
    stop.set()
    watcher.join()
    del kept
    return (peak - before) / 2**20
