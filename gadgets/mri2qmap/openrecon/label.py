"""The label of an OpenRecon image: what it is, what it needs, and what the operator may choose.

The rules of the label are those of the public schema, version 1.1.0 (``neurodesk/openrecon``); see
`mri2qmap.openrecon.label_rules`.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import mri2qmap
from mri2qmap.errors import Mri2QmapError
from mri2qmap.openrecon.label_rules import refuse_broken_label
from mri2qmap.openrecon.parameters import Parameter, english
from mri2qmap.pipeline.settings import settings_as_dict

SCHEMA_VERSION = "1.1.0"
LABEL_NAME = f"com.siemens-healthineers.magneticresonance.openrecon.metadata:{SCHEMA_VERSION}"
"""Name of the label of the image; its value is the JSON document in base64."""
PROTOCOL = {"protocol": "ISMRMRD", "version": "1.4.1"}
NOT_FOR_DIAGNOSIS = "Research software. The maps are not for diagnostic use."

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")
_LOCAL = re.compile(r"[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*")
_PYTHON_VERSION = re.compile(
    r"(?:\d+!)?(?P<release>\d+(?:\.\d+)*)(?P<rest>[^+]*)(?:\+(?P<local>.+))?"
)


def semantic_version(version: str = mri2qmap.__version__) -> str:
    """Return a version of Python's form as a semantic version, which the label needs.

    ``0.1.0.dev7+gabc`` becomes ``0.1.0-dev7+gabc``.
    """
    found = _PYTHON_VERSION.fullmatch(version)
    if found is None:
        raise Mri2QmapError(
            f"the version {version!r} of this package has no numbers: install it from a checkout "
            "with its tags, or set SETUPTOOLS_SCM_PRETEND_VERSION_FOR_MRI2QMAP"
        )
    numbers = [str(int(number)) for number in found["release"].split(".")]
    result = ".".join([*numbers, "0", "0"][:3])
    before = re.sub(r"[^0-9A-Za-z-]", "", found["rest"])
    if before:
        result += f"-{before}"
    local = (found["local"] or "").replace("_", "-")
    return f"{result}+{local}" if _LOCAL.fullmatch(local) else result


@dataclass(frozen=True)
class Regulatory:
    """The strings that a host shows as those of a device; empty where there is none.

    The names are those of the label.
    """

    device_trade_name: str = "MRI2Qmap"
    production_identifier: str = ""
    manufacturer_address: str = ""
    made_in: str = ""
    manufacture_date: str = ""
    material_number: str = ""
    gtin: str = ""
    udi: str = ""
    safety_advices: str = NOT_FOR_DIAGNOSIS
    special_operating_instructions: str = "3D MR fingerprinting scans only"
    additional_relevant_information: str = ""


@dataclass(frozen=True)
class General:
    """What the image is.

    Attributes
    ----------
    name, vendor
        What the operator reads; they are in the names of the files.
    version
        Semantic version.
    information
        A sentence for the operator.
    id
        Identifier of the reconstruction.
    license_string
        Identifier of a licence that the host checks; none: it checks none.
    regulatory_information
        See `Regulatory`.
    """

    name: str = "MRI2Qmap"
    vendor: str = "mri2qmap"
    version: str = field(default_factory=semantic_version)
    information: str = (
        f"T1, T2 and proton density from a 3D MR fingerprinting scan. {NOT_FOR_DIAGNOSIS}"
    )
    id: str = "mri2qmap"
    license_string: str | None = None
    regulatory_information: Regulatory = field(default_factory=Regulatory)


@dataclass(frozen=True)
class ChannelCompression:
    """What the image demands of the coil compression of the host; none: nothing.

    Attributes
    ----------
    require_state
        Whether it must be on or off.
    require_number_target_channels
        Number of channels, if it is on.
    """

    require_state: Literal["on", "off"] | None = None
    require_number_target_channels: int | None = None


@dataclass(frozen=True)
class Reconstruction:
    """What the image needs.

    Attributes
    ----------
    port
        Port on which it listens.
    emitter, injector
        What it receives, and what it sends.
    can_process_adjustment_data
        Whether it has use for adjustment data.
    can_use_gpu, min_count_required_gpus
        Whether it can use a GPU, and how many it needs; 0: it can do without.
    min_required_gpu_memory, min_required_memory
        Memory of a GPU and of the machine [MB].
    min_count_required_cpu_cores
        Number of cores.
    content_qualification_type
        "RESEARCH": the maps are not for diagnostic use.
    require_readout_filter_off
        Whether the host must not filter readouts.
    channel_compression
        See `ChannelCompression`.
    """

    port: int = 9002
    emitter: Literal["raw", "image"] = "raw"
    injector: Literal["compleximage", "image"] = "image"
    can_process_adjustment_data: bool = False
    can_use_gpu: bool = False
    min_count_required_gpus: int = 0
    min_required_gpu_memory: int = 0
    min_required_memory: int = 12_000
    min_count_required_cpu_cores: int = 4
    content_qualification_type: Literal["PRODUCT", "SERVICE", "RESEARCH"] = "RESEARCH"
    require_readout_filter_off: bool = True
    channel_compression: ChannelCompression | None = None


@dataclass(frozen=True)
class Label:
    """The whole label.

    Attributes
    ----------
    general, reconstruction
        See there.
    parameters
        What the operator may choose.

    Raises
    ------
    Mri2QmapError
        If it breaks a rule of the schema, or name and vendor cannot be in a file name.
    """

    general: General
    reconstruction: Reconstruction
    parameters: Sequence[Parameter]

    def __post_init__(self) -> None:
        refuse_broken_label(self.document(), "the OpenRecon label")
        for name in ("vendor", "name"):
            text = getattr(self.general, name)
            if not _FILE_NAME.fullmatch(text):
                raise Mri2QmapError(
                    f"the OpenRecon label: general.{name} is {text!r}, but it is a part of the "
                    "name of the package: letters, digits and hyphens are expected"
                )

    def document(self) -> dict[str, Any]:
        """Return the label as JSON values."""
        general = _without_none(settings_as_dict(self.general))
        general["name"] = english(self.general.name)
        general["information"] = english(self.general.information)
        general["regulatory_information"] = settings_as_dict(self.general.regulatory_information)
        reconstruction = _without_none(settings_as_dict(self.reconstruction))
        if self.reconstruction.channel_compression is not None:
            demanded = settings_as_dict(self.reconstruction.channel_compression)
            reconstruction["channel_compression"] = _without_none(demanded)
        return {
            "general": general,
            "reconstruction": {"transfer_protocol": PROTOCOL, **reconstruction},
            "parameters": [parameter.document() for parameter in self.parameters],
        }

    def text(self) -> str:
        """Return the label as JSON text."""
        return json.dumps(self.document(), indent=2)

    def encoded(self) -> str:
        """Return the value of the label of the image."""
        return base64.b64encode(self.text().encode()).decode()

    @property
    def base_name(self) -> str:
        """Name of the package, and of the files in it, without suffix."""
        general = self.general
        return f"OpenRecon_{general.vendor}_{general.name}_V{general.version}"

    @property
    def image_name(self) -> str:
        """Name of the image: lower case, and without the ``+`` of a version, which tags exclude."""
        general = self.general
        name = f"OpenRecon_{general.vendor}_{general.name}:V{general.version}"
        return name.lower().replace("+", "-")

    def host_parameters(self) -> dict[str, Any]:
        """Return what a host sends if the operator changes nothing."""
        return {
            "version": SCHEMA_VERSION,
            "parameters": {parameter.id: parameter.initial for parameter in self.parameters},
        }


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
