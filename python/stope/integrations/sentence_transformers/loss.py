"""The fused contrastive loss for sentence-transformers' trainer, and a collator for its weights and
ids, for versions 5 and 6.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from transformers import TrainerCallback

import stope.torch
import torch
from stope.integrations.sentence_transformers import library
from stope.integrations.sentence_transformers.ids import id_number, shared_numbers, unknown_number
from stope.torch import distributed
from stope.weighting import Weighting, difficulty_signals, weigh
from torch import nn

_DIRECTIONS = {
    "query_to_doc": "query_to_document",
    "query_to_query": "query_to_query",
    "doc_to_query": "document_to_query",
    "doc_to_doc": "document_to_document",
}
_TOKENS = "mini_batch_num_tokens"
_WEIGHT, _ID = "stope_weight", "stope_id"  # how the collator's columns reach the loss


class InfoNCELoss(nn.Module):  # type: ignore[misc]
    """In-batch contrastive loss for SentenceTransformerTrainer, without the score matrix.

    For rows (anchor, positive, negative_1, ..., negative_n) and similarities S to all documents of
    the batch, with p the row's positive,

        L_i = log sum_j exp(S_ij / temperature) - S_ip / temperature,

    and the mean over the rows, or their weighted mean. With the same options it equals
    MultipleNegativesRankingLoss (scale = 1 / temperature), its cached form (``mini_batch_size``)
    and GISTEmbedLoss (``guide``), in memory O(batch) instead of O(batch²).

    Args:
        model: the SentenceTransformer in training.
        temperature: divides the similarities; 0.05 is a scale of 20.
        metric: ``"cosine"`` or ``"dot"``.
        directions: of ``"query_to_doc"``, ``"query_to_query"``, ``"doc_to_query"`` and
            ``"doc_to_doc"``. Default: the first alone; with a guide what ``contrast_anchors`` and
            ``contrast_positives`` say.
        partition_mode: ``"joint"`` (one softmax for all directions) or ``"per_direction"``.
        hardness_mode: None, ``"in_batch_negatives"``, ``"hard_negatives"`` or ``"all_negatives"``:
            which logits get ``hardness_strength`` times their cosine on top.
        hardness_strength: see above.
        guide: a second SentenceTransformer that decides which negatives are false (GISTEmbed).
        margin_strategy: with p the guide's cosine of anchor and positive, ``"absolute"`` drops
            negatives above p - margin, ``"relative"`` those above p - |p| · margin.
        margin: see above. Default 0 with a guide, and no such rule without. A margin without a
            guide reads the model's own similarities.
        contrast_anchors: with a guide and no ``directions``: anchors are negatives of each other.
        contrast_positives: likewise for the positives (hard negatives stay out of it).
        mini_batch_size: encode so many rows at a time and keep no activations between (GradCache).
        mini_batch_num_tokens: instead a number of tokens, where sentence-transformers can do so.
        show_progress_bar: while encoding mini-batches.
        gather_across_devices: documents of all processes are negatives.
        weighting: of :mod:`stope.weighting`, or its name or dictionary: rows weigh by how difficult
            they are, "hardness" being the best negative of the batch less the positive, and by how
            far training is, which :meth:`progress_callback` tells.
        **options: numbers and names for :class:`stope.torch.InfoNCELoss`, such as ``precision``,
            ``objective``, ``max_score`` or ``hard_negative_log_weight``.

    Weights of the rows and ids of queries and documents come through :class:`InfoNCECollator`: a
    document with the id of the row's positive, or that answers a query with the row's query id, is
    no negative of the row.

    Raises:
        ValueError: a static encoder with mini-batches, an option out of range, fewer than two
            columns, and what :class:`stope.torch.InfoNCELoss` raises.
        TypeError: an unknown option.

    Source: ``methods.md`` C6 to C8, H1, H8; van den Oord et al. 2018; Li et al. 2023 (directions);
    Solatorio 2024 (guide); Gao et al. 2021 (mini-batches).

    >>> from stope.encoders import static_encoder
    >>> encoder = static_encoder(["red ore", "iron in rock", "deep pit", "a hole"] * 9, dim=8)
    >>> InfoNCELoss(encoder, temperature=0.02).get_config_dict()["temperature"]
    0.02
    """

    uses_gradient_cache = False

    def __new__(cls, *args: Any, **options: Any) -> Any:
        """Mini-batches need the other class, for sentence-transformers asks for its type."""
        cached = any(options.get(n) is not None for n in ("mini_batch_size", _TOKENS))
        return super().__new__(_CachedInfoNCELoss if cls is InfoNCELoss and cached else cls)

    def __init__(
        self,
        model: Any,
        *,
        temperature: float = 0.05,
        metric: str = "cosine",
        directions: Sequence[str] | None = None,
        partition_mode: str = "joint",
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
        weighting: Any = None,
        **options: Any,
    ) -> None:
        nn.Module.__init__(self)
        self._config = {
            "temperature": temperature,
            "metric": metric,
            "partition_mode": partition_mode,
            "hardness_mode": hardness_mode,
            "hardness_strength": hardness_strength,
            "gather_across_devices": gather_across_devices,
            **options,
        }
        if margin_strategy not in ("absolute", "relative"):
            raise ValueError(
                f"margin_strategy is {margin_strategy!r}; give 'absolute' or 'relative'"
            )
        if guide is not None:
            margin = 0.0 if margin is None else margin
            self._config |= {
                "guide": guide,
                "contrast_anchors": contrast_anchors,
                "contrast_positives": contrast_positives,
            }
            if directions is None:
                options = {"documents_see_hard_negatives": False, **options}
                directions = ["query_to_doc"]
                directions += ["query_to_query"] if contrast_anchors else []
                directions += ["doc_to_doc"] if contrast_positives else []
        directions = ("query_to_doc",) if directions is None else tuple(directions)
        self._config["directions"] = directions
        if margin is not None:
            self._config |= {"margin_strategy": margin_strategy, "margin": margin}
            options = {**options, f"{margin_strategy}_margin": margin}
        self.weighting = None if weighting is None else Weighting.from_dict(weighting)
        self.progress = 0.0
        if self.weighting is not None:
            self._config["weighting"] = self.weighting.to_dict()
        make = (
            distributed.DistributedInfoNCELoss if gather_across_devices else stope.torch.InfoNCELoss
        )
        self.model = model
        self.guide = guide
        self.mini_batch_size = mini_batch_size
        self.mini_batch_num_tokens = mini_batch_num_tokens
        self.show_progress_bar = show_progress_bar
        self.gather_across_devices = gather_across_devices
        self._retokenize = guide is not None and library.reads_other_tokens(model, guide)
        self.infonce = make(
            temperature,
            metric=metric,
            directions=tuple(_DIRECTIONS.get(name, name) for name in directions),
            partition=partition_mode,
            hardness=hardness_mode,
            hardness_strength=hardness_strength,
            **options,
        )

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Any = None) -> Any:
        """The loss of one batch: one dictionary of features per column; labels are not used."""
        columns, batch = self._open(sentence_features)
        if library.embed_columns is not None:
            return self._loss(library.embed_columns(self.model, columns), batch)
        return self._loss([self.model(column)["sentence_embedding"] for column in columns], batch)

    def get_config_dict(self) -> dict[str, Any]:
        """The options, for the model card."""
        return dict(self._config)

    def progress_callback(self) -> Any:
        """A callback for the trainer that keeps ``progress``, which the weighting reads, right."""
        loss = self

        class Progress(TrainerCallback):
            def on_step_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
                loss.progress = min(1.0, state.global_step / max(1, state.max_steps))

        return Progress()

    @property
    def temperature(self) -> float:
        """What divides the similarities."""
        return float(self.infonce.temperature)

    @property
    def statistics(self) -> Any:
        """:class:`stope.torch.Statistics` of the last batch."""
        return self.infonce.statistics

    @property
    def citation(self) -> str:
        """BibTeX of the paper behind the chosen form."""
        return library.GIST_PAPER if self.guide is not None else library.INFONCE_PAPER

    def _open(
        self, sentence_features: Iterable[dict[str, Any]]
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """The columns without what is ours, and what is ours."""
        columns = [dict(features) for features in sentence_features]
        if len(columns) < 2:
            raise ValueError(
                f"the dataset has {len(columns)} text column; give anchor, positive and any number "
                "of negatives"
            )
        weights = [column.pop(_WEIGHT, None) for column in columns]
        ids = [column.pop(_ID, None) for column in columns]
        batch = {"weights": weights[0], "ids": ids, "guides": None}
        if self.guide is not None:
            with torch.no_grad():
                batch["guides"] = self._guide_embeddings(columns)
        return columns, batch

    def _guide_embeddings(self, columns: list[dict[str, Any]]) -> list[Any]:
        return [self.guide(features)["sentence_embedding"] for features in self._for_guide(columns)]

    def _for_guide(self, columns: list[dict[str, Any]]) -> list[dict[str, Any]]:
        # Copies: modules write their results into the dictionaries.
        if not self._retokenize:
            return [dict(column) for column in columns]
        read = self.guide.preprocess if hasattr(self.guide, "preprocess") else self.guide.tokenize
        found = []
        for column in columns:
            features = read(library.texts_of(self.model.tokenizer, column))
            found.append(
                {
                    name: value.to(self.guide.device) if hasattr(value, "to") else value
                    for name, value in features.items()
                }
            )
        return found

    def _loss(self, embeddings: Sequence[Any], batch: dict[str, Any]) -> Any:
        queries, *documents = embeddings
        rows = queries.shape[0]
        given: dict[str, Any] = {}
        if batch["guides"] is not None:
            guide_queries, *guide_documents = batch["guides"]
            given["guide_queries"] = library.floats(guide_queries)
            given["guide_documents"] = library.floats(torch.cat(guide_documents))
        if any(ids is not None for ids in batch["ids"]):
            given["document_ids"] = self._document_ids(batch["ids"], rows)
        own = torch.arange(rows, rows * len(documents), device=queries.device)
        own = own.reshape(len(documents) - 1, rows).mT.reshape(-1)
        offsets = torch.arange(rows + 1, device=queries.device) * (len(documents) - 1)
        return self.infonce(
            queries,
            torch.cat(documents),
            weights=self._weights(batch["weights"]),
            positives=torch.arange(rows, device=queries.device),
            hard_negatives=(offsets, own),
            **given,
        )

    def _weights(self, data: Any) -> Any:
        """The data's weights, or a function that multiplies them with those by difficulty."""
        weighting = self.weighting
        if weighting is None:
            return data

        def weights(statistics: Any) -> Any:
            signals = difficulty_signals(statistics)
            if data is not None:
                signals["weight"] = data.float()
            everybody = "all" if self.gather_across_devices else None
            return weigh(weighting, signals, self.progress, processes=everybody)

        return weights

    def _document_ids(self, ids: list[Any], rows: int) -> Any:
        """One number per document of this process; equal ones are no negatives of each other."""
        here = distributed.rank() if self.gather_across_devices else 0
        documents = []
        for column, known in enumerate(ids[1:]):
            if known is None:
                names = [unknown_number(here, column, row) for row in range(rows)]
                known = torch.tensor(names, dtype=torch.int64)
            documents.append(self._all(known))
        shared = shared_numbers(None if ids[0] is None else self._all(ids[0]), documents)
        mine = distributed.own_rows(rows) if self.gather_across_devices else slice(None)
        return torch.cat([torch.from_numpy(column)[mine] for column in shared])

    def _all(self, ids: Any) -> Any:
        ids = ids.cpu()
        return (distributed.gather_rows(ids) if self.gather_across_devices else ids).numpy()


