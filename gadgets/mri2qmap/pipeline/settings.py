"""Frozen settings dataclasses made from the text of properties, or from YAML and JSON values.

One converter serves both: `parse_settings` for ``<property name= value=>`` pairs, where every value
is text, and `from_values` for nested mappings of typed values.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import logging
import math
import types
from collections.abc import Iterable, Mapping
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine.file_access import ANY_FILE, FileAccess
from mri2qmap.machine.giving_way import give_way
from mri2qmap.machine.type_hints import type_hints
from mri2qmap.machine.words import shortened

Settings = TypeVar("Settings")

logger = logging.getLogger(__name__)

_DIGITS = frozenset("0123456789+-.eE")
"""Characters of a number; Python also takes other scripts, and underscores."""
_WORDS = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}


def parse_settings(
    settings_class: type[Settings],
    properties: Mapping[str, str],
    gadget: str,
    place: str = "",
    files: FileAccess = ANY_FILE,
    kind: str = "gadget",
) -> Settings:
    """Build the settings of one gadget.

    Parameters
    ----------
    settings_class
        A frozen dataclass whose fields are bool, int, float, str, Path, an Enum, a Literal,
        tuples of these (values separated by blanks or commas) or Optional of these ("none").
        Its ``__post_init__`` raises ValueError for values out of range. Its attribute
        ``FORMER_NAMES``, if it has one, maps former names of fields to the present ones.
    properties
        Value of each property as text; a field that is not named keeps its default.
    gadget
        Name of the gadget, for messages.
    place
        Where the properties were read, for messages.
    files
        Files that the properties may name.
    kind
        What has the properties if it is no gadget, for messages.

    Raises
    ------
    Mri2QmapError
        For an unknown name, a wrong type or a value out of range; it names the gadget, the
        property, the value and what is allowed. For a file that may not be named.
    """
    where = f"{place}: {kind} {gadget}" if place else f"{kind} {gadget}"
    properties = with_present_names(properties, [settings_class], where)
    kinds = field_types(settings_class)
    values: dict[str, Any] = {}
    for name, text in properties.items():
        give_way()
        if name not in kinds:
            raise Mri2QmapError(f"{where}: {unknown_name('property', name, kinds)}")
        try:
            values[name] = _converted(text, kinds[name], name, text=True)
        except _UnfitError as error:
            expected = describe_type(kinds[name])
            raise Mri2QmapError(
                f'{where}: property {name}="{shortened(text)}": {expected} is expected'
            ) from error
    try:
        settings = settings_class(**_complete(values, settings_class, f"{where}: property "))
    except ValueError as error:
        given = ", ".join(f'{name}="{shortened(text)}"' for name, text in properties.items())
        raise Mri2QmapError(f"{where}: {error} (given: {given or 'nothing'})") from error
    files.check(settings, where)
    return settings


def from_values(content: object, settings_class: type[Settings]) -> Settings:
    """Build settings from what YAML or JSON contained.

    Parameters
    ----------
    content
        Mappings for dataclasses, lists for tuples, and scalars of the right type: text is no
        number, but a whole number may stand for a float.
    settings_class
        As in `parse_settings`; fields may be such dataclasses themselves.

    Raises
    ------
    Mri2QmapError
        For an unknown key, a missing one, or a value of the wrong type; it names the path of the
        key, the value and what is allowed.
    ValueError
        Raised by ``__post_init__`` for values out of range.
    """
    try:
        settings: Settings = _converted(content, settings_class, "", text=False)
    except _UnfitError as error:
        raise Mri2QmapError(str(error)) from error
    return settings


def field_types(settings_class: type[Any]) -> dict[str, Any]:
    """Return the type of each field that can be set, by name."""
    hints = type_hints(settings_class)
    return {f.name: hints[f.name] for f in dataclasses.fields(settings_class) if f.init}


def with_present_names(
    properties: Mapping[str, str], classes: Iterable[type[Any]], where: str
) -> dict[str, str]:
    """Replace former names of properties by the present ones, with a warning in the log.

    Parameters
    ----------
    properties
        Value by name.
    classes
        Settings classes that the properties are for, see `parse_settings`.
    where
        Place and gadget, for messages.

    Raises
    ------
    Mri2QmapError
        When a property is given under both names.
    """
    present: dict[str, str] = {}
    table = former_names(classes)
    for name, value in properties.items():
        new = table.get(name, name)
        if new != name:
            if new in properties or new in present:
                raise Mri2QmapError(
                    f'{where}: property "{name}" is the former name of "{new}", which is given '
                    "too: remove one of them"
                )
            warn_of_former_name(where, "property", name, new)
        present[new] = value
    return present


def former_names(classes: Iterable[type[Any]]) -> dict[str, str]:
    """Return the present name by each former name of the fields of some settings classes."""
    bases = [base for kind in classes for base in reversed(kind.__mro__)]
    return {old: new for base in bases for old, new in vars(base).get("FORMER_NAMES", {}).items()}


@functools.lru_cache(maxsize=1024)  # a file is read several times for one scan
def warn_of_former_name(where: str, what: str, former: str, present: str) -> None:
    """Write to the log that something has a new name; once per process for each place."""
    logger.warning(
        '%s: %s "%s" is now called "%s"; the former name is still accepted, please change it',
        where,
        what,
        former,
        present,
    )


def describe_type(annotation: Any, separator: str = ", separated by blanks or commas,") -> str:
    """Return in words which values `annotation` allows."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        words = [describe_type(t) for t in arguments if t is not type(None)]
        return " or ".join([*words, *(["none"] if type(None) in arguments else [])])
    if origin is tuple:
        count = "a list" if Ellipsis in arguments else f"{len(arguments)} values"
        return f"{count}, each {describe_type(arguments[0])}{separator}"
    if dataclasses.is_dataclass(annotation):
        return "a mapping"
    if choices := _choices(annotation):
        return f"one of {', '.join(choices)}" if len(choices) > 1 else next(iter(choices))
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


