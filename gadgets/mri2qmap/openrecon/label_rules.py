"""The rules of an OpenRecon label, version 1.1.0, in our own words.

They are those of the public schema, and what the public build of OpenRecon packages
(``neurodesk/openrecon``) checks besides: values of a choice differ, a default is one of them, and
there is one choice ``config``, which we expect to be the first parameter. Beyond both, a range
contains its default.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine.words import shortened

MOST_PARAMETERS = 14
LONGEST_UNIT = 3
STEP = 0.1
"""Step of numbers of the kind "double"."""
CONFIG = "config"
"""Identifier of the parameter that names the reconstruction."""

_IDENTIFIER = re.compile(r"[A-Za-z0-9]+")
_PART = r"(?:0|[1-9]\d*|\d*[A-Za-z-][0-9A-Za-z-]*)"
_VERSION = re.compile(
    r"(?:0|[1-9]\d*)(?:\.(?:0|[1-9]\d*)){2}"
    rf"(?:-{_PART}(?:\.{_PART})*)?(?:\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?",
    re.ASCII,
)
_LARGEST_INT = 2**31

Check: TypeAlias = Callable[[Any], str | None]
"""Returns what is expected instead of a value; None if it is right."""


def refuse_broken_label(document: object, place: str) -> None:
    """Refuse a label that breaks a rule.

    Parameters
    ----------
    document
        The label as JSON values.
    place
        Where it is, for the message.

    Raises
    ------
    Mri2QmapError
        Naming all that is wrong, each with its path and what is expected.
    """
    found = label_problems(document)
    if found:
        raise Mri2QmapError(f"{place} breaks the OpenRecon schema; correct it: {'; '.join(found)}")


def decoded_label(encoded: str, place: str) -> Any:
    """Return the JSON values of the label of an image.

    Raises
    ------
    Mri2QmapError
        If it is not JSON in base64.
    """
    try:
        return json.loads(base64.b64decode(encoded, validate=True))
    except (binascii.Error, ValueError, RecursionError) as error:
        raise Mri2QmapError(f"{place}: JSON in base64 is expected ({error})") from error


def label_problems(document: object) -> list[str]:
    """Return all that is wrong with a label, each with its path and what is expected."""
    sections = {"general": _object, "reconstruction": _object, "parameters": _list}
    problems = _keys(document, "label", sections)
    if not isinstance(document, Mapping):
        return problems
    if isinstance(general := document.get("general"), Mapping):
        problems += _keys(general, "general", _GENERAL, {"license_string": _text})
        regulatory = general.get("regulatory_information")
        problems += _keys(regulatory, "general.regulatory_information", _REGULATORY)
    if isinstance(reconstruction := document.get("reconstruction"), Mapping):
        problems += _reconstruction_problems(reconstruction)
    if isinstance(parameters := document.get("parameters"), list):
        problems += _parameters_problems(parameters)
    return problems


def _reconstruction_problems(values: Mapping[str, Any]) -> list[str]:
    place = "reconstruction"
    problems = _keys(values, place, _NEEDED, _OPTIONAL)
    if "channel_compression" in values:
        problems += _keys(
            values["channel_compression"], f"{place}.channel_compression", {}, _COMPRESSION
        )
    gpus = values.get("min_count_required_gpus", 0)
    if values.get("can_use_gpu") is False and isinstance(gpus, int) and gpus > 0:
        problems.append(f"{place}: {gpus} GPUs are required, so can_use_gpu must be true")
    return problems


def _parameters_problems(parameters: list[Any]) -> list[str]:
    problems = []
    if len(parameters) > MOST_PARAMETERS:
        problems.append(
            f"parameters: there are {len(parameters)}, at most {MOST_PARAMETERS} are expected"
        )
    for number, parameter in enumerate(parameters):
        problems += _parameter_problems(parameter, f"parameters[{number}]")
    named = [p.get("id") if isinstance(p, Mapping) else None for p in parameters]
    for twice in sorted({str(name) for name in named if name and named.count(name) > 1}):
        problems.append(f"parameters: {twice} is there twice, once is expected")
    if named[:1] != [CONFIG] or parameters[0].get("type") != "choice":
        problems.append(f"parameters: the first one must be the choice {CONFIG}")
    return problems


def _parameter_problems(parameter: object, place: str) -> list[str]:
    kind = parameter.get("type") if isinstance(parameter, Mapping) else None
    if not isinstance(kind, str) or kind not in _KINDS:
        return [f"{place}: an object with a type of {', '.join(_KINDS)} is expected"]
    assert isinstance(parameter, Mapping)
    place = f"{place} ({shortened(str(parameter.get('id', 'without id')), 30)})"
    needed, optional = _KINDS[kind]
    problems = _keys(parameter, place, {**_COMMON, **needed}, {**_INFORMED, **optional})
    if problems:
        return problems
    if kind == "choice":
        return _choice_problems(parameter, place)
    if kind in ("int", "double"):
        low, high, default = (parameter[key] for key in ("minimum", "maximum", "default"))
        if not low <= default <= high:
            return [f"{place}: the default {default} must be in the range {low} to {high}"]
    return []


def _choice_problems(parameter: Mapping[str, Any], place: str) -> list[str]:
    problems = []
    for number, value in enumerate(parameter["values"]):
        problems += _keys(value, f"{place}.values[{number}]", {"id": _some_text, "name": _words})
    if problems:
        return problems
    known = [value["id"] for value in parameter["values"]]
    for twice in sorted({name for name in known if known.count(name) > 1}):
        problems.append(f"{place}.values: {twice} is there twice, once is expected")
    if parameter["default"] not in known:
        found = shortened(repr(parameter["default"]))
        problems.append(f"{place}.default is {found}, one of {', '.join(known)} is expected")
    return problems


def _keys(
    values: object,
    place: str,
    needed: Mapping[str, Check],
    optional: Mapping[str, Check] | None = None,
) -> list[str]:
    """Return what is wrong with the keys of an object, and with their values."""
    if not isinstance(values, Mapping):
        return [f"{place}: an object is expected"]
    checks = {**needed, **(optional or {})}
    problems = [f"{place}.{key} is missing, it is expected" for key in needed if key not in values]
    for key, value in values.items():
        if key not in checks:
            known = ", ".join(checks)
            problems.append(f"{place}: the key {shortened(str(key))!r} is not one of {known}")
        elif (expected := checks[key](value)) is not None:
            found = shortened(json.dumps(value, default=str))
            problems.append(f"{place}.{key} is {found}, {expected} is expected")
    return problems


def _object(value: object) -> str | None:
    return None if isinstance(value, Mapping) else "an object"


def _list(value: object) -> str | None:
    return None if isinstance(value, list) else "a list"


def _text(value: object) -> str | None:
    return None if isinstance(value, str) else "text"


def _some_text(value: object) -> str | None:
    return None if isinstance(value, str) and value else "text"


def _switch(value: object) -> str | None:
    return None if isinstance(value, bool) else "true or false"


def _words(value: object) -> str | None:
    right = isinstance(value, Mapping) and isinstance(value.get("en"), str)
    return None if right else 'a text by language, {"en": ...},'


def _unit(value: object) -> str | None:
    if _words(value) is None and 1 <= len(value["en"]) <= LONGEST_UNIT:  # type: ignore[index]
        return None
    return f'{{"en": ...}} with one to {LONGEST_UNIT} characters'


def _identifier(value: object) -> str | None:
    right = isinstance(value, str) and _IDENTIFIER.fullmatch(value)
    return None if right else "a name of letters and digits, without an underscore,"


def _version(value: object) -> str | None:
    right = isinstance(value, str) and _VERSION.fullmatch(value)
    return None if right else "a semantic version such as 1.0.2 or 1.0.2-rc.1"


def _filled(value: object) -> str | None:
    return None if isinstance(value, list) and value else "a list of one or more values"


def _one_of(*known: str) -> Check:
    return lambda value: None if value in known else f"one of {', '.join(known)}"


def _whole(least: int, most: int = _LARGEST_INT - 1) -> Check:
    def check(value: object) -> str | None:
        right = type(value) is int and least <= value <= most
        return None if right else f"a whole number from {least} to {most}"

    return check


def _tenths(value: object) -> str | None:
    """Check that a number is a multiple of `STEP`, in floating point as validators find it."""
    with contextlib.suppress(OverflowError):
        if type(value) in (int, float) and (value / STEP).is_integer():  # type: ignore[operator]
            return None
    return f"a multiple of {STEP} that a division by {STEP} in double precision tells"


def _protocol(value: object) -> str | None:
    right = (
        isinstance(value, Mapping)
        and value.get("protocol") == "ISMRMRD"
        and value.get("version") == "1.4.1"
    )
    return None if right else "protocol ISMRMRD, version 1.4.1,"


_REGULATORY = dict.fromkeys(
    (
        "device_trade_name",
        "production_identifier",
        "manufacturer_address",
        "made_in",
        "manufacture_date",
        "material_number",
        "gtin",
        "udi",
        "safety_advices",
        "special_operating_instructions",
        "additional_relevant_information",
    ),
    _text,
)
_GENERAL: dict[str, Check] = {
    "name": _words,
    "version": _version,
    "vendor": _text,
    "information": _words,
    "id": _text,
    "regulatory_information": _object,
}
_NEEDED: dict[str, Check] = {
    "transfer_protocol": _protocol,
    "port": _whole(1, 2**16 - 1),
    "emitter": _one_of("raw", "image"),
    "injector": _one_of("compleximage", "image"),
    "can_use_gpu": _switch,
    "min_required_memory": _whole(0),
    "min_count_required_cpu_cores": _whole(1),
}
_OPTIONAL: dict[str, Check] = {
    "can_process_adjustment_data": _switch,
    "min_count_required_gpus": _whole(0),
    "min_required_gpu_memory": _whole(0),
    "content_qualification_type": _one_of("PRODUCT", "SERVICE", "RESEARCH"),
    "require_readout_filter_off": _switch,
    "channel_compression": _object,
}
_COMPRESSION: dict[str, Check] = {
    "require_state": _one_of("on", "off"),
    "require_number_target_channels": _whole(1),
}
_COMMON: dict[str, Check] = {"type": _text, "id": _identifier, "label": _words}
_INFORMED: dict[str, Check] = {"information": _words}
_INT, _DOUBLE = (
    dict.fromkeys(("minimum", "maximum", "default"), check)
    for check in (_whole(-_LARGEST_INT), _tenths)
)
_KINDS: dict[str, tuple[dict[str, Check], dict[str, Check]]] = {
    "boolean": ({"default": _switch}, {}),
    "string": ({}, {"default": _text, "isLargeText": _switch}),
    "choice": ({"default": _text, "values": _filled}, {}),
    "int": (_INT, {"unit": _unit}),
    "double": (_DOUBLE, {"unit": _unit}),
}
