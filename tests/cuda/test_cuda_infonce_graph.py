"""The contrastive loss in CUDA graphs: on the emulated machine, and with `-m gpu` on a real one.

A graph keeps ids, weights, limits and options; the matrices and row gradients are read anew at
every replay.
"""

from __future__ import annotations

import infonce_cases as cases
import numpy as np
import pytest
from devices import DEVICES, device_called
from infonce_cases import precisions
from infonce_checks import same_bits
from infonce_on_device import MATRICES, moved, run

import stope

NAMES = ("plain", "several weighted", "limits of rows", "no foreign hard", "everything")


@pytest.fixture(params=DEVICES)
def device(request, monkeypatch):
    return device_called(request.param, monkeypatch)


class Recorded:
    """Forward and backward pass as one graph, over memory of its own on the device."""

    def __init__(self, device, queries, documents, options, upstream):
        self.device, self.options = device, options
        # The rows are set before each replay: recording computes nothing.
        self.inputs = {
            name: device.to(np.zeros_like(rows))
            for name, rows in self._inputs(queries, documents, options, upstream).items()
        }
        given = moved(device, options)
        given |= {name: array for name, array in self.inputs.items() if name in MATRICES}
        matrices = self.inputs["queries"], self.inputs["documents"]

        def call():
            forward = stope.infonce_forward(*matrices, **given)
            upstream = self.inputs["upstream"]
            return forward, stope.infonce_backward(*matrices, forward, upstream, **given)

        self.results, self.replay = device.record(call)

    def _inputs(self, queries, documents, options, upstream):
        matrices = {name: options[name] for name in MATRICES if name in options}
        return {"queries": queries, "documents": documents, "upstream": upstream, **matrices}

    def __call__(self, queries, documents, options, upstream):
        """(InfoNCE, InfoNCEGradients) of other rows, as NumPy, by a replay."""
        for name, rows in self._inputs(queries, documents, options, upstream).items():
            self.device.write(self.inputs[name], rows)
        self.replay()
        forward, back = self.results
        return stope.InfoNCE(*map(self._back, forward)), back._replace(
            queries=self._back(back.queries), documents=self._back(back.documents)
        )

    def _back(self, array):
        return np.array(self.device.back(array))


def same_but_for_numbers(got, expected):
    """The fake library's numbers are not on the device; a GPU's are compared below."""
    same_bits(got[0], expected[0])
    for mine, other in zip(got[1][:2], expected[1][:2], strict=True):
        np.testing.assert_array_equal(mine, other)


@pytest.mark.parametrize(
    ("name", "precision"), [*((name, "float32") for name in NAMES), ("plain", "bfloat16")]
)
def test_small_graphs_give_what_calls_give(name, precision, device):
    """Of rows that were not there when the graph was recorded; lists of more than 4,000 bytes."""
    rows, count, dim = 5, 520, 6
    queries, documents, options, upstream = cases.undecided(name, "out", rows, count, dim)
    options = options | {"precision": precision}
    run(device, queries, documents, options, upstream)  # torch wants a call before the graph
    recorded = Recorded(device, queries, documents, options, upstream)
    rng = np.random.default_rng(7)
    queries, documents = (cases.embeddings(rng, n, dim) for n in (rows, count))
    upstream = rng.uniform(-1, 1, rows).astype(np.float32)
    got = recorded(queries, documents, options, upstream)
    same_but_for_numbers(got, run(device, queries, documents, options, upstream))


def test_a_graph_keeps_ids_and_weights(device):
    """The caller's own arrays may change or be gone when it is replayed."""
    queries, documents, options, upstream = cases.undecided("several weighted", "out", 9, 30, 6)
    lists = options["positives"]
    csr = np.cumsum([0, *map(len, lists)]), np.concatenate(lists)
    options = options | {"positives": csr, "log_weights": np.zeros(30, np.float32)}
    expected = run(device, queries, documents, options, upstream)
    recorded = Recorded(device, queries, documents, options, upstream)
    for vector in (*csr, options["positive_weights"], options["log_weights"]):
        vector[...] = 1
    same_but_for_numbers(recorded(queries, documents, options, upstream), expected)


