"""Texts on the disk: read by several processes and threads, appended to by several."""

import threading

from stope._files.texts import StoredTexts

FORKED = """
import os
from pathlib import Path
import numpy as np
from stope._files.texts import StoredTexts
count = 5_000
texts = StoredTexts(Path())
texts.extend(f"{row} " * 40 for row in range(count))
start, woken = os.pipe()
child = os.fork()
if child:
    os.write(woken, b"x")
else:
    os.read(start, 1)
wrong = [
    row
    for turn in range(8)
    for row in np.random.default_rng([child > 0, turn]).permutation(count).tolist()
    if texts[row] != f"{row} " * 40
]
if not child:
    os._exit(len(wrong) > 0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert not wrong, wrong[:5]
print("fine")
"""


def test_forked_processes_read_the_same_texts(succeeds, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "fine" in succeeds(FORKED)


def test_threads_append_to_what_they_took(tmp_path):
    texts, parts = StoredTexts(tmp_path), {}
    texts.extend(["a", "", "b"])

    def append(number):
        part = texts.taken([2, 0])
        for turn in range(200):
            part.extend(f"{number} {turn} {step}" for step in range(3))
        parts[number] = part

    threads = [threading.Thread(target=append, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, part in parts.items():
        more = [f"{number} {turn} {step}" for turn in range(200) for step in range(3)]
        assert list(part) == ["b", "a", *more]
