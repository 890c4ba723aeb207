"""Names of metrics, as ir-measures spells them and as trec_eval does: one table of both.

ir-measures writes Name(option=value)@cutoff, trec_eval name_cutoff. Case counts, but for the few in
`_ANY_CASE`.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping
from typing import Any

from stope._checks import did_you_mean, shown
from stope._extras import need

_ANY_CASE = {name.lower(): name for name in ("nDCG", "RR", "R", "AP", "P", "Success")}
_ANY_CASE |= {"mrr": "RR", "recall": "R", "map": "AP", "precision": "P"}
_TREC = {
    "ndcg": "nDCG", "map": "AP", "recip_rank": "RR", "bpref": "Bpref", "set_P": "SetP",
    "set_relative_P": "SetRelP", "set_recall": "SetR", "set_F": "SetF", "set_map": "SetAP",
    "num_q": "NumQ", "num_ret": "NumRet", "num_rel": "NumRel", "num_rel_ret": "NumRelRet",
}  # fmt: skip
_TREC_OF = {
    "ndcg_cut": "nDCG@{}", "map_cut": "AP@{}", "P": "P@{}", "recall": "R@{}",
    "success": "Success@{}", "iprec_at_recall": "IPrec@{}", "set_F": "SetF(beta={})",
}  # fmt: skip
_WITH_NUMBER = re.compile(rf"({'|'.join(_TREC_OF)})[_.]([0-9]{{1,9}}(?:\.[0-9]{{1,9}})?)")
_METRIC = re.compile(r"([^\W\d]\w*)(?:\(([^()]*)\))?(?:@([0-9.]{1,12}))?")
# trec_eval keeps an array with an entry per relevance level: an absurd level would take gigabytes.
HIGHEST_RELEVANCE = 10_000
_LIMITS = {
    "cutoff": (1, 999_999_999), "rel": (1, HIGHEST_RELEVANCE), "beta": (1e-6, 1e6),
    "recall": (0, 1), "p": (0, 1), "alpha": (0, 1),
}  # fmt: skip
_KINDS = {
    int: "a whole number", float: "a number", bool: "True or False",
    dict: "gains by relevance, whole numbers both, such as {1: 1, 2: 3}",
}  # fmt: skip
_KNOWN = (
    "use nDCG@k, RR@k (MRR@k), R@k (Recall@k), AP@k (MAP@k), P@k, Success@k, Rprec, Bpref, "
    "Judged@k or another name of ir-measures or trec_eval"
)


def parse_metric(name: Any) -> Any:
    """The `ir_measures.Measure` of a name, which an installed library can compute.

    >>> parse_metric("ndcg_cut_10"), parse_metric("RR(rel=2)@5"), parse_metric("recall_5")
    (nDCG@10, RR(rel=2)@5, R@5)
    >>> parse_metric("Rperc")
    Traceback (most recent call last):
        ...
    ValueError: metrics has 'Rperc', an unknown name (did you mean "Rprec"?)
    """
    if not isinstance(name, str):
        raise TypeError(f'metrics has {shown(name)}; give names, such as "nDCG@10"')
    library = need("ir_measures", extra="retrieval")
    spelled = name
    if numbered := _WITH_NUMBER.fullmatch(name):
        spelled = _TREC_OF[numbered[1]].format(numbered[2])
    match = _METRIC.fullmatch(_TREC.get(spelled, spelled))
    table = library.measures.registry
    word = match[1] if match else ""
    base = table.get(word) or table.get(_ANY_CASE.get(word.lower()))
    if match is None or base is None:
        raise ValueError(f"metrics has {shown(name)}, an unknown name{_remedy(word, table)}")
    options = dict(base.params) | _options(name, match[2])
    if match[3] is not None:
        try:
            number = ast.literal_eval(match[3])
        except SyntaxError:
            raise ValueError(f"metrics has {shown(name)}, an unknown name; {_KNOWN}") from None
        options[base.AT_PARAM] = number
    measure = type(base)(**{k: _checked(name, base, k, value) for k, value in options.items()})
    for option, about in base.SUPPORTED_PARAMS.items():
        if about.required and option not in options:
            at = f"{name}@{'0.5' if option == 'recall' else '10'}"
            what = f', for example "{at}"' if option == base.AT_PARAM else f": {about.desc}"
            raise ValueError(f'metric "{name}" needs a {option}{what}')
    _check_supported(library, name, measure)
    return measure


def _remedy(word: str, table: Mapping[str, Any]) -> str:
    """What follows where a name is unknown."""
    if word.lower() == "accuracy":  # which others call what is Success here
        return (
            "; Success@k is 1 where a relevant document is among the first k, which some call "
            "accuracy@k; ir-measures' Accuracy@k is the chance that one is before an irrelevant one"
        )
    if word in _TREC_OF:  # trec_eval's own list of numbers would be many metrics under one name
        return f'; it takes a number, as "{word}_{0.5 if word == "iprec_at_recall" else 10}"'
    return did_you_mean(word, [*table, *_TREC, *_TREC_OF]) or f"; {_KNOWN}"


def _options(name: str, text: str | None) -> dict[str, Any]:
    """The options between a name's parentheses."""
    if not text:
        return {}
    try:
        call: Any = ast.parse(f"f({text})", mode="eval").body
        if call.args or any(each.arg is None for each in call.keywords):
            raise SyntaxError
        return {each.arg: ast.literal_eval(each.value) for each in call.keywords}
    except (SyntaxError, ValueError, AttributeError):
        raise ValueError(
            f'metric {shown(name)} has options that cannot be read; write them as "RR(rel=2)@10"'
        ) from None


def _checked(name: str, base: Any, option: str, value: Any) -> Any:
    """The value of a metric's option, which is of its kind and within its limits."""
    about = base.SUPPORTED_PARAMS.get(option)
    if about is None:
        level = ": nDCG is graded" if (base.NAME, option) == ("nDCG", "rel") else ""
        raise ValueError(
            f'metric "{name}" cannot have {option}={shown(value)}{level}; the options of '
            f"{base.NAME} are {', '.join(base.SUPPORTED_PARAMS) or 'none'}"
        )
    if about.dtype is float and type(value) is int:
        value = float(value)
    low, high = _LIMITS.get(option, (-math.inf, math.inf))
    gains = [each for pair in value.items() for each in pair] if isinstance(value, dict) else []
    if (
        about.validate(value)
        and (about.dtype is bool or not isinstance(value, bool))
        and (not isinstance(value, int | float) or low <= value <= high)
        and all(type(gain) is int and 0 <= gain <= HIGHEST_RELEVANCE for gain in gains)
    ):
        return value
    must = _KINDS.get(about.dtype, "another")
    must = f"one of {', '.join(about.choices)}" if isinstance(about.choices, list) else must
    must += f" from {low:,g} to {high:,.10g}" if option in _LIMITS else ""
    raise ValueError(f'metric "{name}" has the {option} {shown(value)}; it must be {must}')


def _check_supported(library: Any, name: str, measure: Any) -> None:
    """Refuse what no library that is installed computes, and say which one would."""
    if library.DefaultPipeline.supports(measure):
        return
    able = [each for each in library.DefaultPipeline.providers if each.supports(measure)]
    ways = [way for each in able if (way := each.install_instructions())]
    remedy = (
        f"install what does: {' or '.join(ways)}"
        if ways
        else "change its options, or give a cutoff"
    )
    raise ValueError(f'metric "{name}" is computed by none of the installed libraries; {remedy}')
