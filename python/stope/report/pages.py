"""A page: sections of sentences, numbers, figures and tables, written as one HTML file.

The file asks nothing of any network and runs nothing but its own two scripts, whose checksums its
policy names. Data stand in it as JSON in which no ``<`` is left; text from data reaches the page
as text alone, here through `html.escape`, in page.js through ``textContent``.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from os import PathLike
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray

import stope
from stope._checks import choice, one_each
from stope._checks import path as path_kind
from stope._extras import need
from stope._files.atomic import atomic_path, open_atomic
from stope._kinds import kinds
from stope.report.figures import Figure, visible, worded


@dataclass(frozen=True, eq=False)
class Column:
    """A column of a `Table`.

    Attributes:
        name: above it.
        values: one per row: numbers (None and NaN are empty), or strings. With `words`, int
            numbers of words (-1 is empty): a text that stands in many rows is in the page once.
        kind: "number"; "text", to read and to search; "id", a text that stands small below the
            column before it; "word", one of few, by which rows can be filtered: several are
            separated by "; ".
        words: what values number, or None.
    """

    name: str
    values: Sequence[Any] | NDArray[Any]
    kind: str = "text"
    words: Sequence[str] | None = None

    def __post_init__(self) -> None:
        choice(self.kind, "kind", ("number", "text", "id", "word"))

    def cell(self, row: int) -> Any:
        """The value of a row, "" where it is empty."""
        value = self.values[row]
        if self.words is None:
            return "" if value is None else value
        return self.words[value] if value >= 0 else ""

    def data(self) -> dict[str, Any]:
        """The same for page.js."""
        named = {"name": self.name, "kind": self.kind}
        if self.kind == "number":
            values = np.array(self.values, np.float64).tolist()
            return {**named, "values": [float(f"{x:.7g}") if x - x == 0 else None for x in values]}
        if self.words is not None:
            codes = np.asarray(self.values)
            used, places = np.unique(codes, return_inverse=True)
            words = ["" if code < 0 else self.words[code] for code in used.tolist()]
            return {**named, "words": words, "codes": places.reshape(-1).tolist()}
        codes_of: dict[str, int] = {}
        codes_list = [
            codes_of.setdefault(str(self.cell(row)), len(codes_of))
            for row in range(len(self.values))
        ]
        return {**named, "words": list(codes_of), "codes": codes_list}


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of a `Section`.

    Attributes:
        columns: of one length.
        caption: what a row is.
        browse: searched, filtered, sorted and selected in pages of 25 rows, by page.js; else all
            rows stand in the page, also without scripts.
        export: of a table to browse: what its selected rows are saved as, a JSON object each, with
            these keys and the values of the columns so named.
        export_name: of that file.

    Raises:
        ValueError: columns of several lengths, or an export of no column.
    """

    columns: tuple[Column, ...]
    caption: str
    browse: bool = False
    export: Mapping[str, str] = field(default_factory=dict)
    export_name: str = "exclude.jsonl"

    def __post_init__(self) -> None:
        for column in self.columns:
            one_each(column.values, f"column {column.name}", len(self), f"{self.columns[0].name}")
        for name in self.export.values():
            choice(name, "export", [column.name for column in self.columns])

    def __len__(self) -> int:
        return len(self.columns[0].values)


@dataclass(frozen=True, eq=False)
class Section:
    """A part of a `Page` under a title of its own.

    Attributes:
        title: in the list of contents, too.
        text: sentences, a paragraph each: what it shows, how it is defined, what to do about it.
        facts: numbers by name, as words; the terminal shows them as well.
        figures: one below the other.
        table: or None.
        missing: sentences on what is not shown, and why.
    """

    title: str
    text: Sequence[str] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    figures: Sequence[Figure] = ()
    table: Table | None = None
    missing: Sequence[str] = ()


