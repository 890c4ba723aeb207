"""The file of an index: the same answers after it was saved, and any damage told in a sentence."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cases
import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest
import reference
from hypothesis import given

import stope

METRICS = ("dot", "cosine", "euclidean")
SUPPORT = Path(__file__).parents[1] / "support"


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.int8])
def test_a_saved_index_answers_the_same(tmp_path, metric, dtype):
    queries, corpus = cases.make("gaussian", 6, 211, 33)
    scale = 30 if dtype == np.int8 else 1
    queries, corpus = (np.clip(scale * rows, -127, 127).astype(dtype) for rows in (queries, corpus))
    index = stope.FlatIndex(corpus[:150], metric=metric)
    index.add(corpus[150:])
    index.save(tmp_path / "index.stope")
    loaded = stope.FlatIndex.load(str(tmp_path / "index.stope"))
    assert (len(loaded), loaded.dim, loaded.metric) == (211, 33, metric)
    expected = reference.select(reference.canonical(queries, corpus, metric), 211)
    reference.assert_same(loaded.search(queries, 211), expected)


def test_a_loaded_index_can_grow_and_be_saved_over_its_own_file(tmp_path):
    queries, corpus = cases.make("gaussian", 6, 211, 33)
    path = tmp_path / "index.stope"
    stope.FlatIndex(corpus[:150]).save(path)
    loaded = stope.FlatIndex.load(path)
    loaded.add(corpus[150:])
    expected = reference.select(reference.canonical(queries, corpus), 50)
    reference.assert_same(loaded.search(queries, 50), expected)
    loaded.save(path)
    reference.assert_same(loaded.search(queries, 50), expected)
    reference.assert_same(stope.FlatIndex.load(path).search(queries, 50), expected)
    assert [entry.name for entry in tmp_path.iterdir()] == ["index.stope"]  # no temporary left


def test_saving_is_deterministic(tmp_path):
    corpus = cases.make("gaussian", 1, 100, 16)[1]
    for name in ("a", "b"):
        stope.FlatIndex(corpus).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_file_written_on_one_isa_serves_every_other(tmp_path):
    queries, corpus = cases.make("gaussian", 5, 300, 70)
    expected = reference.select(reference.canonical(queries, corpus), 40)
    contents = set()
    for isa in stope.isa.available():
        with stope.isa.only(isa):
            stope.FlatIndex(corpus).save(tmp_path / isa)
        contents.add((tmp_path / isa).read_bytes())
        for other in stope.isa.available():
            with stope.isa.only(other):
                got = stope.FlatIndex.load(tmp_path / isa).search(queries, 40)
            reference.assert_same(got, expected, f"{isa} -> {other}")
    assert len(contents) == 1


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("index") / "index.stope"
    stope.FlatIndex(cases.make("gaussian", 1, 50, 20)[1]).save(path)
    return path.read_bytes()


KINDS = {
    "plain": {},
    "numbers": {"ids": np.arange(50) * 3 - 9},
    "texts": {"ids": [f"é{number:02}" for number in range(50)]},
    "rounded": {"storage": "float16"},
}


@pytest.fixture(scope="module", params=[*KINDS])
def any_saved(tmp_path_factory, request):
    path = tmp_path_factory.mktemp("index") / "index.stope"
    stope.FlatIndex(cases.make("gaussian", 1, 50, 20)[1], **KINDS[request.param]).save(path)
    return path.read_bytes()


def refused(path, contents):
    path.write_bytes(contents)
    with pytest.raises(ValueError, match=r"index\.stope") as info:
        stope.FlatIndex.load(path)
    assert len(str(info.value).split()) >= 5, "the message is a sentence"
    return str(info.value)


def test_every_altered_byte_is_noticed(tmp_path, any_saved):
    """Each byte of the first and last 256, and bytes spread over the whole file."""
    saved, size = any_saved, len(any_saved)
    places = {*range(256), *range(size - 256, size), *range(0, size, max(1, size // 400))}
    for place in sorted(places):
        altered = bytearray(saved)
        altered[place] ^= 1 << (place % 8)
        refused(tmp_path / "index.stope", bytes(altered))


def test_every_truncation_is_noticed(tmp_path, any_saved):
    saved, size = any_saved, len(any_saved)
    for length in {
        *range(0, 300, 7),
        *range(size // 2, size // 2 + 9),
        size - 64,
        size - 8,
        size - 1,
    }:
        refused(tmp_path / "index.stope", saved[:length])


def test_extra_bytes_are_noticed(tmp_path, any_saved):
    refused(tmp_path / "index.stope", any_saved + b"\0")
    refused(tmp_path / "index.stope", any_saved + any_saved)


HEADER_FIELDS = ["metric", "dtype", "rows", "dim", "sections", "corpus", "offset", "size", "crc32"]


def with_header(saved, header):
    """The file with another header, whose checksum is right."""
    text = json.dumps(header).encode() if not isinstance(header, bytes) else header
    start = saved[:12] + struct.pack("<II", len(text), zlib.crc32(text)) + text
    return start.ljust(4096, b"\0") + saved[4096:]


def header_of(saved):
    return json.loads(saved[20 : 20 + struct.unpack("<I", saved[12:16])[0]])


@given(
    st.sampled_from(HEADER_FIELDS),
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers()),
)
def test_an_edited_header_is_refused_in_a_sentence(tmp_path_factory, saved, field, value):
    header = header_of(saved)
    place = header
    if field in ("corpus", "offset", "size", "crc32"):
        place = header["sections"]
    if field in ("offset", "size", "crc32"):
        place = place["packed"]
    if type(value) is type(place[field]) and value == place[field]:
        return
    place[field] = value
    refused(tmp_path_factory.mktemp("edited") / "index.stope", with_header(saved, header))


@given(
    st.sampled_from(["ids", "kind", "next", "rounds", "texts", "offset", "size", "crc32", "rows"]),
    st.none() | st.booleans() | st.integers() | st.sampled_from(["numbered", "int64", "x", {}]),
)
def test_an_edited_header_of_ids_is_refused(tmp_path_factory, field, value):
    path = tmp_path_factory.mktemp("edited") / "index.stope"
    stope.FlatIndex(cases.make("gaussian", 1, 50, 20)[1], **KINDS["texts"]).save(path)
    saved = path.read_bytes()
    header = header_of(saved)
    place = header["ids"] if field in ("kind", "next", "rounds") else header
    place = header["sections"] if field == "texts" else place
    place = header["sections"]["texts"] if field in ("offset", "size", "crc32") else place
    if type(value) is type(place[field]) and value == place[field]:
        return
    place[field] = value
    if field == "rounds" and isinstance(value, bool):  # says what later rows may be
        path.write_bytes(with_header(saved, header))
        assert len(stope.FlatIndex.load(path)) == 50
    elif field == "next" and type(value) is int and 0 <= value < 2**63:
        path.write_bytes(with_header(saved, header))  # a text needs no next number
        assert len(stope.FlatIndex.load(path)) == 50
    else:
        refused(path, with_header(saved, header))


def with_section(saved, name, content):
    """The file with other bytes of a section, whose checksums are right."""
    header = header_of(saved)
    section = header["sections"][name]
    section["crc32"] = zlib.crc32(content)
    at = section["offset"]
    assert len(content) == section["size"]
    return with_header(saved[:at] + content + saved[at + len(content) :], header)


@pytest.mark.parametrize("verify", [True, False])
def test_ids_that_do_not_ascend_are_refused(tmp_path, verify):
    """Also where checksums are right: somebody wrote such a file."""
    path = tmp_path / "index.stope"
    rows = np.ones((4, 3), np.float32)
    stope.FlatIndex(rows, ids=[-5, 2, 3, 4]).save(path)
    numbers = path.read_bytes()
    stope.FlatIndex(rows, ids=["a", "bc", "d", "e"]).save(path)
    texts = path.read_bytes()
    damaged = [with_section(texts, "texts", content) for content in (b"abcda", b"abc\xffe")]
    for offsets in ([1, 1, 3, 4, 5], [0, 1, 3, 4, 4], [0, 3, 1, 4, 5], [0, 1, 3, 4, 2**62]):
        damaged.append(with_section(texts, "ids", np.array(offsets, "<i8").tobytes()))
    if verify:
        for ids in ([-5, 3, 2, 4], [2, 2, 3, 4], [-1, 2, 3, 4]):
            damaged.append(with_section(numbers, "ids", np.array(ids, "<i8").tobytes()))
    header = header_of(numbers)
    header["ids"]["next"] = 4
    damaged.append(with_header(numbers, header))
    for contents in damaged:
        path.write_bytes(contents)
        with pytest.raises(ValueError, match=r"index\.stope is altered: its "):
            stope.FlatIndex.load(path, verify=verify)


@pytest.mark.parametrize(
    "header", [b"", b"[" * 4000, b"null", b"[]", b'{"rows": 1e999}', b"9" * 4070, b"\xff"]
)
def test_a_header_of_another_kind_is_refused(tmp_path, saved, header):
    refused(tmp_path / "index.stope", with_header(saved, header))


@pytest.mark.parametrize("rows", [0, 2**40, 2**62])
@pytest.mark.parametrize("dim", [2**20, 2**40, 2**62])
def test_a_header_that_tells_of_giant_arrays_is_refused(tmp_path, saved, rows, dim):
    header = header_of(saved) | {"rows": rows, "dim": dim}
    refused(tmp_path / "index.stope", with_header(saved, header))


def test_a_file_of_another_kind_is_refused(tmp_path):
    for contents in (b"", b"\x93NUMPY\x01\x00" + bytes(4096), b"{}" * 4000, os.urandom(9000)):
        message = refused(tmp_path / "index.stope", contents)
        assert "index" in message


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        stope.FlatIndex.load(tmp_path / "nowhere")


@pytest.mark.parametrize("path", [None, 3, b"a", ["a"]])
def test_paths_of_a_wrong_kind(path):
    for call in (stope.FlatIndex.load, stope.FlatIndex(np.ones((3, 4), np.float32)).save):
        with pytest.raises(TypeError, match=r"path is .*; give a path, a string or a pathlib.Path"):
            call(path)
        with pytest.raises(ValueError, match="without a zero byte"):
            call("a\0b")


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    index = stope.FlatIndex(np.ones((3, 4), np.float32))
    with pytest.raises(FileNotFoundError, match="missing"):
        index.save(tmp_path / "missing" / "index.stope")


def test_a_full_disk_keeps_the_old_file(tmp_path, succeeds):
    """A limited file size stands for a full disk: OSError, the old file whole, nothing left."""
    stdout = succeeds(
        f"""
        import os, resource, signal
        import numpy as np, stope
        path = {str(tmp_path / "index.stope")!r}
        stope.FlatIndex(np.ones((10, 8), np.float32)).save(path)
        before = open(path, "rb").read()
        big = stope.FlatIndex(np.ones((5000, 64), np.float32))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            big.save(path)
        except OSError as error:
            print("refused", error)
        assert open(path, "rb").read() == before
        print(sorted(os.listdir({str(tmp_path)!r})))
        """
    )
    assert "refused" in stdout
    assert "['index.stope']" in stdout


def test_equal_indexes_have_equal_files(tmp_path):
    """Whatever was added, removed and replaced before, in whatever order."""
    rows = cases.make("gaussian", 1, 60, 12)[1]
    first = stope.FlatIndex(rows[:40], ids=np.arange(40) * 2)
    other = stope.FlatIndex(12)
    other.add(rows[:50] + 1, [*range(79, 29, -1)])
    other.remove([id_ for id_ in other.ids if id_ % 2])
    other.add(rows[:40], np.arange(40) * 2, replace=True)
    for name, index in (("a", first), ("b", other)):
        index.add(rows[:1], [100])
        index.save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_file_of_the_first_version_is_read_and_still_written(tmp_path):
    """The header and the SHA-256 of a file that stope wrote before an index had ids."""
    index = stope.FlatIndex(np.arange(1, 13, dtype=np.float32).reshape(4, 3))
    index.save(tmp_path / "index.stope")
    written = (tmp_path / "index.stope").read_bytes()
    assert hashlib.sha256(written).hexdigest().startswith("7c9f6cb416ef0a2a")
    sections = {
        "corpus": {"offset": 4096, "size": 48, "crc32": 3995205568},
        "packed": {"offset": 8192, "size": 1408, "crc32": 2697617222},
    }
    header = {"metric": "dot", "dtype": "float32", "rows": 4, "dim": 3, "sections": sections}
    assert (written[8:12], header_of(written)) == (struct.pack("<I", 1), header)
    assert list(stope.FlatIndex.load(tmp_path / "index.stope")) == [0, 1, 2, 3]


def test_a_kill_at_any_moment_leaves_an_index_whole(tmp_path):
    """The old one until the new one is complete, and nothing beside it after the next save."""
    script = tmp_path / "saves.py"
    script.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(SUPPORT)!r})\n"
        "import os, kills, numpy as np, stope\n"
        "from stope._files import atomic\n"
        "from stope.indexes import _file\n"
        "places = {'pad': (_file, '_pad'), 'sum': (_file, '_checksum'), 'sync': (os, 'fsync'),\n"
        "          'rename': (os, 'replace'), 'block': (_file, '_blocks')}\n"
        "def run(name, moment):\n"
        "    if moment is not None:\n"
        "        kills.kill_at_call(*places[name], moment)\n"
        "    index = stope.FlatIndex.load('index.stope')\n"
        "    index.add(np.ones((3, 8), np.float32), replace=True, ids=['a', 'new', 'z'])\n"
        "    index.save('index.stope')\n"
        "kills.lives_and_deaths(run)\n"
    )
    path = tmp_path / "index.stope"
    old = np.arange(40, dtype=np.float32).reshape(5, 8)
    stope.FlatIndex(old, ids=list("abcde")).save(path)
    jobs = {"pad": [1, 2, 4], "sum": [1, 4], "sync": [1], "rename": [1], "block": [1, 8]}
    done = subprocess.run(
        [sys.executable, script.name],
        cwd=tmp_path,
        text=True,
        capture_output=True,
        input=json.dumps(jobs),
        check=True,
    )
    ends = [json.loads(line)[2] for line in done.stdout.splitlines()]
    assert ends == [end for moments in jobs.values() for end in ["killed"] * len(moments) + [0]]
    assert stope.FlatIndex.load(path).ids.tolist() == [*"abcde", "new", "z"]
    assert sorted(os.listdir(tmp_path)) == ["index.stope", "saves.py"]


def test_nothing_is_unpickled(tmp_path, saved):
    assert b"pickle" not in saved
    assert not saved.startswith(b"\x80")
