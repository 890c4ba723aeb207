"""One description of a figure, drawn in a page by Vega-Lite and in files by matplotlib.

Vega-Lite and not plotly.js: its bundle is 0.9 MB in each page and not 4.7; its expressions are
interpreted (``ast``), where plotly needs a policy that allows ``eval`` or a build of its own; and
what it draws is SVG, whose colours are the page's CSS variables, so that themes and paper need no
second drawing. `vl_convert` has the bundle; altair would write the same 40 lines of specification.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stope._checks import choice, one_each
from stope._extras import need

KINDS = ("histogram", "bars", "lines", "points")
# As --series-1 to 6 of page.css on white: apart for eyes that do not tell red from green.
COLOURS = ("#0072b2", "#c85200", "#117733", "#aa4499", "#6b5b00", "#16191d")
_DASHES = ([1, 0], [6, 3], [2, 2], [8, 2, 2, 2], [4, 4], [1, 3])
_SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
# Controls, separators of lines, what turns the order of letters around, halves of pairs.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
_LETTERS = 60  # of a name in a picture
_MARKERS = ("o", "s", "^", "D", "P", "v")


@dataclass(frozen=True, eq=False)
class Series:
    """Numbers of one name in a figure.

    Attributes:
        name: in the legend.
        x: numbers or names, as many as y; of a histogram the edges, one more than y.
        y: numbers; NaN is a gap.
        low, high: ends of an interval about each y, or None.
    """

    name: str
    x: Sequence[Any] | NDArray[Any]
    y: Sequence[float] | NDArray[Any]
    low: Sequence[float] | NDArray[Any] | None = None
    high: Sequence[float] | NDArray[Any] | None = None

    def rows(self) -> list[dict[str, Any]]:
        """A row of plain values for each y, with the edges x and x2 of a histogram."""
        x, count = np.asarray(self.x).tolist(), len(self.y)
        columns: dict[str, Any] = {"x": x[:count], "y": self.y}
        columns |= {"x2": x[1:]} if len(x) > count else {}
        if self.low is not None and self.high is not None:
            columns |= {"low": self.low, "high": self.high}
        rows = zip(*(_finite(values) for values in columns.values()), strict=True)
        named = [dict(zip(columns, row, strict=True)) for row in rows]
        return [{"series": visible(self.name), **row} for row in named if row["y"] is not None]


def _finite(values: Any) -> list[Any]:
    """Plain values, None where a number is none: JSON has no NaN."""
    plain = [visible(x) if isinstance(x, str) else x for x in np.asarray(values).tolist()]
    return [None if isinstance(x, float) and not np.isfinite(x) else x for x in plain]


@dataclass(frozen=True, eq=False)
class Figure:
    """What is drawn, and not how.

    Attributes:
        name: of the file without its ending.
        kind: "histogram" (counts between edges), "bars" (a number for each name, one below the
            other), "lines" (numbers over numbers) or "points" (numbers over numbers, or one for
            each name with its interval).
        title: a sentence or its beginning, above the figure.
        x, y: what the axes count; of bars and of points with names, x names them.
        series: at most six.
        rules: lines across the figure at these x (of bars, and of points with names, values), by
            name.

    Raises:
        ValueError: an unknown kind; more series than colours; lengths that do not agree.

    Example:
        >>> scores = Series("positives", [0.0, 0.5, 1.0], [3, 5])
        >>> Figure("scores", "histogram", "Scores", "score", "pairs", (scores,)).numbers()
        (('score from', 'to', 'pairs'), [['0', '0.5', '3'], ['0.5', '1', '5']])
    """

    name: str
    kind: str
    title: str
    x: str
    y: str
    series: tuple[Series, ...]
    rules: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        choice(self.kind, "kind", KINDS)
        if not 1 <= len(self.series) <= len(COLOURS):
            raise ValueError(f"series has {len(self.series)} entries; give 1 to {len(COLOURS)}")
        for place, series in enumerate(self.series):
            edges = 1 if self.kind == "histogram" else 0
            one_each(series.x, f"series[{place}].x", len(series.y) + edges, "y")
            for name in ("low", "high"):
                if getattr(series, name) is not None:
                    one_each(getattr(series, name), f"series[{place}].{name}", len(series.y), "y")

    @property
    def by_name(self) -> bool:
        """Whether x are names, which stand one below the other."""
        return self.kind == "bars" or any(isinstance(x, str) for s in self.series for x in s.x)

    def numbers(self) -> tuple[tuple[str, ...], list[list[str]]]:
        """What is drawn as a header and rows of words."""
        rows = [row for series in self.series for row in series.rows()]
        header = {"series": "", "x": self.x, "x2": "to", "y": self.y, "low": "from", "high": "to"}
        if self.kind == "histogram":
            header["x"] = f"{self.x} from"
        if len(self.series) == 1:
            del header["series"]
        columns = [name for name in header if any(name in row for row in rows)]
        cells = [[worded(row.get(name)) for name in columns] for row in rows]
        return tuple(header[name] for name in columns), cells

    def vega_lite(self) -> dict[str, Any]:
        """The specification in Vega-Lite 5, whose colours are variables of the page's CSS."""
        rows = [row for series in self.series for row in series.rows()]
        titles = {"series": "", "x": self.x, "x2": "to", "y": self.y, "low": "from", "high": "to"}
        there = [name for name in titles if any(name in row for row in rows)]
        several, value, place = len(self.series) > 1, *self._channels()
        encoding = {**self._places(value, place), **self._looks()}
        encoding["tooltip"] = [
            {"field": name, "title": titles[name], **_format(rows, name)}
            for name in there
            if name != "series" or several
        ]
        size = {"step": 16, "for": "offset"} if several else {"step": 22}
        layers = [{"mark": self._mark(), "encoding": encoding}]
        if "low" in there:
            mark = {"type": "area", "opacity": 0.2} if self.kind == "lines" else {"type": "rule"}
            ends = {value: {**encoding[value], "field": "low"}, f"{value}2": {"field": "high"}}
            unshaped = {k: v for k, v in encoding.items() if k not in ("shape", "strokeDash")}
            layers.append({"mark": mark, "encoding": {**unshaped, **ends}})
        for name, at in self.rules.items():
            data = {"values": [{"at": at, "name": visible(name)}]}
            x = {"x": {"field": "at", "type": "quantitative"}}
            text = {"text": {"field": "name"}, "y": {"value": 0}, **x}
            layers.append({"data": data, "mark": _RULE, "encoding": x})
            layers.append({"data": data, "mark": _RULE_NAME, "encoding": text})
        return {
            "width": "container",
            "height": size if self.by_name else 240,
            "data": {"values": rows},
            "layer": layers,
            "config": {**_CONFIG, "legend": {**_CONFIG["legend"], **self._legend()}},
        }

    def _channels(self) -> tuple[str, str]:
        """The channel of values and that of what they are of."""
        return ("x", "y") if self.by_name else ("y", "x")

    def _places(self, value: str, place: str) -> dict[str, Any]:
        zero = {"zero": self.kind in ("bars", "histogram")}
        number = {"type": "quantitative", "scale": zero, "title": self.y}
        encoding: dict[str, Any] = {value: {"field": "y", **number}}
        if self.by_name:
            scale = {"type": "band", "paddingInner": 0.2}
            names = {"type": "nominal", "sort": None, "title": None, "scale": scale}
            encoding[place] = {"field": "x", **names}
            if len(self.series) > 1:
                domain = {"domain": [visible(series.name) for series in self.series]}
                encoding["yOffset"] = {"field": "series", "type": "nominal", "scale": domain}
            return encoding
        where = {"field": "x", "type": "quantitative", "scale": {"zero": False}, "title": self.x}
        encoding[place] = where
        if self.kind == "histogram":
            encoding |= {"x": {**where, "bin": {"binned": True}}, "x2": {"field": "x2"}}
            encoding["y"] |= {"stack": None, "axis": {"labelExpr": _WHOLE}}
        return encoding

    def _looks(self) -> dict[str, Any]:
        """What tells the series apart: colours, and not colours alone."""
        domain = [visible(series.name) for series in self.series]
        series = {"field": "series", "type": "nominal"}
        if len(domain) == 1:
            return {"color": {**series, "legend": None}}
        looks: dict[str, Any] = {"color": {**series, "scale": {"domain": domain}}}
        if self.kind == "lines":
            scale = {"domain": domain, "range": list(_DASHES[: len(domain)])}
            looks["strokeDash"] = {**series, "scale": scale}
        if self.kind == "points":
            scale = {"domain": domain, "range": list(_SHAPES[: len(domain)])}
            looks["shape"] = {**series, "scale": scale}
        return looks

    def _legend(self) -> dict[str, int]:
        """Long names stand one below the other, since a telephone is 40 letters wide."""
        return {"columns": 1} if sum(len(series.name) + 4 for series in self.series) > 40 else {}

    def _mark(self) -> dict[str, Any]:
        if self.kind == "lines":
            return {"type": "line", "strokeWidth": 2}
        if self.kind == "points":
            return {
                "type": "point",
                "filled": True,
                "size": 50,
                "opacity": 1 if self.by_name else 0.7,
            }
        opacity = 0.6 if self.kind == "histogram" and len(self.series) > 1 else 1
        return {"type": "bar", "opacity": opacity}

    def draw(self) -> Any:
        """The same as a `matplotlib.figure.Figure`, for `savefig`."""
        library = need("matplotlib.figure", extra="report")
        names = (
            list(dict.fromkeys(str(x) for s in self.series for x in s.x)) if self.by_name else []
        )
        height = 1.2 + 0.25 * len(names) * max(1, 0.6 * len(self.series)) if self.by_name else 4
        figure = library.Figure(figsize=(7, height), layout="constrained")
        axes = figure.subplots()
        for place, series in enumerate(self.series):
            self._draw_series(axes, series, place, names)
        for name, at in self.rules.items():
            axes.axvline(at, color="black", linewidth=1, linestyle="--")
            above = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
            axes.annotate(_plain(name), (at, 1), (3, -10), fontsize=8, **above)
        if self.by_name:
            axes.set_yticks(range(len(names)), [_plain(name) for name in names])
            axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlabel(_plain(self.y if self.by_name else self.x))
        axes.set_ylabel("" if self.by_name else _plain(self.y))
        axes.set_title(_plain(self.title), loc="left", fontsize=11, wrap=True)
        for axis in (axes.xaxis, *([] if self.by_name else [axes.yaxis])):
            axis.set_major_formatter("{x:,.6g}")
        if self.kind == "histogram":
            axes.locator_params("y", integer=True)
        if len(self.series) > 1:
            figure.legend(loc="outside lower center", ncols=3)
        return figure

    def _draw_series(self, axes: Any, series: Series, place: int, names: list[str]) -> None:
        y = np.asarray(series.y, np.float64)
        style = {"color": COLOURS[place], "label": _plain(series.name)}
        error = None
        if series.low is not None and series.high is not None:
            error = np.abs(np.stack([series.low, series.high]).astype(np.float64) - y)
        if self.kind == "histogram":
            alpha = 0.6 if len(self.series) > 1 else 1
            axes.stairs(np.nan_to_num(y), series.x, fill=True, alpha=alpha, **style)
        elif self.by_name:
            size = 0.8 / len(self.series)
            at = np.array([names.index(str(x)) for x in series.x]) + size * (place + 0.5) - 0.4
            if self.kind == "bars":
                axes.barh(at, y, size, xerr=error, **style)
            else:
                axes.errorbar(y, at, xerr=error, fmt=_MARKERS[place], **style)
        elif self.kind == "lines":
            dashes = "-" if place == 0 else (0, tuple(_DASHES[place]))
            axes.plot(series.x, y, linestyle=dashes, **style)
            if error is not None:
                axes.fill_between(
                    series.x, series.low, series.high, alpha=0.2, color=COLOURS[place]
                )
        else:
            axes.errorbar(series.x, y, yerr=error, fmt=_MARKERS[place], markersize=5, **style)


