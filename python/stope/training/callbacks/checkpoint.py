"""Checkpoints of `train`: a folder that counts once its manifest does, and holds no code.

`checkpoints/step-00000500/` has tensors as safetensors and everything else as JSON; its
`manifest.json` has the size and the SHA-256 of every file and the options of the run. A checkpoint
is written under a temporary name, flushed to the disk and renamed; only then are older ones
removed. So a process killed at any moment leaves the checkpoints that it had. `Evaluate` keeps the
best weights beside them.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import torch
from stope._files import manifest
from stope._files.atomic import atomic_folder
from stope.evaluation import Evaluation as Evaluated
from stope.evaluation import RetrievalEvaluation
from stope.evaluation.bootstrap import rough_intervals
from stope.scale.processes import of_first, wait
from stope.training.callbacks.tasks import Moment, Session, Task
from stope.training.negatives.refresh_run import OF_BEFORE
from stope.training.recipe import EvaluationPart
from stope.training.while_training import evaluating

FORMAT = 1
MANIFEST = "manifest.json"
TRAINER_STATE = "trainer_state.json"
_PREFIX, _LOSS, _PROGRESS = "step-", "loss.safetensors", "progress.json"
_KIND = {"format": (FORMAT,), "step": int, "options": {str: object}, "files": manifest.FILES}


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run.

    Attributes:
        folder: where they are; made when the first is written.
        options: everything that decides the result, as JSON: a checkpoint of other options is not
            gone on from.
        keep: how many of the newest remain.
    """

    folder: Path
    options: dict[str, Any]
    keep: int = 2

    def save(self, step: int, write: Callable[[Path], None]) -> Path:
        """Write the checkpoint of a step with `write(folder)`, then remove what is too old.

        Raises:
            OSError: the disk is full or the folder cannot be written; older checkpoints are
                untouched and nothing partial is left.
        """
        target = self.folder / f"{_PREFIX}{step:08d}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # What is there is not whole, or of steps that an older checkpoint goes on to again.
            with atomic_folder(target, replace=True) as temporary:
                write(temporary)
                described = {
                    "format": FORMAT,
                    "step": step,
                    "options": self.options,
                    "files": manifest.described_files(temporary),
                }
                write_json(temporary / MANIFEST, described)
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise OSError(
                getattr(error, "errno", None),
                f"cannot write the checkpoint {target}: {reason}; older checkpoints are as they "
                "were, so make room and go on with resume=True",
            ) from error
        ahead = [path for number, path in self._steps() if number > step]
        _remove([*self._behind(step)[: -self.keep], *ahead])
        return target

    def newest(self, say: Callable[[str], object]) -> Path | None:
        """The newest checkpoint that is whole, or None; those that are not are named.

        Those that a run was killed before it removed, as too old beside this one, go now.

        Raises:
            ValueError: it was written with other options; the message names them.
        """
        here = _as_json(self.options)
        for step, folder in reversed(self._steps()):
            try:
                there = _options_of(folder, step)
            except (OSError, ValueError) as error:
                say(f"passing over the checkpoint {folder.name}: {error}")
                continue
            refresh = there.get("refresh")
            if isinstance(refresh, dict):
                there["refresh"] = {**OF_BEFORE, **refresh}
            if changed := manifest.differences(there, here):
                raise ValueError(
                    f"The checkpoint {folder} is of another run: {', '.join(changed)}. Give "
                    "what that run was given, or name another output folder"
                )
            _remove(self._behind(step)[: -self.keep])
            return folder
        return None

    def __bool__(self) -> bool:
        """Whether there is any, whole or not."""
        return bool(self._steps())

    def _steps(self) -> list[tuple[int, Path]]:
        found = self.folder.glob(f"{_PREFIX}*") if self.folder.is_dir() else ()
        return sorted(
            (int(path.name.removeprefix(_PREFIX)), path)
            for path in found
            if path.name.removeprefix(_PREFIX).isdigit() and path.is_dir()
        )

    def _behind(self, step: int) -> list[Path]:
        return [path for number, path in self._steps() if number <= step]


