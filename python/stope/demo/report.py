"""What the demo prints: progress, one table, a few queries, and how to go on."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from stope.data import Pairs
    from stope.demo.pipeline import DemoReport
    from stope.demo.sources import Material
    from stope.mining import Mined

_EXAMPLES = 3
_SHOWN_PACKAGES = 12


class Narrator:
    """Says what is going on, on a rich console."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console if console is not None else Console()

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[[int, int], None]]:
        """Show a bar while a stage runs; yields its ``progress(done, total)``."""
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
        )
        quiet = not self._console.is_terminal
        with Progress(*columns, console=self._console, transient=True, disable=quiet) as bars:
            task = bars.add_task(name, total=None)
            yield lambda done, total: bars.update(task, completed=done, total=total)
        self._console.print(f"[green]done[/green]  {name}", highlight=False)

    def material(self, material: Material) -> None:
        """Say what was read."""
        collection = material.collection
        counts = [f"{len(collection.split(name).query_ids):,} {name}" for name in collection.splits]
        self._say(f"      {material.origin}.")
        self._say(
            f"      {len(collection.corpus_ids):,} documents; queries: {', '.join(counts)}. "
            f"Figures below are for the {material.test} queries."
        )
        if material.read:
            shown = ", ".join(material.read[:_SHOWN_PACKAGES])
            more = len(material.read) - _SHOWN_PACKAGES
            rest = f", and {more} more packages" if more > 0 else ""
            text = textwrap.fill(f"Functions read from: {shown}{rest}.", 86)
            self._say(textwrap.indent(text, "      "))

    def mined(self, mined: Mined, pairs: Pairs) -> None:
        """Say how many negatives there are, and show one."""
        counts = mined.summary()
        self._say(
            f"      {counts.num_negatives:,} negatives for {counts.num_queries:,} queries; "
            f"{counts.rejected.get('relative_margin', 0):,} candidates turned away as too close to "
            "the positive."
        )

    def refreshed(self, refreshes: Sequence[Mapping[str, Any]]) -> None:
        """Say how the negatives followed the model."""
        changed = ", ".join(f"{100 * found['changed']:.0f}%" for found in refreshes[1:])
        self._say(
            f"      Negatives were mined {len(refreshes)} times while it trained"
            + (f"; of the candidates {changed} changed." if changed else ".")
        )

    def judged(self, verdict: str) -> None:
        """Say what the dev split decided."""
        self._say(f"      On the split dev, {verdict}.")

    def table(self, result: DemoReport, metrics: Sequence[str]) -> None:
        """Print the table and the differences."""
        table = Table(title="Held-out queries: mean [95% bootstrap interval]", title_justify="left")
        table.add_column("retriever")
        for metric in metrics:
            table.add_column(metric, justify="right")
        table.add_column("seconds", justify="right")
        for stage in result.stages:
            cells = [
                f"{stage.mean[m]:.3f}\n[{stage.interval[m][0]:.3f}, {stage.interval[m][1]:.3f}]"
                for m in metrics
            ]
            table.add_row(stage.name, *cells, f"{stage.seconds:.1f}")
        self._console.print()
        self._console.print(table)
        for change in result.differences:
            verdict = "better" if change["low"] > 0 else "no clear change"
            verdict = "worse" if change["high"] < 0 else verdict
            self._say(
                f"  {change['after']} against {change['before']}: {change['metric']} "
                f"{change['difference']:+.3f} [{change['low']:+.3f}, {change['high']:+.3f}], "
                f"{verdict}"
            )
        self._say(f"  The whole demo took {result.seconds:.0f} seconds.")

    def examples(self, material: Material, result: DemoReport) -> None:
        """Show a few queries with what each retriever puts first."""
        collection = material.collection
        texts = dict(zip(collection.corpus_ids, collection.corpus_texts, strict=True))
        queries = dict(zip(collection.query_ids, collection.query_texts, strict=True))
        qrels = collection.split(material.test).qrels
        step = max(1, len(qrels) // _EXAMPLES)
        for query in list(qrels)[::step][:_EXAMPLES]:
            self._console.print(f"\n{_line(queries[query], 90)}", style="bold", markup=False)
            self._say(f"  answer: {_line(texts[next(iter(qrels[query]))], 78)}")
            for stage in result.stages:
                found = list(stage.run.get(query, {}))
                rank = next((i + 1 for i, d in enumerate(found) if d in qrels[query]), None)
                first = _line(texts[found[0]], 60) if found else "nothing"
                place = f"answer at rank {rank}" if rank else "answer not found"
                self._say(f"  {_line(stage.name, 40)}: {place}; first: {first}")

    def what_next(self, encoder: str | None, output: Any) -> None:
        """Print the commands for one's own files."""
        option = f" --encoder {encoder}" if encoder else ""
        self._say("\nThe same on your own files:")
        files = "pairs.jsonl corpus.jsonl"
        self._say(f"  stope train {files} -o model --num-negatives 5")
        self._say(f"  stope train {files} -o student --teacher MODEL   (a pretrained encoder)")
        self._say(f"  stope mine {files} -o negatives.jsonl --encoder model --relative-margin 0.05")
        self._say(f"  stope report negatives.jsonl {files}   (a page to look at them)")
        self._say(f"  stope demo --data BEIR_FOLDER{option}")
        if output is None:
            self._say("  (stope demo -o FOLDER keeps the encoder, the runs and the numbers)")

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def _line(text: str, width: int) -> str:
    return textwrap.shorten(" ".join(text.split()), width, placeholder=" ...")
