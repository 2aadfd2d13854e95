"""A gadget between the messages of a server: settings, items, output and timing of a node."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from mri2qmap.errors import Mri2QmapError
from mri2qmap.hosts.in_process import InProcessHost
from mri2qmap.hosts.inbox import Inbox
from mri2qmap.hosts.node_input import TAKES_RAW_ACQUISITIONS, NodeInput
from mri2qmap.hosts.peer_reporter import PeerReporter
from mri2qmap.hosts.protocol import Header, RelayedText
from mri2qmap.hosts.session_message import encode_session
from mri2qmap.hosts.stage_timing import NodeTiming
from mri2qmap.hosts.wire import (
    FILES,
    Decoder,
    Message,
    encode,
    encode_reference,
)
from mri2qmap.machine.devices import select_device
from mri2qmap.machine.file_access import FileAccess
from mri2qmap.pipeline.acquisition_checks import checked_acquisitions
from mri2qmap.pipeline.acquisition_policy import pipeline_policy
from mri2qmap.pipeline.items import Item
from mri2qmap.pipeline.memory_plan import planned_bytes, with_channels
from mri2qmap.pipeline.node_options import NodeOptions
from mri2qmap.pipeline.pipeline_file import GADGETS, GadgetNode, Pipeline, load_gadget
from mri2qmap.pipeline.reading_turns import reading_turn
from mri2qmap.pipeline.scan_header import ScanInfo, parse_scan_header
from mri2qmap.pipeline.scan_log import add_log_context
from mri2qmap.pipeline.scan_section import chosen_profile, refuse_two_conventions, scan_sections
from mri2qmap.pipeline.settings import parse_settings, unknown_name
from mri2qmap.pipeline.standard_scan import ScanConversion, standard_scan
from mri2qmap.pipeline.xml_document import parse_xml

if TYPE_CHECKING:
    from mri2qmap.hosts.worker_node import WorkerNode

logger = logging.getLogger(__name__)
T = TypeVar("T")
PLACE = "<configuration>"
"""What messages call the configuration of a node."""


class GadgetRun:
    """One run of a gadget for a server.

    Parameters
    ----------
    gadget
        Name of the gadget.
    properties
        Its settings as text.
    options
        How it runs as a node.
    messages
        What the server sends after the header.
    files
        Files that the settings may name.
    configuration
        The ``<configuration>`` of the node, which may have a ``<scan>``.
    """

    def __init__(
        self,
        gadget: str,
        properties: Mapping[str, str],
        options: NodeOptions,
        messages: NodeInput,
        files: FileAccess,
        configuration: bytes,
    ) -> None:
        function, settings_class = load_gadget(gadget)
        with reading_turn(configuration):
            settings = parse_settings(settings_class, properties, gadget, files=files)
            section = scan_sections(parse_xml(configuration, PLACE), PLACE)
            self._profile = chosen_profile(section, None, PLACE, files)
        self._node = GadgetNode(gadget, function, settings)
        refuse_two_conventions(self._profile, settings, f"gadget {gadget}")
        self._by_reference = options.transport == "reference" and gadget != GADGETS[-1]
        self._messages = messages
        self._peer = peer = messages.inbox.peer
        self._silence = options.silence
        kind = RelayedText if options.report == "text" else None
        self._reporter = PeerReporter(peer, kind, logger)

    def run(self, header: Header, place: WorkerNode | None, device: str) -> None:
        """Run the gadget on all items from the server and send its output back.

        Parameters
        ----------
        header
            The scan header; its document is taken.
        place, device
            See `run_node`.
        """
        name = self._node.name
        if self._silence is not None:  # a worker's own deadline is the longest
            deadlines = self._peer.deadlines
            silence = self._silence if place is None else min(self._silence, deadlines.silence)
            self._peer.deadlines = replace(deadlines, silence=silence)
        document, conversion = standard_scan(header.take(), self._profile)
        if name in TAKES_RAW_ACQUISITIONS:  # later gadgets receive converted ones
            self._messages.inbox.encoding_space = conversion.encoding_space
        scan = parse_scan_header(document, select_device(device), self._reporter)
        del document
        self._peer.received.opened()
        add_log_context(gadget=name)
        if place is not None:
            self._reporter.entry = place.entry
            scan = self._admitted(place, scan)
        with contextlib.nullcontext() if place is None else place.entry.begin(f"gadget {name}"):
            self._compute(scan, place, conversion)

    def _compute(
        self, scan: ScanInfo, place: WorkerNode | None, conversion: ScanConversion
    ) -> None:
        pipeline = Pipeline(self._node.name, (self._node,), self._profile)
        items = self._items(scan, place)
        if self._node.name in TAKES_RAW_ACQUISITIONS:
            items = conversion.items(items, scan)
            items = checked_acquisitions(items, scan, pipeline_policy(pipeline))
        host = InProcessHost(pipeline, scan, self._messages.inbox.start)
        if place is not None:
            place.entry.host = host
        try:
            for item in host.run(items):
                for message in self._encoded(item, place):
                    self._peer.send(message)
        finally:
            if place is not None:
                place.entry.stage_seconds = host.gadget_seconds
                place.entry.sent = host.timings[1].items_out
        self._reporter.log(str(_timing(host, self._messages.inbox)))

    def _admitted(self, place: WorkerNode, scan: ScanInfo) -> ScanInfo:
        """Join a session of the worker, and wait until it has its memory."""
        first = None
        takes_raw = self._node.name in TAKES_RAW_ACQUISITIONS
        if not takes_raw:
            self._peer.received.admit()  # the first message may be large
            first = self._messages.first
            if first is None:
                raise Mri2QmapError(
                    "no item arrived: the nodes before this one have failed, or there are none"
                )
        inbox = self._messages.inbox
        place.join(self._node, first, last=not self._by_reference)
        inbox.belong_to(place.activity)
        place.entry.describe("", scan, place.activity)
        if self._by_reference:
            self._peer.send(encode_session(place.session))
        if takes_raw:  # a scan of which only headers came has no memory
            scan = with_channels(scan, inbox.wait_for_channels())
        with contextlib.nullcontext() if place.reserves else inbox.waiting():
            scan = place.admitted(scan)
        self._peer.received.admit()
        return scan

    def _items(self, scan: ScanInfo, place: WorkerNode | None) -> Iterator[Item]:
        planned = planned_bytes(scan)
        if place is None:
            decoder = Decoder(scan.device, limit=planned)
        else:
            decoder = Decoder(scan.device, place.pop, planned, place.arrived)
        for message in self._messages:
            if not isinstance(message, Message):
                raise Mri2QmapError(
                    f"the server sent a message of type {type(message).__name__}; acquisitions, "
                    "waveforms and images are expected"
                )
            item = decoder.decode(message)
            if item is not None:
                yield item
        decoder.finish()

    def _encoded(self, item: Item, place: WorkerNode | None) -> list[Message]:
        if isinstance(item, FILES):
            return []  # a Gadgetron server relays only images
        if place is None:
            return encode(item)
        if self._by_reference:
            return encode_reference(item, place.put)
        return encode(item, session=place.session)


def named_gadget(options: NodeOptions) -> str:
    """Return the gadget of a ``<connect>`` node."""
    if options.gadget not in GADGETS:
        raise Mri2QmapError(
            '<configuration>: <property name="gadget" value="..."/> must name the gadget of a '
            f"<connect> node; {unknown_name('gadget', options.gadget, list(GADGETS))}"
        )
    return options.gadget


def _timing(host: InProcessHost, inbox: Inbox) -> NodeTiming:
    """Return item counts and timing of the gadget that `host` ran."""
    if inbox.last_acquisition is not None:
        host.set_last_acquisition(inbox.last_acquisition)
    gadget = host.timings[1]
    return NodeTiming(
        name=gadget.name,
        items_in=gadget.items_in,
        items_out=gadget.items_out,
        ready_s=host.ready,
        first_item_s=gadget.first_item,
        last_item_s=gadget.last_item,
        last_acquisition_s=host.last_acquisition,
        total_s=host.total,
        busy_s=gadget.busy,
    )
