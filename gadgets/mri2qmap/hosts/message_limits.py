"""How long the messages of a peer may be."""

from __future__ import annotations

from dataclasses import dataclass

from mri2qmap.pipeline import xml_limits


@dataclass(frozen=True)
class Limits:
    """Maximum sizes of texts, of XML documents, and of all other messages [bytes]."""

    text: int = 2**24
    header: int = xml_limits.HEADER.size
    configuration: int = xml_limits.PIPELINE.size
    meta: int = xml_limits.META.size
    message: int = 2**34


DEFAULT_LIMITS = Limits()

TEXT_OF_A_CLIENT = 2**16
"""Maximum size of a text from a client or a Gadgetron server [bytes]; options are much shorter."""