class _CachedInfoNCELoss(InfoNCELoss, library.CachedBase):  # type: ignore[misc]
    """:class:`InfoNCELoss` with mini-batches."""

    uses_gradient_cache = True

    def __init__(self, model: Any, **options: Any) -> None:
        super().__init__(model, **options)
        if library.is_static(model):
            raise ValueError(
                "mini_batch_size is for encoders that keep activations, but the model is a static "
                "embedding, which keeps none; leave it out: this loss needs no score matrix"
            )
        if self.mini_batch_size is None:
            self.mini_batch_size = 32  # not read where tokens are counted
        if self.mini_batch_size < 1:
            raise ValueError(f"mini_batch_size is {self.mini_batch_size}; give at least 1")
        if self.mini_batch_num_tokens is not None and not hasattr(library.CachedBase, _TOKENS):
            raise ValueError(
                f"{_TOKENS} needs a newer sentence-transformers than "
                f"{library.LIBRARY.__version__}; use mini_batch_size"
            )
        self._config |= {
            "mini_batch_size": self.mini_batch_size,
            _TOKENS: self.mini_batch_num_tokens,
        }
        self._batch: dict[str, Any] = {"weights": None, "ids": [None], "guides": None}

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Any = None) -> Any:
        """The loss of one batch; its backward pass encodes every mini-batch once more."""
        columns, self._batch = self._open(sentence_features)
        if hasattr(library.CachedBase, "forward_cached"):
            return self.forward_cached(columns, labels)
        return library.CachedBase.forward(self, columns, labels)

    def calculate_loss(
        self, reps: list[list[Any]], labels: Any = None, *, with_backward: bool = False
    ) -> Any:
        """The loss of the embeddings of all mini-batches (MatryoshkaLoss shortens them first)."""
        loss = self._loss([torch.cat(column) for column in reps], self._batch)
        if with_backward:
            loss.backward()
            loss = loss.detach()
        return loss

    @property
    def citation(self) -> str:
        """BibTeX of the paper behind mini-batches."""
        return library.GRAD_CACHE_PAPER

    def _guide_embeddings(self, columns: list[dict[str, Any]]) -> list[Any]:
        model, self.model = self.model, self.guide
        try:
            return [
                torch.cat(
                    [
                        part[0]
                        for part in self.embed_minibatch_iter(
                            sentence_feature=features, with_grad=False, copy_random_state=False
                        )
                    ]
                )
                for features in self._for_guide(columns)
            ]
        finally:
            self.model = model


