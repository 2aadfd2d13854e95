"""The first messages of a client: what it wants, and the pipeline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from mri2qmap.errors import Mri2QmapError
from mri2qmap.hosts.protocol import Close, ConfigDocument, ConfigFile, Message
from mri2qmap.machine.file_access import FileAccess
from mri2qmap.pipeline.pipeline_file import (
    Pipeline,
    kept_pipeline_path,
    parse_pipeline,
    pipeline_bytes,
    pipeline_document,
    read_pipeline,
)
from mri2qmap.pipeline.reading_turns import reading_turn

QUEUE = "queue"
"""Name of a configuration: the scan is received now and reconstructed later. The name of a pipeline
follows, as in ``queue_lrtv``, or a second message with a document."""
RETRIEVE = "retrieve"
"""Name of a configuration: what became of a scan in the queue. The name of its pipeline may follow,
as in ``retrieve_lrtv``."""
OPENRECON = "openrecon"
"""Name of a configuration: the pipeline is in the parameters that follow the header, see
`mri2qmap.hosts.openrecon_session`."""


class Order(Enum):
    """What a client wants."""

    NOW = auto()
    """The maps of the scan that it sends."""
    LATER = auto()
    """A receipt for the scan that it sends."""
    RETRIEVAL = auto()
    """The maps of a scan that it sent before."""


@dataclass(frozen=True)
class Opening:
    """What a client wants.

    Attributes
    ----------
    order
        See `Order`.
    name
        Name of the pipeline, or `OPENRECON`; empty if there is none, or a document was sent.
    pipeline, document
        The pipeline and its document; None and empty for a retrieval, and where parameters choose
        it.
    """

    order: Order
    name: str
    pipeline: Pipeline | None = None
    document: bytes = b""


def read_opening(receive: Callable[[], Message], files: FileAccess) -> Opening | None:
    """Receive and read the messages before the header; None if the client closes the connection.

    Parameters
    ----------
    receive
        Returns the next message.
    files
        Files that a document may name.

    Raises
    ------
    Mri2QmapError
        If they are no pipeline of this program.
    """
    order, name, message = Order.NOW, "", receive()
    if isinstance(message, ConfigFile):
        order, name = _order(message.name)
        if order is Order.RETRIEVAL:
            return Opening(order, name)
        if order is Order.LATER and not name:
            message = receive()
            name = message.name if isinstance(message, ConfigFile) else ""
    if isinstance(message, Close):
        return None
    if isinstance(message, ConfigFile) and name.removesuffix(".xml") == OPENRECON:
        return Opening(order, OPENRECON)
    if isinstance(message, ConfigFile):
        path = kept_pipeline_path(name)
        kept = pipeline_bytes(path)
        with reading_turn(kept, kept):  # it is read twice
            return Opening(order, path.stem, read_pipeline(path), pipeline_document(path))
    if isinstance(message, ConfigDocument):
        place = "configuration"
        with reading_turn(message.document):
            pipeline = parse_pipeline(message.document, "sent by the client", place, files=files)
        return Opening(order, "", pipeline, message.document)
    raise Mri2QmapError(
        "the first message must be the name or the XML of a pipeline, but a message of type "
        f"{type(message).__name__} arrived"
    )


def _order(name: str) -> tuple[Order, str]:
    """Return what a configuration name asks for, and the name of the pipeline in it."""
    stem = name.removesuffix(".xml")
    for prefix, order in ((QUEUE, Order.LATER), (RETRIEVE, Order.RETRIEVAL)):
        if stem == prefix or stem.startswith(f"{prefix}_"):
            return order, stem.removeprefix(prefix).removeprefix("_")
    return Order.NOW, name
