"""Progress where stderr is no terminal: a line now and then, none with -q."""

from __future__ import annotations

import pytest

from stope.cli import terminal


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is moved."""
    now = [100.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize("quiet", [False, True])
def test_what_takes_longer_than_two_seconds_has_lines(capsys, clock, quiet):
    with terminal.bars(quiet) as bars:
        for second, done in enumerate(range(0, 30_000, 1000)):
            clock[0] = 100.0 + second
            bars.show("mining", done, 30_000)
        bars.show("writing", 1, 1)  # at once
    said = capsys.readouterr().err.splitlines()
    lines = [f"stope: mining: {done:,} of 30,000." for done in (2000, 12_000, 22_000)]
    assert said == ([] if quiet else lines)


@pytest.mark.parametrize("quiet", [False, True])
def test_one_bar_says_how_much_is_done(capsys, clock, quiet):
    with terminal.one_bar(quiet) as bar:
        bar.say("training on 9 pairs")
        for second in range(14):
            clock[0] = 100.0 + second
            bar.show(second, 14)
    said = capsys.readouterr().err.splitlines()
    lines = ["training on 9 pairs.", "done: 2 of 14.", "done: 12 of 14."]
    assert said == ([] if quiet else [f"stope: {line}" for line in lines])