def histogram(
    values: Mapping[str, NDArray[Any]], bins: int = 40, edge: float | None = None
) -> tuple[Series, ...]:
    """How many of each name's finite values lie between common edges; empty where there are none.

    A value that is given as an edge divides no bar: those equal to it lie on its right.

    >>> [series.y.tolist() for series in histogram({"a": np.array([0.0, 1.0, 1.0])}, bins=2)]
    [[1, 2]]
    >>> both = {"below": np.array([0, 0.84]), "above": np.array([0.85, 1])}
    >>> [series.y.tolist() for series in histogram(both, bins=3, edge=0.85)]
    [[1, 0, 1, 0], [0, 0, 0, 2]]
    """
    finite = {name: part[np.isfinite(part)].astype(np.float64) for name, part in values.items()}
    every = np.concatenate([*finite.values(), np.empty(0)])
    if not every.size:
        return ()
    edges = np.histogram_bin_edges(every, bins)
    if edge is not None and edges[0] < edge < edges[-1]:
        width = edges[1] - edges[0]
        before, after = np.ceil((edge - edges[0]) / width), np.ceil((edges[-1] - edge) / width)
        edges = edge + width * np.arange(-before, after + 1)
        # Rounded, they may end a little before the last value.
        edges[[0, -1]] = min(edges[0], every.min()), max(edges[-1], every.max())
    counts = {name: np.histogram(part, edges)[0] for name, part in finite.items()}
    return tuple(Series(name, edges, count) for name, count in counts.items() if count.sum())


