"""The file of an index: the same answers after it was saved, and any damage told in a sentence."""

from __future__ import annotations

import json
import os
import struct
import zlib

import cases
import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest
import reference
from hypothesis import given

import stope

METRICS = ("dot", "cosine", "euclidean")


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


def refused(path, contents):
    path.write_bytes(contents)
    with pytest.raises(ValueError, match=r"index\.stope") as info:
        stope.FlatIndex.load(path)
    assert len(str(info.value).split()) >= 5, "the message is a sentence"
    return str(info.value)


def test_every_altered_byte_is_noticed(tmp_path, saved):
    """Each byte of the first and last 256, and bytes spread over the whole file."""
    size = len(saved)
    places = {*range(256), *range(size - 256, size), *range(0, size, max(1, size // 400))}
    for place in sorted(places):
        altered = bytearray(saved)
        altered[place] ^= 1 << (place % 8)
        refused(tmp_path / "index.stope", bytes(altered))


def test_every_truncation_is_noticed(tmp_path, saved):
    size = len(saved)
    for length in {
        *range(0, 300, 7),
        *range(size // 2, size // 2 + 9),
        size - 64,
        size - 8,
        size - 1,
    }:
        refused(tmp_path / "index.stope", saved[:length])


def test_extra_bytes_are_noticed(tmp_path, saved):
    refused(tmp_path / "index.stope", saved + b"\0")
    refused(tmp_path / "index.stope", saved + saved)


HEADER_FIELDS = ["metric", "dtype", "rows", "dim", "sections", "corpus", "offset", "size", "crc32"]


def with_header(saved, header):
    """The file with another header, whose checksum is right."""
    text = json.dumps(header).encode() if not isinstance(header, bytes) else header
    start = b"STOPEIDX" + struct.pack("<III", 1, len(text), zlib.crc32(text)) + text
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


@pytest.mark.skipif(os.name != "posix", reason="file sizes are limited by setrlimit")
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


def test_nothing_is_unpickled(tmp_path, saved):
    assert b"pickle" not in saved
    assert not saved.startswith(b"\x80")
