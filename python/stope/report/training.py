"""The page of a training: what it brought, its loss, its metrics, its weights, its refreshes.

All is read from what `stope train` leaves: report.json, which is there once it has ended, and
log.jsonl of its one or two stages, so that a training can be looked at while it runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stope._checks import counted, shown
from stope._checks import path as path_kind
from stope._files.manifest import parse_json
from stope._kinds import kinds
from stope.report.figures import Figure, Series
from stope.report.pages import Column, Page, Section, Table
from stope.training.callbacks.log import LOG, read_log
from stope.training.guard import SECOND, Verdict

_POINTS = 400  # of a line
_NO_METRICS = ("kind", "step", "time", "seconds", "epoch", "best", "intervals")
_QUARTERS = ("easiest", "easy", "hard", "hardest")
_TENTHS = "first and last tenth"
_REFRESH = {
    "step": "step", "changed": "share new", "mean_score": "mean score", "found": "share found",
    "shortfalls": "queries with too few", "seconds_encode": "s to encode",
    "seconds_mine": "s to mine", "seconds": "s",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Stage:
    """The lines of one log, whose steps come after so many of the stage before it."""

    name: str
    begins: int
    lines: Sequence[Mapping[str, Any]]

    def of(self, kind: str) -> list[Mapping[str, Any]]:
        """The lines of a kind."""
        return [line for line in self.lines if line["kind"] == kind]

    @property
    def steps(self) -> int:
        """How many were taken."""
        return max((line["step"] for line in self.lines), default=0)

    def values(self, *names: str) -> tuple[NDArray[np.float64], ...]:
        """Steps, and numbers of the steps that have them all."""
        lines = [line for line in self.of("step") if all(name in line for name in names)]
        numbers = [[float(line[name]) for line in lines] for name in ("step", *names)]
        steps, *columns = np.array(numbers, np.float64).reshape(1 + len(names), -1)
        return steps + self.begins, *columns

    def line(self, name: str, *columns: str) -> Series | None:
        """A number over the steps, with the ends of an interval if three are named."""
        steps, *numbers = (_thinned(values) for values in self.values(*columns))
        return Series(name, steps, *numbers) if len(steps) else None

    def tenths(self, column: str, worded: Callable[[float], str]) -> str | None:
        """The mean of the first and of the last tenth of the steps."""
        values = self.values(column)[1]
        size = math.ceil(len(values) / 10)
        if not size:
            return None
        return f"{worded(values[:size].mean())} and {worded(values[-size:].mean())}"


def training_folder(path: Path) -> Path | None:
    """The folder with the log of a training, where its own or its model's is given; or None."""
    model = path.absolute()  # "." has no name
    folders = path, model.parent / f"{model.name}.run", model.parent
    return next((each for each in folders if path.is_dir() and (each / LOG).is_file()), None)


@kinds(folder=path_kind)
def of_training(folder: str | PathLike[str]) -> Page:
    """The page of a training that `stope train` or `stope.training.train` wrote, ended or not.

    Args:
        folder: of the run (``model.run``, or `output` of the recipe), or of its model.

    Raises:
        ValueError: the folder has no log of a training; a line before its last is none of a log.

    Memory: the log.

    Example:
        >>> import tempfile
        >>> from stope.training.callbacks.log import TrainingLog
        >>> folder = tempfile.mkdtemp()
        >>> with TrainingLog(folder) as log:
        ...     log.write("start", 0, max_steps=9)
        ...     log.write("step", 1, loss=2.5)
        >>> of_training(folder).facts()["steps"]
        '1 of 9: it runs, or was stopped (--resume goes on)'
    """
    path = training_folder(Path(folder).expanduser())
    if path is None:
        raise ValueError(
            f"folder is {shown(str(folder))}, which holds no {LOG} of a training; give the folder "
            "that stope train wrote, or its model's"
        )
    stages = [_Stage("loss", 0, list(read_log(path)))]
    if (path / SECOND / LOG).is_file():
        lines = list(read_log(path / SECOND))
        stages = [_Stage("in-batch", 0, stages[0].lines)]
        begins = max((line["step"] for line in stages[0].of("step")), default=0)
        stages += [_Stage("second stage", begins, lines)]
    report = path / "report.json"
    told = parse_json(report.read_bytes()) if report.is_file() else {}
    missing = []
    if not told:
        missing = ["There is no report.json yet, which has what the training brought."]
    losses, steps = told.get("training", {}).get("losses", ()), stages[0].of("step")
    if losses and steps and float(steps[0]["loss"]) != losses[0]:
        missing = [f"{LOG} is of the last training in the folder, not of the one that was kept."]
    sections = (
        _outcome(told, stages, missing),
        _loss(stages),
        _judged(told, stages),
        _difficulty(stages),
        _refreshes(stages),
    )
    return Page(f"Training {path.name}", f"What {path} holds.", sections)


