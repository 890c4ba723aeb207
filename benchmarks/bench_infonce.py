"""The contrastive loss and its gradients against torch: `python benchmarks/bench_infonce.py`.

torch's loss is `cross_entropy` of the normalised product, which keeps the matrix of scores; stope's
never exists. Forward and backward are timed as one. `infonce_accuracy.py` measures the accuracy;
here answers are compared with torch's, and with float64 on some rows and columns where torch is
not among the contenders.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

import harness
import inputs as data
import loss_peers
import peers
import report
from answers import Verdict
from inputs import LossWork, StepWork

QUERIES, DOCUMENTS, DIM = 8_192, 49_152, 384
EVERY_EXTRA = ("ids", "margin", "weights", "joint")
LOSS_ALLOWED = {"float32": 1e-5, "bfloat16": 2e-3}  # mean loss, over max(1, loss)
ROWS_ALLOWED = {"float32": 1e-6, "bfloat16": 2e-3}  # one row's loss, times 1 / temperature
GRADIENT_ALLOWED = {"float32": 1e-4, "bfloat16": 7e-2}  # 1e-5 and 2e-2 of H11 at s = 50, rounded up
TORCH_BFLOAT16_ALLOWED = 0.25  # its scores are rounded to 8 bits, and so is their gradient
SAMPLE = 48  # rows and columns checked in float64


def rows(kinds: list[str], quick: bool) -> list[LossWork]:
    """The rows of the table."""
    m, n, dim = (512, 3_072, 128) if quick else (QUERIES, DOCUMENTS, DIM)
    both = ("bfloat16", "float32")

    def row(name: str, group: str, **changed: Any) -> LossWork:
        sizes = {"queries": m, "rows": n, "dim": dim, "data": kinds[0]}
        return LossWork(name, group, **{**sizes, "precision": "bfloat16", **changed})

    main = {"all_isas": True, "all_peers": True, "memory": True}
    found = [row(f"main-{kind}", "main", precision=kind, **main) for kind in both]
    extras = [(extra,) for extra in EVERY_EXTRA] + [EVERY_EXTRA]
    extras.append((*EVERY_EXTRA[:-1], "ways"))
    for names in extras:
        words = names[0] if len(names) == 1 else "all" if "joint" in names else "all-ways"
        for kind in both if words == "all" else both[:1]:
            options = {"extras": names, "precision": kind, "all_peers": True}
            found.append(row(f"options-{words}-{kind}", "options", **options))
    square = {"queries": 2 * QUERIES, "rows": 2 * QUERIES} if not quick else {"rows": m}
    for kind in both:  # two directions of one size
        options = {"extras": EVERY_EXTRA, "precision": kind, "all_peers": True, **square}
        found.append(row(f"options-square-{kind}", "options", **options))
    for part in (8, 4, 2, 1):  # B and N doubled
        sizes = {"queries": m // part, "rows": n // part}
        for kind in both:
            name = f"memory-{sizes['queries']}-{kind}"
            found.append(row(name, "memory", memory=True, precision=kind, **sizes))
    found += _large(kinds[0], quick)
    step = (2_048, 64) if quick else (16_384, 512)
    for kind in both:
        sizes = {"queries": step[0], "rows": step[0], "dim": step[1], "k": 1}
        options = {"precision": kind, "all_peers": True, "memory": not quick}
        found.append(StepWork(f"step-{kind}", "step", **sizes, **options))
    found += [row(f"threads-{t}", "threads", threads=t) for t in sorted({1, peers.cores()})]
    if not quick:
        found += [row(f"queries-{size}", "queries", queries=size) for size in (512, 2_048, 32_768)]
        found += [row(f"documents-{size}", "documents", rows=size) for size in (12_288, 196_608)]
        found += [row(f"dim-{size}", "dim", dim=size) for size in (64, 128, 256, 768, 1_024)]
    return found


def _large(kind: str, quick: bool) -> list[LossWork]:
    """Batches whose matrix of scores is 4 and 154 GB; no peers, the largest measured once."""
    paper, huge = ((500, 768), (2_000, 64)) if quick else ((13_334, 768), (80_000, 384))
    many = 1 + loss_peers.NUM_HARD
    options = {"extras": ("hard",), "data": kind, "memory": True}
    found = [
        LossWork(
            f"paper-{precision}",
            "paper",
            queries=paper[0],
            rows=paper[0] * many,
            dim=paper[1],
            precision=precision,
            **options,
        )
        for precision in ("bfloat16", "float32")
    ]
    sizes = {"queries": huge[0], "rows": huge[0] * many, "dim": huge[1]}
    limits = {"repeat": 1, "resident_limit": 8 << 30}
    found.append(LossWork("huge", "huge", **sizes, **limits, precision="bfloat16", **options))
    return found


def check(work: data.Work, given: data.Inputs, results: dict[str, Any], subject: str) -> Verdict:
    """Every contender's loss and gradients against torch's, or against float64 without torch."""
    if not isinstance(work, LossWork):
        raise TypeError(f"work is {type(work).__name__}, not LossWork")
    base = next((name for name in ("torch", "mnrl") if name in results), None)
    problems: list[str] = []
    details: dict[str, Any] = {"compared_with": base or "float64 of some rows and columns"}
    for name, result in results.items():
        if name in (base, "stope-plain"):
            continue
        if base is not None:
            errors = _against(result, results[base])
        else:
            errors = _against_float64(work, given, result)
        details[name] = errors
        problems += [f"{name}: {what} WRONG" for what in _beyond(work, name, errors)]
    return Verdict(not problems, "\n".join(problems), details)


def _beyond(work: LossWork, name: str, errors: dict[str, float]) -> list[str]:
    """Names of the errors that are larger than the precision explains."""
    if name.endswith("bfloat16"):  # torch's or sentence-transformers'
        allowed = dict.fromkeys(errors, TORCH_BFLOAT16_ALLOWED)
    else:
        precision = work.precision if name.startswith("stope") else "float32"
        allowed = dict.fromkeys(errors, GRADIENT_ALLOWED[precision])
        allowed |= {"loss": LOSS_ALLOWED[precision]}
        allowed |= {"row": ROWS_ALLOWED[precision] / work.temperature}
    return [what for what, error in errors.items() if not error <= allowed[what]]


def _against(result: Any, base: Any) -> dict[str, float]:
    """Relative difference of the losses; gradients' difference over the norm, and 1 - cosine."""
    errors = {"loss": abs(result.loss - base.loss) / max(1.0, abs(base.loss))}
    for what in ("queries", "documents"):
        mine, theirs = getattr(result, what), getattr(base, what)
        if mine is None or theirs is None:
            continue
        norm, mine_norm = (_dot(rows, rows) ** 0.5 for rows in (theirs, mine))
        errors[f"d{what}"] = _dot(mine - theirs, mine - theirs) ** 0.5 / norm
        errors[f"angle-{what}"] = max(0.0, 1 - _dot(mine, theirs) / (norm * mine_norm))
    return errors


