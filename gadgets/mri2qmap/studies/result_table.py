"""A table of results in a CSV file, to which a benchmark adds as it goes."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from mri2qmap.errors import Mri2QmapError
from mri2qmap.storage.atomic import atomic_write, cannot_write
from mri2qmap.storage.result_files import locked

Cell = str | float | int | None


class ResultTable:
    """Rows that are found again by everything that decides them.

    The file is replaced in one step at each change, so that it is whole whenever a run ends; rows
    that other runs, or people, have added meanwhile are kept.

    Parameters
    ----------
    path
        The CSV file; its rows are kept if it exists.
    key
        Columns that decide a result.
    values
        Columns of the result.

    Raises
    ------
    Mri2QmapError
        If the file cannot be read or has other columns.
    """

    def __init__(self, path: Path, key: tuple[str, ...], values: tuple[str, ...]) -> None:
        self.path = path
        self._header = (*key, *values)
        self._key_length = len(key)
        self._rows: dict[tuple[str, ...], tuple[str, ...]] = {}
        if path.exists():
            self._read()

    def get(self, key: tuple[Cell, ...]) -> tuple[str, ...] | None:
        """Values of a row, or None if there is no such row."""
        return self._rows.get(self._texts(key, self._key_length))

    def put(self, rows: Mapping[tuple[Cell, ...], tuple[Cell, ...]]) -> None:
        """Add rows, or replace those with the same key, and write the file.

        Raises
        ------
        Mri2QmapError
            If the file cannot be written.
        """
        new = {
            self._texts(key, self._key_length): self._texts(
                values, len(self._header) - self._key_length
            )
            for key, values in rows.items()
        }
        try:
            with locked(self.path.parent):
                if self.path.exists():
                    self._read()  # what another run has added
                self._rows |= new
                with (
                    atomic_write(self.path) as part,
                    part.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
                ):
                    writer = csv.writer(file)
                    writer.writerow(self._header)
                    writer.writerows((*key, *values) for key, values in self._rows.items())
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def _read(self) -> None:
        try:
            with self.path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
                header, *rows = csv.reader(file)
        except (OSError, ValueError, csv.Error) as error:
            raise Mri2QmapError(f"{self.path}: it cannot be read as a table ({error})") from error
        if tuple(header) != self._header or any(len(row) != len(header) for row in rows):
            raise Mri2QmapError(
                f"{self.path}: its columns are not those of this program; choose another folder, "
                "or move the file away"
            )
        for row in rows:
            self._rows[tuple(row[: self._key_length])] = tuple(row[self._key_length :])

    @staticmethod
    def _texts(cells: tuple[Cell, ...], count: int) -> tuple[str, ...]:
        if len(cells) != count:
            raise ValueError(f"{len(cells)} cells for {count} columns")
        return tuple(_text(cell) for cell in cells)


def _text(cell: Cell) -> str:
    if cell is None:
        return ""
    return f"{cell:.6g}" if isinstance(cell, float) else str(cell)
