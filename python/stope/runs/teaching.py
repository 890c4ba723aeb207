"""A student in a run: fitted to its teacher, judged beside it and beside what needs no teacher.

What the pairs did to it stays if held-out queries gained more than a standard error. A static
encoder trained on the pairs alone takes its place if these gain more than a standard error by that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stope.encoders import EmbeddingCache, encode_corpus, load_encoder, save_encoder
from stope.encoders.student import static_student, teacher_embeddings
from stope.encoders.versions import dimension
from stope.evaluation import Evaluation, RetrievalEvaluation
from stope.progress import Progress
from stope.runs.config import Config
from stope.runs.sections import Encoder, Static, Student
from stope.training.callbacks.checkpoint import copy_tensors
from stope.training.guard import Verdict

Say = Callable[[str], None]
PLAIN = "plain"  # the folder of the encoder without a teacher, in that of the run
_TIMED = 64


@dataclass(frozen=True)
class Taught:
    """A student and what its teacher says of the same documents.

    Attributes:
        student: the encoder that was fitted; training goes on with it in place.
        teacher: the encoder that it was fitted to.
        corpus_texts: the documents.
        corpus_embeddings: the teacher's, float32 ``[documents, d]``.
        remarks: sentences for the report.
    """

    student: Any
    teacher: Any
    corpus_texts: Sequence[str]
    corpus_embeddings: NDArray[np.float32]
    remarks: list[str]
    _fitted: dict[str, Any] = field(repr=False)

    def judge_teacher(self, judge: RetrievalEvaluation) -> dict[str, float]:
        """The teacher's metrics; the documents are not embedded again."""
        if list(judge.corpus_texts) == list(self.corpus_texts):
            judge = replace(judge, corpus_embeddings=self.corpus_embeddings)
        return judge.evaluate(self.teacher).mean

    def keep_better(self, before: Evaluation | None, after: Evaluation | None) -> bool:
        """Take back what pairs did, unless held-out queries gained more than a standard error.

        The first metric decides. Without held-out queries nobody knows, and what was trained stays.
        """
        if before is None or after is None:
            self.remarks.append(
                "no queries were held out: what the pairs brought is not known, nor whether they "
                "alone, without the teacher, make a better encoder"
            )
            return True
        verdict = Verdict.of("the pairs", before, after, errors=1.0)
        self.remarks.append(str(verdict))
        if not verdict.kept:
            self.student.load_state_dict(self._fitted)
        return verdict.kept

    def without_teacher(self, config: Config) -> Config:
        """The same run, in a folder inside, of a static encoder trained on the pairs alone."""
        section = config.encoder.student
        assert section is not None
        shared = {name: getattr(section, name) for name in ("vocab_size", "lower_case", "code")}
        dim = max(Static().dim, dimension(self.student) or 0)  # loss.matryoshka_dims fit into it
        inside = str(Path(config.output.folder) / PLAIN)
        return config.changed(
            encoder=Encoder(static=Static(dim=dim, **shared)),
            output=config.output.changed(folder=inside, model=None),
        )

    def is_worse(self, student: Evaluation, plain: Evaluation) -> bool:
        """Whether held-out queries prefer the encoder without a teacher, and a remark on it."""
        verdict = Verdict.of("the pairs alone", student, plain, errors=1.0)
        end = (
            "it is kept instead of the student, since the teacher does not help on these texts"
            if verdict.kept
            else "the student is kept"
        )
        self.remarks.append(
            f"a static encoder trained on the pairs alone reaches {verdict.after:.4f}, the student "
            f"{verdict.before:.4f}, a difference of {verdict.change}: {end}"
        )
        return verdict.kept


def teach(
    section: Student,
    teacher: Any,
    corpus: Sequence[str],
    queries: Sequence[str],
    folder: Path,
    *,
    progress: Progress | None,
    say: Say,
) -> Taught:
    """Fit the student that a section describes; the teacher's embeddings are kept in the folder."""
    say(f"embedding {len(corpus) + len(queries):,} texts with the teacher")
    rows = teacher_embeddings(
        teacher, corpus, queries, cache=EmbeddingCache(folder), progress=progress
    )
    say("fitting the student")
    options = {name: value for name, value in section if name != "teacher"}
    student = static_student(corpus, rows, query_texts=queries, **options)
    weights = student[0].embedding.weight
    faster = _seconds(teacher, corpus) / min(_seconds(student, corpus) for _ in range(5))
    remark = (
        f"the student has {len(weights):,} tokens, {weights.numel() * 4 / 1e6:.1f} MB, and embeds "
        f"documents {faster:,.{0 if faster >= 10 else 1}f} times as fast as its teacher"
    )
    fitted = copy_tensors(student.state_dict())
    return Taught(student, teacher, corpus, rows[: len(corpus)], [remark], fitted)


def _seconds(encoder: Any, texts: Sequence[str]) -> float:
    """For some of the texts, spread over all of them."""
    some = texts[:: max(1, len(texts) // _TIMED)][:_TIMED]
    encode_corpus(encoder, some[:1])
    begin = time.perf_counter()
    encode_corpus(encoder, some)
    return time.perf_counter() - begin


def distil(
    section: Student, texts: Sequence[str], output: Path, *, progress: Progress | None, say: Say
) -> Taught:
    """Write a student of texts alone to a new folder, with the teacher's embeddings beside it."""
    say(f"loading {section.teacher}")
    teacher = load_encoder(section.teacher)
    beside = output.with_name(f"{output.name}.run")
    taught = teach(section, teacher, texts, (), beside, progress=progress, say=say)
    save_encoder(taught.student, output)
    taught.remarks.append(
        "documents alone cannot judge it, and a student is bad where its teacher knows the texts "
        "badly; give pairs beside them (stope train PAIRS CORPUS --teacher), whose held-out "
        "queries decide whether it is kept"
    )
    return taught
