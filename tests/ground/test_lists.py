"""Ragged lists against lists of lists."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stope.lists import Lists, offsets_of, ranges

lists_of_ids = st.lists(st.lists(st.integers(-(2**62), 2**62), max_size=4), max_size=6)


@given(lists_of_ids, st.data())
def test_lists_are_lists(rows, data):
    lists = Lists.from_sequences(rows)
    assert [row.tolist() for row in lists.rows()] == rows
    assert lists.lengths.tolist() == [len(row) for row in rows]
    assert lists.owners.tolist() == [place for place, row in enumerate(rows) for _ in row]
    again = Lists.from_owners(lists.owners, lists.ids, len(rows))
    assert [part.tolist() for part in again] == [part.tolist() for part in lists]
    chosen = data.draw(st.lists(st.integers(0, max(len(rows) - 1, 0)), max_size=5 if rows else 0))
    assert [row.tolist() for row in lists.take(chosen).rows()] == [rows[row] for row in chosen]


@pytest.mark.parametrize("ids", [[2**63 + 5], np.uint64([3, 2**63]), np.array([2**63], ">u8")])
def test_ids_beyond_int64_are_refused_and_not_wrapped(ids):
    for make in (Lists.from_sequences, lambda ids: Lists.from_owners([0] * len(ids[0]), ids[0], 1)):
        with pytest.raises(ValueError, match=r"has 92233720368547758\d\d, beyond int64"):
            make([ids])
    assert Lists.from_sequences([np.uint64([3])]).ids.dtype == np.int64
    with pytest.raises(ValueError, match="an array has masked elements"):
        Lists.from_sequences([np.ma.array([1, 2], mask=[False, True])])


@pytest.mark.parametrize("num_lists", [2**16, 2**16 + 1, 200_000])
def test_owners_of_sixteen_bits_and_beyond_keep_the_order_of_their_ids(num_lists):
    owners = np.random.default_rng(0).integers(0, num_lists, 3_000) // 40_000 * 40_000 + 7
    owners[::100], owners[1::100] = num_lists - 1, 0
    lists = Lists.from_owners(owners, np.arange(3_000), num_lists)
    assert lists.lengths.sum() == 3_000
    for owner in np.unique(owners):
        assert lists.row(owner).tolist() == np.flatnonzero(owners == owner).tolist()


@given(st.lists(st.tuples(st.lists(st.integers(0, 9)), st.lists(st.integers(0, 9))), max_size=5))
def test_sets_of_lists(pairs):
    one, other = (Lists.from_sequences([pair[side] for pair in pairs]) for side in (0, 1))
    unions = [row.tolist() for row in one.union(other).rows()]
    assert unions == [sorted({*a, *b}) for a, b in pairs]
    assert [row.tolist() for row in one.without(other).rows()] == [
        [x for x in a if x not in b] for a, b in pairs
    ]
    owners = np.arange(len(pairs)).repeat(10)
    asked = np.tile(np.arange(10), len(pairs))
    inside = one.contains(owners, asked).tolist()
    assert inside == [x in pairs[row][0] for row, x in zip(owners, asked, strict=True)]


def test_what_does_not_fit_is_refused():
    lists = Lists.from_sequences([[1], [2]])
    with pytest.raises(ValueError, match="other has 1 lists for 2; give one for each"):
        lists.union(Lists.from_sequences([[1]]))
    with pytest.raises(TypeError, match=r"sequences\[0\] holds float64; give integers"):
        Lists.from_sequences([[0.5]])
    with pytest.raises(ValueError, match="with 2 lists they are from 0 to 1"):
        Lists.from_owners([2], [0], 2)
    assert offsets_of([]).tolist() == [0]
    assert ranges(np.array([], int), np.array([], int)).tolist() == []
