"""InfoNCELoss and SigmoidLoss: the contrastive losses as modules, with weights and temperature."""

from __future__ import annotations

import math
from typing import Any

import torch
from stope._checks import flag, number, real, shown
from stope._kinds import kinds
from stope.ops._infonce_options import ARRAY_NAMES, OPTION_NAMES, Options
from stope.ops._objectives import words_of
from stope.torch._lists import of_rows
from stope.torch._operators import Scalar, Statistics, encode
from stope.torch.functional import SCALAR_OPTIONS, infonce_statistics
from torch import nn


@kinds(learnable_temperature=flag)
class InfoNCELoss(nn.Module):  # type: ignore[misc]
    """The contrastive loss of a batch: the weighted mean of :func:`stope.torch.infonce`'s rows.

        L = sum_i w_i L_i / sum_i w_i

    with the row losses L_i of :func:`stope.infonce_forward` and the queries' weights w (default 1).
    With ``objective="pairwise"`` the mean is over pairs, as STAR takes it: w_i L_i is divided by
    sum_i w_i n_i, n_i being how many negatives query i has.

    Args:
        temperature: divides the similarities.
        learnable_temperature: make log(1 / temperature) the parameter ``log_scale``. The scale
            1 / temperature is clamped to ``max_scale``; where it is, its gradient is zero (CLIP).
        max_scale: see above.
        bias: added to the logits of ``objective="sigmoid"``; :class:`SigmoidLoss` learns it.
        positive_sigma: sigma of DCLW, for ``objective="decoupled"``: the positive's logit counts
            2 - B softmax_i(S_ip / sigma) times, less the nearer the positive is already. The mean
            of these factors is 1; they are constants for the gradient. None: 1 each. The objective
            ``"DCLW"`` is ``"decoupled"`` with sigma 0.5.
        **options: the numbers and names of :func:`stope.infonce_forward`, the same in every call.

    Attributes:
        statistics: :class:`Statistics` of the last call, without gradient; None before.

    Thread safety: calls may overlap and their values and gradients are right; ``statistics`` is of
    whichever ended last. Options and parameters must not change meanwhile.

    Raises:
        ValueError: a temperature that is not positive and finite, or a learnable one whose scale
            starts above ``max_scale``; options that :func:`stope.infonce_forward` refuses.
        TypeError: an unknown option.

    Source: docs/methods.md, H1, H6, B1, E4.

    >>> import torch
    >>> loss = InfoNCELoss(temperature=0.1, learnable_temperature=True)
    >>> queries, documents = torch.eye(3), torch.eye(3).roll(1, 0)
    >>> value = loss(queries, documents, positives=[1, 2, 0], weights=torch.tensor([1.0, 0, 0]))
    >>> value.backward()
    >>> loss.statistics.ranks.tolist(), round(loss.temperature.item(), 4)
    ([1, 1, 1], 0.1)

    Weights may follow from the batch itself, here from how well each query is doing already:

    >>> from stope.weighting import Focal, difficulty_signals, weigh
    >>> def focal(statistics):
    ...     return weigh(Focal(gamma=1.0), difficulty_signals(statistics), progress=0.0)
    >>> round(loss(torch.eye(3), torch.eye(3), weights=focal).item(), 6)
    9.1e-05
    """

    def __init__(
        self,
        temperature: float = 0.05,
        *,
        learnable_temperature: bool = False,
        max_scale: float = 100.0,
        bias: float = 0.0,
        positive_sigma: float | None = None,
        **options: Scalar,
    ) -> None:
        super().__init__()
        self._fixed = check_positive(temperature, "temperature")
        self.max_scale = check_positive(max_scale, "max_scale")
        named = words_of({**options, "positive_sigma": positive_sigma})
        self.positive_sigma = named.pop("positive_sigma", None)
        self.options = check_options(named, type(self).__name__, bias)
        if self.positive_sigma is not None:
            _check_sigma(self.positive_sigma, self.options)
        self.bias: Any = float(bias)
        self._encoded = encode(self.options)
        self._of_pairs = self.options.get("objective") == "pairwise"
        self.statistics: Statistics | None = None
        self.log_scale: Any = None
        if learnable_temperature:
            self.log_scale = log_scale(1.0 / self._fixed, self.max_scale, "1 / temperature")

    @property
    def temperature(self) -> Any:
        """The temperature in use: a tensor with gradient if it is learnable, else a number."""
        if self.log_scale is None:
            return self._fixed
        return torch.exp(-self.log_scale.clamp(max=math.log(self.max_scale)))

    def forward(
        self,
        queries: Any,
        documents: Any,
        positives: Any = None,
        weights: Any = None,
        **tensors: Any,
    ) -> Any:
        """The loss of one batch, a float32 scalar.

        Args:
            queries, documents, positives: as for :func:`stope.torch.infonce`.
            weights: ``[M]`` weights of the queries on any device, at least 0 and not all 0; may
                require a gradient. A query without positives has loss 0 but counts in the mean. Or
                a function from this batch's :class:`Statistics` to them, called once after the
                forward pass; what is not torch in it is outside of ``torch.compile``'s graph.
            **tensors: the other tensors of :func:`stope.torch.infonce`, which change with the
                batch, and the limits ``max_score`` and ``min_score``.

        Raises:
            ValueError: weights that are negative, not finite, all zero or of the wrong length, and
                what :func:`stope.torch.infonce` raises.
        """
        refuse_replica(self)
        losses, statistics = self.row_losses(queries, documents, positives, **tensors)
        self.statistics = statistics
        return self.mean(losses, row_weights(weights, statistics), statistics.negatives)

    def row_losses(
        self, queries: Any, documents: Any, positives: Any = None, **tensors: Any
    ) -> tuple[Any, Statistics]:
        """The losses of the queries, ``[M]`` with gradient, and their :class:`Statistics`.

        Arguments and errors as for :meth:`forward`, whose value is their :meth:`mean`.
        """
        check_tensors(tensors, type(self).__name__)
        losses, statistics = self._fused(queries, documents, positives, tensors)
        if self.positive_sigma is None:
            return losses, statistics
        metric, given = self.options.get("metric", "cosine"), tensors.get("positive_weights")
        owner, _, share, pulled = of_rows(queries, documents, positives, given, metric)
        nothing = torch.zeros_like(losses)
        nearness = nothing.index_add(0, owner, share * statistics.positive_scores.to(share))
        none = torch.bincount(owner, minlength=len(losses)) == 0
        factors = 2 - self._softmax(nearness.masked_fill(none, -torch.inf) / self.positive_sigma)
        logits = nothing.index_add(0, owner, share * pulled) / self.temperature
        # A query without negatives has loss 0, whatever its positive.
        more = (1 - factors) * logits.to(losses)
        losses = losses + torch.where(statistics.negatives > 0, more, 0.0)
        return losses, statistics._replace(losses=losses.detach())

    def _fused(
        self, queries: Any, documents: Any, positives: Any, tensors: dict[str, Any]
    ) -> tuple[Any, Statistics]:
        return infonce_statistics(
            queries,
            documents,
            positives,
            temperature=self.temperature,
            bias=self.bias,
            options=self._encoded,
            **tensors,
        )

    def _softmax(self, logits: Any) -> Any:
        """Softmax over the batch's queries, times those that have a positive: mean 1."""
        return logits.softmax(0) * (logits > -torch.inf).sum()

    def mean(self, losses: Any, weights: Any = None, negatives: Any = None) -> Any:
        """The mean of row losses with these weights, ``[M]`` numbers; without, the plain one.

        The numbers of negatives, ``[M]``, are read by ``objective="pairwise"``.
        """
        return weighted_mean(losses, weights, negatives if self._of_pairs else None)

    def extra_repr(self) -> str:
        """What repr tells of the module."""
        learned = self.log_scale is not None
        options = {"learnable_temperature": learned, **self.options}
        if self.positive_sigma is not None:
            options["positive_sigma"] = self.positive_sigma
        return f"temperature={float(self.temperature):.6g}, " + ", ".join(
            f"{name}={value!r}" for name, value in options.items()
        )


