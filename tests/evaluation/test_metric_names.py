"""Names of metrics: what each means by hand, and that it is ir-measures' value; wrong names."""

from __future__ import annotations

import math
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stope.evaluation import evaluate

pytest.importorskip("ir_measures", reason="ir-measures is not installed")

documents = st.sampled_from(["a", "b", "e\0", "e"])
runs = st.dictionaries(st.sampled_from("qp"), st.dictionaries(documents, st.floats(-2, 2)))
judgements = st.dictionaries(
    st.sampled_from("qp"), st.dictionaries(documents, st.integers(-2, 4)), min_size=1
)

# What each name means, written out; ranking a b c d e, of which b (2) and d (1) are relevant, c is
# judged irrelevant, a was pooled and not judged, e is unknown; f (3) and g (0) are not retrieved.
MEANING = {
    "Rprec": 1 / 3, "RPrec": 1 / 3, "Rprec(rel=2)": 1 / 2,
    "bpref": (1 + 1 / 2) / 3, "Bpref": (1 + 1 / 2) / 3,
    "Judged@1": 1.0, "Judged@5": 4 / 5, "Judged": 4 / 5, "Judged@9": 4 / 5,
    "Accuracy": (3 - 1 + 3 - 2) / 6, "Accuracy@2": 0.0, "Success@2": 1.0, "success_1": 0.0,
    "ndcg_cut_2": 2 / math.log2(3) / (3 + 2 / math.log2(3)),
    "NDCG@2": 2 / math.log2(3) / (3 + 2 / math.log2(3)),
    "map": (1 / 2 + 2 / 4) / 3, "map_cut_3": 1 / 2 / 3, "recip_rank": 1 / 2,
    "recall_5": 2 / 3, "recall.3": 1 / 3, "P_10": 2 / 10, "P(judged_only=True)@2": 1 / 2,
    "set_P": 2 / 5, "set_relative_P": 2 / 3, "set_recall": 2 / 3, "set_map": 2 / 5 * 2 / 3,
    "set_F": 2 * 2 / (5 + 3), "SetF(beta=1)": 1 / 2, "set_F_0.5": 1.5 * 2 / (0.5 * 3 + 5),
    "num_q": 1.0, "num_ret": 5.0, "num_rel": 3.0, "num_rel_ret": 2.0,
    "iprec_at_recall_0.1": 1 / 2, "IPrec@0.6": 1 / 2, "IPrec@1": 0.0,
    "nDCG(gains={1: 7, 2: 1, 3: 0})@4":
        (1 / math.log2(3) + 7 / math.log2(5)) / (7 + 1 / math.log2(3)),
    "nDCG(dcg='exp-log2')@2": round(3 / math.log2(3) / (7 + 3 / math.log2(3)), 5),
    "ERR@2": round(3 / 16 / 2, 5),
}  # fmt: skip


def test_every_name_means_what_its_library_says():
    run = {"q": {"a": 5.0, "b": 4.0, "c": 3.0, "d": 2.0, "e": 1.0}, "own": {"x": 1.0}}
    qrels = {"q": {"a": -1, "b": 2, "c": 0, "d": 1, "f": 3, "g": 0}, "none": {"f": 1}}
    result = evaluate(run, qrels, list(MEANING))
    assert {name: values["q"] for name, values in result.per_query.items()} == pytest.approx(
        MEANING, abs=1e-9
    )
    counts = {"num_q": 1.0, "num_rel": 1.0}
    for name, values in result.per_query.items():
        assert values["none"] == counts.get(name, 0.0), name
        assert result.mean[name] == pytest.approx((MEANING[name] + values["none"]) / 2, abs=1e-9)


@given(run=runs, qrels=judgements)
def test_the_other_names_have_the_values_of_ir_measures(run, qrels):
    import ir_measures as library

    measures = {"Judged@2": library.Judged @ 2, "infAP": library.infAP}
    measures["IPrec@0.5"] = library.IPrec @ 0.5
    names = ("Rprec", "Bpref", "SetP", "SetF", "Compat")
    measures |= {name: getattr(library, name) for name in names}
    if not any(run.get(query) for query in qrels):
        return
    result = evaluate(run, qrels, list(measures))
    for query in qrels:
        # Ids that trec_eval takes, without ties, and no query without documents: it divides by 0.
        # Scores above 0: Compat's library takes that for what is not retrieved.
        order = sorted(run.get(query, {}), key=lambda name: (-run[query][name], name))
        best = {repr(name): float(len(order) - rank) for rank, name in enumerate(order)}
        judged = {repr(name): max(grade, -1) for name, grade in qrels[query].items()}
        for name, measure in measures.items():
            if name not in ("infAP", "Judged@2"):
                judged = {name: grade for name, grade in judged.items() if grade >= 0}
            known = best and (name == "Judged@2" or any(grade >= 0 for grade in judged.values()))
            calculated = library.iter_calc([measure], {"q": judged}, {"q": best}) if known else []
            expected = next((each.value for each in calculated), 0.0)
            assert result.per_query[name][query] == pytest.approx(expected, abs=1e-9)


