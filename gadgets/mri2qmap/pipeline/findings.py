"""What is found wrong with a scan or a pipeline: raised at once, or collected to find the rest."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeVar

from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine.cancellation import is_cancellation

T = TypeVar("T")


class Level(StrEnum):
    """Weight of a finding."""

    ERROR = "error"
    """The scan is not reconstructed."""
    WARNING = "warning"
    """It is reconstructed, and the maps are probably wrong, incomplete or noisier."""
    HINT = "hint"
    """It is reconstructed; how the data are treated is worth knowing."""


@dataclass(frozen=True)
class Finding:
    """Something about a scan or a pipeline that does not fit.

    Attributes
    ----------
    code
        Stable name for programs: lower-case words with hyphens.
    where
        Element, file or acquisition; empty if it is the scan as a whole.
    what
        What was found.
    why
        What is expected.
    advice
        What to do.
    level
        Weight.
    count
        Number of places; `where` is the first of them.
    """

    code: str
    where: str
    what: str
    why: str = ""
    advice: str = ""
    level: Level = Level.ERROR
    count: int = 1

    @property
    def message(self) -> str:
        """One sentence of all parts."""
        place = f"{self.where}: " if self.where else ""
        why = f"; {self.why}" if self.why else ""
        advice = f": {self.advice}" if self.advice else ""
        return f"{place}{self.what}{why}{advice}"


class ScanError(Mri2QmapError):
    """A finding of level `Level.ERROR`."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding)  # the only argument, so that it can be pickled

    def __str__(self) -> str:
        return self.finding.message

    @property
    def finding(self) -> Finding:
        """What was found."""
        finding: Finding = self.args[0]
        return finding


def scan_error(code: str, where: str, what: str, why: str = "", advice: str = "") -> ScanError:
    """Return the error of a finding with these parts."""
    return ScanError(Finding(code, where, what, why, advice))


_QUOTED = re.compile(r'"[^"]*"|\([^()]*\)')
_VERBS = re.compile(r"\b(is|are|was|were|has|have|needs?|must|cannot|there)\b")
_TO_DO = re.compile(
    "(add|choose|convert|copy|correct|give|install|leave|make|name|remove|send|set|start|take|train|"
    "try|use|write)\\b"
)
"""Words with which an advice begins."""


def finding_of_text(code: str, text: str) -> Finding:
    """Take the message of an error that has no parts to pieces.

    Messages of this program are ``place: what was found; what is expected``, or ``...; what to
    do``. Semicolons and colons in brackets and double quotes do not count.

    Parameters
    ----------
    code
        Name of the finding.
    text
        The message.
    """
    plain = _QUOTED.sub(lambda found: "_" * len(found[0]), text)
    end = plain.find("; ") if "; " in plain else len(text)
    place = plain[:end].find(": ")
    where = "" if place < 0 or _VERBS.search(plain[:place]) else text[:place]
    what = text[len(where) + 2 if where else 0 : end]
    rest = text[end + 2 :]
    if _TO_DO.match(rest):
        return Finding(code, where, what, "", rest)
    return Finding(code, where, what, rest)


class Findings:
    """Collects what independent checks find.

    Parameters
    ----------
    stop
        Whether an error is raised instead.
    """

    def __init__(self, stop: bool = False) -> None:
        self._stop = stop
        self._found: list[Finding] = []
        self._repeated: dict[str, int] = {}

    @property
    def found(self) -> tuple[Finding, ...]:
        """All findings: errors, then warnings, then hints, each in the order of discovery."""
        return tuple(sorted(self._found, key=lambda finding: list(Level).index(finding.level)))

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The errors, in the order of discovery."""
        return tuple(f for f in self._found if f.level is Level.ERROR)

    def attempt(self, check: Callable[..., T], *arguments: object, code: str = "other") -> T | None:
        """Call a check; return its result, or None if it has raised an error, which is kept.

        A check that is repeated for many acquisitions has one finding for each code, which counts
        them.

        Parameters
        ----------
        check
            Raises `Mri2QmapError` at the first problem that it finds.
        arguments
            For the check.
        code
            Name of errors that are no `ScanError`.

        Raises
        ------
        Mri2QmapError
            The error, if the collection stops at errors, or if the run is cancelled.
        """
        if self._stop:
            return check(*arguments)
        try:
            return check(*arguments)
        except ScanError as error:
            finding = error.finding
        except Mri2QmapError as error:
            if is_cancellation(error):
                raise
            finding = finding_of_text(code, str(error))
        if finding.code in self._repeated:
            number = self._repeated[finding.code]
            self._found[number] = replace(self._found[number], count=self._found[number].count + 1)
        else:
            self._repeated[finding.code] = len(self._found)
            self._found.append(finding)
        return None

    def add(self, finding: Finding) -> None:
        """Keep a finding.

        Raises
        ------
        ScanError
            If it is an error, and the collection stops at errors.
        """
        if self._stop and finding.level is Level.ERROR:
            raise ScanError(finding)
        self._found.append(finding)

    def extend(self, others: Findings) -> None:
        """Keep what another collection has found."""
        self._found += others._found

    def refuse(self, how_to_see_all: str) -> None:
        """Raise the first error, if there is one; the message says how many more there are.

        Parameters
        ----------
        how_to_see_all
            What shows all of them, for the message.

        Raises
        ------
        Mri2QmapError
            The first error.
        """
        errors = self.errors
        if not errors:
            return
        if len(errors) == 1:
            raise ScanError(errors[0])
        raise Mri2QmapError(
            f"{errors[0].message} (the first of at least {len(errors)} problems; {how_to_see_all})"
        )
