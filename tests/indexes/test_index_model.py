"""Random sequences of operations on an index, against a dictionary of rows (index_model)."""

from __future__ import annotations

import copy
import pathlib
import pickle
import tempfile

import index_model
import numpy as np
import pytest
import reference
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

import stope
from stope.indexes import _store

DIM = 5
NUMBERS = st.integers(-40, 40).filter(lambda id_: id_ != -1) | st.sampled_from([2**40, -(2**62)])
TEXTS = st.text("abcé\ud800z", max_size=3)
SEEDS = st.integers(0, 2**32 - 1)


def rows_of(seed, count, dtype=np.float32):
    """Rows of few values, so that scores tie, within lists and at their ends."""
    return np.random.default_rng(seed).integers(-2, 3, (count, DIM)).astype(dtype)


class Operations(RuleBasedStateMachine):
    """An index, and the model that it is compared with after every operation."""

    @initialize(
        texts=st.booleans(),
        metric=st.sampled_from(["dot", "cosine", "euclidean"]),
        storage=st.sampled_from([None, "float16", "bfloat16"]),
        start=st.integers(0, 40),
        seed=SEEDS,
    )
    def begin(self, texts, metric, storage, start, seed):
        self.texts = texts
        self.model = index_model.Model(DIM, metric)  # such small integers are not rounded
        if texts or not start:
            self.index = stope.FlatIndex(DIM, metric, storage=storage)
        else:
            rows = rows_of(seed, start)
            self.index = stope.FlatIndex(rows, metric, storage=storage)
            self.model.put(rows)
        self.watched = []  # copies that nothing may change, with their models

    def some(self, data, unique=True):
        """Ids that are there, and perhaps others."""
        kind = TEXTS if self.texts else NUMBERS
        known = self.model.ids
        ids = st.lists(st.sampled_from(known) | kind if known else kind, max_size=12, unique=unique)
        return data.draw(ids)

    @rule(data=st.data(), seed=SEEDS)
    def add(self, data, seed):
        ids = [id_ for id_ in self.some(data) if id_ not in self.model.rows]
        rows = rows_of(seed, len(ids))
        assert self.index.add(rows, ids).tolist() == ids
        self.model.put(rows, ids)

    @rule(count=st.integers(0, 30), seed=SEEDS)
    def number(self, count, seed):
        if self.texts:
            return
        rows = rows_of(seed, count)
        ids = self.index.add(rows)
        assert ids.tolist() == [*range(self.model.next, self.model.next + count)]
        self.model.put(rows)

    @rule(data=st.data(), seed=SEEDS)
    def replace(self, data, seed):
        ids = self.some(data)
        rows = rows_of(seed, len(ids))
        self.index.add(rows, ids, replace=True)
        self.model.put(rows, ids)

    @rule(data=st.data(), seed=SEEDS)
    def update(self, data, seed):
        ids = self.some(data)
        rows = rows_of(seed, len(ids))
        if all(id_ in self.model.rows for id_ in ids):
            self.index.update(rows, ids)
            self.model.put(rows, ids)
        else:
            with pytest.raises(ValueError, match="not in the index"):
                self.index.update(rows, ids)

    @rule(data=st.data())
    def remove(self, data):
        ids = self.some(data)
        if all(id_ in self.model.rows for id_ in ids):
            self.index.remove(ids)
            self.model.remove(ids)
        else:
            with pytest.raises(ValueError, match="not in the index"):
                self.index.remove(ids)

    @rule(data=st.data())
    def remove_most(self, data):
        ids = self.model.ids
        ids = [id_ for id_ in ids if data.draw(st.booleans())] if len(ids) < 9 else ids[2:-1]
        self.index.remove(ids)
        self.model.remove(ids)

    @rule()
    def compact(self):
        self.index.compact()

    @rule(data=st.data(), seed=SEEDS)
    def merge(self, data, seed):
        ids = [id_ for id_ in self.some(data) if id_ not in self.model.rows]
        rows = rows_of(seed, len(ids))
        if ids:
            other = stope.FlatIndex(rows, self.index.metric, ids=ids)
            if self.index.dtype != "float32":
                other = stope.FlatIndex(rows, self.index.metric, ids=ids, storage=self.index.dtype)
            self.index.merge(other)
            self.model.put(rows, ids)

    @rule(how=st.sampled_from([copy.copy, copy.deepcopy, lambda i: pickle.loads(pickle.dumps(i))]))
    def copy(self, how):
        other = how(self.index)
        self.watched.append((self.index, copy.deepcopy(self.model)))
        self.index = other

    @rule()
    def save(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "index.stope"
            self.index.save(path)
            self.index = stope.FlatIndex.load(path)

    @rule(data=st.data(), seed=SEEDS, k=st.integers(1, 60), count=st.integers(0, 4))
    def search(self, data, seed, k, count):
        queries = rows_of(seed, count)
        options, may = data.draw(filters(self.model.ids, count, self.texts))
        low, high = sorted(data.draw(st.tuples(*[st.integers(-9, 9)] * 2)))
        if data.draw(st.booleans()):
            low, high = -np.inf, np.inf
        ranked = self.model.ranked(queries, may, low, high)
        got = self.index.search(queries, k, **options, floor=low, ceiling=high)
        reference.assert_same(got, index_model.padded(ranked, k, None if self.none else -1))

    @rule(data=st.data(), seed=SEEDS, count=st.integers(0, 4), threshold=st.integers(-4, 4))
    def search_range(self, data, seed, count, threshold):
        queries = rows_of(seed, count)
        options, may = data.draw(filters(self.model.ids, count, self.texts))
        got = self.index.range_search(queries, threshold, **options)
        ranked = self.model.ranked(queries, may, threshold)
        assert np.diff(got.offsets).tolist() == [len(row) for row in ranked]
        pairs = [pair for row in ranked for pair in row]
        assert got.ids.tolist() == [id_ for _, id_ in pairs]
        expected = np.array([score for score, _ in pairs], np.float32)
        np.testing.assert_array_equal(reference.bits(got.scores), reference.bits(expected))

    @property
    def none(self):
        return self.index._store.held.ids.texts

    @invariant()
    def is_the_model(self):
        if not hasattr(self, "index"):
            return
        for index, model in [(self.index, self.model), *self.watched[-2:]]:
            assert index.ids.tolist() == [*index] == model.ids
            assert len(index) == len(model.rows)
            np.testing.assert_array_equal(index.reconstruct(), model.matrix())
            backwards = model.ids[::-1]
            if backwards:
                np.testing.assert_array_equal(index.reconstruct(backwards), model.matrix()[::-1])
            assert all(id_ in index for id_ in backwards)
            other = "not there" if self.texts else -1
            assert other not in index


FORMS = (None, "ids", "set", "mask", "lists", "padded", "masks", "csr")
EACH = FORMS[4:]  # for each query one


@st.composite
def filters(draw, ids, count, texts):
    """(exclude and among in one of their forms, the ids that each query may find)."""
    options, may = {}, [set(ids) for _ in range(count)]
    for name in ("exclude", "among"):
        form = draw(st.sampled_from(FORMS))
        if form is None or (form == "csr" and texts):
            continue
        each = form in EACH
        some = st.lists(st.sampled_from(ids), unique=True) if ids else st.just([])
        chosen = [draw(some) for _ in range(count if each else 1)]
        options[name] = in_form(form, chosen, ids, draw(st.integers(0, 2)), texts)
        may = left(may, name, chosen)
    return options, may


def left(may, name, chosen):
    """What each query may find after a filter, of one list for all or one each."""
    listed = map(set, chosen * (len(may) if len(chosen) == 1 else 1))
    pairs = zip(may, listed, strict=True)
    return [ids - some if name == "exclude" else ids & some for ids, some in pairs]


def in_form(form, chosen, ids, padding, texts):
    if form == "ids":
        return chosen[0]
    if form == "set":
        return set(chosen[0])
    if form == "mask":
        return np.isin(np.array(ids, object), np.array(chosen[0], object))
    if form == "lists":
        return chosen
    if form == "padded":
        width = max(map(len, chosen), default=0) + padding
        none = None if texts else -1
        rows = np.full((len(chosen), width), none, object if texts else np.int64)
        for row, listed in enumerate(chosen):
            rows[row, : len(listed)] = listed
        return rows
    if form == "masks":
        return np.array([[id_ in listed for id_ in ids] for listed in chosen], bool).reshape(
            len(chosen), len(ids)
        )
    assert form == "csr", form
    return stope.lists.Lists.from_sequences(chosen)


@pytest.mark.parametrize("most_gone", [2, 1000])
def test_an_index_is_a_dictionary(most_gone, monkeypatch):
    """Both where it is compacted every now and then, and where it hardly ever is."""
    monkeypatch.setattr(_store, "_MOST_GONE", most_gone)
    options = settings(max_examples=40, stateful_step_count=20, deadline=None)
    run_state_machine_as_test(Operations, settings=options)


@pytest.mark.parametrize("exclude", FORMS)
@pytest.mark.parametrize("among", FORMS)
@pytest.mark.parametrize("texts", [False, True])
def test_filters_of_all_forms_together(exclude, among, texts):
    """Rows came in any order and some are gone; many are left, which are scanned, or a few."""
    if texts and "csr" in (exclude, among):
        return
    rng = np.random.default_rng([FORMS.index(exclude), FORMS.index(among), texts])
    ids = rng.permutation(400)[:230].tolist()
    ids = [f"{id_:03}" for id_ in ids] if texts else ids
    model, index, rows = index_model.Model(DIM), stope.FlatIndex(DIM), rows_of(7, 230)
    for put, remove in ((model.put, model.remove), (index.add, index.remove)):
        put(rows, ids)
        remove(ids[::9])
    for count, share in ((1, 0.02), (1, 0.5), (20, 0.05), (20, 0.5)):
        queries, options, may = rows_of(count, count), {}, [set(model.ids)] * count
        kept = 1 - share if among is None else 0.5
        for name, form, part in (("exclude", exclude, kept), ("among", among, share)):
            if form is not None:
                lists = range(count if form in EACH else 1)
                chosen = [[id_ for id_ in model.ids if rng.random() < part] for _ in lists]
                options[name] = in_form(form, chosen, model.ids, 1, texts)
                may = left(may, name, chosen)
        ranked = model.ranked(queries, may)
        for k in (1, 7, 60, 250):
            got = index.search(queries, k, **options)
            expected = index_model.padded(ranked, k, None if texts else -1)
            reference.assert_same(got, expected, f"{count} queries, {share}, k {k}")
        near = index.range_search(queries, 1, **options)
        pairs = [[id_ for score, id_ in row if score >= 1] for row in ranked]
        assert [part.tolist() for part in np.split(near.ids, near.offsets[1:-1])] == pairs
