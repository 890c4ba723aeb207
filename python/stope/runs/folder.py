"""The folder of a run: whose it is, what it was started with, and what came out.

config.yaml    the configuration with every default and absolute paths; written first
run.json       what the run began with: versions, fingerprints of the texts, first metrics; until it
               is there nothing has been done, and another configuration may take the folder
log.jsonl, checkpoints/, ...    of `train`
model/         the trained encoder, there whole or not at all
report.json    the outcome; written last
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import stope
from stope._files.manifest import differences, read_manifest
from stope.data import open_atomic
from stope.runs.config import Config
from stope.scale.processes import by_first, together

CONFIG, STATE, REPORT = "config.yaml", "run.json", "report.json"
_METRICS = {str: float}
_GAINS = {str: [float]}
_STATE = {
    "stope?": str,
    "fingerprint?": str,
    "data?": {str: str},
    "before?": _METRICS,
    "test_before?": _METRICS,
    "teacher?": _METRICS,
    "queries_before?": [{str: _METRICS}],
}
_TRAINING = {
    "steps": int,
    "epochs": int,
    "seconds": float,
    "losses": [float],
    "evaluations": [_METRICS],
    "evaluation_steps": [int],
    "best_epoch": (int, None),
    "best_step": (int, None),
    "stopped_early": bool,
    "refreshes": [{str: object}],
    "resumed_from": (int, None),
    "finished": bool,
    "guard?": object,
}
_REPORT = {
    "training": _TRAINING,
    **dict.fromkeys(("before", "after", "test_before", "test_after"), _METRICS),
    "teacher?": _METRICS,
    "own_negatives?": bool,
    "adapter?": bool,
    "remarks?": [str],
    **dict.fromkeys(("num_queries?", "num_test_queries?"), int),
    **dict.fromkeys(("gains?", "test_gains?"), _GAINS),
}


class RunFolder:
    """An opened folder of a run; of several processes the first reads and writes it.

    Args:
        config: with absolute paths.
        resume: go on with the run that is there.

    Attributes:
        path: the folder.
        model: where the model goes.
        resumed: whether there was a run.
        state: what run.json holds.

    Raises:
        ValueError: the folder holds a run and resume is False, or a run of another configuration.
        FileExistsError: it holds other files, or is a file.
        OSError: it cannot be written.
    """

    def __init__(self, config: Config, *, resume: bool) -> None:
        self.path = Path(config.output.folder)
        self.model = Path(config.output.model or self.path / "model")
        opened = by_first(lambda: self._opened(config, resume))
        self.resumed = opened is not None
        self.state: dict[str, Any] = opened or {}

    def _opened(self, config: Config, resume: bool) -> dict[str, Any] | None:
        """The state of the run that is there, or None for one that begins."""
        if self.path.exists() and not self.path.is_dir():
            raise FileExistsError(f"output.folder is {self.path}, which is a file; name a folder")
        if (self.path / STATE).exists():
            self._check(config, resume)
            return _read(self.path / STATE, _STATE)
        if self.path.exists() and any(not _is_of_no_run(entry) for entry in self.path.iterdir()):
            raise FileExistsError(
                f"output.folder is {self.path}, which holds other files; name a new or empty folder"
            )
        if self.model.exists() and (not self.model.is_dir() or any(self.model.iterdir())):
            raise FileExistsError(
                f"output.model is {self.model}, which exists and is not an empty folder; name "
                "another"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        with open_atomic(self.path / CONFIG) as file:
            file.write(config.to_yaml())
        return None

    def begin(self, fingerprint: str, data: Mapping[str, str]) -> None:
        """Note what the run begins with, or check that it is what the run began with.

        Raises:
            ValueError: a source's texts have changed since, in whichever process.
        """
        known = self.state.get("data")
        if known is not None:
            with together():
                changed = [name for name in data if known.get(name) != data[name]]
                if changed or set(known) != set(data):
                    names = ", ".join(f'"{name}"' for name in changed or known)
                    raise ValueError(
                        f"{self.path} was begun with other texts: {names} has changed since. Put "
                        "the old files back to go on, or name another output.folder to begin anew"
                    )
            return
        self.note(stope=stope.build_info()["version"], fingerprint=fingerprint, data=dict(data))

    def note(self, **values: Any) -> None:
        """Add to run.json; all processes call it, and an error of the first is one of all."""
        self.state |= values
        by_first(lambda: _write(self.path / STATE, self.state))

    def finished(self) -> dict[str, Any] | None:
        """The report of a run that is complete, or None."""
        return by_first(self._report)

    def _report(self) -> dict[str, Any] | None:
        whole = (self.path / REPORT).exists() and self.model.is_dir() and any(self.model.iterdir())
        return _read(self.path / REPORT, _REPORT) if whole else None

    def finish(self, report: Mapping[str, Any]) -> None:
        """Write report.json: the run is complete."""
        by_first(lambda: _write(self.path / REPORT, report))

    def _check(self, config: Config, resume: bool) -> None:
        if not resume:
            state = "a finished run" if self._report() is not None else "a run that has not ended"
            raise ValueError(
                f"{self.path} holds {state}; go on with it by resume=True, or name "
                "another output.folder"
            )
        known = as_of_before(Config.from_yaml(self.path / CONFIG)).decisive()
        if changed := differences(known, config.decisive()):
            raise ValueError(
                f"{self.path} holds a run of another configuration: {', '.join(changed)}. Go on "
                f"with {self.path / CONFIG}, or name another output.folder"
            )


def as_begun(config: Config) -> Config:
    """The configuration as the run in its folder was begun, where it leaves that open."""
    folder = Path(config.output.folder).expanduser()
    if not (folder / STATE).exists():
        return config
    known = Config.from_yaml(folder / CONFIG)
    asked, begun = config.evaluation, known.evaluation
    if asked and begun and "holdout_by" not in asked.model_fields_set:
        config = config.changed(evaluation=asked.changed(holdout_by=begun.holdout_by))
    return config if as_of_before(known) is known else as_of_before(config)


def as_of_before(config: Config) -> Config:
    """The configuration, its negatives mined in the corpus where nothing else is written.

    So a run was followed that was begun before `among` could be said; what follows it says it.
    """
    changes: dict[str, Any] = {
        name: section.changed(among="corpus")
        for name, section in (("negatives", config.negatives), ("adapter", config.adapter))
        if section is not None
        and "among" in type(section).model_fields
        and "among" not in section.model_fields_set
    }
    return config.changed(**changes) if changes else config


def _is_of_no_run(entry: Path) -> bool:
    """What is left of a run that found nothing to train on, or of a file that a kill cut short."""
    if entry.name != CONFIG:
        return entry.name.startswith(".") and entry.name.endswith(".tmp")
    try:
        return entry.read_text(encoding="utf-8") == Config.from_yaml(entry).to_yaml()
    except ValueError:
        return False  # somebody else wrote it


def _read(path: Path, kind: Any) -> dict[str, Any]:
    values: dict[str, Any] = read_manifest(path, kind, "name another output.folder")
    return values


def _write(path: Path, values: Mapping[str, Any]) -> None:
    with open_atomic(path) as file:
        file.write(json.dumps(values, indent=1, ensure_ascii=False) + "\n")