def _dot(left: np.ndarray, right: np.ndarray) -> float:
    """Inner product, summed in float64 by rows."""
    products = (np.einsum("ij,ij->i", a, b) for a, b in _blocks(left, right))
    return float(sum(rows.astype(np.float64).sum() for rows in products))


def _blocks(*arrays: np.ndarray) -> Any:
    for start in range(0, len(arrays[0]), data.CHUNK_ROWS):
        yield [rows[start : start + data.CHUNK_ROWS] for rows in arrays]


def _against_float64(work: LossWork, given: data.Inputs, result: Any) -> dict[str, float]:
    """Losses and gradients of some queries in float64, and of some documents.

    The gradients of documents take each row's loss from the contender, which the rows checked vouch
    for: exact ones would need the whole matrix. With two directions or masks the losses alone are
    compared, and not of rows where rounding can decide whether a document is dropped.
    """
    rng = np.random.default_rng(work.queries)
    some = np.sort(rng.choice(work.queries, min(SAMPLE, work.queries), replace=False))
    queries, documents = _unit(given.queries), _unit(given.corpus)
    scores = np.concatenate([queries[some] @ part.T for (part,) in _blocks(documents)], axis=1)
    losses, judged = _losses(work, queries, documents, scores, some)
    errors = {"row": float(np.abs(result.losses[some] - losses)[judged].max(initial=0))}
    if set(work.extras) - {"hard"}:
        return errors
    scale = 1 / work.temperature
    upstream = scale / work.queries
    shares = np.exp(scale * scores - _log_sum_exp(scale * scores)[:, None])
    shares[np.arange(len(some)), some] -= 1
    expected = sum(
        shares[:, at : at + data.CHUNK_ROWS] @ documents[at : at + data.CHUNK_ROWS]
        for at in range(0, work.rows, data.CHUNK_ROWS)
    )
    expected = _through_unit(given.queries[some], upstream * expected)
    errors["dqueries"] = _relative(result.queries[some], expected)
    some = np.sort(rng.choice(work.queries, min(SAMPLE, work.queries), replace=False))
    positive = np.einsum("ij,ij->i", queries, documents[: work.queries])
    sums = scale * positive + result.losses
    shares = np.exp(scale * (queries @ documents[some].T) - sums[:, None])
    shares[some, np.arange(len(some))] = np.expm1(-result.losses[some].astype(np.float64))
    expected = _through_unit(given.corpus[some], upstream * (shares.T @ queries))
    errors["ddocuments"] = _relative(result.documents[some], expected)
    return errors


