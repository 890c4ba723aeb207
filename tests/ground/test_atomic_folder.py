"""A folder, or a file behind a link, that is written whole or not at all."""

from __future__ import annotations

import os

import pytest

from stope._files.atomic import atomic_folder, open_atomic


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.mark.parametrize("empty", [False, True])
def test_it_appears_with_all_that_is_in_it(tmp_path, empty, monkeypatch):
    target = tmp_path / "model"
    if empty:
        target.mkdir()
    flushed, real = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: flushed.append(file) or real(file))
    with atomic_folder(target) as folder:
        (folder / "part").mkdir()
        (folder / "part" / "a.txt").write_text("a")
        assert not any(target.glob("*"))
    assert names(tmp_path) == ["model", "model/part", "model/part/a.txt"]
    assert len(flushed) == 4  # the file, both folders, and the one that names the result
    assert target.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_nothing_is_left_of_one_that_fails(tmp_path, error):
    def fail(folder):
        (folder / "a.txt").write_text("a")
        raise error

    with pytest.raises(error), atomic_folder(tmp_path / "model") as folder:
        fail(folder)
    assert names(tmp_path) == []


def test_a_disk_that_takes_nothing_leaves_nothing(tmp_path, monkeypatch):
    def full(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"), atomic_folder(tmp_path / "m") as folder:
        (folder / "a.txt").write_text("a")
    assert names(tmp_path) == []


def test_what_is_there_is_refused(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "kept.txt").write_text("kept")
    for name in ("model", "model/kept.txt"):
        with (
            pytest.raises(FileExistsError, match="exists and is not an empty folder; name another"),
            atomic_folder(tmp_path / name),
        ):
            raise AssertionError
    with pytest.raises(FileNotFoundError, match="create it first"), atomic_folder(tmp_path / "a/b"):
        raise AssertionError
    assert names(tmp_path) == ["model", "model/kept.txt"]


def test_a_link_stays_and_leads_to_what_was_written(tmp_path):
    (tmp_path / "large").mkdir()
    (tmp_path / "large" / "rows.txt").write_text("old")
    for name, target in (("link", "large/rows.txt"), ("dangling", "large/new.txt")):
        (tmp_path / name).symlink_to(target)
        with open_atomic(tmp_path / name) as file:
            file.write("new")
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / target).read_text() == "new"
    (tmp_path / "lost").symlink_to("nowhere/rows.txt")
    lost = open_atomic(tmp_path / "lost")
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"), lost:
        pass
    assert names(tmp_path / "large") == ["new.txt", "rows.txt"]
