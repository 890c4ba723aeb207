"""A teacher in a training: its options, what goes with it, and its scores of rows.

What it says of mined negatives comes with each refresh (`stope.training.negatives.refresh_run`);
what the loss makes of it is `stope.training.Distillation`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import numpy as np
from pydantic import BeforeValidator, Field, WithJsonSchema

from stope._checks import shown
from stope.data import Pairs
from stope.integrations.sentence_transformers.columns import TEACHER, check_columns, columns_of
from stope.integrations.sentence_transformers.distillation import Distillation
from stope.mining.pair_scores import PairScores
from stope.mining.teachers import load_teacher
from stope.scale.processes import computed_in_first
from stope.training.options import FieldsOf

if TYPE_CHECKING:
    from stope.training.library_trainer import Job


def _objective_alone(given: Any) -> Any:
    return {"objective": given} if isinstance(given, str) else given


DistillationOption: TypeAlias = Annotated[
    Annotated[Distillation, FieldsOf(Distillation)] | None,
    BeforeValidator(_objective_alone),
    Field(
        description="learn from a teacher's scores of each row's positive and hard negatives; an "
        "objective, or its options"
    ),
]


def _teacher(given: Any) -> Any:
    methods = ("of_pairs", "predict", "encode")
    if given is None or callable(given) or any(hasattr(given, name) for name in methods):
        return given
    raise TypeError(
        f"teacher is {shown(given)}; give a name, an encoder, a CrossEncoder, or a callable that "
        "takes a list of (query, document) and gives one number for each"
    )


TEACHER_TEXT = (
    "what scores the mined negatives and the positives, for distillation, negatives.teacher_margin "
    "and the weighting teacher: folder or name of an encoder, of a cross-encoder or of a "
    "late-interaction model, or a file of scores (TREC run, .jsonl, .parquet, .tsv or .csv with "
    "query_id, document_id and score)"
)
TeacherOption: TypeAlias = Annotated[
    Any,
    BeforeValidator(_teacher),
    WithJsonSchema({"type": "string"}),
    Field(description=TEACHER_TEXT),
]


def check_teacher(job: Job) -> None:
    """Refuse what needs a teacher without one, and a teacher that nothing uses.

    Raises:
        ValueError: with the remedy.
    """
    recipe, columns = job.recipe, columns_of(job.dataset[0])
    negatives, asked = recipe.negatives, recipe.distillation
    weighs = recipe.weighting is not None and "teacher_confidence" in str(
        recipe.weighting.to_dict()
    )
    if negatives is not None and negatives.mode == "query_side":
        for name, value in (("teacher", recipe.teacher), ("distillation", asked)):
            if value is not None:
                raise ValueError(
                    f"{name} was given, but negatives has the mode 'query_side', which searches in "
                    "every step, where no teacher follows; leave it out, or choose another mode"
                )
    margin = None if negatives is None else negatives.teacher_margin
    if recipe.teacher is None and margin is not None:
        raise ValueError(f"teacher_margin is {margin}, but there is no teacher; give one")
    scored = recipe.teacher is not None or columns.teacher
    if scored and asked is None and margin is None and not weighs:
        said = "teacher was given" if recipe.teacher is not None else f'examples has "{TEACHER}"'
        raise ValueError(
            f"{said}, but nothing uses it; give distillation (such as 'listwise'), "
            "negatives.teacher_margin or the weighting 'teacher', or leave it out"
        )
    if recipe.teacher is not None and columns.teacher:
        raise ValueError(
            f'teacher was given, and examples has a column "{TEACHER}"; keep one of them'
        )
    if asked is not None and not scored:
        raise ValueError(
            "distillation was given, but no scores of a teacher; give teacher, or examples a "
            f'column "{TEACHER}"'
        )
    if scored and negatives is None and len(columns.texts) < 3:
        raise ValueError(
            "a teacher's scores were given, but the rows have no negatives, mined or of their own, "
            "to compare a positive with; give negatives, or rows with some"
        )
    if scored and negatives is not None and columns.teacher:
        raise ValueError(
            f'examples has a column "{TEACHER}", but negatives are mined while training, which it '
            "does not know; give teacher instead, or leave negatives out"
        )


def pair_scores(
    teacher: Any, folder: str | Path | None, say: Callable[[str], object]
) -> PairScores | None:
    """What scores pairs, or None without a teacher; it keeps its scores in a training's folder."""
    if teacher is None:
        return None
    if isinstance(teacher, str):
        say(f"loading the teacher {teacher}")
        teacher = load_teacher(teacher)
        say(f"the teacher is a {type(teacher).__name__}")
    return PairScores(teacher, folder=None if folder is None else Path(folder) / "teacher")


def scored_rows(job: Job, scorer: PairScores | None) -> Job:
    """The job whose rows have the teacher's scores of their own negatives."""
    columns = check_columns(job.dataset)
    if scorer is None or len(columns.texts) < 3:
        return job
    if scorer.by_id:
        raise ValueError(
            "teacher has scores by id, but the rows have texts alone; give examples as "
            f'stope.data.Pairs with negatives to mine, or a column "{TEACHER}"'
        )
    job.say("the teacher scores the rows' negatives")
    asked, *others = [job.dataset[name][:] for name in columns.texts]
    pairs = Pairs.from_texts(asked, others[0], [text for column in others for text in column])
    documents = np.stack([pairs.rows_of(column) for column in others], 1)
    queries = np.arange(len(asked)).repeat(len(others))
    flat = computed_in_first(lambda: scorer.of(pairs, queries, documents.ravel())[:, None])
    scores = flat.reshape(documents.shape).astype(np.float64).tolist()
    return dataclasses.replace(job, dataset=job.dataset.add_column(TEACHER, scores))
