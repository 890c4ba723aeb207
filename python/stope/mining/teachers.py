"""Which teacher a name means: a file of scores, a cross-encoder, late interaction, an encoder."""

from __future__ import annotations

import hashlib
import json
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stope._checks import path as path_kind
from stope._checks import shown
from stope._extras import need
from stope._kinds import kinds
from stope.data import Pairs, Run, read_rows, read_run
from stope.data.readers.fields import cell_number, id_of, require
from stope.data.readers.lines import plain_name
from stope.encoders import load_encoder
from stope.encoders.hub import no_answer
from stope.lists import Ids
from stope.mining.late_interaction import KIND, LateInteraction

_TABLES = (".parquet", ".tsv", ".csv")
_MAXSIM = ("maxsim", "meanmaxsim")  # also what PyLate wrote


class ScoreFile:
    """A teacher that has spoken: scores of pairs by their ids, from a file.

    Args:
        path: a TREC run; .jsonl (also .gz) with query_id, document_id and score; or .parquet, .tsv
            or .csv with these columns.

    Raises:
        ValueError: what `stope.data.read_run` says; a pair that is scored twice.

    Memory: the scores.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path).expanduser()
        self._scores = _read(self.path)

    def fingerprint(self) -> str:
        """A digest of ids and scores."""
        named = json.dumps(self._scores, sort_keys=True).encode("utf-8", "surrogatepass")
        return hashlib.sha256(named).hexdigest()

    def of_pairs(self, pairs: Pairs, queries: Ids, documents: Ids) -> NDArray[np.float32]:
        """The scores of these rows of the queries and of the corpus.

        Raises:
            ValueError: some have none; the message counts them and names one.
        """
        names = pairs.query_ids, pairs.corpus_ids
        scores = np.empty(len(queries), np.float32)
        missing, example = 0, ("", "")
        for place, (query, row) in enumerate(
            zip(queries.tolist(), documents.tolist(), strict=True)
        ):
            asked = names[0][query], names[1][row]
            score = self._scores.get(asked[0], {}).get(asked[1])
            if score is None:
                missing, example = missing + 1, example if missing else asked
            else:
                scores[place] = score
        if missing:
            raise ValueError(
                f"teacher is {self.path}, which has no score for {missing:,} of {len(scores):,} "
                f"pairs of a query with a positive or a mined document, such as "
                f"{shown(example[0])} with {shown(example[1])}; score them as well, lower "
                "negatives.pool, or train on negatives mined once (negatives: {file: ...}) whose "
                "pairs are all scored"
            )
        return scores


def _read(path: Path) -> Run:
    if not plain_name(path).endswith(_TABLES):
        return read_run(path)
    scores: Run = {}
    for where, row in read_rows(path):
        query, document = (
            id_of(require(row, name, where), name, where) for name in ("query_id", "document_id")
        )
        listed = scores.setdefault(query, {})
        if document in listed:
            raise ValueError(
                f'{where}: document "{document}" is scored twice for query "{query}"; keep one'
            )
        listed[document] = cell_number(require(row, "score", where), "score", where)
    return scores


@kinds(name_or_path=path_kind)
def load_teacher(name_or_path: str | PathLike[str]) -> Any:
    """What a name means as a teacher of `teacher_scores` and `stope.training.train`.

    A file is a file of scores by id (`stope.data.read_run`'s formats, or a table of query_id,
    document_id and score). A folder or a name on the hub is what sentence-transformers wrote into
    it: its config_sentence_transformers.json names the kind of model (a late-interaction model has
    the similarity maxsim or meanmaxsim, or is a ColBERT); without one a modules.json makes it an
    encoder, and without both it is a cross-encoder if the architectures of its config.json are for
    sequence classification. A cross-encoder's scores are its logits: they are not squashed into 0
    to 1.

    Returns:
        An object with ``of_pairs``, a CrossEncoder, a `stope.mining.late_interaction.
        LateInteraction`, or a SentenceTransformer.

    Raises:
        ValueError: none of these, a kind that gives no score of a pair, or what the readers say.
        ImportError: the extra "train" is missing.

    Source: docs/concepts/teachers.md.

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "scores.jsonl")
    >>> _ = path.write_text('{"query_id": "q0", "document_id": "d0", "score": 0.5}')
    >>> from stope.data import Pairs
    >>> pairs, first = Pairs.from_texts(["ore?"], ["ore"]), np.array([0])
    >>> load_teacher(path).of_pairs(pairs, first, first)
    array([0.5], dtype=float32)
    """
    name = str(name_or_path)
    if Path(name).expanduser().is_file():
        return ScoreFile(name)
    kind = kind_of_model(name)
    if kind == "SentenceTransformer":
        return load_encoder(name)
    library: Any = need("sentence_transformers", extra="train")
    if kind not in ("CrossEncoder", KIND):
        raise ValueError(
            f"teacher is {shown(name)}, which holds a {kind}; give an encoder "
            f"(SentenceTransformer), a cross-encoder (CrossEncoder), a late-interaction model "
            f"({KIND}) or a file of scores"
        )
    if not hasattr(library, kind):
        raise ValueError(
            f"teacher is {shown(name)}, a late-interaction model, which sentence-transformers "
            f"{library.__version__} cannot load; install version 6, or give a file of its scores"
        )
    try:
        if kind == KIND:
            return LateInteraction(library.MultiVectorEncoder(name))
        return library.CrossEncoder(name, activation_fn=need("torch", extra="train").nn.Identity())
    except (OSError, ValueError, RuntimeError) as error:
        what = "a cross-encoder" if kind == "CrossEncoder" else "a late-interaction model"
        raise ValueError(
            f"teacher is {shown(name)}, which cannot be loaded as {what} "
            f"({type(error).__name__}: {str(error).splitlines()[0]}); name another"
        ) from error


def kind_of_model(name: str) -> str:
    """Which class of sentence-transformers a folder or a name on the hub is for.

    Raises:
        ValueError: there is no such model, or nothing in it says which kind it is.
    """
    files = ("config_sentence_transformers.json", "modules.json", "config.json")
    marks, why = {file: _json_of(name, file) for file in files}, ""
    if None in marks.values() and not Path(name).expanduser().is_dir():
        why = no_answer(name)
        for file in files if not why else ():
            marks[file] = _json_of(name, file, here=False) if marks[file] is None else marks[file]
    described, modules, config = marks.values()
    architectures = (config or {}).get("architectures") or []
    told = (described or {}).get("model_type"), (described or {}).get("similarity_fn_name")
    if told[0] == "ColBERT" or str(told[1]).lower() in _MAXSIM or "HF_ColBERT" in architectures:
        return KIND
    if told[0] is not None:
        return str(told[0])
    if modules is not None or described is not None:
        return "SentenceTransformer"
    if any("ForSequenceClassification" in each for each in architectures):
        return "CrossEncoder"
    said = (
        f"a model of {', '.join(architectures) or 'no named architecture'}"
        if config is not None
        else "neither a file, nor a folder of a model, nor a model that the hub gave"
        + (f" ({why})" if why else "")
    )
    raise ValueError(
        f"teacher is {shown(name)}, which is {said}; give a folder or name with a modules.json (an "
        "encoder), with an architecture for sequence classification in its config.json (a "
        "cross-encoder), a late-interaction model, or a file of scores"
    )


def _json_of(name: str, file: str, *, here: bool = True) -> Any:
    """What a file of the model holds, in its folder or as the hub gave it, or None without one."""
    if Path(name).expanduser().is_dir():
        path = Path(name).expanduser() / file
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    utilities: Any = need("sentence_transformers", extra="train").util
    try:
        kept = utilities.load_file_path(name, file, local_files_only=here)
    except (OSError, ValueError, RuntimeError):
        return None
    return None if kept is None else json.loads(Path(kept).read_text(encoding="utf-8"))