def meaning(told: Mapping[str, Any]) -> Iterator[str]:
    """What the numbers of a report.json mean, and what to do next, in sentences."""
    for title, suffix in (("held-out", ""), ("test", "test_")):
        before, after = told.get(f"{suffix}before", {}), told.get(f"{suffix}after", {})
        queries = counted(told.get(f"num_{suffix}queries", 0), f"{title} queries")
        for name in list(before)[:1]:
            gain, (low, high) = after[name] - before[name], _interval(told, suffix, name)
            if low is not None and low > 0:
                yield f"Training raised {name} of {queries} by {gain:.3f}, more than by chance."
            elif gain < 0:
                margin = "a larger relative margin of the negatives, "
                mined = margin if told["training"]["refreshes"] else ""
                chance = "" if high is not None and high < 0 else ", perhaps by chance"
                yield (
                    f"Training made {name} worse{chance}; try a lower learning rate, fewer epochs, "
                    f"{mined}or more pairs."
                )
            else:
                yield (
                    f"The gain in {name} may be chance: {queries} cannot tell. More of them would, "
                    "or more pairs bring more."
                )


def _outcome(told: Mapping[str, Any], stages: Sequence[_Stage], missing: list[str]) -> Section:
    last = stages[-1]
    total = next((line["max_steps"] for line in last.of("start") if "max_steps" in line), None)
    done = last.begins + last.steps
    steps = f"{done:,}"
    if told:
        steps += f" in {told['training']['seconds']:,.1f} s"
    elif total is not None and last.steps < total:
        more = f"{last.begins + total:,}"
        steps += f" of {more}: it runs, or was stopped (--resume goes on)"
    facts, rows = {"steps": steps}, []
    for suffix in ("", "test_"):
        for name, before in told.get(f"{suffix}before", {}).items():
            after, ends = told[f"{suffix}after"][name], _interval(told, suffix, name)
            title = f"{name}, test" if suffix else name
            rows.append((title, before, after, after - before, *ends))
            span = "" if ends[0] is None else f" [{ends[0]:+.4f}, {ends[1]:+.4f}]"
            facts[f"gain in {title}"] = f"{after - before:+.4f}{span}"
    guard = (told.get("training") or {}).get("guard")
    if guard:
        verdict = Verdict(**guard)
        kept = "kept" if verdict.kept else "not kept"
        facts[f"what {verdict.what} brought"] = f"{verdict.gain:+.4f} {verdict.metric}, {kept}"
    text = [*meaning(told), *(f"{r[0].upper()}{r[1:]}." for r in told.get("remarks", ()))]
    table, figures = None, []
    if rows:
        names, before, after, gains, low, high = zip(*rows, strict=True)
        known = [place for place, end in enumerate(low) if end is not None]
        if known:
            spans = [[values[place] for place in known] for values in (names, gains, low, high)]
            figures = [_gains(Series("gain", *spans))]
        numbers = zip(
            ("before", "after", "gain", "from", "to"), (before, after, gains, low, high),
            strict=True,
        )  # fmt: skip
        columns = [Column(name, values, "number") for name, values in numbers]
        caption = "A row for each metric; the gain with its 95% interval (paired bootstrap)"
        table = Table((Column("metric", names), *columns), caption)
    elif told:
        missing = [*missing, "Nothing was held out, so nobody knows what the training brought."]
    return Section("What it brought", text, facts, figures, table, missing)


def _gains(series: Series) -> Figure:
    title = "Gains with their 95% intervals"
    return Figure("gains", "points", title, "metric", "gain", (series,), {"no change": 0.0})


def _interval(told: Mapping[str, Any], suffix: str, name: str) -> tuple[Any, Any]:
    low, high = told.get(f"{suffix}gains", {}).get(name, (None, None))
    return low, high


def _loss(stages: Sequence[_Stage]) -> Section:
    facts = {
        f"{'loss' if len(stages) == 1 else f'loss {stage.name}'}, {_TENTHS}": tenths
        for stage in stages
        if (tenths := stage.tenths("loss", lambda value: f"{value:.3f}"))
    }
    lines = [line for stage in stages if (line := stage.line(stage.name, "loss"))]
    if not lines:
        return Section("Loss", missing=["No step has ended yet."])
    text = []
    if len(stages) > 1:
        text = ["The losses of both stages are not alike: the second is over more negatives."]
    per = max(math.ceil(len(stage.of("step")) / _POINTS) for stage in stages)
    title = "Loss of each step" if per == 1 else f"Loss, mean of up to {per} steps"
    return Section(
        "Loss", text, facts, [Figure("loss", "lines", title, "step", "loss", tuple(lines))]
    )


