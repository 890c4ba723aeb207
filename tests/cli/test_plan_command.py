"""stope plan: what it prints, what it measures here, what it refuses."""

# ruff: noqa: F401, F811 - fixtures are imported here and named as arguments of the tests
from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from command import call, folder, one_sentence, texts

from stope.cli.plan import duration
from stope.scale import rates
from stope.scale.plan import MACHINES, Search, predict

JOB = ("plan", "--queries", "100e6", "--corpus", "10M", "--dim", 768)
SMALL = ("plan", "--queries", "2k", "--corpus", 5000, "--dim", 16)


def test_the_plan_as_a_table(call):
    said = call(*JOB, "--machine", "h200", "--workers", 8).stdout
    made = predict(Search(10**8, 10**7, 768, 20), MACHINES["h200"], workers=8)
    assert f"{made.total_seconds / 60:.1f} min" in said
    assert "replicate: 28.6 GiB of corpus fit 118.0 GiB a worker" in said
    assert "assumed, never measured by us" in said
    assert "│ limit              │                arithmetic │" in said


def test_the_plan_as_json(call):
    told = json.loads(call(*JOB, "--machine", "zen4-64", "--workers", 9, "--memory", "16GiB",
                           "--network", "1GB", "--disk", "500MB", "--dtype", "int8",
                           "--json").stdout)  # fmt: skip
    assert told["search"] == {"queries": 10**8, "corpus": 10**7, "dim": 768, "k": 20, "itemsize": 1}
    assert told["layout"]["strategy"] == "replicate"
    assert told["machine"]["memory"] == 16 * 2**30
    assert told["machine"]["network"] == 10**9
    assert told["machine"]["disk_read"] == told["machine"]["disk_write"] == 5 * 10**8
    assert "but --memory, --disk, --network: as given" in told["machine"]["source"]
    assert told["total_seconds"] == pytest.approx(sum(told["seconds"].values()))
    assert told["memory_total"] == 9 * told["memory_per_worker"]


@pytest.fixture
def small_measures(monkeypatch):
    monkeypatch.setattr(rates, "_BYTES", 2**23)


def test_this_machine_is_measured(call, tmp_path, small_measures):
    told = json.loads(call(*SMALL, "--json", "--threads", 1).stdout)
    machine = told["machine"]
    assert machine["source"].startswith("measured now, 1 thread, ")
    assert 1e7 < machine["products"] < 1e14
    assert 1e6 < machine["disk_read"] < 1e12
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert machine["memory"] <= there
    assert not list(tmp_path.glob(".stope-plan-*"))


def test_memory_is_that_of_the_container(tmp_path, monkeypatch):
    for text, expected in (("1000000\n", 800_000), ("max\n", None)):
        (tmp_path / "limit").write_text(text)
        monkeypatch.setattr(rates, "_LIMIT", tmp_path / "limit")
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        assert rates._memory() == (expected or int(0.8 * there))


def test_rates_follow_from_two_searches(monkeypatch):
    """A machine whose times are known: its rates come out."""
    rate, pass_bytes = 3e9, 4e8

    def fastest(call):
        made = []
        monkeypatch.setattr(rates.stope, "topk", lambda q, c, k: made.append((q.shape, c.shape, k)))
        call()
        ((queries, dim), (rows, _), k), *_ = made
        products = rates.products(Search(queries, rows, dim, k))
        return rows * dim * 4 / pass_bytes + products / rate

    monkeypatch.setattr(rates, "_BYTES", 2**22)
    monkeypatch.setattr(rates, "_fastest", fastest)
    machine = rates.measure(32, 10, memory=2**30)
    assert machine.products == pytest.approx(rate)
    assert machine.pass_bytes == pytest.approx(pass_bytes)
    monkeypatch.setattr(rates, "_fastest", lambda call: 1.0)
    with pytest.raises(RuntimeError, match="too busy to be measured"):
        rates.measure(32, 10)


def test_encoding_counts_at_a_rate(call):
    told = json.loads(call(*JOB, "--machine", "h100", "--texts-per-second", 1000, "--workers", 10,
                           "--json").stdout)  # fmt: skip
    assert told["seconds"]["encoding"] == pytest.approx(1.1e8 / 1e4)
    assert told["limit"] == "encoding"