def test_documents_with_the_id_of_the_query_are_left_out_only_where_asked():
    run = {"1": {"1": 9.0, "a": 5.0}, "2": {"2": 9.0}, "3": {"a": 1.0}}
    qrels = {"1": {"1": 0, "a": 1}, "2": {"2": 1}, "3": {"a": 1}}
    kept = evaluate(run, qrels, ["RR"])
    assert kept.per_query["RR"] == {"1": 0.5, "2": 1.0, "3": 1.0}
    assert (kept.num_empty, kept.num_identical, kept.identical_relevant) == (0, 2, ("2",))
    left = evaluate(run, qrels, ["RR"], ignore_identical_ids=True)
    assert left.per_query["RR"] == {"1": 1.0, "2": 0.0, "3": 1.0}
    assert (left.num_empty, left.num_identical, left.identical_relevant) == (1, 2, ("2",))
    assert run["1"] == {"1": 9.0, "a": 5.0}
    with pytest.raises(ValueError, match="run has no document for any query"):
        evaluate({"2": {"2": 1.0}}, qrels, ["RR"], ignore_identical_ids=True)


def test_queries_without_documents_or_judgements_do_not_reach_trec_eval():
    """In a fresh process: it reads arrays that it makes for the first query with either."""
    program = (
        "from stope.evaluation import evaluate\n"
        "run = {'q': {'a': 1.0}, 'p': {}, 'n': {'a': 1.0}}\n"
        "print(evaluate(run, {'q': {}, 'p': {'a': 0}, 'n': {'a': -1}}, ['Rprec', 'Bpref']).mean)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "{'Rprec': 0.0, 'Bpref': 0.0}\n"), done.stderr


def test_grades_that_a_library_does_not_take_are_refused():
    with pytest.raises(ValueError, match="is 5; it may be at most 4 with ERR"):
        evaluate({"q": {"d": 1.0}}, {"q": {"d": 5}}, ["ERR@10"])


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("foo@10", "metrics has 'foo@10', an unknown name; use nDCG@k"),
        ("nDCG@", "metrics has 'nDCG@', an unknown name"),
        ("nDCG@-1", "an unknown name"),
        ("nDCG@10; x", "an unknown name"),
        ("", "metrics has '', an unknown name"),
        ("R", 'metric "R" needs a cutoff, for example "R@10"'),
        ("nDCG@0", 'metric "nDCG@0" has the cutoff 0'),
        ("nDCG(rel=2)@10", "cannot have rel=2: nDCG is graded"),
        ("RR(rel=0)@10", "has the rel 0; it must be a whole number from 1 to 10,000"),
        ("RR(rel=True)@10", "has the rel True; it must be a whole number"),
        ("nDCG(dcg='exp')@10", "has the dcg 'exp'; it must be one of log2, exp-log2"),
        ("nDCG(gains={1: -1})@10", "it must be gains by relevance"),
        ("nDCG(gains={1: x})@10", "has options that cannot be read"),
        ("RR(2)@10", "has options that cannot be read"),
        ("IPrec@1.5", "it must be a number from 0 to 1"),
        ("nDCG@1.5", "has the cutoff 1.5; it must be a whole number"),
        ("nDCG@1.5.1", "an unknown name"),
        ("Rperc", 'an unknown name (did you mean "Rprec"?)'),
        ("bPREF", 'an unknown name (did you mean "Bpref"?)'),
        ("ndcg_cutt_10", 'an unknown name (did you mean "ndcg_cut"?)'),
        ("ndcg_cut", 'it takes a number, as "ndcg_cut_10"'),
        ("recall_0", "has the cutoff 0"),
        ("accuracy@10", "Success@k is 1 where"),
        ("SetF(beta=1e999)", "has the beta inf"),
        ("RBP(p=0.8,rel=1)", "pip install ir-measures[cwl_eval]"),
        ("NumRel(rel=2)", "is computed by none of the installed libraries"),
        ("ERR", "or give a cutoff"),
    ],
)
def test_wrong_metrics_are_sentences(metric, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        evaluate({"q": {"d": 1.0}}, {"q": {"d": 1}}, [metric])
