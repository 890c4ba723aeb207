"""The fused contrastive loss for sentence-transformers' trainer and for `stope.training.train`.

It is computed where the embeddings are; weights, masks and numbers for the log are found on the
CPU. The trainer collates one batch ahead, so live negatives are chosen, read and encoded here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from stope._checks import flag, real
from stope._kinds import a, at_least, integers, kinds, maybe, numbers, string, strings
from stope.encoders import versions
from stope.encoders.encode import has_encode
from stope.encoders.versions import Features
from stope.integrations.sentence_transformers import options as checked
from stope.integrations.sentence_transformers.batch import Batch, live_columns, told_of
from stope.integrations.sentence_transformers.clock import Clock
from stope.integrations.sentence_transformers.collator import InfoNCECollator
from stope.integrations.sentence_transformers.distillation import Distillation
from stope.integrations.sentence_transformers.from_embeddings import LossOfEmbeddings
from stope.integrations.sentence_transformers.guide import guide_features
from stope.integrations.sentence_transformers.papers import PAPERS
from stope.integrations.sentence_transformers.queue import DocumentQueue, MomentumEncoder
from stope.integrations.sentence_transformers.row_table import RowTable
from stope.integrations.sentence_transformers.timed import Timed
from stope.torch import InfoNCELoss as OfThisProcess
from stope.torch import Statistics
from stope.torch.distributed import DistributedInfoNCELoss, sum_of_all, world_size
from stope.torch.losses import refuse_replica
from stope.weighting import Weighting
from torch import Tensor, nn

TOKENS = "mini_batch_num_tokens"
_FLAGS = (
    "symmetric",
    "contrast_anchors",
    "contrast_positives",
    "show_progress_bar",
    "gather_across_devices",
)


@kinds(
    model=has_encode,
    directions=maybe(strings),
    partition_mode=string,
    hardness_mode=maybe(string),
    guide=maybe(has_encode),
    **dict.fromkeys(("margin", "momentum"), maybe(real)),
    matryoshka_dims=maybe(integers),
    matryoshka_weights=maybe(numbers),
    queue_size=at_least(0),
    rows=maybe(a(RowTable)),
    clock=maybe(a(Clock)),
    **dict.fromkeys(("mini_batch_size", TOKENS), maybe(at_least(1))),
    **dict.fromkeys(_FLAGS, flag),
)
class InfoNCELoss(LossOfEmbeddings, Timed):
    """In-batch contrastive loss for SentenceTransformerTrainer, without the score matrix.

    For rows (anchor, positive, negative_1, ..., negative_n) and similarities S to all documents of
    the batch, with p the row's positive,

        L_i = log sum_j exp(S_ij / temperature) - S_ip / temperature,
        L   = sum_i w_i L_i / sum_i w_i,

    with weights w that the data brings, times those that a weighting derives from how difficult
    each row is and how far training is. With the same options it equals
    MultipleNegativesRankingLoss (scale = 1 / temperature), its cached form (``mini_batch_size``)
    and GISTEmbedLoss (``guide``), in memory O(batch) instead of O(batch²).

    What the loss must know of the rows beside their texts comes through :class:`InfoNCECollator`,
    which is to be the trainer's ``data_collator`` (:meth:`collator` makes it); with
    sentence-transformers' own every row weighs the same, and copies of a row's positive are its
    negatives. `stope.training.train` sees to both, whether it makes this loss or is given it.

    Args:
        model: the SentenceTransformer in training.
        temperature, scale: 0.05, or its inverse.
        metric, similarity_fct: ``"cosine"`` or ``"dot"``, or the library's function for it.
        directions: of ``"query_to_doc"``, ``"query_to_query"``, ``"doc_to_query"`` and
            ``"doc_to_doc"``. Default: the first alone; with a guide what ``contrast_anchors`` and
            ``contrast_positives`` say.
        partition_mode: ``"joint"`` (one softmax for all directions) or ``"per_direction"``.
        symmetric: add the same loss from the rows' positives to the queries of all rows, and take
            the mean of both. What is known to be no negative of the other in one direction is none
            in the other, unlike ``"per_direction"``. Past documents and the rows' own hard
            negatives are in the first alone.
        hardness_mode, hardness_strength: None, ``"in_batch_negatives"``, ``"hard_negatives"`` or
            ``"all_negatives"``: which logits get so many times their cosine on top.
        guide: a second SentenceTransformer that decides which negatives are false (GISTEmbed).
        margin_strategy, margin: with p the guide's cosine of anchor and positive, ``"absolute"``
            drops negatives above p - margin, ``"relative"`` those above p - abs(p) · margin.
            Default 0 with a guide, and no such rule without, where the model's own cosines count.
        contrast_anchors, contrast_positives: with a guide and no ``directions``: anchors, and
            positives, are negatives of each other (hard negatives stay out of it).
        mini_batch_size, mini_batch_num_tokens: encode so many rows, or tokens, at a time and keep
            no activations between (GradCache).
        show_progress_bar: while encoding mini-batches.
        gather_across_devices: documents of all processes are negatives, and weights are those of
            one process with all rows. A learned temperature gets its mean gradient.
        matryoshka_dims: such as (384, 128, 64): the loss is the weighted sum of the losses of the
            embeddings' first 384, 128 and 64 elements. The first is the model's own dimension, and
            by its losses the rows are weighted, in all of them.
        matryoshka_weights: of that sum; default 1 each.
        queue_size: so many past documents are negatives, too, without gradient (MoCo's queue, of
            embeddings that the model made then). It is in the loss's ``state_dict``.
        momentum: with a queue: documents are encoded by the model's moving average, this much of
            which stays in every step (MoCo: 0.999), and get no gradient in the batch either.
        weighting: of :mod:`stope.weighting`, or its name or dictionary; None weighs by the data's
            column "weight" alone. It reads the signals of
            :func:`stope.weighting.difficulty_signals` (where "hardness" is explained) and the
            data's columns of numbers by name. A batch in which all weights are 0 teaches nothing.
        negatives: `stope.training.LiveNegatives`: hard negatives that may change while training
            runs. Each step they are chosen, tokenized and encoded, and are then columns as any.
            They need ``rows``.
        rows: `RowTable` of the rows; where it is of `stope.data.Pairs`, no positive of a row's
            query is a negative of the row.
        prompts: with ``.document(source)``, put before the texts of live negatives.
        clock: the progress that the weighting follows and the step that live negatives are drawn
            for. `train` moves it on, and so does :meth:`progress_callback`.
        distillation: :class:`Distillation`, its objective or its options as a mapping: learn from a
            teacher's scores of the rows' positives and negatives (the data's column
            "teacher_scores", or those of live negatives) beside the contrastive loss.
        **options: numbers and names for :class:`stope.torch.InfoNCELoss`, such as ``precision``,
            ``objective``, ``learnable_temperature``, ``max_score`` or
            ``hard_negative_log_weight``; ``partition`` and ``hardness`` are its words for
            ``partition_mode`` and ``hardness_mode``.

    Attributes:
        infonce: the :class:`stope.torch.InfoNCELoss` that computes it.
        observed: numbers about the last batch: its loss (and that of each Matryoshka dim), how
            weights and hardness are spread, the share of pairs left out as false negatives, the
            mean rank of the positives.

    Raises:
        ValueError: mini-batches for a static encoder, an option out of range, options that do not
            go together, negatives without rows of pairs; at the first batch fewer than two columns,
            labels other than 1, a signal that a weighting does not find.
        TypeError: an unknown option.

    Memory: the embeddings of the batch with their gradients, the queue, and O(rows + documents);
    with momentum the model once more.

    Not for several threads at once: a call leaves its statistics behind.

    Source: docs/methods.md, A1, C6 to C8, D17, E2, G12, H1, H7, H8; van den Oord et al. 2018;
    Li et al. 2023 (directions); Solatorio 2024 (guide); Gao et al. 2021 (mini-batches).

    >>> from stope.encoders import static_encoder
    >>> encoder = static_encoder(["red ore", "iron in rock", "deep pit", "a hole"] * 9, dim=8)
    >>> loss = InfoNCELoss(encoder, temperature=0.02, objective="DCL", weighting="progressive")
    >>> loss.scale, loss.get_config_dict()["objective"], loss.progress
    (50.0, 'decoupled', 0.0)
    """

    uses_gradient_cache = False

    def __new__(cls, *args: Any, **options: Any) -> Any:
        """Mini-batches need the other class, for sentence-transformers asks for its type."""
        cached = any(options.get(n) is not None for n in ("mini_batch_size", TOKENS))
        if cls is InfoNCELoss and cached:
            from stope.integrations.sentence_transformers.cached import CachedInfoNCELoss

            return super().__new__(CachedInfoNCELoss)
        return super().__new__(cls)

    def __init__(
        self,
        model: Any,
        *,
        temperature: float | None = None,
        scale: float | None = None,
        similarity_fct: Callable[..., Any] | None = None,
        metric: str = "cosine",
        directions: Sequence[str] | None = None,
        partition_mode: str = "joint",
        symmetric: bool = False,
        hardness_mode: str | None = None,
        hardness_strength: float = 0.0,
        guide: Any = None,
        margin_strategy: str = "absolute",
        margin: float | None = None,
        contrast_anchors: bool = True,
        contrast_positives: bool = True,
        mini_batch_size: int | None = None,
        mini_batch_num_tokens: int | None = None,
        show_progress_bar: bool = False,
        gather_across_devices: bool = False,
        matryoshka_dims: Sequence[int] | None = None,
        matryoshka_weights: Sequence[float] | None = None,
        queue_size: int = 0,
        momentum: float | None = None,
        weighting: Weighting | Mapping[str, Any] | str | None = None,
        negatives: Any = None,
        rows: RowTable | None = None,
        prompts: Any = None,
        clock: Clock | None = None,
        distillation: Distillation | Mapping[str, Any] | str | None = None,
        **options: Any,
    ) -> None:
        nn.Module.__init__(self)
        self.symmetric = symmetric
        self.matryoshka = checked.matryoshka_of(model, matryoshka_dims, matryoshka_weights)
        options = checked.torch_options(
            {"hardness_strength": hardness_strength, **options},
            partition_mode=partition_mode,
            hardness_mode=hardness_mode,
            margin_strategy=margin_strategy,
            margin=0.0 if guide is not None and margin is None else margin,
        )
        options["directions"] = checked.directions_of(
            directions,
            options,
            symmetric=self.symmetric,
            guided=guide is not None,
            contrast=(contrast_anchors, contrast_positives),
        )
        self.gather_across_devices = gather_across_devices
        kind = DistributedInfoNCELoss if gather_across_devices else OfThisProcess
        self.infonce = kind(
            checked.temperature_of(temperature, scale),
            metric=checked.metric_of(metric, similarity_fct),
            **options,
        )
        if self.gather_across_devices:
            for parameter in self.infonce.parameters():
                parameter.register_hook(self._averaged)
        self.model = model
        self.guide = guide
        self._guide_features = None if guide is None else guide_features(model, guide)
        self.read = versions.reader_of(model)  # wrappers for several processes hide it
        self.mini_batch_size = mini_batch_size
        self.mini_batch_num_tokens = mini_batch_num_tokens
        self.show_progress_bar = show_progress_bar
        self.queue = DocumentQueue(queue_size) if queue_size else None
        self.keys: MomentumEncoder | None = None
        if momentum is not None:
            self.keys = MomentumEncoder.of_queue(
                model, momentum, self.queue, mini_batches=self.uses_gradient_cache
            )
        self.clock = Clock()
        self.negatives: Any = None
        self.rows: RowTable | None = None
        self.prompts: Any = None
        self.distillation: Distillation | None = None
        self.teacher: Any = None
        self.observed: dict[str, float] = {}
        self.register_load_state_dict_post_hook(_guides_are_elsewhere)
        self.attach(
            rows=rows,
            clock=clock,
            negatives=negatives,
            prompts=prompts,
            weighting=weighting,
            distillation=distillation,
        )

    def attach(
        self,
        *,
        rows: RowTable | None = None,
        clock: Clock | None = None,
        negatives: Any = None,
        prompts: Any = None,
        weighting: Weighting | Mapping[str, Any] | str | None = None,
        distillation: Distillation | Mapping[str, Any] | str | None = None,
        teacher: Any = None,
    ) -> None:
        """Take what a trainer knows and the loss does not; None leaves what there is.

        `stope.training.train` calls it before the first step, on the loss that it makes and on the
        one that it is given.

        Args:
            rows: `RowTable` of the rows.
            clock: what the trainer moves on.
            negatives: live negatives.
            prompts: for their texts.
            weighting: of the rows.
            distillation: from a teacher's scores of them.
            teacher: `stope.mining.pair_scores.ScoredPairs`, those of live negatives.

        Raises:
            ValueError: a weighting or negatives beside others that the loss has; negatives without
                rows of pairs.
        """
        if weighting is not None:
            weighting = Weighting.from_dict(weighting)
            if self.weighting not in (None, weighting):
                raise ValueError(
                    f"the loss has the weighting {self.weighting!r}, and another is given, "
                    f"{weighting!r}; give one of them"
                )
            self.weighting = weighting
        if negatives is not None:
            if self.negatives not in (None, negatives):
                raise ValueError("the loss has live negatives, and others are given; give one")
            self.negatives = negatives
        if distillation is not None:
            self.distillation = Distillation.read(distillation)
            if self.distillation.contrastive == 0 and self.infonce.log_scale is not None:
                raise ValueError(
                    "learnable_temperature is True, but distillation.contrastive is 0, so that "
                    "nothing would teach the temperature; leave one of them out"
                )
        if clock is not None:
            self.clock, self._is_told = clock, True
        self.rows = self.rows if rows is None else rows
        self.teacher = self.teacher if teacher is None else teacher
        self.prompts = self.prompts if prompts is None else prompts
        if self.negatives is not None and (self.rows is None or self.rows.pairs is None):
            raise ValueError(
                "negatives are given without a table of pairs, which tells a row's query; give "
                "RowTable.of_pairs(pairs) as well"
            )

    def collator(self, **options: Any) -> InfoNCECollator:
        """The trainer's collator for this loss; options as for :class:`InfoNCECollator`."""
        return InfoNCECollator(
            self.model, **{"rows": self.rows, "prompts": self.prompts, **options}
        )

    def forward(self, sentence_features: Iterable[Features], labels: Any = None) -> Tensor:
        """The loss of one batch: features of each column, and what the collator made of the rows.

        Args:
            sentence_features: one dictionary per column of texts, query first.
            labels: the collator's "label"; None, or labels that are all 1, say nothing.

        Raises:
            TypeError: a model in a torch.nn.DataParallel; torchrun starts a process per GPU.
        """
        for module in (self, self.model):
            refuse_replica(module)
        columns, batch = self._open(sentence_features, labels)
        if self.keys is None:
            return self.loss_of(versions.embed_columns(self.model, columns), batch)
        if torch.is_grad_enabled():
            self.keys.follow(self.model)
        queries = versions.embed_columns(self.model, columns[:1])
        return self.loss_of([*queries, *self.keys.embed(columns[1:])], batch)

    def get_config_dict(self) -> dict[str, Any]:
        """The options, for the model card."""
        config = {
            "temperature": self.temperature,
            **checked.library_words(self.infonce.options),
            "gather_across_devices": self.gather_across_devices,
        }
        if self.infonce.positive_sigma is not None:
            config["positive_sigma"] = self.infonce.positive_sigma
        if self.symmetric:
            config["symmetric"] = True
        if self.guide is not None:
            config["guide"] = self.guide
        if self.matryoshka:
            config["matryoshka_dims"] = [dim for dim, _ in self.matryoshka]
            config["matryoshka_weights"] = [weight for _, weight in self.matryoshka]
        if self.queue is not None:
            config["queue_size"] = self.queue.size
        if self.keys is not None:
            config["momentum"] = self.keys.momentum
        if self.weighting is not None:
            config["weighting"] = self.weighting.to_dict()
        if self.distillation is not None:
            config["distillation"] = asdict(self.distillation)
        return config

    def state_dict(self, *args: Any, **options: Any) -> Any:
        """The loss's tensors and the model's; not those of the guide, which does not change."""
        state = super().state_dict(*args, **options)
        guides = f"{options.get('prefix', '')}guide."
        for name in [name for name in state if name.startswith(guides)]:
            del state[name]
        return state

    @property
    def temperature(self) -> float:
        """What divides the similarities."""
        temperature = self.infonce.temperature
        return float(temperature.detach() if hasattr(temperature, "detach") else temperature)

    @property
    def scale(self) -> float:
        """1 / temperature, as MultipleNegativesRankingLoss has it."""
        return 1.0 / self.temperature

    @property
    def similarity_fct(self) -> Any:
        """sentence-transformers' function for the metric."""
        from sentence_transformers import util

        return util.dot_score if self.infonce.options["metric"] == "dot" else util.cos_sim

    @property
    def statistics(self) -> Statistics | None:
        """:class:`stope.torch.Statistics` of the last batch."""
        return self.infonce.statistics

    @property
    def citation(self) -> str:
        """BibTeX of the paper behind the chosen form."""
        return PAPERS["gist" if self.guide is not None else "infonce"]

    def _averaged(self, gradient: Tensor) -> Tensor:
        """The mean over the processes: their wrapper of the model leaves out what the loss has."""
        group = self.infonce.group
        return sum_of_all(gradient, group) / world_size(group)

    def _open(
        self, sentence_features: Iterable[Features], labels: Any
    ) -> tuple[list[Features], Batch]:
        """The columns, with live negatives at their end, and what is known of the rows."""
        self.ask_for_progress()
        columns = list(sentence_features)
        if len(columns) < 2:
            raise ValueError(
                f"the dataset has {len(columns)} text column; give anchor, positive and any number "
                "of negatives"
            )
        if self.queue is not None:
            self.queue.check_is_new(columns[0])
        told = told_of(labels)
        batch = Batch.of(told)
        if self.negatives is not None:
            columns += live_columns(self, batch, told, columns[1])
        if self.guide is not None:
            with torch.no_grad():
                batch.guides = self._guide_embeddings(columns)
        return columns, batch

    def _guide_embeddings(self, columns: list[Features]) -> list[Tensor]:
        assert self._guide_features is not None
        return [self.guide(self._guide_features(c))["sentence_embedding"] for c in columns]


def _guides_are_elsewhere(loss: Any, keys: Any) -> None:
    keys.missing_keys[:] = [name for name in keys.missing_keys if "guide." not in name]


def infonce_in(loss: Any) -> InfoNCELoss | None:
    """The loss of this module that a loss is, or has inside of it (MatryoshkaLoss); or None."""
    while loss is not None and not isinstance(loss, InfoNCELoss):
        loss = getattr(loss, "loss", None)
    return loss
