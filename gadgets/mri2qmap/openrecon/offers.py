"""What an operator may choose, made from the settings of the gadgets, and what a host sends of it.

There is no parameter for the resolution of the maps: it is that of the scan, and no gadget has such
a setting.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine.words import shortened
from mri2qmap.openrecon.label_rules import CONFIG
from mri2qmap.openrecon.parameters import (
    Choice,
    DecimalNumber,
    Line,
    Parameter,
    Switch,
    WholeNumber,
)
from mri2qmap.pipeline.pipeline_file import (
    Pipeline,
    kept_pipeline_path,
    load_gadget,
    pipeline_document,
    read_pipeline,
)
from mri2qmap.pipeline.settings import field_types, property_text, unknown_name

PIPELINES = (
    ("mri2qmap", "MRI2Qmap"),
    ("mrf_pnp", "MRF-PnP"),
    ("lrtv", "LRTV"),
    ("llr", "LLR"),
    ("mrf_admm", "MRF-ADMM"),
    ("svdmrf", "SVDMRF"),
)
"""Pipelines that are offered, and what the operator reads; those for one coil are not."""
PARAMETERS = "parameters"
"""Key of the text of a host."""

_LONGEST = 2**16
"""Length of the longest text that may have parameters [characters]."""
_FOR_HOSTS = {"mrd": "uint16", "mrd_layout": "slices", "nifti": "false"}
"""Settings of `parametric_maps`: a host makes its DICOM from 2D images."""
_NEED_DICOM = ("push", "sheet")
"""Settings with which a site's own file of a pipeline has DICOM written, for its PACS."""
_MAPS = "parametric_maps"


@dataclass(frozen=True)
class Offer:
    """A parameter, and what it sets.

    Attributes
    ----------
    parameter
        As the operator sees it.
    targets
        Gadgets and their settings: the first one that the pipeline has is set.
    as_is
        Value with which the setting of the pipeline stays; None: there is none.
    per_unit
        Value of the setting that 1 stands for.
    """

    parameter: Parameter
    targets: tuple[tuple[str, str], ...] = ()
    as_is: object = None
    per_unit: float | None = None

    def property(self, value: Any) -> str:
        """Return the text of the property that stands for a value of the parameter."""
        return property_text(value if self.per_unit is None else value * self.per_unit)


@dataclass(frozen=True)
class Chosen:
    """What the operator has chosen.

    Attributes
    ----------
    name
        Name of the pipeline.
    pipeline, document
        The pipeline with its settings, and its document.
    values
        Value of each parameter.
    """

    name: str
    pipeline: Pipeline
    document: bytes
    values: Mapping[str, Any]

    @property
    def words(self) -> str:
        """The values in one line, for the log."""
        return ", ".join(f"{name}={property_text(value)}" for name, value in self.values.items())


@functools.cache
def offers() -> tuple[Offer, ...]:
    """Return all that is offered, in the order in which the operator sees it."""
    config = Choice(
        CONFIG,
        "Reconstruction",
        "MRI2Qmap has a denoiser of weighted images as prior. SVDMRF is gridding, without a prior "
        "and iterations. The others are for comparison.",
        PIPELINES,
        PIPELINES[0][0],
    )
    return (
        Offer(config),
        _offer(
            "iterations",
            "Iterations",
            "Iterations of the prior, for all reconstructions but SVDMRF. 0: as usual.",
            [("pnp_admm", "iterations"), ("toeplitz_cg", "prior_iterations")],
            default=0,
            as_is=0,
            maximum=100,
        ),
        _offer(
            "uncertainty",
            "Standard deviations",
            "Send maps of the standard deviations of T1 and T2, too.",
            [("combined_matching", "uncertainty")],
        ),
        _offer(
            "uncertaintyfactor",
            "Factor of the deviations",
            "The standard deviations are multiplied by this factor.",
            [("combined_matching", "uncertainty_factor")],
            minimum=0.1,
            maximum=10.0,
        ),
        _offer(
            "consistency",
            "Consistency with the data",
            "Send a map of how far the data alone are from the maps, in units of the noise. For "
            "MRI2Qmap and MRF-ADMM.",
            [("pnp_admm", "consistency")],
        ),
        _offer(
            "receivefield",
            "Receive field",
            "Proton density without the receive field of the coils, the same and a map of the "
            "field, or with the field.",
            [("combined_matching", "receive_field")],
        ),
        _offer(
            "syntheticimages",
            "Weighted images",
            "Send synthesised T1-, T2- and proton-density-weighted images, too.",
            [(_MAPS, "synthetic_images")],
        ),
        _offer(
            "maskthreshold",
            "Mask threshold",
            "T1 and T2 are 0 where the proton density is below this part of its 99th percentile. "
            "0: nowhere.",
            [(_MAPS, "mask_threshold")],
            maximum=99,
            unit="%",
            per_unit=0.01,
        ),
        _offer(
            "colourtable",
            "Colour table",
            "Colour table of the host for T1, T2 and their standard deviations, for example "
            "MicroDeltaHotMetal.pal. Empty: grey scale.",
            [(_MAPS, "lut")],
            as_is="",
        ),
    )


def offered_parameters() -> tuple[Parameter, ...]:
    """Return the parameters of the label."""
    return tuple(offer.parameter for offer in offers())


def is_offered(pipeline: str) -> bool:
    """Return whether a pipeline is one of those that the operator may choose."""
    return pipeline in dict(PIPELINES)


