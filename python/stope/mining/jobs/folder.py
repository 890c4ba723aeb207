"""What a job's folder says of it: job.json, written first and last."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import stope
from stope._files.atomic import open_atomic
from stope._files.manifest import FILES, described_file, differences, read_manifest

MANIFEST = "job.json"
_KEYED = ("embeddings", "teacher")  # what they hold is found by fingerprints alone
_LIBRARIES = ("numpy", "pyarrow", "torch", "sentence-transformers", "bm25s")
_KIND = {
    "format": ("stope.mining",),
    "version": (1,),
    "versions": {str: str},
    "arguments": {str: object},
    "inputs": {str: object},
    "counts?": {str: {str: int}},
    "unknown?": {str: int},
    "rows?": {str: int},
    "files?": FILES,
}


class JobFolder:
    """The folder of one job.

    Args:
        path: of the folder.
        arguments, inputs: all that decides what is mined: values, and fingerprints.

    Attributes:
        state: what job.json holds.

    Raises:
        ValueError: it holds a job of others, or, where that has not ended, of other versions.
        FileExistsError: it holds other files, or is a file.
    """

    def __init__(self, path: Path, arguments: Mapping[str, Any], inputs: Mapping[str, Any]) -> None:
        self.path = path
        if path.exists() and not path.is_dir():
            raise FileExistsError(f"folder {path} is a file; name a folder")
        manifest = path / MANIFEST
        if not manifest.exists():
            others = (entry.name for entry in path.iterdir()) if path.exists() else ()
            if any(name not in _KEYED and not name.endswith(".tmp") for name in others):
                raise FileExistsError(
                    f"folder {path} holds other files and no {MANIFEST}; name a new or empty folder"
                )
            path.mkdir(parents=True, exist_ok=True)
        now = {
            "versions": _versions(),
            "arguments": json.loads(json.dumps(arguments)),
            "inputs": dict(inputs),
        }
        if manifest.exists():
            another = "name another folder"
            self.state: dict[str, Any] = read_manifest(manifest, _KIND, another)
            decisive = ["inputs", "arguments", *([] if "files" in self.state else ["versions"])]
            pairs = [(self.state[name], now[name]) for name in decisive]
            if changed := [line for pair in pairs for line in differences(*pair)]:
                raise ValueError(
                    f"{path} holds a mining job that was begun otherwise: {', '.join(changed)}. Go "
                    f"on with what it was begun with, or {another}; with {path / 'embeddings'} as "
                    "cache it embeds nothing again"
                )
            return
        self.state = {"format": "stope.mining", "version": 1, **now}
        self._write()

    def whole(self, names: Iterable[str]) -> bool:
        """Whether the job has ended and these files are those that it wrote."""
        listed = self.state.get("files", {})
        return set(listed) == set(names) and all(
            (self.path / name).exists() and described_file(self.path / name) == listed[name]
            for name in names
        )

    def finish(self, names: Iterable[str], **facts: Any) -> None:
        """Note what came out, and the files."""
        files = {name: dict(described_file(self.path / name)) for name in names}
        self.state |= {**facts, "files": files}
        self._write()

    def _write(self) -> None:
        with open_atomic(self.path / MANIFEST) as file:
            file.write(json.dumps(self.state, indent=1, ensure_ascii=False) + "\n")


def _versions() -> dict[str, str]:
    versions = {"stope": stope.build_info()["version"]}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
