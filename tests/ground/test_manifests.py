"""What damaged or edited JSON says: one sentence that names file and place, whatever is wrong."""

from __future__ import annotations

import contextlib
import json
import os

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from stope._files.arrays import read_arrays, write_arrays
from stope._files.atomic import atomic_folder, open_atomic, temporary_beside
from stope._files.manifest import (
    FILES,
    checked,
    described_files,
    parse_json,
    problem_with_files,
    read_manifest,
)
from stope._files.shards import Manifest, kept_array

KIND = {
    "rows": int,
    "share": float,
    "prompt": (str, None),
    "metric": ("dot", "cosine"),
    "files": FILES,
    "any": object,
}
GOOD = {
    "rows": 3,
    "share": 0.5,
    "prompt": None,
    "metric": "dot",
    "files": {"a": {"size": 1, "sha256": "0"}},
    "any": [{}],
}
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)


def test_fields_that_may_be_missing():
    kind = {"rows": int, "data?": {str: str}}
    for value in ({"rows": 1}, {"rows": 1, "data": {"a?": "b"}}):
        assert checked(value, kind) is value
    for value, said in (({"data": {}}, "rows is missing"), ({"rows": 1, "data": []}, r"data is")):
        with pytest.raises(ValueError, match=said):
            checked(value, kind)


def test_what_is_right_comes_back(tmp_path):
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(GOOD))
    assert read_manifest(path, KIND, "build it again") == GOOD


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rows": "3"}, "rows is '3', where a whole number from 0 is needed"),
        ({"rows": True}, "rows is True, where a whole number"),
        ({"rows": 3.0}, r"rows is 3\.0, where a whole number"),
        ({"rows": -1}, "rows is -1, where"),
        ({"rows": 2**63}, "rows is 9223372036854775808, where"),
        ({"share": "x"}, "share is 'x', where a number is needed"),
        ({"prompt": 1}, "prompt is 1, where a text or null is needed"),
        ({"metric": "l2"}, 'metric is \'l2\', where "dot" or "cosine" is needed'),
        ({"files": []}, r"files is \[\], where a mapping is needed"),
        ({"files": {"a": {"size": 1}}}, "files.a.sha256 is missing"),
        ({"files": {"a": {"size": 1, "sha256": "0", "x": 1}}}, "'files.a.x' is unknown"),
        ({"more": 1}, "'more' is unknown"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, change, said):
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(GOOD | change))
    with pytest.raises(ValueError, match=rf"manifest\.json is damaged: .*{said}.*; build it again"):
        read_manifest(path, KIND, "build it again")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "it is not JSON"),
        (b"\xff", "it is not JSON"),
        (b'{"a": 1, "a": 2}', "a key stands twice"),
        (b"[" * 100_000, "nested deeper than 60"),
        (b"[" * 70 + b"]" * 70, "nested deeper than 60"),
        (b"1" * 5000, "it is not JSON"),
    ],
)
def test_texts_that_are_no_json(text, said):
    with pytest.raises(ValueError, match=said):
        parse_json(text)


@given(st.sampled_from(sorted(GOOD)), json_values)
def test_any_value_anywhere_is_right_or_a_value_error(name, value):
    for changed in (GOOD | {name: value}, value, [value]):
        with contextlib.suppress(ValueError):
            assert checked(changed, KIND) is changed


def test_a_list_of_files_is_the_folders(tmp_path):
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "a").write_text("ore")
    (tmp_path / "b").write_text("pit")
    listed = described_files(tmp_path)
    assert list(listed) == ["b", "part/a"]
    assert problem_with_files(tmp_path, listed) is None
    (tmp_path / "c").write_text("")
    assert problem_with_files(tmp_path, listed) == "'c' is not in its list of files"
    assert problem_with_files(tmp_path, listed, ("c",)) is None
    (tmp_path / "c").unlink()
    (tmp_path / "b").write_text("pot")
    assert problem_with_files(tmp_path, listed) == "'b' is not what was written"
    (tmp_path / "b").unlink()
    assert problem_with_files(tmp_path, listed) == "'b' is missing"


# --- arrays and shards -------------------------------------------------------------------------


