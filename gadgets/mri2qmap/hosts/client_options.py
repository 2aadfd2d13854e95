"""Options that a client sends as a text after the header."""

from __future__ import annotations

import json
from dataclasses import dataclass

from mri2qmap.pipeline.settings import parse_settings

_LONGEST = 2**12
"""Length of the longest text that may be options [characters]."""


@dataclass(frozen=True)
class ClientOptions:
    """Options of a client, ``{"mri2qmap": {...}}``.

    Attributes
    ----------
    dicom
        Whether the client receives DICOM files. Gadgetron clients support them. Clients such as
        that of python-ismrmrd-server fail on them; they terminate the header with a NUL or send a
        text in another format.
    record
        Whether the client receives the record of the run.
    placeholders
        Whether the client of a queue receives images that say where its scan stands, if there are
        no maps yet. Without them, this is an error, which programs understand.
    identifier
        Identifier (`queue_identifier`) of the scan in a queue that is asked for; empty: the scan
        whose data, or else header, are sent.
    """

    dicom: bool = True
    record: bool = False
    placeholders: bool = True
    identifier: str = ""


def parse_client_options(text: str) -> ClientOptions:
    """Parse the options text of a client; any other text disables DICOM.

    Raises
    ------
    Mri2QmapError
        If an option is unknown, or has a wrong value.
    """
    own = _options_in(text)
    if own is None:
        return ClientOptions(dicom=False)
    values = {str(name): str(value) for name, value in own.items()}
    return parse_settings(ClientOptions, values, "client options", "the client's text")


def has_client_options(text: str) -> bool:
    """Return whether a text has options, be they right or wrong."""
    return _options_in(text) is not None


def _options_in(text: str) -> dict[object, object] | None:
    try:
        content = json.loads(text) if len(text) <= _LONGEST else None
    except (ValueError, RecursionError):
        content = None
    own = content.get("mri2qmap") if isinstance(content, dict) else None
    return own if isinstance(own, dict) else None
