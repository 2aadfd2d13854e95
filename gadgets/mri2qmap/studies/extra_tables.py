"""What experiments keep of a reconstruction beside its metrics: rows in tables of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from mri2qmap.pipeline.pipeline_file import Pipeline
from mri2qmap.studies.result_table import Cell, ResultTable

Key = tuple[str, ...]


@dataclass(frozen=True)
class Detail:
    """A kind of rows.

    Attributes
    ----------
    name
        Stem of the file of their table.
    key
        Columns that tell the rows of a reconstruction apart.
    values
        Their other columns, numbers.
    keys
        The keys of all rows of a reconstruction by a pipeline; none if it has no such rows.
    row
        Makes a row, a dataclass whose fields are those of `key` and `values` in this order.
    """

    name: str
    key: tuple[str, ...]
    values: tuple[str, ...]
    keys: Callable[[Pipeline], Sequence[tuple[Cell, ...]]]
    row: Callable[..., Any]


class DetailTables:
    """Tables of rows of several kinds, in a folder.

    Parameters
    ----------
    folder
        Where they lie.
    key
        Columns that decide a reconstruction.
    details
        The kinds.

    Raises
    ------
    Mri2QmapError
        If a table that is there cannot be used.
    """

    def __init__(self, folder: Path, key: Key, details: Sequence[Detail]) -> None:
        self._tables = {
            detail.name: ResultTable(
                folder / f"{detail.name}.csv", (*key, *detail.key), detail.values
            )
            for detail in details
        }

    def get(self, detail: Detail, key: Key, pipeline: Pipeline) -> tuple[Any, ...] | None:
        """Rows of a reconstruction; None unless all are there."""
        table = self._tables[detail.name]
        rows = []
        for own in detail.keys(pipeline):
            values = table.get((*key, *own))
            if values is None:
                return None
            rows.append(detail.row(*own, *(float(value) for value in values)))
        return tuple(rows)

    def put(self, key: Key, found: Mapping[Detail, Sequence[Any]]) -> None:
        """Add the rows of a reconstruction."""
        for detail, rows in found.items():
            if rows:
                size = len(detail.key)
                cells = [astuple(row) for row in rows]
                self._tables[detail.name].put({(*key, *c[:size]): c[size:] for c in cells})
