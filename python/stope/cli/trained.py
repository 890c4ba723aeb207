"""What training did, as the terminal shows it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stope._checks import counted
from stope.cli import terminal

if TYPE_CHECKING:
    from stope.data import Source
    from stope.runs import RunReport

_NEXT = (
    "nothing is lost; more might help with more held-out queries to tell by ({}), with a "
    "pretrained {}, or with more pairs"
)


def show_report(report: RunReport, sources: Sequence[Source], keys: bool) -> None:
    """Steps, figures before and after, what the pairs brought, and what to do next.

    With keys what to do next is named as in a configuration, else by options.
    """
    from stope.report.training import meaning, of_training, training_folder

    done = report.training
    steps = counted(done.steps, "steps")
    terminal.tell(
        f"{steps} in {done.seconds:.1f} s, last loss {done.losses[-1]:.4f}, in {report.model}"
    )
    for title, count, before, after, gains in (
        ("held-out", report.num_queries, report.before, report.after, report.gains),
        ("test", report.num_test_queries, report.test_before, report.test_after, report.test_gains),
    ):
        if not before:
            continue
        rows = []
        teacher = report.teacher if title == "held-out" else {}
        for name, value in before.items():
            interval = "{:+.4f} to {:+.4f}".format(*gains[name]) if name in gains else "undefined"
            gain = f"{after[name] - value:+.4f}"
            row = [name, f"{value:.4f}", f"{after[name]:.4f}", gain, interval]
            rows.append([*row, f"{teacher[name]:.4f}"] if teacher else row)
        header = ["metric", "before", "after", "gain", "95% interval"]
        header += ["teacher"] if teacher else []
        terminal.show_table(counted(count, f"{title} queries"), header, rows)
    if training_folder(report.folder) is not None:  # its log may be gone where it ended long ago
        first, *others = of_training(report.folder).sections
        facts = {name: text for section in others for name, text in section.facts.items()}
        terminal.show_table("While it trained", ["", ""], facts.items(), named=False)
        for sentence in first.missing:
            terminal.tell(sentence)
    for remark in meaning(report.to_dict()):
        terminal.tell(remark)
    show_remarks([*report.remarks, *_guarded(report, keys)])
    show_model(report.model, sources)
    terminal.tell(f"See how it went: stope report {shlex.quote(str(report.folder))}")


def _guarded(report: RunReport, keys: bool) -> list[str]:
    """What a second stage brought; where there was none, that there may be one."""
    from stope.training.guard import Verdict

    done = report.training
    if done.guard is None:
        untried = report.num_queries and not (done.refreshes or report.own_negatives)
        how, option = "in-batch", "negatives: auto" if keys else "-n 5"
        if report.adapter:
            how, option = "without mined negatives", "adapter.refresh_every with guard: true"
        remark = f"trained {how}; {option} tries mined negatives and keeps what helps"
        return [remark] if untried else []
    verdict = Verdict(**done.guard)
    names = ("evaluation.holdout", "encoder.model") if keys else ("--holdout", "--encoder")
    return [str(verdict)] if verdict.kept else [str(verdict), _NEXT.format(*names)]


def show_remarks(remarks: list[str]) -> None:
    """A line for each sentence."""
    for remark in remarks:
        terminal.tell(f"{remark[0].upper()}{remark[1:]}.")


def show_model(model: Path, sources: Sequence[Source]) -> None:
    """Where the model is, and how to try it on what it was trained on; else in words."""
    if not (model / "modules.json").exists():
        terminal.tell(f"The adapter is {model}; stope.adapters.Adapter.load reads it")
        return
    searched = _searched(sources[0]) if len(sources) == 1 else ["QUERIES", "CORPUS"]
    words = [*searched, "--method", "dense", "--encoder", str(model)]
    terminal.tell(f"The model is {model}; try it: stope search {shlex.join(words)}")


def _searched(source: Source) -> list[str]:
    """What `stope search` is told of a source: its queries, if they have a file, and documents."""
    path, told = Path(source.path).expanduser(), []
    if path.is_dir():
        tests = (path / "qrels" / f"test{end}" for end in (".tsv", ".tsv.gz"))
        if not any(map(Path.exists, tests)):
            told += ["--split", source.split]
        if source.unknown_ids != "error":
            told += ["--unknown-ids", source.unknown_ids]
        return [str(path), *told]
    documents = source.path if source.pairs_from is not None else source.corpus
    columns: dict[str, str | None] = {}
    if documents is not None:
        columns |= {"--text-column": source.text_column, "--id-column": source.id_column}
    if source.qrels is not None:
        columns |= {"--query-column": source.query_column}
        columns |= {"--query-id-column": source.query_id_column}
    for option, name in columns.items():
        told += [] if name is None else [option, name]
    queries = "QUERIES" if source.qrels is None else str(path)
    corpus = "CORPUS" if documents is None else str(Path(documents).expanduser())
    skips = ["--skip-empty"] if source.skip_empty else []
    return [queries, corpus, *told, *skips]