@kinds(bias=real, learnable=flag)
class SigmoidLoss(InfoNCELoss):
    """The sigmoid loss of SigLIP: every pair is a yes-or-no question of its own.

        L_i = sum_j log(1 + exp(-Z_ij (t S_ij + b))),   Z_ij = 1 for positives, -1 for negatives,

    and L the weighted mean over the queries, with cosine similarities S. Called as
    :class:`InfoNCELoss` is.

    Args:
        scale: t at the start; its logarithm is the parameter ``log_scale``, clamped to
            ``max_scale`` with zero gradient there.
        bias: b at the start, the parameter ``bias``; about -log(N) lets training start calmly.
        learnable: False keeps both as they are.
        max_scale: see above.
        **options: as for :class:`InfoNCELoss`, except the ``objective``.

    Source: Zhai et al. 2023 (SigLIP); docs/methods.md, H9.

    >>> import torch
    >>> documents = torch.tensor([[0.9, 0.2], [0.1, 0.8]])
    >>> round(SigmoidLoss(metric="dot")(torch.eye(2), documents).item(), 6)
    1.720324
    """

    def __init__(
        self,
        scale: float = 10.0,
        bias: float = -10.0,
        *,
        learnable: bool = True,
        max_scale: float = 100.0,
        **options: Any,
    ) -> None:
        if "objective" in options:
            raise TypeError("SigmoidLoss fixes objective='sigmoid'; use InfoNCELoss for others")
        if not math.isfinite(bias):
            raise ValueError(f"bias is {bias}; give a finite number")
        start = check_positive(scale, "scale")
        super().__init__(
            1.0 / start, objective="sigmoid", bias=bias, max_scale=max_scale, **options
        )
        self.log_scale = log_scale(start, self.max_scale, "scale")
        self.bias = nn.Parameter(torch.tensor(float(bias)))
        if not learnable:
            self.requires_grad_(False)

    @property
    def scale(self) -> Any:
        """t, a tensor with one element."""
        return torch.exp(self.log_scale.clamp(max=math.log(self.max_scale)))

    def extra_repr(self) -> str:
        """What repr tells of the module."""
        return f"scale={float(self.scale):.6g}, bias={float(self.bias):.6g}"


