"""Train an adapter on the frozen embeddings of any encoder.

Trained are maps f, g on queries and documents (`stope.adapters.maps`), for each pair of
query q and positive p over a set C of documents, without q's other positives (docs/methods.md, H1):

    loss = -log( exp s(q, p) / sum_{c in C} exp s(q, c) ),   s(q, c) = cos(f(q), g(c)) / temperature

Nothing is encoded again: the embeddings are given, so C may be thousands of documents, or all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import stope
from stope._checks import shown
from stope._extras import need
from stope._kinds import a, callback, kinds, mapping, maybe
from stope.adapters.adapter import Adapter
from stope.adapters.maps import Floats
from stope.adapters.recipe import AdapterRecipe, Problem
from stope.evaluation import Evaluation
from stope.evaluation.bootstrap import rough_intervals
from stope.lists import Ids, Lists
from stope.progress import Progress, silent
from stope.training.guard import Verdict, differences, exceeds_chance
from stope.training.presets import PRESETS, usual_batch_size
from stope.training.recipe import LossPart

if TYPE_CHECKING:
    from stope.adapters.step import Trainable

Log = Callable[..., object]
Judge = Callable[[Adapter], float | Evaluation]


@kinds(
    recipe=maybe(a(AdapterRecipe, Mapping)),
    signals=maybe(mapping),
    loss_options=maybe(mapping),
    evaluate=maybe(callback),
    progress=maybe(callback),
    log=maybe(callback),
)
def train_adapter(
    query_embeddings: Floats,
    corpus_embeddings: Floats,
    positives: Lists | tuple[Any, Any] | Sequence[Any] | NDArray[np.int64],
    *,
    recipe: AdapterRecipe | Mapping[str, Any] | None = None,
    negatives: NDArray[np.int64] | None = None,
    weights: Any = None,
    signals: Mapping[str, Any] | None = None,
    sources: Sequence[tuple[Any, Any]] | None = None,
    loss_options: Mapping[str, Any] | None = None,
    exclude: Any = None,
    evaluate: Judge | None = None,
    progress: Progress | None = None,
    log: Log | None = None,
    **options: Any,
) -> Adapter:
    """Train an adapter on embeddings that an encoder gave, without the encoder.

    Args:
        query_embeddings: float32 [queries, d].
        corpus_embeddings: float32 [documents, d].
        positives: rows of corpus_embeddings that are right for each query: one per query, a list of
            them per query, or CSR ``(offsets, rows)``. Each of them makes a pair.
        recipe: all options (:class:`stope.adapters.AdapterRecipe`), or a mapping of its sections.
        negatives: int64 [queries, n], hard negatives that are always among the documents a query
            is scored against; -1 for none.
        weights: one number >= 0 per pair; a pair of weight 0 is left out.
        signals: more signals for the recipe's weighting: for each name one number per pair. The
            others are those of the step's own loss, over all dimensions; ``weights`` multiply in.
        sources: for each source the rows of its queries and of its documents; each query is mined
            for among the documents of its own source. None: one corpus for all.
        loss_options: more options of the recipe's loss, as a mapping.
        exclude: rows of corpus_embeddings that are no negatives of a query, neither mined nor
            scored against it, though they are no positives: a list per query, int64 [queries, n]
            with -1 for none, or CSR ``(offsets, rows)``.
        evaluate: called with the adapter; returns a score, larger is better, or a
            `stope.evaluation.Evaluation`, whose first metric is the score. Of Evaluations the
            adapter at the end of training is returned, unless the best on the way is better by
            more than two standard errors of the differences, query by query (the best of many
            looks may be so by chance), or else the one before training, which changes nothing, by
            more than one. Of plain scores, which have no error, the best is returned, the one
            before training included.
            With the recipe's guard, which needs Evaluations, mined or given negatives and the
            weighting enter in a second stage, which stays only where it gains by more than chance.
        progress: called with (steps done, steps in total).
        log: called as ``log("step", step, loss=..., ...)`` after each step, with "refresh" after
            mining, with "evaluation", and with "guard" and the fields of
            `stope.training.guard.Verdict` at the end of a second stage.
        **options: options of the recipe by name, such as ``kind="low_rank"``, ``epochs=3``,
            ``temperature=0.02``, ``weighting="progressive"``; explained at the parts of
            :class:`stope.adapters.AdapterRecipe`.

    Returns:
        The adapter. The same seed gives the same weights up to the last bits of torch's matrix
        products.

    Raises:
        ValueError: shapes that disagree, rows out of range, an option out of range, no pair, a
            refresh while every document is scored anyway, options without effect, an Evaluation
            without values of single queries or over other queries than the one before.
        TypeError: an unknown option, an argument or an option of the wrong type.
        ImportError: torch is missing.

    Memory: a copy of both embeddings; the documents of a step and their gradient, three times in
    all (with "mlp" also ``hidden`` numbers per document, three times); the maps four times, and
    with ``evaluate`` three times more. The loss is `stope.torch.infonce`, which keeps no scores.

    Example:
        >>> rows = np.eye(4, dtype=np.float32)
        >>> adapter = train_adapter(rows, rows[[1, 0, 3, 2]], [1, 0, 3, 2], epochs=2)
        >>> adapter.weight.shape
        (4, 4)
    """
    chosen = AdapterRecipe() if recipe is None else AdapterRecipe.read(recipe)
    chosen = chosen.with_options(**options)
    if loss_options:
        chosen = chosen.with_options(loss=chosen.loss.changed(**loss_options))
    if sources is not None and chosen.adapter.refresh_every is None:
        raise ValueError("sources is given, but nothing is mined; give refresh_every, too")
    if signals and chosen.weighting is None:
        raise ValueError(f"signals has {', '.join(signals)}, but there is no weighting to read it")
    if chosen.evaluation.patience is not None and evaluate is None:
        raise ValueError(
            f"patience is {chosen.evaluation.patience}, but there is no evaluation; give evaluate"
        )
    need("torch", extra="train")
    problem = Problem.checked(
        query_embeddings,
        corpus_embeddings,
        positives,
        negatives=negatives,
        weights=weights,
        signals=signals or {},
        sources=sources,
        exclude=exclude,
    )
    if chosen.guard is not None:
        return _guarded(problem, chosen, evaluate, progress or silent, log or silent)
    return _Training(problem, chosen, evaluate, progress or silent, log or silent).run()


def _guarded(
    problem: Problem, recipe: AdapterRecipe, evaluate: Judge | None, progress: Progress, log: Log
) -> Adapter:
    """Train without negatives and weighting, go on with them, and keep that where it gains."""
    guard, schedule = recipe.guard, recipe.schedule
    assert guard is not None
    mined = recipe.adapter.refresh_every is not None or problem.negatives is not None
    there = {"negatives": mined, "weights": recipe.weighting is not None}
    entering = " and ".join(name for name, enters in there.items() if enters)
    if not entering:
        raise ValueError(
            "guard was given, but neither negatives (refresh_every) nor a weighting, whose gain it "
            "would judge; give one of them, or leave guard out"
        )
    if evaluate is None:
        raise ValueError("guard was given, but there is no evaluation to judge by; give evaluate")
    from stope.adapters.step import OF_HARD_NEGATIVES

    usual = {name: LossPart.model_fields[name].default for name in OF_HARD_NEGATIVES}
    epochs = guard.steps(schedule.epochs)
    plain = recipe.with_options(refresh_every=None, loss=recipe.loss.changed(**usual))
    plain = plain.model_copy(update={"weighting": None, "guard": None})
    first = _Training(
        replace(problem, negatives=None),
        plain,
        evaluate,
        lambda done, total: progress(done, total + total // schedule.epochs * epochs),
        log,
    )
    first.check_judge()
    first.run()
    begins = len(first.losses)
    options = {"epochs": epochs, "learning_rate": guard.rate * schedule.learning_rate}
    second = _Training(
        problem,
        recipe.with_options(**options),
        evaluate,
        lambda done, total: progress(begins + done, begins + total),
        lambda kind, step, **numbers: log(kind, begins + step, **numbers),
        first.maps,
    )
    second.run()
    before, after = first.kept(), second.kept()
    verdict = Verdict.of(entering, before.judged, after.judged, guard.errors)
    adapter = (after if verdict.kept else before).adapter
    adapter.losses = first.losses + second.losses
    later = [(schedule.epochs + epoch, score) for epoch, score in second.scores]
    adapter.evaluations = first.scores + later
    log("guard", len(adapter.losses), **asdict(verdict))
    return adapter


class _Look(NamedTuple):
    """An adapter on the way, and what the evaluation said of it."""

    adapter: Adapter
    judged: Any
    score: float


class _Training:
    """One training: its maps, how far it is, and what is kept of the way."""

    def __init__(
        self,
        problem: Problem,
        recipe: AdapterRecipe,
        evaluate: Judge | None,
        progress: Progress,
        log: Log,
        maps: tuple[Trainable | None, Trainable | None] | None = None,
    ) -> None:
        from stope.adapters.step import Step, needs_hard_negatives

        options = recipe.adapter
        out = _dimension_that_comes_out(recipe, problem.corpus.shape[1])
        self.maps = _start(recipe, problem, out) if maps is None else maps
        if options.among == "positives":
            problem = problem.among_positives()
        if options.refresh_every is not None and len(problem.corpus) <= options.num_documents:
            raise ValueError(
                f"refresh_every is {options.refresh_every}, but each step scores all"
                f" {len(problem.corpus)} documents (num_documents={options.num_documents}), so that"
                " mined negatives would change nothing; lower num_documents or leave refresh_every"
                " out"
            )
        if needs_hard_negatives(recipe.loss) and not (
            options.refresh_every or problem.negatives is not None
        ):
            raise ValueError(
                "the loss has an option for hard negatives, but there are none; give negatives or"
                " refresh_every"
            )
        self.problem, self.recipe = problem, recipe
        self.evaluate, self.progress, self.log = evaluate, progress, log
        self.trained = list({id(part): part for part in self.maps if part is not None}.values())
        self.step = Step(problem, self.maps, recipe, out)
        self.losses: list[float] = []
        self.scores: list[tuple[int, float]] = []
        self._looks: list[_Look] = []  # the first, the best and the last
        self._without_gain = 0

    def run(self) -> Adapter:
        """Train for all epochs, or until patience is at its end."""
        torch: Any = need("torch", extra="train")
        problem, schedule, part = self.problem, self.recipe.schedule, self.recipe.adapter
        decay = part.weight_decay
        optimiser = torch.optim.AdamW(
            [
                *(group for trainable in self.trained for group in trainable.groups(decay)),
                *({"params": [p], "weight_decay": 0.0} for p in self.step.loss.parameters()),
            ],
            lr=schedule.learning_rate,
        )
        pairs = np.arange(len(problem.positives.ids))
        if problem.weights is not None:
            pairs = np.flatnonzero(problem.weights)
        size = schedule.batch_size or usual_batch_size(len(pairs), PRESETS["adapter"]["batch_size"])
        total = -(-len(pairs) // size) * schedule.epochs
        generator = np.random.default_rng(schedule.seed)
        negatives = problem.negatives
        self._goes_on(0)
        for epoch in range(schedule.epochs):
            # Given negatives serve until the first refresh, which is then due after refresh_every.
            due = part.refresh_every is not None and epoch % part.refresh_every == 0
            if due and (epoch or negatives is None):
                negatives = self._mined(epoch, negatives)
            order = generator.permutation(pairs)
            for start in range(0, len(order), size):
                done = len(self.losses) / total
                loss, facts = self.step(order[start : start + size], negatives, done, generator)
                if loss is not None:
                    for group in optimiser.param_groups:
                        group["lr"] = schedule.learning_rate * (1 - done)
                    optimiser.zero_grad()
                    loss.backward()
                    optimiser.step()
                self.losses.append(0.0 if loss is None else float(loss.detach()))
                self.log("step", len(self.losses), epoch=epoch, loss=self.losses[-1], **facts)
                self.progress(len(self.losses), total)
            last = epoch + 1 == schedule.epochs
            if (last or (epoch + 1) % self.recipe.evaluation.every == 0) and not self._goes_on(
                epoch + 1
            ):
                break
        return self._adapter() if self.evaluate is None else self.kept().adapter

    def kept(self) -> _Look:
        """What is returned: by Evaluations the last, where no other exceeds it; else the best."""
        start, best, last = self._looks
        kept = best
        if isinstance(last.judged, Evaluation):
            # The best of ten looks is two errors above as often as a single one is one above.
            others = (
                (look, exceeds_chance(differences(last.judged, look.judged), errors))
                for look, errors in ((best, 2.0), (start, 1.0))
            )
            kept = next((look for look, exceeds in others if exceeds), last)
        kept.adapter.evaluations = list(self.scores)
        return kept

    def check_judge(self) -> None:
        """Refuse, before any training, an evaluation that does not say what each query gets."""
        judged = None if self.evaluate is None else self.evaluate(self._adapter())
        if not isinstance(judged, Evaluation):
            raise TypeError(
                f"evaluate returned {shown(judged)}, but guard compares query by query; return a "
                "stope.evaluation.Evaluation"
            )

    def _adapter(self) -> Adapter:
        frozen = [trainable.frozen() for trainable in self.trained]
        return Adapter(
            frozen[0],
            self.losses,
            side=self.recipe.adapter.side,
            documents=frozen[1] if len(frozen) > 1 else None,
            evaluations=self.scores,
        )

    def _goes_on(self, epoch: int) -> bool:
        """Evaluate; False when training should stop."""
        if self.evaluate is None:
            return True
        adapter = self._adapter()
        judged = self.evaluate(adapter)
        score = (
            next(iter(judged.mean.values())) if isinstance(judged, Evaluation) else float(judged)
        )
        if np.isnan(score):
            raise ValueError(f"evaluate returned NaN after epoch {epoch}; return a number")
        if isinstance(judged, Evaluation) and not any(judged.per_query.values()):
            raise ValueError(
                "evaluate returned an Evaluation without values of single queries; return its mean "
                "alone, by which the best adapter is kept"
            )
        self.scores.append((epoch, score))
        look = _Look(adapter, judged, score)
        start, best, _ = self._looks or (look, look, look)
        self._without_gain += 1
        if look is start or score > best.score:
            best, self._without_gain = look, 0
        self._looks = [start, best, look]
        facts: dict[str, Any] = {"epoch": epoch, "score": score, "best": best.score}
        if isinstance(judged, Evaluation):
            ends = list(rough_intervals(judged).values())[:1]
            facts["intervals"] = dict(zip(["score"], ends, strict=False))
        self.log("evaluation", len(self.losses), **facts)
        patience = self.recipe.evaluation.patience
        return patience is None or self._without_gain < patience

    def _mined(self, epoch: int, before: Ids | None) -> Ids:
        """Negatives int64 [queries, n] under the adapter as it is, -1 for none."""
        started = time.perf_counter()
        problem, part, adapter = self.problem, self.recipe.adapter, self._adapter()
        mined = np.full((len(problem.queries), part.num_negatives), -1, dtype=np.int64)
        for queries, documents in problem.sources:
            # The miner measures margins from a positive: queries without one have no pair either.
            asked = queries[problem.positives.lengths[queries] > 0]
            if not len(asked):
                continue
            positives = problem.positives.take(asked)
            ids = stope.mine_hard_negatives(
                adapter.apply(problem.queries[asked], "queries"),
                adapter.apply(problem.corpus[documents], "documents"),
                (positives.offsets, np.searchsorted(documents, positives.ids)),
                min(part.num_negatives, len(documents)),
                relative_margin=part.relative_margin,
                exclude=problem.never.take(asked).among(documents),
            ).ids
            mined[asked, : ids.shape[1]] = np.where(ids >= 0, documents[ids], -1)
        facts = {"seconds": time.perf_counter() - started, "found": float((mined >= 0).mean())}
        if before is not None:
            known = (mined[:, :, None] == before[:, None, :]).any(axis=2) & (mined >= 0)
            facts["changed"] = 1.0 - float(known.sum() / max(1, (mined >= 0).sum()))
        self.log("refresh", len(self.losses), epoch=epoch, **facts)
        return mined


def _start(
    recipe: AdapterRecipe, problem: Problem, out: int
) -> tuple[Trainable | None, Trainable | None]:
    """The maps of queries and documents, one and the same for both sides."""
    from stope.adapters.step import Trainable, start_matrix

    start = start_matrix(problem.corpus.shape[1], out, problem.corpus)
    # A stream of its own for each map: the order of pairs does not depend on the kind.
    first, second = (
        Trainable(recipe.adapter, start, np.random.default_rng([recipe.schedule.seed, place]))
        for place in (1, 2)
    )
    return {
        "both": (first, first),
        "queries": (first, None),
        "documents": (None, first),
        "separate": (first, second),
    }[recipe.adapter.side]


def _dimension_that_comes_out(recipe: AdapterRecipe, given: int) -> int:
    part = recipe.adapter
    if part.kind == "low_rank" and part.rank > given:
        raise ValueError(
            f"rank is {part.rank}, but the embeddings have dim {given}; give at most that"
        )
    if part.dim is None or part.dim == given:
        return given
    if part.dim > given or part.kind != "linear" or part.side not in ("both", "separate"):
        raise ValueError(
            f"dim is {part.dim} with kind {part.kind!r}, side {part.side!r} and embeddings of dim"
            f" {given}; only a linear adapter for queries and documents ('both' or 'separate') can"
            " end in a smaller dimension, and none in a larger one"
        )
    return part.dim