def test_arrays_with_a_damaged_header_are_refused(tmp_path):
    manifest = tmp_path / "table.json"
    write_arrays(manifest, {"version": 1}, {"ids": np.arange(6)})
    assert read_arrays(manifest, {"version": int}, ["ids"])[1]["ids"].tolist() == [*range(6)]
    path = next(tmp_path.glob("*.npy"))
    whole = path.read_bytes()
    shapes = (b"(6,)", b"(9999999999999,)", b"(((((,)", b"'x'", b"6")
    for damaged in [whole.replace(b"(6,), }", shape + b", }") for shape in shapes[1:]]:
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"truncated or altered|is altered"):
            read_arrays(manifest, {"version": int}, ["ids"])
    path.write_bytes(whole + b"x")
    with pytest.raises(ValueError, match="is altered"):
        read_arrays(manifest, {"version": int}, ["ids"])
    path.write_bytes(whole)
    with pytest.raises(ValueError, match=r"arrays\.more is missing"):
        read_arrays(manifest, {"version": int}, ["ids", "more"])


def made(folder):
    wanted = Manifest("key", "encoder", "corpus", None, "texts", 25, 10)
    return kept_array(folder, "rows", wanted, lambda a, b: np.ones((b - a, 3), np.float32))


@given(st.sampled_from(sorted(vars(Manifest("", "", "", None, "", 1, 1)))), json_values)
def test_any_value_in_a_manifest_of_shards(tmp_path_factory, name, value):
    folder = tmp_path_factory.mktemp("shards")
    made(folder)
    manifest = folder / "manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(content | {name: value}))
    with contextlib.suppress(ValueError):
        assert (made(folder) == 1).all()


@pytest.mark.parametrize("complete", [False, True])
@pytest.mark.parametrize("name", ["shard_size", "dim"])
def test_giant_numbers_in_a_manifest_take_no_memory(tmp_path, name, complete):
    made(tmp_path)
    manifest = tmp_path / "manifest.json"
    content = json.loads(manifest.read_text()) | {name: 2**39, "complete": complete}
    content["shards"] = content["shards"][:1]
    manifest.write_text(json.dumps(content))
    if not complete:
        (tmp_path / "rows.npy").rename(tmp_path / "rows.partial")
    with contextlib.suppress(ValueError):
        assert (made(tmp_path) == 1).all()


def test_a_manifest_that_lists_fewer_shards_is_refused(tmp_path):
    made(tmp_path)
    manifest = tmp_path / "manifest.json"
    content = json.loads(manifest.read_text())
    content["shards"] = content["shards"][:1]
    manifest.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="it lists 1 shards where 25 rows make 3; remove the fold"):
        made(tmp_path)


# --- temporary names ---------------------------------------------------------------------------


def test_what_a_killed_process_left_goes_and_what_a_living_one_writes_stays(tmp_path, python):
    code = """
        import os, sys
        from stope._files.atomic import atomic_folder, open_atomic
        with open_atomic({path!r}) as file, atomic_folder({folder!r}) as folder:
            file.write("half")
            (folder / "a").write_text("half")
            os._exit(9)
    """
    killed = python(code.format(path=str(tmp_path / "a.txt"), folder=str(tmp_path / "b")))
    assert killed.returncode == 9
    other = tmp_path / ".a.txt.0123456789ab-1-0123456789ab.tmp"  # of another machine
    other.write_text("")
    assert len(list(tmp_path.iterdir())) == 3
    living = temporary_beside(tmp_path / "c.txt")
    living.write_text("")
    with open_atomic(tmp_path / "a.txt") as file:
        file.write("whole")
    assert sorted(tmp_path.iterdir()) == sorted([living, other, tmp_path / "a.txt"])


@pytest.mark.parametrize("mask", [0o002, 0o027, 0o077])
def test_permissions_are_what_the_umask_leaves(tmp_path, mask):
    import stope

    before = os.umask(mask)
    try:
        with open_atomic(tmp_path / "text") as file:
            file.write("x")
        with atomic_folder(tmp_path / "folder"):
            pass
        stope.FlatIndex(np.eye(3, dtype=np.float32)).save(tmp_path / "index")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {"text": 0o666 & ~mask, "folder": 0o777 & ~mask, "index": 0o666 & ~mask}


def test_a_folder_is_replaced_whole(tmp_path):
    for text in ("old", "new"):
        with atomic_folder(tmp_path / "folder", replace=True) as folder:
            (folder / text).write_text(text)
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["new"]
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "folder", replace=True):
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.rglob("*")] == ["folder", "new"]
