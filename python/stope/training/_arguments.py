"""The arguments of `train`: numbers in range, words that exist, options that go together."""

from __future__ import annotations

from pathlib import Path

from stope.training._options import Options
from stope.training.rows import RowTable

SCHEDULERS = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}
QUERY_SIDE_LOSSES = ("lambda_mrr", "infonce")
_FOR_THE_LOSS = ("weighting", "refresh", "prompts", "matryoshka_dims", "matryoshka_weights")
_NOT_QUERY_SIDE = {
    "precision": "float32",
    "mini_batch_size": None,
    "symmetric": False,
    "weighting": None,
    "matryoshka_dims": None,
    "matryoshka_weights": None,
}


def say_nothing(text: str) -> None:
    """What `train` says if nobody listens."""


def check_numbers(
    batch_size: int,
    epochs: int,
    learning_rate: float,
    warmup: float,
    seed: int,
    **counts: int | None,
) -> None:
    """Refuse numbers out of range; counts are None or at least 1."""
    if batch_size < 2:
        raise ValueError(f"batch_size must be at least 2 (one negative each), not {batch_size}")
    for name, value in {"epochs": epochs, **counts}.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    if not learning_rate > 0:
        raise ValueError(f"learning_rate must be positive, but is {learning_rate}")
    if not 0 <= warmup < 1:
        raise ValueError(f"warmup must be at least 0 and below 1, but is {warmup}")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be from 0 to 4294967295, not {seed}")


def check_together(options: Options, table: RowTable, *, static: bool) -> None:
    """Refuse words that do not exist and arguments that need, or exclude, others.

    Args:
        options: of the run.
        table: of its rows.
        static: whether the model is a static encoder.
    """
    if options.keep not in ("last", "best"):
        raise ValueError(f'keep must be "last" or "best", not {options.keep!r}.')
    if options.scheduler not in SCHEDULERS:
        names = ", ".join(f'"{name}"' for name in SCHEDULERS)
        raise ValueError(f"scheduler must be one of {names}, not {options.scheduler!r}")
    if options.evaluation is None:
        if options.keep == "best":
            raise ValueError('keep="best" needs an evaluation to judge the weights by.')
        for name in ("patience", "evaluate_every"):
            value = getattr(options, name)
            if value is not None:
                raise ValueError(f"{name} is {value} but there is no evaluation; give one")
    if options.output is None:
        for name, unset in (("resume", False), ("tensorboard", False), ("checkpoint_every", None)):
            value = getattr(options, name)
            if value != unset:
                raise ValueError(f"{name} is {value} but there is no output; name a folder")
    if options.refresh is not None and table.pairs is None:
        raise ValueError(
            "refresh was given, which mines in a corpus; give examples as stope.data.Pairs"
        )
    _check_loss(options)
    if options.autocast not in (None, "bfloat16"):
        raise ValueError(f'autocast must be "bfloat16" or None, not {options.autocast!r}.')
    if options.autocast is not None and static:
        raise ValueError(
            "autocast was given but the model is a static encoder, which looks vectors up and "
            "multiplies nothing; leave it out"
        )


def _check_loss(options: Options) -> None:
    loss = options.loss
    if options.refresh is not None and options.refresh.mode == "query_side":
        for name, unset in _NOT_QUERY_SIDE.items():
            if getattr(options, name) != unset:
                raise ValueError(
                    f"{name} was given, but refresh has the mode 'query_side', whose loss does not "
                    "take it; leave it out or choose another mode"
                )
        if loss not in (None, *QUERY_SIDE_LOSSES):
            raise ValueError(
                f"loss must be one of {', '.join(QUERY_SIDE_LOSSES)} with refresh in the mode "
                f"'query_side', not {loss!r}"
            )
        return
    if isinstance(loss, str):
        raise ValueError(
            f"loss is {loss!r}, a name, which is for refresh in the mode 'query_side'; give a loss "
            "of sentence-transformers, or leave it out"
        )
    if loss is not None:
        for name in _FOR_THE_LOSS:
            if getattr(options, name) is not None:
                raise ValueError(
                    f"{name} was given, which is for the default loss; leave it or loss out"
                )


def check_output(output: str | Path) -> Path:
    """The output folder, made where it is missing."""
    folder = Path(output)
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"output is {folder}, which is a file; name a folder")
    if not folder.absolute().parent.is_dir():
        raise FileNotFoundError(
            f"output is {folder}, but the folder {folder.absolute().parent} does not exist; "
            "create it first"
        )
    folder.mkdir(exist_ok=True)
    return folder
