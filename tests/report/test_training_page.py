"""The page of a training: the numbers of its log and its report, while it runs and after."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("transformers", reason="needs the extra train")

from stope.report.training import meaning, of_training, training_folder
from stope.training.callbacks.log import TrainingLog

STEPS = 1000
GUARD = {"what": "negatives", "metric": "nDCG@10", "before": 0.5, "after": 0.55, "gain": 0.05,
         "low": 0.01, "high": 0.09, "queries": 40, "kept": True}  # fmt: skip


def a_log(folder, steps=STEPS, first=4.0, total=STEPS, **more):
    with TrainingLog(folder) as log:
        log.write("start", 0, max_steps=total)
        for step in range(1, steps + 1):
            spread = {f"hardness_{name}": -step / 100 for name in ("p10", "p50", "p90")}
            numbers = {name: value(step) for name, value in more.items()}
            log.write("step", step, loss=first / step, first_rank=step / STEPS, **spread, **numbers)
        log.write("evaluation", steps, **{"nDCG@10": 0.5, "R@100": 0.75}, seconds=1.5)
    return folder


def a_report(folder, **changes):
    training = {"seconds": 12.5, "losses": [4.0], "refreshes": [], "best_step": 500, "guard": None}
    told = {
        "training": training,
        "before": {"nDCG@10": 0.4, "R@100": 0.7},
        "after": {"nDCG@10": 0.5, "R@100": 0.75},
        "gains": {"nDCG@10": [0.05, 0.15], "R@100": [-0.02, 0.12]},
        "num_queries": 40,
        **changes,
    }
    (folder / "report.json").write_text(json.dumps(told))
    return told


def section(page, title):
    return next(each for each in page.sections if each.title == title)


def test_a_training_that_has_ended(tmp_path):
    a_report(a_log(tmp_path))
    page = of_training(tmp_path)
    facts = page.facts()
    assert facts["steps"] == "1,000 in 12.5 s"
    assert facts["gain in nDCG@10"] == "+0.1000 [+0.0500, +0.1500]"
    text = section(page, "What it brought").text
    assert text == ["Training raised nDCG@10 of 40 held-out queries by 0.100, more than by chance."]
    gains, loss, judged, hardness = page.figures
    assert gains.series[0].low == [0.05, -0.02]
    assert judged.rules == {"kept": 500.0}
    assert [series.x for series in judged.series] == [(0, 1000)] * 2
    assert judged.series[0].y == (0.4, 0.5)
    first, last = (np.mean([4 / step for step in r]) for r in (range(1, 101), range(901, 1001)))
    assert facts["loss, first and last tenth"] == f"{first:.3f} and {last:.3f}"
    assert facts["positives ranking first in the batch, first and last tenth"] == "5% and 95%"
    assert len(loss.series[0].y) == 334
    assert loss.title == "Loss, mean of up to 3 steps"
    np.testing.assert_allclose(loss.series[0].y[0], np.mean([4, 2, 4 / 3]))
    assert loss.series[0].y[-1] == 4 / 1000
    assert hardness.name == "hardness"
    assert "all rows count alike" in section(page, "Difficulty and weights").missing[0]
    assert "No negatives were mined" in section(page, "Refreshes").missing[0]
    assert json.dumps(loss.vega_lite(), allow_nan=False)


def test_the_first_metric_has_a_band(tmp_path):
    a_report(a_log(tmp_path))
    with TrainingLog(tmp_path) as log:
        ends = {"nDCG@10": [0.4, 0.7], "R@100": [0.6, 0.9]}
        log.write("evaluation", STEPS, **{"nDCG@10": 0.5, "R@100": 0.75}, intervals=ends)
    page = of_training(tmp_path)
    judged = next(figure for figure in page.figures if figure.name == "evaluations")
    first, second = judged.series
    assert (first.low[-1], first.high[-1]) == (0.4, 0.7)
    assert np.isnan(first.low[0])  # of the beginning, whose interval nobody noted
    assert second.low is None
    assert section(page, "Held-out queries").text[-1].startswith("The band is the 95% interval of")
    assert json.dumps(judged.vega_lite(), allow_nan=False)


def test_a_second_stage_comes_after_the_first(tmp_path):
    a_report(
        a_log(tmp_path), training={"seconds": 1, "losses": [], "refreshes": [1], "guard": GUARD}
    )
    quarters = {f"weight_{n}": float for n in ("easiest", "easy", "hard", "hardest")}
    spread = {f"weight_{n}": float for n in ("p10", "p50", "p90")}
    a_log(tmp_path / "second", 10, **quarters, **spread)
    with TrainingLog(tmp_path / "second") as log:
        for version, step in enumerate((0, 5)):
            log.write("refresh", step, version=version, changed=0.04, shortfalls=2)
    page = of_training(tmp_path)
    assert page.facts()["what negatives brought"] == "+0.0500 nDCG@10, kept"
    figures = {figure.name: figure for figure in page.figures}
    assert [series.x[0] for series in figures["loss"].series][1] == 1001
    weights = figures["weights-by-hardness"].series
    assert weights[0].name == "easiest quarter"
    assert weights[0].x.tolist() == list(range(1001, 1011))
    refreshes = section(page, "Refreshes")
    assert list(refreshes.table.columns[0].values) == [1000, 1005]
    assert refreshes.facts == {"refreshes": "2; 4% of the candidates of the last are new"}
    assert "less often" in refreshes.text[0]


def test_a_training_that_runs_or_was_killed(tmp_path):
    a_log(tmp_path / "model.run", 7)
    with (tmp_path / "model.run" / "log.jsonl").open("a") as file:
        file.write('{"kind": "step", "st')
    (tmp_path / "model").mkdir()
    page = of_training(tmp_path / "model")
    assert page.facts()["steps"] == "7 of 1,000: it runs, or was stopped (--resume goes on)"
    assert "no report.json yet" in section(page, "What it brought").missing[0]
    with TrainingLog(tmp_path / "empty") as log:
        log.write("start", 0, max_steps=3)
    page = of_training(tmp_path / "empty")
    assert section(page, "Loss").missing == ["No step has ended yet."]
    assert not page.figures


def test_a_log_of_another_training_is_said(tmp_path):
    a_report(a_log(tmp_path, first=3.0))
    assert (
        "not of the one that was kept"
        in section(of_training(tmp_path), "What it brought").missing[0]
    )


def test_no_training_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(ValueError, match=r"holds no log.jsonl of a training; give the folder"):
            of_training(path)


@pytest.mark.parametrize(
    ("after", "interval", "words"),
    [
        (0.5, [0.05, 0.15], "raised"),
        (0.5, [-0.05, 0.25], "may be chance"),
        (0.3, [-0.15, -0.05], "made nDCG@10 worse; try"),
        (0.3, [-0.25, 0.05], "made nDCG@10 worse, perhaps by chance; try"),
        (0.5, None, "may be chance"),
    ],
)
def test_what_the_numbers_mean(tmp_path, after, interval, words):
    gains = {} if interval is None else {"nDCG@10": interval}
    told = a_report(tmp_path, after={"nDCG@10": after, "R@100": 1}, gains=gains)
    (said,) = meaning(told)
    assert words in said


def test_the_folder_one_is_in_has_a_training_too(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path / "model")
    assert training_folder(Path()) is None
    a_log(tmp_path / "model.run", steps=1)
    assert training_folder(Path()) == tmp_path / "model.run"