def _remove(folders: Iterable[Path]) -> None:
    for path in folders:
        # Without its manifest it does not count, however far the removal comes.
        (path / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(path, ignore_errors=True)


class WriteCheckpoints(Task):
    """Writes what a training needs to go on: model, loss, optimiser, and the state of every task.

    Args:
        checkpoints: of the run, or None.
        every: steps between them; None is once an epoch.
        tasks: whose state goes along.
    """

    def __init__(
        self, checkpoints: Checkpoints | None, every: int | None, tasks: Sequence[Task]
    ) -> None:
        self.checkpoints, self.every, self.tasks = checkpoints, every, tasks

    def begin(self, session: Session, step: int, resumed: Path | None) -> None:
        """Take up a checkpoint, now that optimiser and scheduler are there."""
        if resumed is not None:
            self.restore(session, resumed)

    def after_step(self, session: Session, moment: Moment) -> None:
        """Write when it is due, and after the last step."""
        session.report.seconds = session.seconds()
        if self.checkpoints is None or not (moment.last or moment.due(self.every)):
            return
        session.say(f"writing the checkpoint of step {moment.step:,}")
        began = time.perf_counter()
        session.report.finished = moment.last
        for task in self.tasks:
            task.gather()
        if session.first:
            self.checkpoints.save(moment.step, lambda folder: self._write(session, folder))
            session.write("checkpoint", moment.step, seconds=time.perf_counter() - began)
        wait()

    def restore(self, session: Session, folder: Path) -> None:
        """Take model, loss, report and tasks from a checkpoint."""
        session.model.load_state_dict(read_tensors(folder / "model.safetensors"))
        if (folder / _LOSS).exists():
            session.loss.load_state_dict(read_tensors(folder / _LOSS), strict=False)
        values = read_json(folder / _PROGRESS)
        for name, value in values["report"].items():
            setattr(session.report, name, value)
        session.report.resumed_from = session.report.steps
        session.count_from(session.report.seconds)
        for task in self.tasks:
            task.load(folder, values)
        if session.optimizer is not None:
            read_optimizer(folder, session.optimizer)
            session.scheduler.load_state_dict(read_json(folder / "scheduler.json"))

    def _write(self, session: Session, folder: Path) -> None:
        write_tensors(folder / "model.safetensors", session.model.state_dict())
        if tensors := own_tensors(session.loss, session.model):
            write_tensors(folder / _LOSS, tensors)
        write_optimizer(folder, session.optimizer)
        write_json(folder / "scheduler.json", session.scheduler.state_dict())
        session.state.save_to_json(str(folder / TRAINER_STATE))
        values: dict[str, Any] = {"report": dataclasses.asdict(session.report)}
        for task in self.tasks:
            values |= task.save(folder)
        write_json(folder / _PROGRESS, values)


def is_finished(folder: Path) -> bool:
    """Whether a checkpoint is that of a run that came to its end."""
    return bool(read_json(folder / _PROGRESS)["report"]["finished"])


def copy_tensors(state: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors of a state_dict, copied to the CPU."""
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise ValueError(
                f"The model's state has {name!r}, a {type(value).__name__} and no tensor; it "
                "cannot be written without pickling. Train without output and keep='last'"
            )
    return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in state.items()}


def own_tensors(loss: Any, model: Any) -> dict[str, Any]:
    """What a loss has of its own, such as a learned temperature: its state without the model's."""
    if loss is None or not hasattr(loss, "state_dict"):
        return {}
    shared = {id(tensor) for tensor in [*model.parameters(), *model.buffers()]}
    named = dict(loss.named_parameters(remove_duplicate=False))
    named |= dict(loss.named_buffers(remove_duplicate=False))
    state = loss.state_dict()
    return {name: state[name] for name in named if id(named[name]) not in shared and name in state}


def write_tensors(path: Path, tensors: Mapping[str, Any]) -> None:
    """Write tensors as safetensors, shared memory written out twice."""
    save_file(copy_tensors(tensors), path)


def read_tensors(path: Path) -> dict[str, Any]:
    """Read tensors, on the CPU."""
    return dict(load_file(path))


def write_json(path: Path, value: Any) -> None:
    """Write JSON; numbers come back as the same numbers, NaN and infinities (as words) too."""
    path.write_text(json.dumps(value), encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read JSON."""
    return manifest.read_json(path)


def write_optimizer(folder: Path, optimizer: Any) -> None:
    """Write an optimiser's state: its tensors, and its numbers as JSON."""
    state = optimizer.state_dict()
    tensors: dict[str, Any] = {}
    numbers: dict[str, Any] = {}
    for parameter, values in state["state"].items():
        for name, value in values.items():
            kept = tensors if isinstance(value, torch.Tensor) else numbers
            kept[f"{parameter}.{name}"] = value
    write_tensors(folder / "optimizer.safetensors", tensors)
    groups = state["param_groups"]
    write_json(folder / "optimizer.json", {"numbers": numbers, "param_groups": groups})


def read_optimizer(folder: Path, optimizer: Any) -> None:
    """Give an optimiser the state that `write_optimizer` wrote."""
    known = read_json(folder / "optimizer.json")
    state: dict[int, dict[str, Any]] = {}
    tensors = read_tensors(folder / "optimizer.safetensors")
    for key, value in {**tensors, **known["numbers"]}.items():
        parameter, _, name = key.partition(".")
        state.setdefault(int(parameter), {})[name] = value
    groups = [
        {name: tuple(v) if isinstance(v, list) and name != "params" else v for name, v in g.items()}
        for g in known["param_groups"]
    ]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _options_of(folder: Path, step: int) -> dict[str, Any]:
    """The options of a checkpoint that is whole; else OSError or ValueError, saying why."""
    known = manifest.read_manifest(folder / MANIFEST, _KIND, "it does not count")
    if known["step"] != step:
        raise ValueError(f"its {MANIFEST} is of step {known['step']}")
    if problem := manifest.problem_with_files(folder, known["files"], (MANIFEST,)):
        raise ValueError(problem)
    options: dict[str, Any] = known["options"]
    return options


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


Evaluation = Callable[[Any], Mapping[str, float]]
_WEIGHTS = "best.safetensors"


@dataclass
class Best:
    """The best evaluation so far, and its weights if they are to be kept."""

    value: float = -math.inf
    step: int | None = None
    misses: int = 0
    weights: dict[str, Any] | None = None


@dataclass
class Evaluate(Task):
    """Calls the evaluation with the model; its first metric decides.

    Attributes:
        evaluation: what to call, or None.
        part: when, and what follows.
        best: so far.
    """

    evaluation: Evaluation | None
    part: EvaluationPart
    best: Best = field(default_factory=Best)

    def after_step(self, session: Session, moment: Moment) -> None:
        """Evaluate when it is due, and after the last step."""
        if self.evaluation is None or not (moment.last or moment.due(self.part.every)):
            return
        self._evaluate(session, moment.step)
        patience = self.part.patience
        if not moment.last and patience is not None and self.best.misses >= patience:
            session.report.stopped_early = moment.last = True

    def leave_best(self, model: Any) -> None:
        """Give the model its best weights, where they were kept."""
        if self.best.weights is not None:
            model.load_state_dict(self.best.weights)

    def save(self, folder: Path) -> dict[str, Any]:
        """The best weights, and how good they were."""
        if self.best.weights is not None:
            write_tensors(folder / _WEIGHTS, self.best.weights)
        best = {"value": self.best.value, "step": self.best.step, "misses": self.best.misses}
        return {"best": best}

    def load(self, folder: Path, values: Mapping[str, Any]) -> None:
        """Go on with the best so far."""
        self.best = Best(**values["best"])
        if (folder / _WEIGHTS).exists():
            self.best.weights = read_tensors(folder / _WEIGHTS)

    def _evaluate(self, session: Session, step: int) -> None:
        assert self.evaluation is not None
        session.say(f"evaluating at step {step:,}")
        began, model = time.perf_counter(), session.model
        judge: Any = self.evaluation
        if isinstance(judge, RetrievalEvaluation):
            judge = judge.evaluate
        with evaluating(model):
            judged = judge(model)
        means = getattr(judged, "mean", judged)  # of an Evaluation
        metrics = {name: float(value) for name, value in dict(means).items()}
        if not metrics:
            raise ValueError("evaluation returned no metric; it must give at least one number")
        metrics = of_first(metrics)
        report = session.report
        report.evaluations.append(metrics)
        report.evaluation_steps.append(step)
        numbers: dict[str, Any] = {**metrics, "seconds": time.perf_counter() - began}
        if isinstance(judged, Evaluated) and session.log is not None:
            numbers["intervals"] = rough_intervals(judged)
        session.write("evaluation", step, **numbers)
        value = next(iter(metrics.values()))
        if not value > self.best.value:
            self.best.misses += 1
            return
        self.best = Best(value, step)
        if self.part.keep == "best":
            report.best_step, report.best_epoch = step, math.ceil(step / session.steps_per_epoch)
            self.best.weights = copy_tensors(model.state_dict())