class InfoNCECollator(library.Collator):  # type: ignore[misc]
    """Collates rows of texts and hands their weights and ids to :class:`InfoNCELoss`.

    sentence-transformers' own collator would tokenise such columns as texts. Give it to the trainer
    as ``data_collator``. Any of these columns may be missing:

    - ``weight``: a number of at least 0 per row;
    - ``X_id`` for a text column X: an integer or a string, None where unknown;
    - ``query_id`` and ``document_id``: ids of the first and of the second text column.

    They are also kept out of the comparison of ``BatchSamplers.NO_DUPLICATES``.

    Args:
        model: the SentenceTransformer whose tokenizer is used.
        dataset_columns: names of all columns of weights and ids, where a sampler must know them
            before the first batch; default: the usual ones for up to 64 negatives.
        **options: of sentence-transformers' collator: ``prompts``, ``router_mapping``, ...

    >>> from stope.encoders import static_encoder
    >>> encoder = static_encoder(["red ore", "iron in rock", "deep pit", "a hole"] * 9, dim=8)
    >>> row = {"query": "ore", "positive": "rock", "weight": 2.0, "positive_id": "d7"}
    >>> batch = InfoNCECollator(encoder)([row, {**row, "weight": 1.0}])
    >>> [name for name in batch if name.startswith("query")]
    ['query_input_ids', 'query_offsets', 'query_stope_weight']
    """

    def __init__(
        self, model: Any, *, dataset_columns: Sequence[str] | None = None, **options: Any
    ) -> None:
        if hasattr(model, "preprocess"):
            options = {"preprocess_fn": model.preprocess, **options}
        else:
            options = {"tokenize_fn": model.tokenize, **options}
        super().__init__(**options)
        if dataset_columns is None:
            texts = ["anchor", "query", "question", "positive", "document", "answer", "negative"]
            texts += [f"negative_{place}" for place in range(65)]
            dataset_columns = ["weight", *(f"{text}_id" for text in texts)]
        # Samplers leave label columns out of their comparisons.
        own: list[str] = self.valid_label_columns
        self.valid_label_columns: list[str] = [*own, *dataset_columns]

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """One batch of tensors from rows of the dataset."""
        names = [name for name in features[0] if name != "dataset_name"] if features else []
        labels = [n for n in self.valid_label_columns if n in names and not self._ours(n, names)]
        texts = [n for n in names if not self._ours(n, names) and n not in labels[:1]]
        kept = [{n: v for n, v in row.items() if not self._ours(n, names)} for row in features]
        batch: dict[str, Any] = super().__call__(kept)
        if not texts:
            return batch
        if "weight" in names:
            weights = [float(row["weight"]) for row in features]
            batch[f"{texts[0]}_{_WEIGHT}"] = torch.tensor(weights)
        aliases = dict(zip(("query_id", "document_id"), texts, strict=False))
        for name in names:
            text = name.removesuffix("_id") if name.removesuffix("_id") in texts else None
            text = text if text is not None else aliases.get(name)
            if text is not None and self._ours(name, names):
                numbers = [id_number(row[name]) for row in features]
                batch[f"{text}_{_ID}"] = torch.tensor(numbers)
        return batch

    @staticmethod
    def _ours(name: str, names: Sequence[str]) -> bool:
        if name in ("weight", "query_id", "document_id"):
            return True
        return name.endswith("_id") and name.removesuffix("_id") in names