def worded(value: Any) -> str:
    """A value as a cell shows it.

    >>> worded(1234567), worded(0.123456), worded(None), worded(float("nan"))
    ('1,234,567', '0.1235', '', '')
    """
    if value is None or (isinstance(value, float) and not np.isfinite(value)):
        return ""
    if isinstance(value, (float, np.floating)) and not float(value).is_integer():
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    if isinstance(value, (int, float, np.integer, np.floating)):
        return f"{int(value):,}"
    return str(value)


def visible(text: str) -> str:
    r"""Text with what cannot be seen, or turns the order of letters, written out.

    >>> visible("a\u202eb")
    'a\\u202eb'
    """
    return _UNSEEN.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _plain(text: str) -> str:
    """Not too long, and without what matplotlib takes for mathematics."""
    text = visible(text)
    text = text if len(text) <= _LETTERS else text[:_LETTERS] + "…"
    return text.replace("$", r"\$")


def _format(rows: list[dict[str, Any]], column: str) -> dict[str, str]:
    """How a tooltip writes a column."""
    values = [row[column] for row in rows if row.get(column) is not None]
    if any(isinstance(value, str) for value in values):
        return {}
    return {"format": ",.4~g" if any(value % 1 for value in values) else ",d"}


_WHOLE = "datum.value % 1 ? '' : format(datum.value, ',d')"  # counts have no halves
_RULE = {"type": "rule", "strokeDash": [4, 3], "color": "var(--ink)"}
_RULE_NAME = {"type": "text", "align": "left", "dx": 4, "dy": 6, "color": "var(--ink)"}
_INK = {"labelColor": "var(--ink)", "titleColor": "var(--ink)"}
_CONFIG: dict[str, Any] = {
    "background": "transparent",
    "font": "system-ui, sans-serif",
    "axis": {
        **_INK,
        "gridColor": "var(--line)",
        "domainColor": "var(--line)",
        "tickColor": "var(--line)",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "labelLimit": 220,
        "labelSeparation": 8,
    },
    "legend": {
        **_INK,
        "orient": "top",
        "title": None,
        "labelFontSize": 12,
        "labelLimit": 260,
        "symbolOpacity": 1,
    },
    "view": {"stroke": None},
    "range": {"category": [f"var(--series-{n})" for n in range(1, len(COLOURS) + 1)]},
    "rule": {"strokeWidth": 1.5},
}
