"""Parameters that an operator sets at a host, of the kinds that an OpenRecon label knows."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine.words import shortened

_WORDS = {"true": True, "false": False}
_WHOLE = re.compile(r"[+-]?[0-9]{1,10}")
_NUMBER = re.compile(r"[+-]?[0-9]{1,20}(\.[0-9]{0,20})?([eE][+-]?[0-9]{1,3})?")


def english(text: str) -> dict[str, str]:
    """Return a text that is shown to people, by language."""
    return {"en": text}


@dataclass(frozen=True)
class Parameter(ABC):
    """A parameter.

    Attributes
    ----------
    id
        Its name in what the host sends.
    label, information
        What the operator reads: a few words, and an explanation.
    """

    KIND: ClassVar[str]
    id: str
    label: str
    information: str

    @property
    def initial(self) -> Any:
        """Value where the host sends none."""
        return getattr(self, "default")  # noqa: B009 - the kinds have it, with their types

    @property
    @abstractmethod
    def allowed(self) -> str:
        """Say which values are allowed."""

    @abstractmethod
    def own_keys(self) -> dict[str, Any]:
        """Return the keys of the label that only this kind has."""

    @abstractmethod
    def convert(self, sent: object) -> Any:
        """Return a value that was sent in its type; None if it is not allowed."""

    def document(self) -> dict[str, Any]:
        """Return the parameter as it is in the label."""
        return {
            "id": self.id,
            "label": english(self.label),
            "type": self.KIND,
            **self.own_keys(),
            "information": english(self.information),
        }

    def read(self, sent: object) -> Any:
        """Return a value that a host sent.

        Parameters
        ----------
        sent
            A value of JSON, or its text: hosts send either.

        Raises
        ------
        Mri2QmapError
            If it is not allowed.
        """
        value = self.convert(sent)
        if value is None:
            raise Mri2QmapError(
                f"OpenRecon parameter {self.id} is {shortened(repr(sent))}: {self.allowed} is "
                "expected"
            )
        return value


@dataclass(frozen=True)
class Switch(Parameter):
    """A box to tick."""

    KIND = "boolean"
    default: bool = False

    @property
    def allowed(self) -> str:
        """See `Parameter.allowed`."""
        return "true or false"

    def own_keys(self) -> dict[str, Any]:
        """See `Parameter.own_keys`."""
        return {"default": self.default}

    def convert(self, sent: object) -> bool | None:
        """See `Parameter.convert`."""
        return sent if isinstance(sent, bool) else _WORDS.get(_text(sent).lower())


@dataclass(frozen=True)
class Choice(Parameter):
    """One of several values.

    Attributes
    ----------
    values
        Identifier of each value, and what the operator reads.
    default
        One of the identifiers.
    """

    KIND = "choice"
    values: tuple[tuple[str, str], ...] = ()
    default: str = ""

    @property
    def allowed(self) -> str:
        """See `Parameter.allowed`."""
        return f"one of {', '.join(identifier for identifier, _ in self.values)}"

    def own_keys(self) -> dict[str, Any]:
        """See `Parameter.own_keys`."""
        values = [{"id": identifier, "name": english(name)} for identifier, name in self.values]
        return {"values": values, "default": self.default}

    def convert(self, sent: object) -> str | None:
        """See `Parameter.convert`."""
        return _text(sent) if _text(sent) in dict(self.values) else None


@dataclass(frozen=True)
class Line(Parameter):
    """A line of text."""

    KIND = "string"
    default: str = ""

    @property
    def allowed(self) -> str:
        """See `Parameter.allowed`."""
        return "text"

    def own_keys(self) -> dict[str, Any]:
        """See `Parameter.own_keys`."""
        return {"default": self.default}

    def convert(self, sent: object) -> str | None:
        """See `Parameter.convert`."""
        return sent.strip() if isinstance(sent, str) else None


@dataclass(frozen=True)
class WholeNumber(Parameter):
    """A whole number.

    Attributes
    ----------
    minimum, maximum, default
        Range, and value where the host sends none.
    unit
        At most three characters; empty: none.
    """

    KIND = "int"
    minimum: int = 0
    maximum: int = 0
    default: int = 0
    unit: str = ""

    @property
    def allowed(self) -> str:
        """See `Parameter.allowed`."""
        return f"a whole number from {self.minimum} to {self.maximum}"

    def own_keys(self) -> dict[str, Any]:
        """See `Parameter.own_keys`."""
        return _range(self)

    def convert(self, sent: object) -> int | None:
        """See `Parameter.convert`."""
        number: object = sent
        if isinstance(sent, str) and _WHOLE.fullmatch(sent.strip()):
            number = int(sent)
        if isinstance(sent, float) and sent.is_integer():  # some hosts know no other numbers
            number = int(sent)
        if type(number) is int and self.minimum <= number <= self.maximum:
            return number
        return None


@dataclass(frozen=True)
class DecimalNumber(Parameter):
    """A number in steps of 0.1.

    Attributes
    ----------
    minimum, maximum, default, unit
        See `WholeNumber`.
    """

    KIND = "double"
    minimum: float = 0.0
    maximum: float = 0.0
    default: float = 0.0
    unit: str = ""

    @property
    def allowed(self) -> str:
        """See `Parameter.allowed`."""
        return f"a number from {self.minimum:g} to {self.maximum:g}"

    def own_keys(self) -> dict[str, Any]:
        """See `Parameter.own_keys`."""
        return _range(self)

    def convert(self, sent: object) -> float | None:
        """See `Parameter.convert`."""
        number: object = sent
        if isinstance(sent, str) and _NUMBER.fullmatch(sent.strip()):
            number = float(sent)
        if isinstance(number, bool) or not isinstance(number, int | float):
            return None
        return float(number) if self.minimum <= number <= self.maximum else None


def _range(parameter: WholeNumber | DecimalNumber) -> dict[str, Any]:
    unit = {"unit": english(parameter.unit)} if parameter.unit else {}
    limits = {name: getattr(parameter, name) for name in ("minimum", "maximum", "default")}
    return {**limits, **unit}


def _text(sent: object) -> str:
    return sent.strip() if isinstance(sent, str) else ""
