"""The loop both benchmarks share: options, choice of rows, measuring, checking, reporting."""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import inputs as data
import peers
import report
import timing
from answers import Verdict

Check = Callable[[data.Work, data.Inputs, dict[str, Any], str], Verdict]
Judge = Callable[[report.Row], Verdict]


def parser(description: str) -> argparse.ArgumentParser:
    """Options that every benchmark has."""
    options = argparse.ArgumentParser(description=description)
    add = options.add_argument
    add(
        "--peers", nargs="+", default=["all"], metavar="NAME", help="which peers (all, none, names)"
    )
    add("--peers-only", action="store_true", help="leave stope out; the first peer is the subject")
    add("--rows", nargs="+", default=["*"], metavar="PATTERN", help="names or groups, * allowed")
    add("--list", action="store_true", help="print the rows and stop")
    add("--data", nargs="+", default=None, choices=data.KINDS, help="kinds of embeddings")
    add("--isa", nargs="+", default=None, metavar="NAME", help="instruction sets of stope, or all")
    add("--threads", type=int, default=None, help="for every contender; default: all cores")
    add("--repeat", type=int, default=None, help="samples of each contender (7; 3 with --quick)")
    add("--budget", type=float, default=60.0, help="seconds a contender may take in one row")
    add("--quick", action="store_true", help="small sizes, a minute at most; says little on speed")
    add("--no-memory", action="store_true", help="do not measure memory")
    add("--json", type=Path, default=None, metavar="PATH", help="write everything measured there")
    return options


def run(
    title: str,
    every_row: Sequence[data.Work],
    options: argparse.Namespace,
    check: Check,
    judge: Judge | None = None,
) -> int:
    """Measure the chosen rows, print one table, write the JSON; 1 when an answer was wrong.

    `judge` adds what needs the times or the memory to what `check` says of a row's answer.
    """
    chosen = _chosen(every_row, options)
    if options.list:
        for work in chosen:
            print(f"{work.name:28} {work.group:10} {work.queries:,} x {work.rows:,} x {work.dim}")
        return 0
    peaks = {}
    if not options.peers_only:
        import stope

        isas = {isa for work in chosen for isa in _isas(work, options)}
        peaks = timing.peak_operations([isa for isa in stope.isa.available() if isa in isas])
    rows: list[report.Row] = []
    right = True
    try:
        for position, work in enumerate(chosen):
            print(
                f"[{position + 1}/{len(chosen)}] {work.name}", end=" ", file=sys.stderr, flush=True
            )
            start = time.perf_counter()
            verdict = _measure(work, options, peaks, check, judge, rows)
            right = right and verdict.right
            print(f"{time.perf_counter() - start:.0f} s, {verdict.words}", file=sys.stderr)
    finally:
        if rows:
            report.print_table(title, rows, _peer_names(rows))
            if options.json:
                report.write_json(options.json, rows, _plain(options))
    if not right:
        print("WRONG: some answers differ by more than rounding, see the table", file=sys.stderr)
    return 0 if right else 1


def _measure(
    work: data.Work,
    options: argparse.Namespace,
    peaks: dict[str, dict[str, Any]],
    check: Check,
    judge: Judge | None,
    rows: list[report.Row],
) -> Verdict:
    work = dataclasses.replace(work, threads=work.threads or options.threads)
    work = dataclasses.replace(work, threads=peers.threads_for(work))
    given = data.make(work)
    others = peers.available(work, options.peers)
    subjects = [f"stope@{isa}" for isa in _isas(work, options)] if peaks else others[:1]
    if not subjects:
        raise SystemExit(f"nothing to time in row {work.name}: no peer among {options.peers}")
    names = list(dict.fromkeys([*subjects, *others]))
    runs = {name: peers.prepare(name, work, given) for name in names}
    repeat = work.repeat or options.repeat or (3 if options.quick else 7)
    timings = timing.interleaved(runs, work.threads or 1, repeat, options.budget)
    runs.clear()
    results = {name: found.result for name, found in timings.items()}
    verdict = check(work, given, results, subjects[0])
    timings = {name: found._replace(result=None) for name, found in timings.items()}
    memory = {}
    if work.memory and not options.no_memory:
        memory = timing.extra_memory(names, work, given)
    for subject in subjects:
        mine = {name: timings[name] for name in (subject, *others)}
        isa = subject.partition("@")[2]
        peak = _peak_of_unit(work, isa, peaks.get(isa))
        row = report.Row(work, subject, mine, memory, peak, verdict.words, verdict.details)
        if judge is not None:
            also = judge(row)
            words = "\n".join(filter(None, [verdict.words, also.words]))
            row = row._replace(answer=words, details={**verdict.details, **also.details})
            verdict = verdict._replace(right=verdict.right and also.right)
        rows.append(row)
    return verdict


def _peak_of_unit(work: data.Work, isa: str, peak: dict[str, Any] | None) -> dict[str, Any] | None:
    """The measured peak, where it is that of the unit the row asks for."""
    if peak and isinstance(work, data.LossWork):
        # Only AMX multiplies bfloat16; its float32 is three products of bfloat16 parts.
        unit = "bfloat16" if isa == "amx" else "float32"
        products = 3 if isa == "amx" and work.precision == "float32" else 1
        words = f"{unit}, {products} products" if products > 1 else unit
        return {**peak, "unit": words, "ops_per_second": peak["all_units"][unit] / products}
    precision = getattr(work, "precision", "exact")
    return peak if peak and (precision == "exact" or precision in peak["unit"]) else None


def _chosen(every_row: list[data.Work], options: argparse.Namespace) -> list[data.Work]:
    def asked(work: data.Work) -> bool:
        return any(
            fnmatch.fnmatchcase(word, pattern)
            for pattern in options.rows
            for word in (work.name, work.group)
        )

    chosen = [work for work in every_row if asked(work)]
    if not chosen:
        names = ", ".join(work.name for work in every_row)
        raise SystemExit(f"--rows {' '.join(options.rows)} matches none of: {names}")
    return chosen


def _isas(work: data.Work, options: argparse.Namespace) -> list[str]:
    """Named ones on every row; otherwise all but generic where the row is about them."""
    import stope

    found = stope.isa.available()
    if options.isa == ["all"]:
        return found
    if options.isa:
        unknown = set(options.isa) - set(found)
        if unknown:
            raise SystemExit(f"--isa {' '.join(unknown)} is not among {', '.join(found)}")
        return options.isa
    if not work.all_isas:
        return [stope.isa.current()]
    return [isa for isa in reversed(found) if isa != "generic"] or found


def _peer_names(rows: list[report.Row]) -> list[str]:
    timed = [name for row in rows for name in row.timings if not name.startswith("stope")]
    return list(dict.fromkeys(timed))


def _plain(options: argparse.Namespace) -> dict[str, Any]:
    return {
        key: str(value) if isinstance(value, Path) else value
        for key, value in vars(options).items()
    }