def has_parameters(text: str) -> bool:
    """Return whether a text is JSON with parameters of a host, be they right or wrong."""
    return PARAMETERS in _members(text)


def sent_parameters(text: str) -> Mapping[str, object]:
    """Return the parameters in a text of a host; empty if it has none.

    Raises
    ------
    Mri2QmapError
        If they are no object, or one of them is given twice.
    """
    found = _members(text).get(PARAMETERS, _Members(()))
    if not isinstance(found, _Members):
        raise Mri2QmapError(
            f'the "{PARAMETERS}" of the host are {shortened(repr(found))}: an object with a value '
            "for each OpenRecon parameter is expected"
        )
    if found.twice is not None:
        raise Mri2QmapError(
            f"OpenRecon parameter {shortened(found.twice)!r} is given twice; give it once"
        )
    return found


def chosen_pipeline(sent: Mapping[str, object], usual: str | None = None) -> Chosen:
    """Return the pipeline that the parameters of a host choose, with its settings.

    Parameters
    ----------
    sent
        Value by parameter; what is missing has the value of the label.
    usual
        Pipeline without the parameter ``config``; None: that of the label.

    Raises
    ------
    Mri2QmapError
        If a parameter is unknown, has a wrong value, or is for other pipelines.
    """
    known = {offer.parameter.id: offer for offer in offers()}
    for name in sent:
        if name not in known:
            raise Mri2QmapError(unknown_name("OpenRecon parameter", name, known))
    initial = {name: offer.parameter.initial for name, offer in known.items()}
    if usual is not None:
        initial[CONFIG] = usual
    values = {
        name: offer.parameter.read(sent[name]) if name in sent else initial[name]
        for name, offer in known.items()
    }
    path = kept_pipeline_path(values[CONFIG])
    settings = {node.name: node.settings for node in read_pipeline(path).nodes}
    overrides: dict[str, dict[str, str]] = {}
    for name, offer in known.items():
        if not offer.targets or values[name] == offer.as_is:
            continue
        target = _target(offer.targets, settings)
        if target is not None:
            gadget, setting = target
            overrides.setdefault(gadget, {})[setting] = offer.property(values[name])
        elif values[name] != offer.parameter.initial:
            raise Mri2QmapError(
                f"OpenRecon parameter {name} is {shortened(property_text(values[name]))}, but "
                f"{path.stem} has nothing that it changes: "
                f"{property_text(offer.parameter.initial)} is expected, or another {CONFIG}"
            )
    maps = overrides.setdefault(_MAPS, {})
    maps |= _FOR_HOSTS
    if not any(getattr(settings.get(_MAPS), name, False) for name in _NEED_DICOM):
        maps["dicom"] = "none"
    return Chosen(
        path.stem, read_pipeline(path, overrides), pipeline_document(path, overrides), values
    )


class _Members(dict[str, object]):
    """An object of JSON, and the first name that is there twice."""

    def __init__(self, pairs: Iterable[tuple[str, object]]) -> None:
        super().__init__()
        self.twice: str | None = None
        for name, value in pairs:
            if name in self and self.twice is None:
                self.twice = name
            self[name] = value


def _members(text: str) -> dict[str, object]:
    """Return the members of the JSON object that a text is; empty if it is none."""
    try:
        content = json.loads(text, object_pairs_hook=_Members) if len(text) <= _LONGEST else None
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, _Members) else {}


def _target(
    targets: Iterable[tuple[str, str]], settings: Mapping[str, Any]
) -> tuple[str, str] | None:
    """Return the first of some settings that a pipeline has and heeds."""
    for gadget, setting in targets:
        if gadget not in settings:
            continue
        prior = getattr(settings[gadget], "prior", None)
        if setting == "prior_iterations" and prior in ("none", "artefact_removal"):
            continue  # without iterations of a prior
        return gadget, setting
    return None


def _offer(
    identifier: str,
    label: str,
    information: str,
    targets: Iterable[tuple[str, str]],
    *,
    default: Any = None,
    as_is: object = None,
    minimum: Any = 0,
    maximum: Any = None,
    unit: str = "",
    per_unit: float | None = None,
) -> Offer:
    """Return an offer of the kind, and with the default, that a setting has.

    Parameters
    ----------
    identifier, label, information
        See `Parameter`.
    targets, as_is, per_unit
        See `Offer`. The first setting gives kind and default.
    default
        Another default.
    minimum, maximum, unit
        Range and unit of a number.
    """
    gadget, setting = next(iter(targets))
    settings_class = load_gadget(gadget)[1]
    kind = field_types(settings_class)[setting]
    usual: Any = {f.name: f.default for f in dataclasses.fields(settings_class)}[setting]
    shown = (identifier, label, information)
    parameter: Parameter
    if default is None:
        default = usual if per_unit is None else round(usual / per_unit)
    if kind is bool:
        parameter = Switch(*shown, default)
    elif kind is str:
        parameter = Line(*shown, default)
    elif kind is int or per_unit is not None:
        parameter = WholeNumber(*shown, minimum, maximum, default, unit)
    elif kind is float:
        parameter = DecimalNumber(*shown, minimum, maximum, default, unit)
    else:
        values = tuple((value, value.capitalize()) for value in get_args(kind))
        parameter = Choice(*shown, values, default)
    return Offer(parameter, tuple(targets), as_is, per_unit)
