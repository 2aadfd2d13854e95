"""A table of results in a CSV file, to which each run adds its own."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from mri2qmap.errors import Mri2QmapError
from mri2qmap.storage.atomic import atomic_write, cannot_write
from mri2qmap.storage.result_files import locked
from mri2qmap.studies.code_version import code_version

Cell = str | float | int | None

CODE = "code"
"""Column with the version of the code that computed a row, see `code_version`."""


class ResultTable:
    """Rows of results, each identified by a key and by the code that computed it.

    A row that other code computed is not used: `get` does not return it. It stays in the file,
    beside the row that replaces it for this code.

    Each change replaces the file in one step, so that it is complete whenever a run ends. Rows that
    other runs have added in the meantime are kept.

    Parameters
    ----------
    path
        The CSV file; its rows are kept if it exists.
    key
        Columns that identify a result, without that of the code.
    values
        Columns of the result.
    code
        Version of the code; None is that of this process, `code_version`.

    Attributes
    ----------
    path, code
        As given.

    Raises
    ------
    Mri2QmapError
        If the file cannot be read or has other columns.
    """

    def __init__(
        self, path: Path, key: tuple[str, ...], values: tuple[str, ...], code: str | None = None
    ) -> None:
        self.path = path
        self.code = code_version() if code is None else code
        self._header = (*key, CODE, *values)
        self._key_length = len(key)
        self._rows: dict[tuple[str, ...], dict[str, tuple[str, ...]]] = {}
        if path.exists():
            self._read()

    def get(self, key: tuple[Cell, ...]) -> tuple[str, ...] | None:
        """Values of a row that this code computed, or None if there is no such row."""
        return self._versions(key).get(self.code)

    def outdated(self, key: tuple[Cell, ...]) -> str:
        """Why a row must be computed again: " (again: ...)", or "" if no other code computed it."""
        others = [code for code in self._versions(key) if code != self.code]
        if not others or self.get(key) is not None:
            return ""
        return f" (again: {self.path.name} has it of other code, {', '.join(others)})"

    def put(self, rows: Mapping[tuple[Cell, ...], tuple[Cell, ...]]) -> None:
        """Add rows of this code, or replace those with the same key, and write the file.

        Raises
        ------
        Mri2QmapError
            If the file cannot be written.
        """
        count = len(self._header) - self._key_length - 1
        new = {self._key(key): _texts(values, count) for key, values in rows.items()}
        try:
            with locked(self.path.parent):
                if self.path.exists():
                    self._read()  # rows that another run has added
                for key, values in new.items():
                    self._rows.setdefault(key, {})[self.code] = values
                with (
                    atomic_write(self.path) as part,
                    part.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
                ):
                    writer = csv.writer(file)
                    writer.writerow(self._header)
                    writer.writerows(
                        (*key, code, *values)
                        for key, versions in self._rows.items()
                        for code, values in versions.items()
                    )
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def _versions(self, key: tuple[Cell, ...]) -> dict[str, tuple[str, ...]]:
        return self._rows.get(self._key(key), {})

    def _key(self, cells: tuple[Cell, ...]) -> tuple[str, ...]:
        return _texts(cells, self._key_length)

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
            key, (code, *values) = tuple(row[: self._key_length]), row[self._key_length :]
            self._rows.setdefault(key, {})[code] = tuple(values)


def _texts(cells: tuple[Cell, ...], count: int) -> tuple[str, ...]:
    if len(cells) != count:
        raise ValueError(f"{len(cells)} cells for {count} columns")
    return tuple(_text(cell) for cell in cells)


def _text(cell: Cell) -> str:
    if cell is None:
        return ""
    return f"{cell:.6g}" if isinstance(cell, float) else str(cell)