@dataclass(frozen=True, eq=False)
class Page:
    """One self-contained page.

    Attributes:
        title: of the page.
        about: what it was made from, a sentence.
        sections: in order.

    Example:
        >>> import pathlib, tempfile
        >>> section = Section("Scores", facts={"median": "0.5"})
        >>> page = Page("A report", "Made of nothing.", (section,))
        >>> path = page.write(pathlib.Path(tempfile.mkdtemp(), "report.html"))
        >>> path.read_text(encoding="utf-8")[:15], page.facts()
        ('<!DOCTYPE html>', {'median': '0.5'})
    """

    title: str
    about: str
    sections: Sequence[Section]

    @property
    def figures(self) -> list[Figure]:
        """Of all sections."""
        return [figure for section in self.sections for figure in section.figures]

    def facts(self) -> dict[str, str]:
        """Of all sections, as a command shows them."""
        return {name: text for section in self.sections for name, text in section.facts.items()}

    def html(self) -> str:
        """The page as one text.

        Raises:
            ImportError: it has figures, and vl-convert-python is not installed.

        Memory: the page, twice.
        """
        folder = resources.files("stope.report") / "page"
        style, script, whole = (
            (folder / f"page.{end}").read_text(encoding="utf-8") for end in ("css", "js", "html")
        )
        scripts = [*([_drawing()] if self.figures else []), script]
        tables = [section.table for section in self.sections]
        data = {
            "figures": [figure.vega_lite() for figure in self.figures],
            "tables": [_browsed(table) for table in tables if table is not None and table.browse],
        }
        allowed = " ".join(map(_checksum, scripts))
        return Template(whole).substitute(
            policy=f"default-src 'none'; script-src {allowed}; style-src {_checksum(style)}; "
            "base-uri 'none'; form-action 'none'",
            title=escaped(self.title),
            about=escaped(self.about),
            version=escaped(stope.build_info()["version"]),
            style=style,
            contents="".join(
                f'<li><a href="#section-{n}">{escaped(section.title)}</a></li>'
                for n, section in enumerate(self.sections)
            ),
            sections="".join(self._sections()),
            data=json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", r"\u003c"),
            scripts="".join(f"<script>{script}</script>" for script in scripts),
        )

    def _sections(self) -> Iterator[str]:
        figure = table = 0
        for place, section in enumerate(self.sections):
            yield f'<section id="section-{place}"><h2>{escaped(section.title)}</h2>'
            yield from (f"<p>{_prose(text)}</p>" for text in section.text)
            yield from (f'<p class="missing">{_prose(text)}</p>' for text in section.missing)
            if section.facts:
                yield '<dl class="facts">'
                for name, text in section.facts.items():
                    yield f"<div><dt>{escaped(name)}</dt><dd>{escaped(text)}</dd></div>"
                yield "</dl>"
            yield '<div class="figures">' if section.figures else ""
            for each in section.figures:
                header, rows = each.numbers()
                title = escaped(each.title)
                yield f'<figure><figcaption>{title}</figcaption><div class="figure" role="img" '
                yield f'data-figure="{figure}" aria-label="{title}"></div>'
                yield "<details><summary>The numbers</summary>"
                numeric = [not (each.by_name and name == each.x) and bool(name) for name in header]
                yield from _rows_of(title, header, rows, numeric)
                yield "</details></figure>"
                figure += 1
            yield "</div>" if section.figures else ""
            if section.table is not None and section.table.browse:
                yield f'<div class="browse" data-table="{table}"></div>'
                table += 1
            elif section.table is not None:
                columns = section.table.columns
                cells = [
                    [worded(c.cell(row)) for c in columns] for row in range(len(section.table))
                ]
                numeric = [column.kind == "number" for column in columns]
                header = tuple(column.name for column in columns)
                yield from _rows_of(escaped(section.table.caption), header, cells, numeric)
            yield "</section>"

    @kinds(path=path_kind)
    def write(self, path: str | PathLike[str]) -> Path:
        """Write `html` to a file that is there whole or not at all, and return its path.

        Raises:
            ImportError: as `html`.
            OSError: the file cannot be written.
        """
        target = Path(path)
        with open_atomic(target) as file:
            file.write(self.html())
        return target

    @kinds(folder=path_kind)
    def write_figures(self, folder: str | PathLike[str]) -> list[Path]:
        """Draw every figure as PNG and SVG into a folder, which is made; return the paths.

        Raises:
            ImportError: matplotlib is not installed.
            OSError: a file cannot be written.
        """
        target = Path(folder)
        need("matplotlib.figure", extra="report")
        target.mkdir(parents=True, exist_ok=True)
        paths = []
        for figure in self.figures:
            drawn = figure.draw()
            for ending in ("png", "svg"):
                paths.append(target / f"{figure.name}.{ending}")
                with atomic_path(paths[-1]) as temporary:
                    drawn.savefig(temporary, format=ending, dpi=150)
        return paths


def escaped(text: str) -> str:
    r"""Text as HTML, by `visible`.

    >>> escaped("</script>\u202e")
    '&lt;/script&gt;\\u202e'
    """
    return html.escape(visible(text))


def _prose(text: str) -> str:
    """A sentence as HTML, in which the names of options are not broken."""
    return re.sub(r"(?<![\w-])--[a-z-]+", r"<code>\g<0></code>", escaped(text))


def _rows_of(
    caption: str, header: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[bool]
) -> Iterator[str]:
    """A table, its caption already escaped; what is numeric is to the right."""
    marks = [' class="number"' if right else "" for right in numeric]
    yield f'<p class="note">{caption}</p>'
    yield f'<div class="scroll" role="region" tabindex="0" aria-label="{caption}">'
    yield f'<table aria-label="{caption}"><thead><tr>'
    for mark, name in zip(marks, header, strict=True):
        yield f'<th scope="col"{mark}>{escaped(name)}</th>'
    yield "</tr></thead><tbody>"
    for row in rows:
        yield "<tr>"
        yield from (
            f"<td{mark}>{escaped(cell)}</td>" for mark, cell in zip(marks, row, strict=True)
        )
        yield "</tr>"
    yield "</tbody></table></div>"


def _browsed(table: Table) -> dict[str, Any]:
    return {
        "caption": table.caption,
        "columns": [column.data() for column in table.columns],
        "export": dict(table.export),
        "file": table.export_name,
    }


@lru_cache(maxsize=1)
def _drawing() -> str:
    """Vega-Lite, Vega and vega-embed as one script; taking it out of vl-convert takes seconds."""
    bundle: str = need("vl_convert", extra="report").javascript_bundle()
    # Neither must end the script or begin a comment of HTML; in strings the meaning stays.
    return bundle.replace("</script", r"<\/script").replace("<!--", r"\x3c!--")


def _checksum(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
