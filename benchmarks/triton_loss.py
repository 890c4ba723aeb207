"""A peer of the loss on a GPU: a log-sum-exp over tiles of scores, in Triton.

    L_i = log sum_j exp(s <q_i, d_j>) - s <q_i, d_i>

Every program owns a block of rows and walks over the blocks of columns. Forward it keeps the
running maximum and sum of each row; backward it scores its tiles again, turns them into weights and
adds weights times the other side to its own rows, a piece of the depth at a time. Queries and
documents each get such a pass, so nothing is added atomically and no matrix of scores is kept.
"""

from __future__ import annotations

import triton
import triton.language as tl

import torch

SIDE = 128  # rows and columns of a tile
DEPTH = 64  # of one step of a product
WARPS, STAGES = 8, 3


@triton.jit
def _scores(
    left, right, rows, columns, m, n, dim, side: tl.constexpr, step: tl.constexpr
):  # fmt: skip
    sums = tl.zeros((side, side), tl.float32)
    for start in range(0, dim, step):
        depth = start + tl.arange(0, step)
        inside = depth[None, :] < dim
        a = tl.load(
            left + rows[:, None] * dim + depth[None, :],
            mask=(rows[:, None] < m) & inside,
            other=0.0,
        )
        b = tl.load(
            right + columns[:, None] * dim + depth[None, :],
            mask=(columns[:, None] < n) & inside,
            other=0.0,
        )
        sums = tl.dot(a, tl.trans(b), sums)
    return sums


@triton.jit
def _log_sum_exp(
    queries, documents, out, m, n, dim, scale, side: tl.constexpr, step: tl.constexpr
):  # fmt: skip
    rows = tl.program_id(0) * side + tl.arange(0, side)
    top = tl.full((side,), float("-inf"), tl.float32)
    total = tl.zeros((side,), tl.float32)
    for first in range(0, n, side):
        columns = first + tl.arange(0, side)
        scores = scale * _scores(queries, documents, rows, columns, m, n, dim, side, step)
        scores = tl.where(columns[None, :] < n, scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        total = total * tl.exp(top - higher) + tl.sum(tl.exp(scores - higher[:, None]), 1)
        top = higher
    tl.store(out + rows, top + tl.log(total), mask=rows < m)


@triton.jit
def _gradient(
    mine, others, lse, upstream, out, m, n, dim, scale,
    of_columns: tl.constexpr, side: tl.constexpr, step: tl.constexpr,
):  # fmt: skip
    # out[m, dim] += weights . others; lse and upstream belong to `others` with of_columns.
    rows = tl.program_id(0) * side + tl.arange(0, side)
    for first in range(0, n, side):
        columns = first + tl.arange(0, side)
        scores = scale * _scores(mine, others, rows, columns, m, n, dim, side, step)
        if of_columns:
            sums = tl.load(lse + columns, mask=columns < n, other=float("inf"))[None, :]
            share = tl.load(upstream + columns, mask=columns < n, other=0.0)[None, :]
        else:
            sums = tl.load(lse + rows, mask=rows < m, other=float("inf"))[:, None]
            share = tl.load(upstream + rows, mask=rows < m, other=0.0)[:, None]
        weights = tl.where(columns[None, :] < n, share * tl.exp(scores - sums), 0.0)
        weights = weights.to(others.dtype.element_ty)
        for start in range(0, dim, step):
            depth = start + tl.arange(0, step)
            inside = depth[None, :] < dim
            piece = tl.load(
                others + columns[:, None] * dim + depth[None, :],
                mask=(columns[:, None] < n) & inside,
                other=0.0,
            )
            place = out + rows[:, None] * dim + depth[None, :]
            kept = (rows[:, None] < m) & inside
            before = tl.load(place, mask=kept, other=0.0)
            tl.store(place, tl.dot(weights, piece, before), mask=kept)
        tl.debug_barrier()  # the next tile's loads may be other threads' than these stores


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, queries, documents, scale):
        (m, dim), n = queries.shape, len(documents)
        lse = torch.empty(m, device=queries.device)
        grid = (triton.cdiv(m, SIDE),)
        options = {"side": SIDE, "step": DEPTH, "num_warps": WARPS, "num_stages": STAGES}
        _log_sum_exp[grid](queries, documents, lse, m, n, dim, scale, **options)
        ctx.save_for_backward(queries, documents, lse)
        ctx.scale, ctx.options = scale, options
        positives = (queries.float() * documents[:m].float()).sum(1)
        return lse - scale * positives

    @staticmethod
    def backward(ctx, upstream):
        queries, documents, lse = ctx.saved_tensors
        (m, dim), n = queries.shape, len(documents)
        share = (ctx.scale * upstream).contiguous()
        of_queries = torch.zeros(m, dim, device=queries.device)
        of_documents = torch.zeros(n, dim, device=queries.device)
        for mine, others, out, of_columns in (
            (queries, documents, of_queries, False),
            (documents, queries, of_documents, True),
        ):
            sizes = (len(mine), len(others), dim, ctx.scale)
            grid = (triton.cdiv(len(mine), SIDE),)
            arguments = (mine, others, lse, share, out, *sizes)
            _gradient[grid](*arguments, of_columns=of_columns, **ctx.options)
        of_queries -= share[:, None] * documents[:m]
        of_documents[:m] -= share[:, None] * queries
        return of_queries.to(queries.dtype), of_documents.to(documents.dtype), None


def triton_losses(queries, documents, temperature):
    """Losses of rows of length 1, contiguous; document i is query i's positive."""
    return _Loss.apply(queries.contiguous(), documents.contiguous(), 1 / temperature)
