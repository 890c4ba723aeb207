"""A job: a folder that holds the parts of an answer, each there whole or not at all.

| file | holds |
|---|---|
| _manifest.json | what the job is of, how it was cut, whether it is complete and of which files |
| part-000000.parquet, ... | the answers to a block of rows each, in order |
| _clusters.npz | of k-means: how far it is, at the end its centers |

A job that was stopped anywhere goes on after the parts that are there, also with other workers or
another memory: how the corpus is cut decides nothing.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from stope._checks import path as path_kind
from stope._extras import need
from stope._files.atomic import open_atomic
from stope._files.manifest import (
    FILES,
    described_files,
    differences,
    problem_with_files,
    read_manifest,
)
from stope.data.arrow import from_arrow
from stope.progress import Progress, check_progress, silent
from stope.scale.plan import Layout, Search, layout
from stope.scale.ray.matrix_files import COPIES, MANIFEST, Rows, rows_of
from stope.scale.ray.pool import Cluster, Operation, Peak, Pool

FORMAT, VERSION = "stope.ray", 1
CLUSTERS = "_clusters.npz"
_ROWS = 65_536  # of a part that is written from memory
_KIND = {
    "format": (FORMAT,),
    "version": (VERSION,),
    "job": object,
    "plan": str,
    "block_rows": int,
    "complete": bool,
    "workers": [object],
    "files": FILES,
}


@dataclass(frozen=True)
class Answer:
    """What a job left.

    Attributes:
        folder: its parts and the manifest.
        plan: how it was cut, and why.
        workers: what each took; those of the last run, none if nothing was left to do.
    """

    folder: Path
    plan: str
    workers: tuple[Peak, ...]

    @property
    def parts(self) -> list[Path]:
        """The files, in the order of their rows."""
        return sorted(self.folder.glob("part-*"))

    def tables(self) -> Iterator[Any]:
        """The parts as Arrow tables, one after the other."""
        parquet = need("pyarrow.parquet", extra="ray")
        return (parquet.read_table(path) for path in self.parts)

    def table(self) -> Any:
        """All parts as one Arrow table."""
        return need("pyarrow", extra="ray").concat_tables(self.tables())

    def column(self, name: str) -> NDArray[Any]:
        """One column: a matrix where it holds lists."""
        column = self.table()[name]
        lists = hasattr(column.type, "value_type")
        return from_arrow(column, name) if lists else column.to_numpy()


class Written(Operation, Protocol):
    """An operation whose answers the driver writes."""

    def write(self, path: Path, whole: Any, block: tuple[int, int], *told: Any) -> None:
        """Write the answer to a block, whole or not at all."""


@dataclass
class Job:
    """A folder, and a cluster that this process is connected to."""

    folder: Path
    cluster: Cluster
    progress: Progress

    @classmethod
    @contextmanager
    def at(
        cls, folder: str | PathLike[str], cluster: Cluster | None, progress: Progress | None
    ) -> Iterator[Job]:
        """Make the folder where it is missing, and connect."""
        check_progress(progress)
        path = path_kind(folder, "output").absolute()
        path.mkdir(parents=True, exist_ok=True)
        try:
            with (cluster or Cluster()).connected() as connected:
                yield cls(path, connected, progress or silent)
        finally:
            shutil.rmtree(path / COPIES, ignore_errors=True)

    def rows(self, source: Any, name: str) -> Rows:
        """What an argument names; see `rows_of`."""
        return rows_of(source, name, self.folder)

    def run(
        self,
        operation: Written,
        options: dict[str, Any],
        work: Search,
        *,
        tell: Callable[[int, int], tuple[Any, ...]] = lambda first, end: (),
        twice: bool = False,
        cut: Layout | None = None,
    ) -> Answer:
        """Compute the parts that are missing.

        Args:
            operation: told ``part(shard, (first, end), *tell(first, end))``.
            options: all that decides the answer, as JSON has it.
            work: how much there is to do, for the layout.
            tell: what the operation must know of a block.
            twice: ask all blocks of all shards first, and tell what each came to with the rest.
            cut: how the work is cut, where that is no search.

        Raises:
            ValueError: the folder is of another job, or is damaged.
            RuntimeError: see `Pool.answers`.
        """
        options = json.loads(json.dumps(options))
        before = self._manifest(options)
        if cut is None:
            cut = layout(
                work,
                memory=self.cluster.memory or 0,
                workers=self.cluster.workers or 1,
                block_rows=before["block_rows"] if before else None,
            )
        if before and before["complete"]:
            return Answer(self.folder, before["plan"], ())
        self._write_manifest(options, cut, complete=False)
        bounds = _cuts(work.queries, cut.block_rows)
        missing = {n: block for n, block in enumerate(bounds) if not self._part(n).exists()}
        done = work.queries - sum(end - first for first, end in missing.values())
        self.progress(done, work.queries)
        first_answers: dict[int, tuple[Any, ...]] = {}
        with Pool(self.cluster, operation, cut.memory) as pool:
            ask = partial(
                pool.answers,
                list(missing),
                lambda n: (missing[n], *tell(*missing[n]), *first_answers.get(n, ())),
                _cuts(work.corpus, cut.shard_rows),
                12 * work.k * cut.block_rows,
            )
            if twice:
                first_answers = {number: (whole,) for number, whole, _ in ask()}
            for number, whole, told in ask():
                operation.write(self._part(number), whole, *told)
                done += missing[number][1] - missing[number][0]
                self.progress(done, work.queries)
        self._write_manifest(options, cut, complete=True, peaks=pool.peaks)
        return Answer(self.folder, str(cut), tuple(pool.peaks))

    def write(
        self,
        options: dict[str, Any],
        compute: Callable[[], Callable[[Path, int, int], None]],
        rows: int,
        plan: str,
    ) -> Answer:
        """Compute an answer as a whole, and write it in parts of 65,536 rows.

        `compute` gives what writes rows to a file, and is called unless the parts are there.
        """
        options = json.loads(json.dumps(options))
        before = self._manifest(options)
        if not before or not before["complete"]:
            cut = Layout("replicate", 1, rows, -(-rows // _ROWS), _ROWS, 0, plan)
            self._write_manifest(options, cut, complete=False)
            write = compute()
            for number, block in enumerate(_cuts(rows, _ROWS)):
                write(self._part(number), *block)
            self._write_manifest(options, cut, complete=True)
        return Answer(self.folder, plan, ())

    def _part(self, number: int) -> Path:
        return self.folder / f"part-{number:06}.parquet"

    def _manifest(self, options: dict[str, Any]) -> dict[str, Any] | None:
        path = self.folder / MANIFEST
        some = any(self.folder.glob("part-*")) or (self.folder / CLUSTERS).exists()
        if not path.exists():
            if some:
                raise ValueError(
                    f"{self.folder} has parts and no {MANIFEST}; name another folder, or empty it"
                )
            return None
        remedy = f"remove the folder {self.folder} and run again"
        before: dict[str, Any] = read_manifest(path, _KIND, remedy)
        if not some and not before["complete"]:  # refused or stopped before there was a part
            return None
        if different := differences(before["job"], options):
            raise ValueError(
                f"{self.folder} is of another job: {', '.join(different[:4])}; name another "
                "folder, or remove it"
            )
        if before["complete"]:
            problem = problem_with_files(self.folder, before["files"], self._others())
            if problem is not None:
                raise ValueError(f"{path} is damaged: {problem}; {remedy}")
        return before

    def _others(self) -> set[str]:
        """Files of the folder that are no answers."""
        files = (path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*"))
        return {name for name in files if name[0] == "_" and name != CLUSTERS}

    def _write_manifest(
        self, options: dict[str, Any], cut: Layout, *, complete: bool, peaks: Iterable[Peak] = ()
    ) -> None:
        files = described_files(self.folder, self._others()) if complete else {}
        with open_atomic(self.folder / MANIFEST) as file:
            told = {
                "format": FORMAT,
                "version": VERSION,
                "job": options,
                "plan": str(cut),
                "block_rows": cut.block_rows,
                "complete": complete,
                "workers": [peak._asdict() for peak in peaks],
                "files": files,
            }
            file.write(json.dumps(told, indent=1) + "\n")


def _cuts(rows: int, size: int) -> list[tuple[int, int]]:
    return [(first, min(first + size, rows)) for first in range(0, rows, size)]
