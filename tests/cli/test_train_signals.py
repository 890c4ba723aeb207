# ruff: noqa: F401, F811 - fixtures are imported here and named as arguments of the tests
"""`stope train` in a process of torchrun, which asks it to end while it says why it ended."""

from __future__ import annotations

import os
import signal
import sys

import pytest

pytest.importorskip("sentence_transformers", reason="needs the extra train")
pytest.importorskip("yaml", reason="needs the extra train")

from command import call, folder, texts

import stope.runs


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (RuntimeError("Process 0 of 2 lost another one"), 1, "Process 0 of 2 lost another one"),
        (KeyboardInterrupt, 130, "the same command --resume goes on from the last checkpoint"),
    ],
    ids=["error", "interrupted"],
)
def test_what_ended_it_is_said_before_torchrun_ends_it(
    call, folder, monkeypatch, error, code, sentence
):
    def run(*_, **__):
        raise error

    def asked(_):
        for number in before:
            os.kill(os.getpid(), number)  # while it looks whether another process has said so
        return True

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    monkeypatch.setattr(sys.modules["stope.cli.train"], "launched", lambda: 2)
    monkeypatch.setattr("stope.cli.terminal.first_to_say", asked)
    monkeypatch.setattr(stope.runs, "run", run)
    (folder / "config.yaml").write_text(
        "{data: pairs.tsv, encoder: {static: {dim: 16}}, output: run}"
    )
    try:
        assert sentence in call("train", "config.yaml", code=code).stderr
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
