"""Sessions of OpenRecon and FIRE hosts: their parameters, and how they want texts.

Such a host sends the name of a configuration, the header and, directly after it, a text with
``{"version": "1.1.0", "parameters": {...}}``, as the client of python-ismrmrd-server does. It gets
images and texts only.
"""

from __future__ import annotations

from dataclasses import replace

from mri2qmap.errors import Mri2QmapError
from mri2qmap.hosts.client_options import has_client_options
from mri2qmap.hosts.protocol import Text
from mri2qmap.hosts.session_opening import OPENRECON, Opening, Order
from mri2qmap.machine.words import shortened
from mri2qmap.openrecon.offers import (
    PARAMETERS,
    chosen_pipeline,
    has_parameters,
    is_offered,
    sent_parameters,
)


def may_send_parameters(opening: Opening, terminated: bool) -> bool:
    """Return whether a text with parameters may follow the header.

    Parameters
    ----------
    opening
        What the client wants.
    terminated
        Whether a NUL follows the header, as such hosts send it.
    """
    if opening.order is Order.RETRIEVAL:
        return False
    return opening.name == OPENRECON or (terminated and is_offered(opening.name))


def is_host(opening: Opening, text: str | None) -> bool:
    """Return whether a client is such a host.

    Parameters
    ----------
    opening
        What the client wants.
    text
        The text directly after the header; None: there is none.
    """
    return opening.name == OPENRECON or (text is not None and has_parameters(text))


def with_parameters(opening: Opening, text: str | None) -> tuple[Opening, str]:
    """Return what a host wants, with the pipeline that its parameters choose.

    Parameters
    ----------
    opening, text
        See `is_host`. A pipeline that is named in `opening` is chosen unless the parameters name
        one. What is missing has the values of the label.

    Returns
    -------
    tuple
        The opening, and the parameters in one line, for the log.

    Raises
    ------
    Mri2QmapError
        If the text has no parameters, or wrong ones.
    """
    if text is not None and not has_parameters(text) and not has_client_options(text):
        raise Mri2QmapError(
            f"the text after the header is {shortened(repr(text))}: JSON with an object "
            f'"{PARAMETERS}" is expected with the configuration {OPENRECON}'
        )
    sent = {} if text is None else sent_parameters(text)
    chosen = chosen_pipeline(sent, None if opening.name == OPENRECON else opening.name)
    opening = replace(opening, name=chosen.name, pipeline=chosen.pipeline, document=chosen.document)
    return opening, f"OpenRecon parameters: {chosen.words}"


def refuse_late_parameters(text: str) -> None:
    """Refuse a text with parameters that does not follow the header directly.

    Raises
    ------
    Mri2QmapError
        If it has parameters.
    """
    if has_parameters(text):
        raise Mri2QmapError(
            f'"{PARAMETERS}" of an OpenRecon host arrived within the scan; they are expected '
            "directly after the header"
        )


def debug_text(text: str) -> Text:
    """Return a text that the log viewer of a host shows as progress."""
    return Text(f"DBG {text}")


def error_text(text: str) -> Text:
    """Return a text that the log viewer of a host shows as an error."""
    return Text(f"ERR {text}")