def test_an_encoder_is_measured_on_texts_of_ones_own(call, monkeypatch, small_measures):
    asked = []

    class Encoder:
        def encode(self, texts, **options):
            asked.append(len(texts))
            return np.ones((len(texts), 4), np.float32)

    monkeypatch.setattr("stope.cli.options.load_encoder", lambda name: Encoder())
    told = json.loads(call(*SMALL, "--encoder", "mine", "--texts", "corpus.jsonl", "--json").stdout)
    assert told["machine"]["texts"] > 0
    assert told["seconds"]["encoding"] == pytest.approx(7000 / told["machine"]["texts"])
    assert sum(asked) >= 150


def test_slow_and_failing_workers(call):
    arguments = (*JOB, "--machine", "h200", "--workers", 64, "--simulate", "--runs", 2)
    said = call(*arguments).stdout
    assert "speculate" in said
    assert "Shortest: --block-rows" in said
    told = json.loads(call(*arguments, "--json").stdout)["simulation"]
    assert told == json.loads(call(*arguments, "--json").stdout)["simulation"]
    assert {row["policy"] for row in told} == {"retry", "speculate"}
    blocks = [row["block_rows"] for row in told]
    assert blocks == sorted(blocks)
    assert len(set(blocks)) >= 4


def test_a_picture_of_the_simulation(call, folder):
    pytest.importorskip("matplotlib", reason="needs the extra pictures")
    call(
        *JOB, "--machine", "h200", "--workers", 64, "--simulate", "--runs", 2, "--picture", "x.png"
    )
    assert (folder / "x.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--queries", "1.5"], "--queries is '1.5'; give a whole number"),
        (["--queries", "many"], "--queries is 'many'; give a whole number"),
        (["--queries", "5GiB"], "--queries is '5GiB'; give a whole number"),
        (["--queries", "0"], "--queries is '0'; give a whole number"),
        (["--queries", "1e300"], "--queries is '1e300'; give a whole number"),
        (["--memory", "lots"], "--memory is 'lots'; give bytes, such as 64GiB or 2GB"),
        (["--memory", "10MB"], "--memory is 9.5 MiB; a worker needs"),
        (["--k", 20_000_000], "--k is 20000000; it must be from 1 to 10000000"),
        (["--machine", "abacus"], "--machine is 'abacus'; give one of this, zen4-2"),
        (["--encoder", "x"], "--encoder is measured on this machine, not on h200"),
        (["--texts-per-second", 0], "--texts-per-second is 0.0; it must be finite and above 0"),
        (["--encoder", "x", "--texts-per-second", 2], "are both given; leave one out"),
        (["--simulate", "--spread", "nan"], "--spread is nan; it must be from 0 to 3"),
    ],
)
def test_what_is_refused(call, arguments, said):
    result = call(*JOB, "--machine", "h200", *arguments, code=1)
    assert said in one_sentence(result.stderr)
    assert not result.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--spread", 1], "add --simulate"),
        (["--folder", "."], "it is of this machine, not of h200"),
        (["--threads", 1], "it is of this machine, not of h200"),
        (["--texts", "corpus.jsonl"], "it is for --encoder, and there is none"),
    ],
)
def test_options_without_effect_are_refused(call, arguments, said):
    assert said in call(*JOB, "--machine", "h200", *arguments, code=2).stderr


def test_an_encoder_here_needs_texts(call):
    said = one_sentence(call(*SMALL, "--encoder", "x", code=1).stderr)
    assert said.startswith("--texts is missing")


def test_the_guide_says_what_its_commands_say(call):
    guide = (Path(__file__).resolve().parents[2] / "docs/guides/scale.md").read_text()
    lines = re.findall(r"^(stope plan .*--machine [^#\n]*)", guide.replace("\\\n", " "), flags=re.M)
    assert len(lines) == 6
    for line in lines:
        told = json.loads(call(*line.split()[1:], "--json").stdout)
        assert f"| {duration(told['total_seconds'])} |" in guide, line
        share = told["seconds"][told["limit"]] / told["total_seconds"]
        assert f"| {told['limit']}, {share:.0%} |" in guide, line
        simulated = {}
        for row in told.get("simulation", ()):
            simulated.setdefault(row["block_rows"], []).append(row)
        for block, (retry, speculate) in simulated.items():
            cells = [f"{block:,}", *map(duration, (retry["task_seconds"], retry["seconds"])),
                     duration(speculate["seconds"])]  # fmt: skip
            assert f"| {' | '.join(cells)} |" in guide, cells
