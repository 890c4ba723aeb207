"""Tables as a Parquet file, block by block, there whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stope._extras import need
from stope._files.atomic import atomic_path


def write_parquet(path: Path, schema: Any, tables: Iterable[Any]) -> int:
    """Write Arrow tables of a schema as one file, a row group each; return how many rows.

    Raises:
        OSError: the file cannot be written; no partial file is left.

    Memory: one table.
    """
    parquet, written = need("pyarrow.parquet", extra="train"), 0
    with atomic_path(path) as temporary:
        try:
            with parquet.ParquetWriter(temporary, schema) as writer:
                for table in tables:
                    writer.write_table(table)
                    written += table.num_rows
        except OSError as error:
            raise OSError(
                error.errno, f"cannot write {path}: {error}; no partial file is left behind"
            ) from error
    return written
