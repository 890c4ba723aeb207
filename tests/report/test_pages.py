"""A page is one file that asks nothing, runs its own scripts alone, and shows any text as text."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from importlib import resources

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="needs the extra report")
pytest.importorskip("vl_convert", reason="needs the extra report")

from stope.report import Page
from stope.report.figures import COLOURS, Figure, Series, histogram
from stope.report.pages import Column, Section, Table

EVIL = "</script><img src=x onerror=\"document.title='caught'\">\u2028\u202e\0<b>&amp;\ud800"
EVIL_ID = EVIL[:-1]  # stope reads no half of a surrogate pair, least of all in an id


def a_page(figures=(), rows=60):
    table = Table(
        (
            Column("query", np.arange(rows) // 2, words=[f"q{n} {EVIL_ID}" for n in range(rows)]),
            Column("document", [f"d{n}" for n in range(rows)]),
            Column("score", [None, *np.linspace(1, 0, rows - 1)], "number"),
            Column("suspicion", ["near; above", "near", ""] * (rows // 3), "word"),
        ),
        f"A row for each {EVIL}",
        browse=True,
        export={"query_id": "query", "document_id": "document"},
    )
    small = Table((Column("document", [EVIL, "d2"]), Column("times", [3, 1], "number")), "Small")
    sections = (
        Section("Figures", [EVIL], {EVIL: EVIL}, figures),
        Section(EVIL, table=table, missing=[EVIL]),
        Section("Small", table=small),
    )
    return Page(f"Report {EVIL}", EVIL, sections)


def every_kind():
    names, numbers = ["nDCG@10", "R@100", EVIL], np.arange(4.0)
    counted = histogram({EVIL: numbers, "b": numbers / 2})
    low, high = [0.1, 0.2, 0.3], [0.3, 0.4, 0.5]
    two = [Series(name, numbers, numbers**power) for power, name in enumerate(("a", EVIL))]
    return (
        Figure("scores", "histogram", EVIL, "score", "rows", counted),
        Figure("reasons", "bars", "Bars", "reason", "rows", (Series(EVIL, names, [3, 2, 1]),)),
        Figure("loss", "lines", "Lines", "step", "loss", tuple(two), {EVIL: 1.5}),
        Figure("metrics", "points", "Points", "metric", "value",
               tuple(Series(name, names, [0.2, 0.3, 0.4], low, high) for name in "ab")),
        Figure("wins", "points", "Wins", "first", "second", (two[0],)),
    )  # fmt: skip


def test_nothing_from_data_is_markup_and_the_policy_names_the_scripts():
    text = a_page(every_kind()).html()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert len(scripts) == 2
    for part in (*scripts, re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]):
        sum256 = base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()
        assert f"'sha256-{sum256}'" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    rest = re.sub(r"<(script|style)>.*?</\1>", "", text, flags=re.DOTALL)
    assert "<img" not in rest
    assert "<b>" not in rest
    assert not re.search("[\0\u2028\u202e\ud800]", text)
    assert not re.search(r"(?:src|href)=\"(?!#)", rest)
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    assert data["tables"][0]["columns"][0]["words"][0] == f"q0 {EVIL_ID}"  # as it is, to be saved


def test_a_page_without_figures_needs_no_library_to_draw(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "vl_convert", None)
    assert a_page().html().count("<script>") == 1


def test_columns_keep_their_values():
    column = Column("score", [np.float32(0.1), None, float("nan"), 12345678.0], "number").data()
    assert column["values"] == [0.1, None, None, 12345680.0]
    numbered = Column("text", [2, -1, 2, 0], words=["a", "b", "c"]).data()
    assert [numbered["words"][code] for code in numbered["codes"]] == ["c", "", "c", "a"]
    plain = Column("text", ["x", None, "x"]).data()
    assert [plain["words"][code] for code in plain["codes"]] == ["x", "", "x"]


def test_histograms_count_finite_values_between_common_edges():
    values = {"a": np.array([0.0, 1.0, np.nan, np.inf]), "b": np.array([0.5]), "none": np.array([])}
    series = histogram(values, bins=4)
    assert [(each.name, int(each.y.sum())) for each in series] == [("a", 2), ("b", 1)]
    np.testing.assert_array_equal(series[0].x, series[1].x)
    assert histogram({"none": np.array([np.nan])}) == ()


def test_histograms_around_an_edge_count_every_value():
    """Also the lowest and the highest, which edges counted from another number round past."""
    for low in np.arange(100) / 100:
        for place in range(1, 60):
            edge = round(low + (1 - low) * place / 60, 2)
            if low < edge < 1:
                values = {"below": np.array([low]), "above": np.array([edge, 1])}
                below, above = histogram(values, 60, edge)
                assert (below.y.sum(), above.y.sum()) == (1, 2), (low, edge)
                assert edge in below.x


@pytest.mark.parametrize("figure", every_kind(), ids=lambda figure: figure.name)
def test_both_drawings_have_the_same_numbers(figure):
    rows = figure.vega_lite()["data"]["values"]
    assert [row["y"] for row in rows] == [y for series in figure.series for y in series.y]
    axes = figure.draw().axes[0]
    if figure.kind == "histogram":
        assert all(tick % 1 == 0 for tick in axes.get_yticks())
        whole = figure.vega_lite()["layer"][0]["encoding"]["y"]["axis"]["labelExpr"]
        assert whole.startswith("datum.value % 1 ? '' :")
        drawn = [y for patch in axes.patches for y in patch.get_data().values]
    elif figure.kind == "bars":
        drawn = [patch.get_width() for patch in axes.patches]
    elif figure.by_name:
        drawn = [x for container in axes.containers for x in container[0].get_xdata()]
    else:
        drawn = [y for line in axes.lines[: len(figure.series)] for y in line.get_ydata()]
    assert drawn == [row["y"] for row in rows]


def test_what_is_no_number_is_left_out_of_both_drawings():
    nan = float("nan")
    series = Series("a", [1.0, 2.0, 3.0], [nan, 0.5, 0.25], [nan, 0.25, nan], [nan, 0.75, 0.5])
    figure = Figure("x", "points", "t", "x", "y", (series,))
    rows = [{"series": "a", "x": 2.0, "y": 0.5, "low": 0.25, "high": 0.75}]
    rows.append({"series": "a", "x": 3.0, "y": 0.25, "low": None, "high": 0.5})
    assert figure.vega_lite()["data"]["values"] == rows
    assert (
        "NaN"
        not in Page("t", "a", (Section("s", figures=[figure]),))
        .html()
        .split('id="data"')[1]
        .split("</script>")[0]
    )
    assert figure.numbers()[1] == [["2", "0.5", "0.25", "0.75"], ["3", "0.25", "", "0.5"]]
    figure.draw()


def test_tooltips_have_whole_counts_and_four_digits():
    spec = every_kind()[0].vega_lite()
    tips = {tip["field"]: tip.get("format") for tip in spec["layer"][0]["encoding"]["tooltip"]}
    assert tips == {"series": None, "x": ",.4~g", "x2": ",.4~g", "y": ",d"}


def test_pictures_are_those_of_the_page(tmp_path):
    paths = a_page(every_kind()).write_figures(tmp_path / "new")
    assert [path.name for path in paths][:3] == ["scores.png", "scores.svg", "reasons.png"]
    assert all(path.stat().st_size > 2000 for path in paths)
    assert len(list((tmp_path / "new").iterdir())) == len(paths) == 10


def test_both_drawings_have_the_same_colours():
    style = (resources.files("stope.report") / "page/page.css").read_text()
    assert re.findall(r"--series-\d: light-dark\((#\w+),", style) == list(COLOURS)


def luminance(colour):
    parts = np.array([int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)])
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_colours_can_be_told_from_the_paper(theme):
    style = (resources.files("stope.report") / "page/page.css").read_text()
    pairs = re.findall(r"--([\w-]+): light-dark\((#\w+), (#\w+)\)", style)
    colours = {name: luminance(both[theme]) for name, *both in pairs}

    def contrast(name, paper):
        low, high = sorted((colours[name], colours[paper]))
        return (high + 0.05) / (low + 0.05)

    for paper in ("paper", "raised"):
        assert all(contrast(name, paper) >= 4.5 for name in ("ink", "quiet", "accent"))
    assert all(contrast(f"series-{n}", "paper") >= 4 for n in range(1, 7))


def test_wrong_values_are_refused():
    with pytest.raises(ValueError, match="kind is 'pie'"):
        Figure("x", "pie", "t", "x", "y", (Series("a", [1], [1]),))
    with pytest.raises(ValueError, match=r"series\[0\].x has 1"):
        Figure("x", "histogram", "t", "x", "y", (Series("a", [1], [1]),))
    with pytest.raises(ValueError, match="series has 0 entries"):
        Figure("x", "bars", "t", "x", "y", ())
    with pytest.raises(ValueError, match="column b has 1"):
        Table((Column("a", ["1", "2"]), Column("b", ["1"])), "c")
    with pytest.raises(ValueError, match="export is 'c'"):
        Table((Column("a", ["1"]),), "c", browse=True, export={"id": "c"})
    with pytest.raises(ValueError, match="kind is 'prose'"):
        Column("a", ["1"], "prose")
