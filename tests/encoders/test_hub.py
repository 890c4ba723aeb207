"""A model's name that is no folder: the hub is asked once, and what it says or does not is told."""

from __future__ import annotations

import pytest

hub = pytest.importorskip("huggingface_hub", reason='needs pip install "stope[train]"')
library = pytest.importorskip("sentence_transformers", reason='needs pip install "stope[train]"')

from stope.encoders import hub as ours
from stope.encoders import load_encoder
from stope.mining import load_teacher

KEPT = "kept here are ore/encoder, rock/encoder"


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """What the hub was asked; set `.answer` to the error that it gives."""

    class Hub:
        answer: Exception | None = None
        requests = 0

    def model_info(name, *, timeout):
        Hub.requests += 1
        if Hub.answer is not None:
            raise Hub.answer

    for name in ("ore", "rock"):
        (tmp_path / f"models--{name}--encoder").mkdir()
    (tmp_path / "datasets--ore--queries").mkdir()
    monkeypatch.setattr(hub, "model_info", model_info)
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(ours.time, "sleep", lambda seconds: None)
    return Hub


@pytest.fixture
def loads(monkeypatch):
    """How the library was asked for models: without the hub (True), and with it."""
    ways = []

    def load(name, local_files_only=False):
        ways.append(local_files_only)
        raise OSError("the library says no")

    monkeypatch.setattr(library, "SentenceTransformer", load)
    return ways


def test_no_network_is_said_after_three_requests(asked, loads):
    asked.answer = TimeoutError("no route to it\nand more")
    with pytest.raises(ValueError, match=r"^The encoder 'ore/enc' is neither") as error:
        load_encoder("ore/enc")
    assert f"it cannot be reached, TimeoutError: no route to it; {KEPT})" in str(error.value)
    assert asked.requests == 3
    assert loads == [True]  # it makes some requests more, and each again for half a minute


def test_a_switch_against_requests_is_named_at_once(asked, loads):
    asked.answer = hub.errors.OfflineModeIsEnabled("offline")
    with pytest.raises(ValueError, match=f"HF_HUB_OFFLINE is set; {KEPT}"):
        load_encoder("ore/enc")
    assert asked.requests == 1
    assert loads == [True]


def test_what_the_hub_answers_is_the_libraries_to_tell(asked, loads):
    with pytest.raises(ValueError, match="the library says no"):
        load_encoder("ore/enc")
    asked.answer = ValueError("no name of the hub's")
    with pytest.raises(ValueError, match="the library says no"):
        load_encoder("ore enc")
    assert asked.requests == 2
    assert loads == [True, False, True, False]


def test_a_teacher_is_asked_for_alike(asked, monkeypatch):
    asked.answer = TimeoutError("no route to it")
    ways = []
    monkeypatch.setattr(
        library.util,
        "load_file_path",
        lambda name, file, local_files_only: ways.append(local_files_only),
    )
    with pytest.raises(ValueError, match=f"nor a model that the hub gave .it cannot .*{KEPT}"):
        load_teacher("ore/enc")
    assert (asked.requests, ways) == (3, [True] * 3)
    asked.answer = None
    with pytest.raises(ValueError, match="nor a model that the hub gave;"):
        load_teacher("ore/enc")
    assert ways == [True] * 6 + [False] * 3