@pytest.mark.parametrize("name", ["queries", "documents", "queue", "guide_documents", "upstream"])
def test_rows_that_are_not_finite_make_all_of_a_replay_nan(name, device):
    """A replay cannot raise; the one after it, of good rows, is right again."""
    queries, documents, options, upstream = cases.undecided("everything", "out", 9, 30, 6)
    expected = run(device, queries, documents, options, upstream)
    recorded = Recorded(device, queries, documents, options, upstream)
    given = {"queries": queries, "documents": documents, "upstream": upstream, **options}
    given[name] = given[name].copy()
    given[name][3] = np.nan
    parts = [given.pop(part) for part in ("queries", "documents", "upstream")]
    forward, back = recorded(*parts[:2], given, parts[2])
    if name != "upstream":
        assert np.isnan(forward.losses).all()
        assert np.isnan(forward.log_sum_exp).all()
    assert np.isnan(back.queries).all()
    assert np.isnan(back.documents).all()
    same_but_for_numbers(recorded(queries, documents, options, upstream), expected)


def test_rows_that_are_too_long_make_all_of_a_replay_nan(device):
    queries, documents, options, upstream = cases.undecided("dot", "out", 9, 30, 6)
    recorded = Recorded(device, queries, documents, options, upstream)
    forward, back = recorded(queries, documents * np.float32(1e30), options, upstream)
    assert np.isnan(forward.losses).all()
    assert np.isnan(back.queries).all()


def test_what_the_host_would_have_to_read_is_refused(device):
    queries, documents, options, upstream = cases.undecided("plain", "out", 9, 30, 6)
    there = device.to(queries), device.to(documents), device.to(upstream)
    forward = stope.infonce_forward(*there[:2], **options)
    unsorted = {"positives": [[i + 1, i] for i in range(9)]}
    for given, said in (
        (options | cases.TWO_WAYS, "partition='per_direction' is put together on the host"),
        (options | unsorted, "a query's positives do not ascend and are put together on the host"),
    ):
        with pytest.raises(RuntimeError, match=said):
            device.record(lambda given=given: stope.infonce_forward(*there[:2], **given))
    for gradients, said in ((None, "row_gradients is None"), (upstream, "not on the device")):
        with pytest.raises(RuntimeError, match=f"{said} while a CUDA graph is recorded"):
            device.record(
                lambda given=gradients: stope.infonce_backward(
                    *there[:2], forward, given, **options
                )
            )


@pytest.mark.gpu
@precisions
def test_small_torch_step(precision):
    """Loss and gradients by autograd in one graph, replayed on other rows."""
    torch = pytest.importorskip("torch", reason="the tests' CUDA arrays are torch's")
    from stope.torch import infonce

    def step(queries, documents):
        queries.grad = documents.grad = None
        losses = infonce(queries, documents, temperature=0.1, precision=precision)
        losses.mean().backward()
        return losses

    def tensors(seed):
        _, *rows = cases.problem(seed, 20, 40, 24)
        return [torch.tensor(part, device="cuda", requires_grad=True) for part in rows]

    held = tensors(0)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step(*held)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        losses = step(*held)
    for seed in (1, 2):
        fresh = tensors(seed)
        with torch.no_grad():
            for place, rows in zip(held, fresh, strict=True):
                place.copy_(rows)
        graph.replay()
        expected = step(*fresh)
        assert torch.equal(losses, expected)
        for place, rows in zip(held, fresh, strict=True):
            assert torch.equal(place.grad, rows.grad)


@pytest.mark.gpu
def test_small_numbers_of_a_graph_are_the_call_s():
    """The derivatives by temperature and bias: numbers of a call, tensors of a graph."""
    torch = pytest.importorskip("torch", reason="the tests' CUDA arrays are torch's")
    queries, documents, options, upstream = cases.undecided("plain", "sigmoid", 12, 40, 24)
    q, d, weights = (torch.tensor(rows).cuda() for rows in (queries, documents, upstream))
    forward = stope.infonce_forward(q, d, **options)
    called = stope.infonce_backward(q, d, forward, weights, **options)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        recorded = stope.infonce_backward(q, d, forward, weights, **options)
    graph.replay()
    assert float(recorded.temperature) == called.temperature
    assert float(recorded.bias) == called.bias
