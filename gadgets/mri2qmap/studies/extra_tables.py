"""Tables of what experiments store of a reconstruction in addition to its metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from mri2qmap.pipeline.pipeline_file import Pipeline
from mri2qmap.studies.result_table import Cell, ResultTable

Key = tuple[str, ...]


@dataclass(frozen=True)
class ExtraTable:
    """Layout of one extra table: several rows for each reconstruction.

    Attributes
    ----------
    name
        Name of its CSV file, without suffix.
    key
        Columns that distinguish the rows of one reconstruction.
    values
        Its other columns, numbers.
    keys
        Returns the keys of all rows of a reconstruction by a pipeline; empty if it has no rows.
    row
        Makes a row: a dataclass with the fields of `key` and `values`, in this order.
    """

    name: str
    key: tuple[str, ...]
    values: tuple[str, ...]
    keys: Callable[[Pipeline], Sequence[tuple[Cell, ...]]]
    row: Callable[..., Any]


class ExtraTables:
    """The files of several extra tables in one folder.

    Parameters
    ----------
    folder
        Folder of the files.
    key
        Columns that identify a reconstruction.
    layouts
        The tables.

    Raises
    ------
    Mri2QmapError
        If a file exists and cannot be used.
    """

    def __init__(self, folder: Path, key: Key, layouts: Sequence[ExtraTable]) -> None:
        self._tables = {
            layout.name: ResultTable(
                folder / f"{layout.name}.csv", (*key, *layout.key), layout.values
            )
            for layout in layouts
        }

    def get(self, layout: ExtraTable, key: Key, pipeline: Pipeline) -> tuple[Any, ...] | None:
        """Rows of a reconstruction; None if one of them is missing."""
        table = self._tables[layout.name]
        rows = []
        for own in layout.keys(pipeline):
            values = table.get((*key, *own))
            if values is None:
                return None
            rows.append(layout.row(*own, *(float(value) for value in values)))
        return tuple(rows)

    def put(self, key: Key, found: Mapping[ExtraTable, Sequence[Any]]) -> None:
        """Add the rows of a reconstruction."""
        for layout, rows in found.items():
            if rows:
                size = len(layout.key)
                cells = [astuple(row) for row in rows]
                self._tables[layout.name].put({(*key, *c[:size]): c[size:] for c in cells})