def _judged(told: Mapping[str, Any], stages: Sequence[_Stage]) -> Section:
    rows = [
        (stage.begins + line["step"], line) for stage in stages for line in stage.of("evaluation")
    ]
    if not rows:
        return Section("Held-out queries", missing=["Nothing was evaluated while it trained."])
    if told.get("before"):
        rows.insert(0, (0, told["before"]))
    names = [name for name in rows[-1][1] if name not in _NO_METRICS][:6]
    lines = []
    spread = any(names[0] in line.get("intervals", {}) for _, line in rows)
    for name in names:
        points = [
            (step, float(line[name]), *line.get("intervals", {}).get(name, (math.nan, math.nan)))
            for step, line in rows
            if name in line
        ]
        steps, values, *ends = zip(*points, strict=True)
        lines.append(Series(name, steps, values, *(ends if spread and name == names[0] else ())))
    best = (told.get("training") or {}).get("best_step")
    rules = {} if best is None else {"kept": float(best)}
    title = "Metrics of the held-out queries while it trained"
    text = ["These queries also decide which weights are kept, so the best point flatters a bit."]
    if spread:
        text.append(f"The band is the 95% interval of {names[0]} (bootstrap over queries).")
    figure = Figure("evaluations", "lines", title, "step", "metric", tuple(lines), rules)
    return Section("Held-out queries", text, figures=[figure])


def _difficulty(stages: Sequence[_Stage]) -> Section:
    figures, facts, text, missing = [], {}, [], []
    spans = [("hardness_p50", "hardness_p10", "hardness_p90"),
             ("weight_p50", "weight_p10", "weight_p90")]  # fmt: skip
    for name, title, columns in (
        ("hardness", "Hardness: median of the rows, and from 10% to 90% of them", spans[0]),
        ("weights", "Weights: median of the rows, and from 10% to 90% of them", spans[1]),
    ):
        lines = [line for stage in stages if (line := stage.line(stage.name, *columns))]
        if lines:
            axis = "weight" if name == "weights" else name
            figures.append(Figure(name, "lines", title, "step", axis, tuple(lines)))
    quarters = [
        line
        for name in _QUARTERS
        for stage in stages
        if (line := stage.line(f"{name} quarter", f"weight_{name}"))
    ]
    if quarters:
        title = "Mean weight of the rows by hardness"
        figure = Figure("weights-by-hardness", "lines", title, "step", "weight", tuple(quarters))
        figures.append(figure)
        text.append(
            "Quarters are of each batch: the easiest rows score their positive furthest above "
            "their negatives."
        )
    if any(figure.name == "hardness" for figure in figures):
        text.insert(
            0,
            "Hardness is the mean score of a row's own hard negatives less its positive's; of a "
            "row without any, that of the best negative in its batch. Above 0 the negative wins.",
        )
    if not any(figure.name == "weights" for figure in figures):
        missing.append("No weighting was at work: all rows count alike.")
    for stage in stages:
        name = "ranking first in the batch" if len(stages) == 1 else f"first {stage.name}"
        if first := stage.tenths("first_rank", lambda share: f"{share:.0%}"):
            facts[f"positives {name}, {_TENTHS}"] = first
    return Section("Difficulty and weights", text, facts, figures, None, missing)


def _refreshes(stages: Sequence[_Stage]) -> Section:
    rows = [
        {**line, "step": stage.begins + line["step"]}
        for stage in stages
        for line in stage.of("refresh")
    ]
    if not rows:
        return Section("Refreshes", missing=["No negatives were mined while it trained."])
    shown_columns = [name for name in _REFRESH if any(name in row for row in rows)]
    columns = tuple(
        Column(_REFRESH[name], [row.get(name) for row in rows], "number") for name in shown_columns
    )
    facts = {"refreshes": f"{len(rows):,}"}
    text = []
    if len(rows) > 1 and "changed" in rows[-1]:
        share = float(rows[-1]["changed"])
        facts["refreshes"] += f"; {share:.0%} of the candidates of the last are new"
        if share < 0.05:
            text.append("The last one changed little: mining less often would cost less.")
    table = Table(columns, "A row for each time that negatives were mined")
    return Section("Refreshes", text, facts, table=table)


def _thinned(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """At most so many means of as many neighbours each."""
    size = max(1, math.ceil(len(values) / _POINTS))
    starts = np.arange(0, len(values), size)
    counts = np.diff(np.append(starts, len(values)))
    return np.add.reduceat(values, starts) / counts if len(values) else values
