"""Texts on the disk: read by several processes and threads, appended to by several."""

import copy
import pickle
import threading

import pytest

from stope._files.texts import KeyRows, StoredTexts, digest
from stope.data import Source, read_source, write_jsonl

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


def test_copies_share_the_file_and_pickles_are_refused(tmp_path):
    texts = StoredTexts(tmp_path)
    texts.extend(["a", "b"])
    for other in (copy.deepcopy(texts), copy.copy(texts)):
        other.extend(["c"])
        texts.extend([])
        assert (list(texts), list(other)) == (["a", "b"], ["a", "b", "c"])
    with pytest.raises(TypeError, match=r"unnamed file .* cannot be pickled .* give it list"):
        pickle.dumps(texts)


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


def test_joined_keys_keep_their_rows():
    names, more = [f"{row % 30}" for row in range(40)], [f"{row % 50}" for row in range(60)]
    rows = KeyRows(map(digest, names)).joined(map(digest, more), range(40, 100))
    for name in map(str, range(51)):
        expected = [row for row, other in enumerate([*names, *more]) if other == name]
        assert rows.of(digest(name)) == expected


@pytest.mark.parametrize("folder", [None, "texts"])
def test_an_id_that_is_there_twice_is_named_with_its_line(tmp_path, folder):
    rows = [{"_id": name, "text": f"text {row}"} for row, name in enumerate(("a", "b", "a", "b"))]
    write_jsonl(tmp_path / "corpus.jsonl", rows)
    write_jsonl(tmp_path / "pairs.jsonl", [{"query": "q", "positive": "a"}])
    source = Source(tmp_path / "pairs.jsonl", corpus=tmp_path / "corpus.jsonl", positive_ids=True)
    with pytest.raises(ValueError, match=r'corpus\.jsonl:3: the id "a" appears twice'):
        read_source(source, folder=folder and tmp_path / folder)