def _losses(
    work: LossWork,
    queries: np.ndarray,
    documents: np.ndarray,
    scores: np.ndarray,
    some: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Float64 losses of some rows, and whether no score is near the limit that would drop it."""
    positive = scores[np.arange(len(some)), some]
    kept = np.ones(scores.shape, bool)
    judged = np.ones(len(some), bool)
    ids = loss_peers.document_ids(work)
    if "ids" in work.extras:
        kept &= ids != ids[some, None]
    if "margin" in work.extras:
        limit = (positive - np.abs(positive) * loss_peers.RELATIVE_MARGIN)[:, None]
        close = 1e-2 if work.precision == "bfloat16" else 1e-5
        near = kept & (np.abs(scores - limit) <= close)
        near[np.arange(len(some)), some] = False
        judged &= ~near.any(1)
        kept &= scores <= limit
    kept[np.arange(len(some)), some] = True
    logits = [np.where(kept, scores, -np.inf) / work.temperature]
    losses = _log_sum_exp(logits[0]) - positive / work.temperature
    if not {"joint", "ways"} & set(work.extras):
        return losses, judged
    back = documents[some] @ queries.T
    kept = np.ones(back.shape, bool)
    if "ids" in work.extras:
        kept &= ids[: work.queries] != ids[some, None]
        kept[np.arange(len(some)), some] = True
    logits.append(np.where(kept, back, -np.inf) / work.temperature)
    if "joint" in work.extras:
        return _log_sum_exp(np.concatenate(logits, 1)) - positive / work.temperature, judged
    return (losses + _log_sum_exp(logits[1]) - positive / work.temperature) / 2, judged


def _log_sum_exp(logits: np.ndarray) -> np.ndarray:
    largest = logits.max(1)
    return np.asarray(largest + np.log(np.exp(logits - largest[:, None]).sum(1)))


def _unit(given: np.ndarray) -> np.ndarray:
    wide = given.astype(np.float64)
    return np.asarray(wide / np.linalg.norm(wide, axis=1, keepdims=True))


def _through_unit(given: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Gradient with respect to rows from that with respect to their unit vectors."""
    unit = _unit(given)
    norms = np.linalg.norm(given.astype(np.float64), axis=1, keepdims=True)
    return np.asarray((gradient - (gradient * unit).sum(1, keepdims=True) * unit) / norms)


def _relative(got: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


def judge(row: report.Row) -> Verdict:
    """The subject's errors; memory against the matrix of scores; time against the plain loss's."""
    work = row.work
    if not isinstance(work, LossWork):
        raise TypeError(f"work is {type(work).__name__}, not LossWork")
    errors = row.details.get(row.subject, {})
    words = [" ".join(f"{what} {error:.1e}" for what, error in errors.items())]
    details: dict[str, Any] = {}
    right = True
    if row.subject in row.memory:
        memory = row.memory[row.subject]
        share = (memory.kept + memory.extra) / work.matrix_bytes
        details["share_of_matrix"] = share
        details["bytes_per_row"] = (memory.kept + memory.extra) / (work.queries + work.rows)
        if not isinstance(work, StepWork):
            words.append(f"memory {share:.2%} of {work.matrix_bytes / 1e9:,.3g} GB")
            words.append(f"memory {details['bytes_per_row']:,.0f} bytes per row")
        if work.resident_limit is not None:
            right = memory.resident <= work.resident_limit
            fits = "inside" if right else "MORE THAN"
            limit = f"{fits} {work.resident_limit / 2**30:.0f} GiB"
            words.append(f"process {memory.resident / 2**30:.2f} GiB, {limit}")
    if "stope-plain" in row.timings:
        plain = row.timings["stope-plain"].median
        cost = row.timings[row.subject].median / plain
        directions = 2 if {"joint", "ways"} & set(work.extras) else 1
        per_score = cost * work.queries * work.rows / work.scores
        details |= {"cost_over_plain": cost, "cost_per_score": per_score}
        details["cost_per_direction"] = cost / directions
        words.append(f"{cost:.2f}x plain, {per_score:.2f}x per score")
        words.append(f"{cost / directions:.2f}x per direction")
    return Verdict(right, "\n".join(words), details)


def main() -> int:
    """Run the benchmark; see `--help`."""
    options = harness.parser(__doc__.splitlines()[0]).parse_args()
    kinds = options.data or ["clustered"]
    every_row = rows(kinds, options.quick)
    return harness.run("contrastive loss, forward and backward", every_row, options, check, judge)


if __name__ == "__main__":
    sys.exit(main())
