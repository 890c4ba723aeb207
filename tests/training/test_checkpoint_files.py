"""Manifests of checkpoints that were edited, cut or overwritten: the older checkpoint counts."""

from __future__ import annotations

import json
import shutil

import hypothesis.strategies as st
import pytest
from hypothesis import given

pytest.importorskip("safetensors", reason='needs pip install "stope[train]"')

from stope.training.callbacks.checkpoint import MANIFEST, Checkpoints


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Two whole checkpoints of one run."""
    checkpoints = Checkpoints(tmp_path_factory.mktemp("run"), {"seed": 1, "rows": {"sha256": "a"}})
    for step in (5, 10):
        checkpoints.save(step, lambda folder: (folder / "progress.json").write_text("{}"))
    return checkpoints


@pytest.fixture
def copied(saved, tmp_path):
    shutil.copytree(saved.folder, tmp_path / "run")
    return Checkpoints(tmp_path / "run", saved.options)


def newest_of(checkpoints, options=None):
    lines = []
    folder = Checkpoints(checkpoints.folder, options or checkpoints.options).newest(lines.append)
    return folder and folder.name, lines


def test_whole_ones_are_found(saved):
    assert newest_of(saved) == ("step-00000010", [])
    with pytest.raises(ValueError, match="of another run: seed \\(1, now 2\\)"):
        newest_of(saved, saved.options | {"seed": 2})


@given(
    st.sampled_from(["format", "step", "options", "files", "more"]),
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text()),
)
def test_any_value_in_the_manifest_falls_back(tmp_path_factory, saved, name, value):
    folder = tmp_path_factory.mktemp("edited") / "run"
    shutil.copytree(saved.folder, folder)
    manifest = folder / "step-00000010" / MANIFEST
    content = json.loads(manifest.read_text())
    if name in content and type(content[name]) is type(value) and content[name] == value:
        return
    manifest.write_text(json.dumps(content | {name: value}))
    found, lines = newest_of(Checkpoints(folder, saved.options))
    assert found == "step-00000005"
    assert lines[0].startswith("passing over the checkpoint step-00000010: ")


@given(st.binary(max_size=40) | st.sampled_from([b"[" * 10**5, b'{"a":' * 10**4, b"9" * 10**4]))
def test_any_bytes_fall_back(tmp_path_factory, saved, content):
    folder = tmp_path_factory.mktemp("edited") / "run"
    shutil.copytree(saved.folder, folder)
    (folder / "step-00000010" / MANIFEST).write_bytes(content)
    assert newest_of(Checkpoints(folder, saved.options))[0] == "step-00000005"


@pytest.mark.parametrize("change", ["file beside", "fewer files", "size of another kind"])
def test_lists_of_files_are_those_of_the_folder(copied, change):
    folder = copied.folder / "step-00000010"
    content = json.loads((folder / MANIFEST).read_text())
    if change == "file beside":
        (folder / "model.safetensors").write_text("")
    elif change == "fewer files":
        content["files"] = {}
    else:
        content["files"]["progress.json"]["size"] = "2"
    (folder / MANIFEST).write_text(json.dumps(content))
    name, lines = newest_of(copied)
    assert name == "step-00000005"
    said = {
        "file beside": "'model.safetensors' is not in its list of files",
        "fewer files": "'progress.json' is not in its list of files",
        "size of another kind": "files.progress.json.size is '2', where a whole number",
    }[change]
    assert said in lines[0]


def test_what_a_killed_run_had_not_removed_goes_when_it_goes_on(copied):
    assert Checkpoints(copied.folder, copied.options, keep=1).newest(print) is not None
    assert [path.name for path in copied.folder.iterdir()] == ["step-00000010"]


def test_what_a_killed_run_was_writing_goes_with_the_next_checkpoint(copied, python):
    done = python(
        f"""
        import os
        from pathlib import Path
        from stope.training.callbacks.checkpoint import Checkpoints
        Checkpoints(Path({str(copied.folder)!r}), {{}}).save(15, lambda folder: os._exit(9))
        """
    )
    assert done.returncode == 9, done.stderr
    assert len(list(copied.folder.iterdir())) == 3
    copied.save(15, lambda folder: (folder / "progress.json").write_text("{}"))
    assert sorted(path.name for path in copied.folder.iterdir()) == [
        "step-00000010",
        "step-00000015",
    ]
