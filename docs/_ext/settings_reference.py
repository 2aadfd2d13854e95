"""Reference of the gadgets' settings, from their dataclasses and the docstrings of these."""

from __future__ import annotations

import dataclasses
import inspect
import types
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from markup import UNDERLINE, escaped, literal, table, without_substitutions

MOST_CHOICES = 5
"""Longer lists of choices go to the description, where they have room."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """One field of a settings dataclass.

    Attributes
    ----------
    name
        Name of the property.
    type
        Allowed values, in words.
    default
        Default as it is written in a pipeline file; None where there is none.
    meaning
        Description in the docstring, reStructuredText; empty where it has none.
    origin
        Class that has the field in its docstring.
    """

    name: str
    type: str
    default: str | None
    meaning: str
    origin: type[Any] | None


def settings_of(settings_class: type[Any]) -> list[Setting]:
    """Describe the fields of a settings dataclass, in the order of the fields.

    Parameters
    ----------
    settings_class
        A dataclass with an "Attributes" section in its docstring or in those of its bases; the
        description of a subclass replaces that of its base.
    """
    described = attributes_of(settings_class)
    hints = get_type_hints(settings_class)
    return [
        Setting(
            field.name,
            type_in_words(hints[field.name]),
            _default(field),
            *described.get(field.name, ("", None)),
        )
        for field in dataclasses.fields(settings_class)
        if field.init
    ]


def attributes_of(described_class: type[Any]) -> dict[str, tuple[str, type[Any]]]:
    """Return the description of each attribute and the class whose docstring has it."""
    found: dict[str, tuple[str, type[Any]]] = {}
    for base in reversed(described_class.__mro__):
        if base.__doc__ and "__doc__" in vars(base):
            for name, text in attributes_in(base.__doc__).items():
                found[name] = (text, base)
    return found


def attributes_in(docstring: str) -> dict[str, str]:
    """Parse the "Attributes" section of a NumPy docstring.

    Names that share a description, as in ``first, second``, each get it.
    """
    lines = inspect.cleandoc(docstring).splitlines()
    found: dict[str, list[str]] = {}
    current: list[str] = []
    inside = False
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        if UNDERLINE.match(below):
            inside = line.strip() == "Attributes"
            continue
        if not inside or UNDERLINE.match(line):
            continue
        if line and not line[0].isspace():
            current = []
            for name in line.split(":")[0].split(","):
                found[name.strip()] = current
        else:
            current.append(line)
    return {name: inspect.cleandoc("\n".join(text)).strip() for name, text in found.items()}


def type_in_words(annotation: Any) -> str:
    """Allowed values of a type, as they are written in a pipeline file."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        words = [type_in_words(kind) for kind in arguments if kind is not type(None)]
        return " or ".join([*words, *(["none"] if type(None) in arguments else [])])
    if origin is Literal:
        return " | ".join(str(choice) for choice in arguments)
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return f"list, each {type_in_words(arguments[0])}"
        return f"{len(arguments)} values, each {type_in_words(arguments[0])}"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return " | ".join(str(member.value) for member in annotation)
    names = {bool: "true | false", int: "integer", float: "number", str: "text", Path: "file"}
    return names.get(annotation, str(annotation))


def value_in_words(value: Any) -> str:
    """Return a value as it is written in a pipeline file."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, tuple):
        return " ".join(value_in_words(part) for part in value)
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def settings_table(gadget: str, settings_class: type[Any]) -> str:
    """Table of the settings of a gadget, each row a target ``setting-GADGET-NAME``.

    Raises
    ------
    ValueError
        If a setting is not described in a docstring.
    """
    rows = []
    for setting in settings_of(settings_class):
        if not setting.meaning:
            raise ValueError(
                f"{settings_class.__name__}.{setting.name} of gadget {gadget} has no description: "
                'add it to the "Attributes" section of the docstring'
            )
        default = "required" if setting.default is None else literal(setting.default)
        target = f".. _setting-{gadget}-{setting.name}:\n\n"
        meaning = "\n".join(without_substitutions(setting.meaning.splitlines()))
        values = setting.type
        if values.count("|") >= MOST_CHOICES:
            meaning += f"\n\nValues: {escaped(values.replace(' |', ','))}."
            values = "see the meaning"
        rows.append((f"{target}{literal(setting.name)}", escaped(values), default, meaning))
    return table(("name", "values", "default", "meaning"), rows, (25, 14, 13, 48))


def _default(field: dataclasses.Field[Any]) -> str | None:
    if field.default is not dataclasses.MISSING:
        return value_in_words(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return value_in_words(field.default_factory())
    return None
