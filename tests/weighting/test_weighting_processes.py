"""Statistics over processes: two processes weigh as one with all samples (docs/methods.md, A1, E2).

The processes have different numbers of samples.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
from gloo_processes import together

import torch
from stope import weighting as w

HARDNESS = np.array([-0.4, 0.1, 0.3, -np.inf, -0.2, 0.25, 0.0], np.float32)
LOSSES = np.array([0.5, 2.0, 3.5, 1.0, 4.0, 0.25, 1.5], np.float32)
EASINESS = np.array([0.5, 0.25, 0.75, 1.0, 0.125, 0.5, 0.0], np.float32)
PARTS = (slice(0, 5), slice(5, 7))
CASES = {
    "progressive": (w.Progressive(), 0.9),
    "dynamic": (w.Dynamic(temperature=0.4), 0.5),
    "extremes": (w.Dynamic(strategy="extremes"), 0.5),
    "batch mean": (w.AnswerRanking(batch_mean=True), 0.25),
    "normalized": (w.Normalized(w.Teacher("easiness")), 0.5),
    "anti": (w.Anti(w.Focal()), 0.5),
}


def signals(part=slice(None)):
    named = {"hardness": HARDNESS, "loss": LOSSES, "easiness": EASINESS}
    return {name: torch.from_numpy(values[part]) for name, values in named.items()}


def refused(call):
    try:
        call()
    except (TypeError, ValueError) as error:
        return str(error)
    return "nothing"


def worker(here, count, folder):
    mine = signals(PARTS[here])
    group = torch.distributed.new_group([0, 1])
    found = {"weights": {}, "numpy": {}, "group": {}, "refused": {}}
    for name, (weighting, progress) in CASES.items():
        found["weights"][name] = weighting(mine, progress, processes="all").tolist()
        arrays = {key: value.numpy() for key, value in mine.items()}
        found["numpy"][name] = weighting(arrays, progress, processes="all").tolist()
        found["group"][name] = weighting(mine, progress, processes=group).tolist()
    found["local"] = w.Dynamic()(mine, 0.5).tolist()
    found["summary"] = tuple(w.summarize_weights(mine["loss"], processes="all"))
    some = mine["loss"][: 0 if here else None]  # one of them has no samples
    found["uneven"] = w.Dynamic().weights(some, 0.5, processes="all").tolist()
    bad = mine["loss"].clone()
    bad[1] = torch.nan if here else bad[1]
    integers = torch.ones(3, dtype=torch.int64 if here else torch.float32)
    for name, values in {"nan": bad, "dtype": integers, "empty": mine["loss"][:0]}.items():
        found["refused"][name] = refused(
            lambda v=values: w.Dynamic().weights(v, 0, processes="all")
        )
    # Of these, one part looks at its own process alone, and another at all.
    parts = {
        "product": w.Product((w.Focal(), w.Progressive())),
        "normalized": w.Normalized(w.Product((w.Progressive(), w.Focal()))),
        "anti": w.Anti(w.Focal()),
    }
    some = {**mine, "loss": bad}
    for name, weighting in parts.items():
        call = functools.partial(weighting, some, 0.5, processes="all")
        found["refused"][name] = refused(call)
    call = functools.partial(w.weigh, w.Focal(), some, 0.5, processes="all")
    found["refused"]["weigh"] = refused(call)
    return found


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """What each of the two processes found."""
    return together(__file__, tmp_path_factory.mktemp("weighting"))


@pytest.mark.parametrize("form", ["weights", "numpy", "group"])
@pytest.mark.parametrize("name", CASES)
def test_two_processes_weigh_as_one(processes, name, form):
    weighting, progress = CASES[name]
    expected = weighting(signals(), progress).numpy()
    for part, found in zip(PARTS, processes, strict=True):
        np.testing.assert_allclose(found[form][name], expected[part], rtol=1e-6)


def test_without_being_asked_a_process_weighs_its_own(processes):
    for part, found in zip(PARTS, processes, strict=True):
        np.testing.assert_allclose(found["local"], w.Dynamic()(signals(part), 0.5), rtol=1e-6)


def test_a_process_without_samples_takes_part(processes):
    expected = w.Dynamic().weights(LOSSES[PARTS[0]], 0.5)
    np.testing.assert_allclose(processes[0]["uneven"], expected, rtol=1e-6)
    assert processes[1]["uneven"] == []


def test_the_summary_is_of_all(processes):
    for found in processes:
        np.testing.assert_allclose(found["summary"], w.summarize_weights(LOSSES), rtol=1e-6)


def test_what_one_process_refuses_stops_all(processes):
    first, second = (found["refused"] for found in processes)
    assert first["nan"].startswith("another process was given samples that cannot be weighted")
    assert second["nan"].startswith("loss[1] is nan; every entry must be finite")
    assert first["dtype"].startswith("another process")
    assert "loss has dtype torch.int64" in second["dtype"]
    for name in ("product", "normalized", "anti", "weigh"):
        assert first[name].startswith("another process was given samples")
        assert second[name].startswith("losses[1] is nan")
    assert first["empty"] == second["empty"]
    assert first["empty"].startswith("loss is empty")


def test_all_without_a_group_is_this_process():
    expected = w.Dynamic().weights(LOSSES, 0.5)
    np.testing.assert_array_equal(w.Dynamic().weights(LOSSES, 0.5, processes="all"), expected)