def both_ways(
    loss: InfoNCELoss, queries: Any, documents: Any, columns: Any, there: Any, back: Any
) -> tuple[Any, Statistics]:
    """Row losses to the documents and from the rows' positives to the queries: their mean.

    Args:
        loss: whose row losses these are.
        queries, documents: ``[M, d]`` and ``[N, d]``.
        columns: which document is each query's positive: ``[M]`` ids or a slice.
        there, back: what else :meth:`InfoNCELoss.row_losses` is told in each direction.

    Returns:
        The losses, and the statistics of the first direction with losses of both and the negatives
        of both, added up.
    """
    losses, statistics = loss.row_losses(queries, documents, **there)
    others, other = loss.row_losses(documents[columns], queries, **back)
    return (losses + others) / 2, statistics._replace(
        losses=(statistics.losses + other.losses) / 2,
        negatives=statistics.negatives + other.negatives,
    )


def _check_sigma(sigma: Any, options: dict[str, Any]) -> None:
    check_positive(sigma, "positive_sigma")
    if options.get("objective") != "decoupled":
        raise ValueError(
            f"positive_sigma is {sigma}, but only objective 'decoupled' has one (DCLW)"
        )
    for name, usual in (("focal_margin", None), ("partition", "joint")):
        if options.get(name, usual) != usual:
            raise ValueError(
                f"positive_sigma is {sigma} and {name} is {options[name]!r}, which changes the "
                "positive's part of the loss, too; leave one of the two out"
            )


