"""From `<property name= value=>` pairs to the frozen settings dataclass of a gadget."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from mri2qmap.errors import Mri2QmapError

Settings = TypeVar("Settings")

_TRUE = ("true", "yes", "on", "1")
_FALSE = ("false", "no", "off", "0")


def parse_settings(
    settings_class: type[Settings],
    properties: Mapping[str, str],
    gadget: str,
    place: str = "",
) -> Settings:
    """Build the settings of one gadget.

    Parameters
    ----------
    settings_class
        A frozen dataclass whose fields are bool, int, float, str, Path, an Enum, a Literal,
        tuples of these (values separated by blanks or commas) or Optional of these ("none").
        Its ``__post_init__`` raises ValueError for what is out of range.
    properties
        Value of each property as text; a field that is not named keeps its default.
    gadget
        Name of the gadget, for messages.
    place
        Where the properties were read, for messages.

    Raises
    ------
    Mri2QmapError
        For an unknown name, a wrong type or a value out of range; it names the gadget, the
        property, the value and what is allowed.
    """
    where = f"{place}: gadget {gadget}" if place else f"gadget {gadget}"
    hints = get_type_hints(settings_class)
    fields = [f.name for f in dataclasses.fields(settings_class) if f.init]  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for name, text in properties.items():
        if name not in fields:
            raise Mri2QmapError(f"{where}: {unknown_name('property', name, fields)}")
        try:
            values[name] = parse_value(text, hints[name])
        except ValueError as error:
            raise Mri2QmapError(
                f'{where}: property {name}="{text}": {describe_type(hints[name])} is expected'
            ) from error
    required = [
        f.name
        for f in dataclasses.fields(settings_class)  # type: ignore[arg-type]
        if f.init
        and f.name not in values
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if required:
        raise Mri2QmapError(
            f"{where}: property {required[0]} is missing: "
            f"{describe_type(hints[required[0]])} is expected"
        )
    try:
        return settings_class(**values)
    except ValueError as error:
        given = ", ".join(f'{name}="{text}"' for name, text in properties.items())
        raise Mri2QmapError(f"{where}: {error} (given: {given or 'nothing'})") from error


def parse_value(text: str, annotation: Any) -> Any:
    """Convert `text` to the type `annotation`; ValueError where it does not fit."""
    text = text.strip()
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        inner = [t for t in get_args(annotation) if t is not type(None)]
        if len(inner) < len(get_args(annotation)) and text.lower() in ("", "none"):
            return None
        for candidate in inner[:-1]:
            try:
                return parse_value(text, candidate)
            except ValueError:
                continue
        return parse_value(text, inner[-1])
    if origin is Literal:
        for choice in get_args(annotation):
            if text == str(choice):
                return choice
        raise ValueError(text)
    if origin is tuple:
        return _parse_tuple(text, get_args(annotation))
    if annotation is bool:
        if text.lower() in _TRUE:
            return True
        if text.lower() in _FALSE:
            return False
        raise ValueError(text)
    if annotation is float:
        number = float(text)
        if not math.isfinite(number):  # no range check catches NaN
            raise ValueError(text)
        return number
    if annotation is int:
        return int(text)
    if annotation is str:
        return text
    if annotation is Path and text:
        return Path(text)
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return annotation(text)
    raise ValueError(text)


def describe_type(annotation: Any) -> str:
    """Return in words what values `annotation` allows."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        words = [describe_type(t) for t in arguments if t is not type(None)]
        return " or ".join([*words, *(["none"] if type(None) in arguments else [])])
    if origin is Literal:
        return _one_of([str(choice) for choice in arguments])
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return f"a list, each {describe_type(arguments[0])}, separated by blanks or commas,"
        return f"{len(arguments)} values, each {describe_type(arguments[0])},"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return _one_of([str(member.value) for member in annotation])
    return {
        bool: "true or false",
        int: "a whole number",
        float: "a finite number",
        str: "text",
        Path: "a file name",
    }.get(annotation, str(annotation))


def settings_as_dict(settings: Any) -> dict[str, Any]:
    """Return the settings as plain JSON values."""
    return {
        field.name: _plain(getattr(settings, field.name)) for field in dataclasses.fields(settings)
    }


def unknown_name(kind: str, name: str, known: list[str]) -> str:
    """Return the complaint about an unknown name, with the closest known one."""
    close = difflib.get_close_matches(name, known, n=1)
    hint = f'; did you mean "{close[0]}"?' if close else ""
    allowed = ", ".join(known) if known else "none"
    return f'{kind} "{name}" is not known{hint} (known: {allowed})'


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no word for it
    return value


def _parse_tuple(text: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    words = text.replace(",", " ").split()
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(parse_value(word, arguments[0]) for word in words)
    if len(words) != len(arguments):
        raise ValueError(text)
    return tuple(parse_value(w, a) for w, a in zip(words, arguments, strict=True))


def _one_of(choices: list[str]) -> str:
    return choices[0] if len(choices) == 1 else f"one of {', '.join(choices)}"