def property_text(value: Any) -> str:
    """Return the text of a property that `parse_settings` reads as `value`."""
    if isinstance(value, tuple):
        return " ".join(property_text(v) for v in value)
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return f"{value:.12g}" if isinstance(value, float) else str(_plain(value))


def set_also(*settings: str) -> str:
    """Return the advice to change settings, for callers of the command line and of Python."""
    return f"set {' and '.join(settings)} (--set, or settings=)"


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Return the message on an unknown name, with the closest known one."""
    known, name = list(known), shortened(name)
    close = difflib.get_close_matches(name, known, n=1)
    hint = f'; did you mean "{close[0]}"?' if close else ""
    return f'{kind} "{name}" is not known{hint} (known: {", ".join(known) or "none"})'


class _UnfitError(Exception):
    """A value is not of the type of its field."""

    def __init__(self, path: str, value: object, kind: Any) -> None:
        found = "empty" if not path and value is None else repr(value)
        super().__init__(f"{path or 'the file'} is {found}, expected {describe_type(kind, '')}")


def _converted(value: object, kind: Any, path: str, *, text: bool) -> Any:
    """Convert a value to the type `kind`; `text` says whether values are words of a property."""
    origin, arguments = get_origin(kind), get_args(kind)
    word = value.strip() if text and isinstance(value, str) else value
    if origin in (Union, types.UnionType):
        if type(None) in arguments and (
            word is None or (text and str(word).lower() in ("", "none"))
        ):
            return None
        for candidate in arguments:
            with suppress(_UnfitError):
                return _converted(value, candidate, path, text=text)
    elif origin is tuple:
        entries = str(value).replace(",", " ").split() if text else value
        many = Ellipsis in arguments
        if isinstance(entries, list) and (many or len(entries) == len(arguments)):
            return tuple(
                _converted(entry, arguments[0 if many else i], f"{path}[{i}]", text=text)
                for i, entry in enumerate(entries)
            )
    elif dataclasses.is_dataclass(kind) and isinstance(kind, type):
        if isinstance(value, Mapping):
            return _built(value, kind, path)
    elif choices := _choices(kind):
        for name, choice in choices.items():
            if word == (name if text else getattr(choice, "value", choice)):
                return choice
    elif kind is bool and (isinstance(word, bool) or (text and str(word).lower() in _WORDS)):
        return _WORDS[str(word).lower()]
    elif kind in (int, float) and (
        _DIGITS.issuperset(str(word)) if text else type(word) in (int, kind)
    ):
        with suppress(ValueError, OverflowError):
            number = kind(word)
            if math.isfinite(number):  # no range check catches NaN
                return number
    elif kind is str and isinstance(word, str):
        return word
    elif kind is Path and isinstance(word, str) and word:
        return Path(word)
    raise _UnfitError(path, value, kind)


def _built(content: Mapping[Any, Any], kind: type[Any], path: str) -> Any:
    """Make a dataclass of a mapping of typed values."""
    place = f"{path}: " if path else "the file: "
    kinds = field_types(kind)
    values = {}
    for key, value in content.items():
        if key not in kinds:
            raise Mri2QmapError(place + unknown_name("key", str(key), kinds))
        values[key] = _converted(
            value, kinds[key], f"{path}.{key}" if path else str(key), text=False
        )
    return kind(**_complete(values, kind, f"{place}key "))


def _complete(values: dict[str, Any], kind: type[Any], place: str) -> dict[str, Any]:
    """Return the values, or refuse them where one without a default is missing."""
    for field in dataclasses.fields(kind):
        has_default = (field.default, field.default_factory) != (dataclasses.MISSING,) * 2
        if field.init and field.name not in values and not has_default:
            expected = describe_type(field_types(kind)[field.name])
            raise Mri2QmapError(f"{place}{field.name} is missing: {expected} is expected")
    return values


def _choices(kind: Any) -> dict[str, Any]:
    """Return the values of a Literal or an Enum by their text; empty for any other type."""
    if get_origin(kind) is Literal:
        return {str(choice): choice for choice in get_args(kind)}
    if isinstance(kind, type) and issubclass(kind, Enum):
        return {str(member.value): member for member in kind}
    return {}


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