def row_weights(weights: Any, statistics: Statistics | None) -> Any:
    """The weights themselves, or what their function makes of the statistics."""
    return weights(statistics) if callable(weights) else weights


def weighted_mean(losses: Any, weights: Any, negatives: Any = None) -> Any:
    """sum_i w_i L_i / sum_i w_i, after a check of the weights; the plain mean without weights.

    With numbers of negatives it is the mean over pairs, sum_i w_i L_i / sum_i w_i n_i.
    """
    if weights is None and negatives is None:
        return losses.mean()
    weights = torch.ones_like(losses) if weights is None else check_weights(losses, weights)
    if negatives is None:
        return (weights * losses).sum() / weights.sum()
    # Without any negative every loss is 0.
    return (weights * losses).sum() / (weights * negatives.to(losses)).sum().clamp(min=1e-30)


def check_weights(losses: Any, weights: Any, *, none_is_fine: bool = False) -> Any:
    """The weights as float32 of the losses' length and device, at least 0, not all 0."""
    weights = torch.as_tensor(weights)
    if weights.shape != losses.shape:
        raise ValueError(
            f"weights has shape {tuple(weights.shape)}; give one per query, "
            f"shape {tuple(losses.shape)}"
        )
    return torch.ops.stope.checked_weights(weights.to(losses), none_is_fine)


def log_scale(scale: float, max_scale: float, name: str) -> Any:
    """The parameter log(scale)."""
    if scale > max_scale * (1 + 1e-6):
        raise ValueError(
            f"{name} is {scale:.6g}, above max_scale={max_scale:.6g}, where its gradient is zero; "
            "start lower or raise max_scale"
        )
    return nn.Parameter(torch.tensor(min(math.log(scale), math.log(max_scale))))


def check_positive(value: Any, name: str) -> float:
    """The value as a float above 0, or a sentence."""
    remedy = "give a positive, finite number"
    if getattr(value, "requires_grad", False):
        raise TypeError(
            f"{name} requires a gradient, but is kept as a number and not learned; give "
            f"{name}.item(), and learnable_temperature=True where it is to be learned"
        )
    if number(value, name, remedy) <= 0:
        raise ValueError(f"{name} is {value}; {remedy}")
    return float(value)


def check_options(options: dict[str, Any], owner: str, bias: float = 0.0) -> dict[str, Any]:
    """The options in their own words, checked as :func:`stope.infonce_forward` checks them.

    Raises:
        TypeError: a name that a loss cannot fix for all its calls, or a value of the wrong kind.
        ValueError: a value outside its range, or options that exclude each other.
    """
    for name in options:
        if name not in SCALAR_OPTIONS:
            raise TypeError(
                f"{owner} has no option {shown(name)}; it has {', '.join(SCALAR_OPTIONS)}; tensors "
                "of the batch go into the call"
            )
    fixed = {name: value for name, value in options.items() if name in OPTION_NAMES}
    checked = Options(bias=bias, **fixed)
    for name in ("max_score", "min_score"):
        if options.get(name) not in (None, math.inf, -math.inf):
            number(options[name], name)
    return {**options, **{name: getattr(checked, name) for name in fixed}}


def check_tensors(tensors: dict[str, Any], owner: str) -> dict[str, Any]:
    """Only names that may come with a batch."""
    known = [name for name in ARRAY_NAMES if name != "positives"]
    for name in tensors:
        if name not in known:
            raise TypeError(
                f"{owner} takes no {shown(name)} with a batch; it takes {', '.join(known)}; "
                "options that stay the same are given when the loss is made"
            )
    return tensors


def refuse_replica(module: Any) -> None:
    """Raise for a copy that DataParallel made: it has a part of the batch, and of its negatives."""
    if getattr(module, "_is_replica", False) or isinstance(module, torch.nn.DataParallel):
        raise TypeError(
            "the model or loss is in a torch.nn.DataParallel, whose copies each see a part of the "
            "batch and of its negatives; start one process per GPU with torchrun, or let this one "
            "see one GPU (CUDA_VISIBLE_DEVICES=0)"
        )
