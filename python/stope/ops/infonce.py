"""infonce: the contrastive loss and its gradients, without the matrix of scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stope import _arrays, _core
from stope._checks import flag
from stope._host import on_host
from stope._kinds import a, kinds, maybe, numbers
from stope.ops._infonce_problem import Problem, float32_vector, problems
from stope.ops._infonce_state import memory_size, state_size
from stope.progress import check_progress

_STATE: int = _core.INFONCE_STATE


class InfoNCE(NamedTuple):
    """What :func:`infonce_forward` returns, one entry per query unless said otherwise.

    Attributes:
        losses: float32 ``[m]``, L_i; 0 for queries without positives.
        log_sum_exp: float32 ``[m]``, log of the whole denominator (of the negatives alone for
            ``"decoupled"`` and for queries without positives); for ``"sigmoid"`` and
            ``"pairwise"`` the sum over the negatives. With ``partition="per_direction"``, that of
            query-to-document.
        positive_scores: float32 ``[positives]``, raw scores in the order of ``positives``.
        negatives: int64 ``[m]``, how many columns were kept as negatives, over all directions.
        best_negatives: int64 ``[m]``, id of the best kept document (queue rows follow the
            documents), the smallest among equals; -1 where there is none.
        best_negative_scores: float32 ``[m]``, its raw score; -inf where there is none.
        ranks: int64 ``[m]``, 1 + kept documents that score above the query's best positive; 0 for
            queries without positives.
        kept: int64 ``[m]``, how many of the negatives get a gradient: with ``drop=0`` all of them.
        left_out: float32 ``[m]``, at most this share of the mass of the row's negatives gets none.
        state: float64, what :func:`infonce_backward` needs: sums per row, and with ``drop`` the
            entries that were kept, where they fit.
    """

    losses: Any
    log_sum_exp: Any
    positive_scores: Any
    negatives: Any
    best_negatives: Any
    best_negative_scores: Any
    ranks: Any
    kept: Any
    left_out: Any
    state: Any


class InfoNCEGradients(NamedTuple):
    """Gradients of the sum of ``row_gradients[i] * losses[i]``.

    Attributes:
        queries: float32 ``[m, dim]``.
        documents: float32 ``[n, dim]``, or None when they were not asked for.
        temperature: float, the derivative by the temperature; a float64 array of no dimensions on
            the device while a CUDA graph is recorded.
        bias: likewise, the derivative by the bias (objective ``"sigmoid"``).
    """

    queries: Any
    documents: Any
    temperature: Any
    bias: Any


def infonce_forward(
    queries: Any,
    documents: Any,
    *,
    progress: Callable[[int, int], object] | None = None,
    **options: Any,
) -> InfoNCE:
    r"""Compute every query's contrastive loss against all documents, tile by tile.

    With S the cosine (or dot product) of query i and document j, s = 1 / temperature and logits
    l_ij = s · S_ij, the documents that are neither positives of query i nor dropped by a rule below
    are its negatives. n = log Σ_negatives e^l, Y_p = y_p / Σ y, sp(x) = log(1 + e^x):

    ============== =======================================================================
    ``objective``  L_i
    ============== =======================================================================
    ``out``        log(e^n + Σ_p e^l_p) - Σ_p Y_p l_p      (InfoNCE; SupCon's outer sum)
    ``in``         log(e^n + Σ_p e^l_p) - log Σ_p e^l_p
    ``excl``       Σ_p Y_p sp(n - l_p)                     (each positive against negatives only)
    ``decoupled``  n - Σ_p Y_p l_p                         (DCL)
    ``hardness``   sp(log N_g - l_p), N_g reweighted by e^(beta l) and debiased by positive_prior
                   (HCL; beta = 0: debiased; both 0: InfoNCE)
    ``pairwise``   Σ_negatives sp(l_j - l_p)               (STAR)
    ``sigmoid``    Σ_negatives sp(l_j + b) + Σ_p y_p sp(-l_p - b)   (SigLIP, b = bias)
    ============== =======================================================================

    With a single positive the first three are the same. The names in brackets are accepted, too, in
    any case: ``"InfoNCE"``, ``"SupCon"``, ``"DCL"``, ``"HCL"``, ``"STAR"``, ``"SigLIP"``. The loss
    of a batch is a mean of L_i, weighted or not: pass its derivatives by L_i to
    :func:`infonce_backward`.

    Args:
        queries: ``[m, dim]`` float32, float16 or bfloat16 (NumPy, torch, DLPack). On a CUDA device
            (torch, CuPy) the loss is computed there, on the current stream.
        documents: ``[n, dim]``, likewise; like all matrices, on the device of ``queries``.
        progress: called now and then with ``(done, total)``.
        **options: the following, all optional.

            positives: ids of each query's positives: one per query, a sequence of id arrays, or CSR
            ``(offsets, ids)``. Default: document i belongs to query i.

            positive_weights: y, one number above 0 per positive, in the order of ``positives``.

            temperature: above 0 (0.05). metric: ``"cosine"`` (default; a zero row scores 0 and gets
            no gradient) or ``"dot"``. objective: see above (``"out"``). bias: ``"sigmoid"`` only.
            beta, positive_prior, detach_hardness: ``"hardness"`` only; the last treats e^(beta l)
            as constant for the gradient.

            focal_margin: m; positives get logits s·S², negatives s·S·(S + m) (Focal-InfoNCE).

            directions: which scores share the denominator: ``"query_to_document"`` (always),
            ``"query_to_query"`` (other queries), ``"document_to_query"`` (all queries against the
            query's positive, query i again among them: GTE's sum over all j, as
            sentence-transformers computes it), ``"document_to_document"`` (all but its own
            documents against it). partition: ``"joint"`` puts them in one denominator;
            ``"per_direction"`` averages one loss per direction (the first and third only).

            hard_negatives: ids of each query's own, as ``positives`` or as a matrix with -1 in
            short rows. hard_negative_log_weight: added to their logits.
            foreign_hard_negatives: False hides those of other queries.
            documents_see_hard_negatives: False keeps them out of document-to-document.

            hardness, hardness_strength: add strength · S, without gradient, to the logits of
            ``"in_batch_negatives"``, ``"hard_negatives"`` or ``"all_negatives"``.

            log_weights: ``[n]``, added to the documents' logits where they are negatives
            (logQ correction: minus the log of how often a document is drawn).

            Rules that drop negatives: exclude (ids per query; from its documents in
            query-to-document and document-to-document); document_ids ``[n]`` (a document with the
            id of one of the query's positives); absolute_margin m (S > p - m, p the lowest positive
            score; Qwen3-Embedding: -0.1); relative_margin m (S > p - abs(p)·m); max_score
            and min_score, one number or one per query. Equality is kept. guide_queries and
            guide_documents: another model's embeddings, whose cosines the limits then read
            (GISTEmbed). Positives are never dropped.

            queue: ``[k, dim]``, more documents that get no gradient; queue_ids, guide_queue go with
            document_ids and guide_documents.

            drop: the largest share of the mass of a query's negatives (of Σ_negatives e^l) that may
            get no gradient, at least 0 (all get one) and below 1. Most of a softmax is nothing at
            temperatures of 0.01 to 0.02: the scores are scanned by codes of one byte, and what
            certainly lies below the query's level is counted in the loss by its scan, and not
            multiplied. The positives bear as much less, so that a query's gradients sum to zero.
            1e-3 changes gradients by less than ``precision="bfloat16"`` does. For the objectives
            with a softmax, without ``focal_margin``, on the CPU. Where so much would be kept that
            it does not pay (about a tenth of all pairs, by a sample), and for fewer than 256
            queries or 1,024 columns, nothing is left out; ``left_out`` and ``kept`` tell. Masks and
            what is kept go by exact scores, and so do ``ranks`` in float32.

            precision: ``"float32"``: losses to 1e-6 / temperature, gradients to 1e-5 of their norm
            (on AMX, from 256 elements on, values are split into two bfloat16 parts, and losses are
            good to 2e-6 / temperature). ``"bfloat16"``: inputs and weights rounded to bfloat16,
            sums in float32; losses to 4e-3 / temperature, gradients to 2e-2.

    Returns:
        :class:`InfoNCE`, arrays of the kind of ``queries``, on its device. The same bits for any
        number of threads, and from call to call on a CUDA device.

    Thread safety: as :func:`stope.topk`.

    Raises:
        ValueError: wrong shapes, a temperature below 1e-37, positives out of range or none at all,
            weights that are not above 0, NaN or infinity (naming the row), options that exclude
            each other, a loss beyond float32 (naming the row). Logits may be as large as float32:
            rows whose longest could pass 2^30 (2^20 with weights of logits or ``"pairwise"``) are
            summed in double, at a tenth of the speed.
        TypeError: float64 or int8 matrices, options of the wrong type or unknown ones.
        RuntimeError: a failure of a CUDA device; matrices on one, where stope was built without
            CUDA; while a CUDA graph is recorded, what would have to be read from the device.

    Memory beyond inputs and outputs: at most 8,704 packed rows per thread and statistics per query;
    nothing grows with m · n. With ``drop`` at most 1,024 rows and 110 MB per thread (24 bytes a
    column, if that is more) in place of those, and ``state`` holds up to 256 MB of what was kept;
    where that is too little, the backward pass scans again. On a CUDA device: at most 2,048 x 4,096
    scores (as many of a guide) and the packed rows of both sides. There ids, weights and limits are
    read from host memory (those on the device are copied to it), ``precision="float32"`` runs
    without tensor cores, and the call waits for the stream once, to refuse rows with NaN or
    infinity.

    CUDA graphs (``torch.cuda.graph``, after a first call outside): a replay reads the matrices and
    row gradients anew, while sizes, options, ids, weights and limits are those of the recording.
    It cannot raise: rows with NaN or infinity make every loss and gradient NaN. Ids, weights and
    limits must then be in host memory, each query's ids must ascend, the partition must be
    ``"joint"``.

    Source: docs/methods.md, H (van den Oord et al. 2018; Khosla et al. 2020; Li et al. 2023), C6
    to C8, D18, E3 to E5, B1.

    >>> import numpy as np
    >>> queries = np.array([[1, 0], [0, 1]], dtype=np.float32)
    >>> documents = np.array([[0.9, 0.2], [0.1, 0.8]], dtype=np.float32)
    >>> found = infonce_forward(queries, documents, metric="dot", temperature=0.1)
    >>> [f"{loss:.6f}" for loss in found.losses]
    ['0.000335', '0.002476']
    """
    check_progress(progress)
    asked = problems(queries, documents, options)
    place = _place(queries)
    _check_recording(asked, place)
    memory = memory_size(asked[0].rows, *_columns(asked[0]), options)
    results = [_forward(problem, place, memory, progress) for problem in asked]
    first = results[0]
    if len(asked) > 1:
        swapped = asked[1]
        losses = on_host(first.losses).astype(np.float64)
        counts = on_host(first.negatives).copy()
        anchor, query = swapped.positives.owners, swapped.positives.ids
        np.add.at(losses, query, swapped.shares * on_host(results[1].losses)[anchor])
        np.add.at(counts, query, on_host(results[1].negatives)[anchor])
        kept, left_out = on_host(first.kept).copy(), on_host(first.left_out).copy()
        np.add.at(kept, query, on_host(results[1].kept)[anchor])
        np.maximum.at(left_out, query, on_host(results[1].left_out)[anchor])
        columns = _arrays.matrix_shape(documents, "documents").rows
        state = np.zeros(_STATE * (asked[0].rows + columns))
        parts = np.concatenate([on_host(first.state), on_host(results[1].state)])
        state[: parts.size] = parts
        first = first._replace(
            losses=(losses / 2).astype(np.float32),
            negatives=counts,
            kept=kept,
            left_out=left_out,
            state=state,
        )
    if np.any(np.diff(asked[0].order) != 1):
        scores = np.empty(asked[0].order.size, np.float32)
        scores[asked[0].order] = on_host(first.positive_scores)
        first = first._replace(positive_scores=scores)
    return InfoNCE(*(_arrays.like(part, queries, place) for part in first))


@kinds(forward=a(InfoNCE), row_gradients=maybe(numbers), document_gradients=flag)
def infonce_backward(
    queries: Any,
    documents: Any,
    forward: InfoNCE,
    row_gradients: Any = None,
    *,
    document_gradients: bool = True,
    progress: Callable[[int, int], object] | None = None,
    **options: Any,
) -> InfoNCEGradients:
    """Compute the gradients of Σ_i row_gradients[i] · L_i by scoring every tile again.

    With G_ij = row_gradients[i] · ∂L_i/∂l_ij: ∂/∂queries = s · G · documents, ∂/∂documents =
    s · G' · queries, ∂/∂temperature = -s² · Σ G_ij S_ij, and under ``"cosine"`` the derivative of
    the normalisation. Rules that drop negatives and hardness bonuses count as constants.

    Args:
        queries: as given to :func:`infonce_forward`, unchanged.
        documents: likewise.
        forward: what it returned (only ``state`` is read).
        row_gradients: ``[m]``, the loss's derivatives by L_i: w_i / Σ w for a weighted mean.
            Default: 1 / m, the mean.
        document_gradients: False leaves out the documents' gradients, and their work.
        progress: called now and then with ``(done, total)``.
        **options: those of the forward call.

    Returns:
        :class:`InfoNCEGradients`. The same bits for any number of threads.

    Thread safety: as :func:`stope.topk`.

    Raises:
        ValueError, TypeError: as :func:`infonce_forward`; a ``forward`` of other sizes; a gradient
            beyond float32, naming the row.

    Memory beyond inputs and outputs: as :func:`infonce_forward`, but at most 9,216 packed rows per
    thread, and one float32 row per query with directions other than query-to-document.

    Source: docs/methods.md, H3, H4, H6.

    >>> import numpy as np
    >>> queries = np.array([[1, 0], [0, 1]], dtype=np.float32)
    >>> documents = np.array([[0.9, 0.2], [0.1, 0.8]], dtype=np.float32)
    >>> options = {"metric": "dot", "temperature": 0.1}
    >>> found = infonce_forward(queries, documents, **options)
    >>> round(infonce_backward(queries, documents, found, **options).temperature, 5)
    0.08759
    """
    check_progress(progress)
    asked = problems(queries, documents, options)
    place = _place(queries)
    _check_recording(asked, place)
    rows = asked[0].rows
    state = place.vector(forward.state, np.float64)
    size = state_size(rows, *_columns(asked[0]), options)
    if tuple(state.shape) != (size,):
        raise ValueError(
            f"forward.state has shape {tuple(state.shape)}, but these inputs and options make "
            f"({size},); give what infonce_forward returned for the same arguments"
        )
    if len(asked) == 1 and place.owns(row_gradients):
        _check_length(row_gradients, rows)  # the core sees whether they are finite
        gradients = row_gradients
    elif place.recording:
        raise RuntimeError(
            f"row_gradients is {'None' if row_gradients is None else 'not on the device'} while a "
            "CUDA graph is recorded; give an array on the device of the queries"
        )
    else:
        gradients = _row_gradients(row_gradients, rows) / len(asked)
    part, memory = state[: _STATE * rows], state[_STATE * rows :] if len(asked) == 1 else None
    result = _backward(asked[0], part, memory, gradients, document_gradients, place, progress)
    if len(asked) > 1:
        swapped = asked[1]
        anchor, query = swapped.positives.owners, swapped.positives.ids
        of_anchors = np.zeros(swapped.rows)
        np.add.at(of_anchors, anchor, swapped.shares * gradients[query])
        part = state[_STATE * rows : _STATE * (rows + swapped.rows)]
        other = _backward(swapped, part, None, of_anchors, True, place, progress)
        result.queries[...] += other.documents
        if document_gradients:
            anchors = swapped.order if place is _arrays.ON_CPU else place.bring(swapped.order)
            result.documents[anchors] += other.queries
        result = result._replace(
            temperature=result.temperature + other.temperature, bias=result.bias + other.bias
        )
    like = _arrays.like
    return InfoNCEGradients(
        queries=like(result.queries, queries, place),
        documents=None if result.documents is None else like(result.documents, queries, place),
        temperature=result.temperature,
        bias=result.bias,
    )


def _check_recording(asked: list[Problem], place: _arrays.Place) -> None:
    """What the host does after the core's call cannot be part of a CUDA graph."""
    sorted_ids = all(bool(np.all(np.diff(problem.order) == 1)) for problem in asked)
    if (len(asked) == 1 and sorted_ids) or not place.recording:
        return
    what, remedy = (
        ("partition='per_direction' is", "use partition='joint'")
        if len(asked) > 1
        else ("a query's positives do not ascend and are", "sort them")
    )
    raise RuntimeError(f"{what} put together on the host, which a CUDA graph leaves out; {remedy}")


def _columns(problem: Problem) -> tuple[int, int]:
    """How many documents and rows of the queue there are."""
    queue = 0 if problem.queue is None else _arrays.matrix_shape(problem.queue, "queue").rows
    return _arrays.matrix_shape(problem.documents, "documents").rows, queue


def _place(queries: Any) -> _arrays.Place:
    device = _arrays.matrix_shape(queries, "queries").device
    return _arrays.place_of(queries, device, "queries")


def _check_length(row_gradients: Any, rows: int) -> None:
    shape = tuple(row_gradients.shape)
    if shape != (rows,):
        raise ValueError(f"row_gradients has shape {shape}; give one per query, ({rows},)")


def _row_gradients(value: Any, rows: int) -> NDArray[np.float64]:
    if value is None:
        return np.full(rows, 1.0 / rows)
    _check_length(on_host(value), rows)
    return float32_vector(value, "row_gradients", rows)


def _forward(problem: Problem, place: _arrays.Place, memory: int, progress: Any) -> InfoNCE:
    rows = problem.rows
    state = place.empty((_STATE * rows + memory,), np.float64)
    result = InfoNCE(
        losses=place.empty((rows,), np.float32),
        log_sum_exp=place.empty((rows,), np.float32),
        positive_scores=place.empty((problem.positives.ids.size,), np.float32),
        negatives=place.empty((rows,), np.int64),
        best_negatives=place.empty((rows,), np.int64),
        best_negative_scores=place.empty((rows,), np.float32),
        ranks=place.empty((rows,), np.int64),
        kept=place.empty((rows,), np.int64),
        left_out=place.empty((rows,), np.float32),
        state=state,
    )
    _core.infonce_forward(
        problem=problem.core(place),
        allocate=place.workspace,
        progress=progress,
        **{**result._asdict(), "state": state[: _STATE * rows]},
        memory=state[_STATE * rows :] if memory else None,
    )
    return result


def _backward(
    problem: Problem,
    state: Any,
    memory: Any,
    gradients: Any,
    document_gradients: bool,
    place: _arrays.Place,
    progress: Any,
) -> InfoNCEGradients:
    columns = _arrays.matrix_shape(problem.documents, "documents").rows
    queries = place.empty((problem.rows, problem.dim), np.float32)
    documents = place.empty((columns, problem.dim), np.float32) if document_gradients else None
    scale_and_bias = place.empty((2,), np.float64)
    _core.infonce_backward(
        problem=problem.core(place),
        state=state,
        memory=None if memory is None or len(memory) == 0 else memory,
        row_gradients=place.vector(gradients, np.float32),
        queries=queries.reshape(-1),
        documents=None if documents is None else documents.reshape(-1),
        scale_and_bias=scale_and_bias,
        allocate=place.workspace,
        progress=progress,
    )
    by_scale = -((1.0 / problem.options.temperature) ** 2)
    if place.recording:  # nothing can be read yet
        scale, bias = scale_and_bias[0], scale_and_bias[1]
        return InfoNCEGradients(queries, documents, by_scale * scale, bias)
    scale, bias = (float(value) for value in on_host(scale_and_bias))
    return InfoNCEGradients(queries, documents, by_scale * scale, bias)
