"""What weightings, batches and samplings share: a name, fields, and a way back from them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from stope._named import Named, names_of
from stope.mining.sampling import Sampling
from stope.training.batches import BatchSpec
from stope.weighting import Weighting


class Rock(Named, family="rock", members="rocks"):
    pass


class Layered(Rock, name=None):
    pass


@dataclass(frozen=True)
class Slate(Layered, name="slate"):
    layers: Any = 3
    over: Any = None


@dataclass(frozen=True)
class Ore(Rock, name="ore"):
    metal: str
    assays: tuple = field(default_factory=tuple)
    depth: float = field(default=0.0, init=False)


class Sand(Rock, name="sand"):
    """No dataclass."""


def test_there_and_back():
    rock = Slate(np.int32(4), over=[Ore("tin", (0.5, np.float32(0.25))), True, None])
    written = rock.to_dict()
    assert written == {
        "name": "slate",
        "layers": 4,
        "over": [{"name": "ore", "metal": "tin", "assays": [0.5, 0.25]}, True, None],
    }
    read = Rock.from_dict(json.loads(json.dumps(written)))
    assert read == Slate(4, over=(Ore("tin", (0.5, 0.25)), True, None))
    assert [type(number) for number in read.over[0].assays] == [float, float]
    assert Rock.from_dict(read) is read


def test_names():
    assert names_of(Rock) == ("ore", "sand", "slate")
    assert names_of(Layered) == ("slate",)
    assert Layered.from_dict("slate") == Slate()


def redefined():
    @dataclass(frozen=True)
    class Chalk(Rock, name="chalk"):
        pass

    return Chalk


def test_a_class_that_is_defined_again_takes_the_place_of_the_first():
    first, second = redefined(), redefined()
    try:
        assert first is not second
        assert type(Rock.from_dict("chalk")) is second
    finally:
        del Rock._registry["chalk"]


@pytest.mark.parametrize(
    ("config", "kind", "says"),
    [
        (None, TypeError, "rock is None; give a mapping with a name and fields, or a name, one of"),
        ({"metal": "tin"}, ValueError, "rock is {'metal': 'tin'}, which has no name; give name"),
        ("gold", ValueError, "rock has the name 'gold'; there are the rocks ore, sand, slate$"),
        ({"name": []}, ValueError, r"rock has the name \[\]; there are"),
        ({"name": "slate", 3: 4}, ValueError, "rock 'slate' has no field 3; it has layers, over$"),
        ("ore", ValueError, "rock 'ore' needs the field 'metal'; give it"),
        ({"name": "ore", "metal": "tin", "depth": 1}, ValueError, "'ore' has no field 'depth'"),
        ({"name": "slate", "over": {"name": "ore"}}, ValueError, "rock.over 'ore' needs the field"),
        ({"name": "slate", "over": [3, {"name": "x"}]}, ValueError, r"rock.over\[1\] has the name"),
        ("sand", TypeError, "test_named.Sand is no dataclass; write @dataclass"),
    ],
)
def test_what_can_not_be_read(config, kind, says):
    with pytest.raises(kind, match=says):
        Rock.from_dict(config)


def test_a_member_reads_only_its_own_kind():
    with pytest.raises(ValueError, match=r"has the name .ore.; there are the rocks slate$"):
        Layered.from_dict("ore")
    nested = Slate.from_dict({"name": "slate", "over": {"name": "ore", "metal": "tin"}})
    assert nested.over == Ore("tin")


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1j, {}, np.ones(2), Rock])
def test_what_can_not_be_written(value):
    with pytest.raises(TypeError, match=r"slate.over\[0\] is .*; a configuration holds .* rocks$"):
        Slate(over=[value]).to_dict()


def test_a_class_that_is_no_dataclass_can_not_be_written():
    with pytest.raises(TypeError, match=r"test_named\.Sand is no dataclass; write @dataclass"):
        Sand().to_dict()


@pytest.mark.parametrize(
    ("family", "taken"), [(Weighting, "focal"), (BatchSpec, "mixed"), (Sampling, "top")]
)
def test_every_family_asks_for_a_name_of_its_own(family, taken):
    with pytest.raises(ValueError, match=rf"name is '{taken}', which stope\..* has already; give"):
        type("Other", (family,), {}, name=taken)
    said = rf"Other has no name; write class Other\({family.__name__}, name=\"\.\.\.\"\)"
    with pytest.raises(TypeError, match=said):
        type("Other", (family,), {})
