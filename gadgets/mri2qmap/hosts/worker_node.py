"""A node of the worker in its session: memory, and items that pass by reference."""

from __future__ import annotations

import time
from dataclasses import replace

from mri2qmap.errors import Mri2QmapError
from mri2qmap.hosts.activity import Activity
from mri2qmap.hosts.sending_socket import LOOK
from mri2qmap.hosts.service_record import ScanEntry
from mri2qmap.hosts.session_message import session_of
from mri2qmap.hosts.worker_sessions import Session, WorkerSessions
from mri2qmap.machine.cancellation import Cancellation, raise_if_cancelled
from mri2qmap.pipeline.items import Item
from mri2qmap.pipeline.memory_plan import fitted_to_memory, planned_bytes
from mri2qmap.pipeline.pipeline_file import GadgetNode
from mri2qmap.pipeline.scan_header import ScanInfo

GATHERING = 5.0
"""Time that the first node of a session waits for the last one to join [s]."""


class WorkerNode:
    """A node of the worker, and its place in a session.

    Parameters
    ----------
    sessions
        The sessions at the worker.
    header
        Identifies the scan header.
    entry
        Record of the node.

    Attributes
    ----------
    cancellation
        Cancelled when another node of the session fails.
    entry
        As given.
    """

    def __init__(self, sessions: WorkerSessions, header: str, entry: ScanEntry) -> None:
        self.entry = entry
        self.cancellation = Cancellation()
        self._sessions = sessions
        self._gadget: str | None = None
        self._header = header
        self._session: Session | None = None
        self._opened = False
        self._left = False

    @property
    def has_session(self) -> bool:
        """Whether the session of the node is known."""
        return self._session is not None

    @property
    def session(self) -> str:
        """Name of the session that the node has joined."""
        return self._joined.name

    @property
    def activity(self) -> Activity:
        """The activity of the scan whose memory the node uses."""
        return self._joined.account.activity

    @property
    def reserves(self) -> bool:
        """Whether the node reserves the memory of its session, for which the others wait."""
        return self._opened and self._joined.lender is None

    @property
    def _joined(self) -> Session:
        if self._session is None:
            raise RuntimeError("the node has not joined a session")
        return self._session

    def join(self, node: GadgetNode, first: object, last: bool) -> None:
        """Join the session of the node before this one, or open a session.

        Parameters
        ----------
        node
            The gadget with its settings.
        first
            First message from the server; None for the node that receives the raw acquisitions.
        last
            Whether no later node can take items from the worker's memory.

        Raises
        ------
        Mri2QmapError
            If the session has failed or is not at this worker.
        """
        self._gadget = node.name
        with self._sessions.changed:
            session = self._sessions.find(first)
            if session is None:
                # that of a node which names a session has ended: its scan has no memory any more
                nameless = first is not None and session_of(first) is None
                session = self._sessions.open(self._header, node.name, borrow=nameless)
                self._opened = True
                self._session = session  # left in any case
            if session.failure is not None:
                raise Mri2QmapError(session.failure)
            self._sessions.refuse_another(session, node.name)
            if session.expiry is not None:
                session.expiry.cancel()
                session.expiry = None
            self._session = session
            session.members.append(self.cancellation)
            session.joined[node.name] = node
            session.whole = last
            self._sessions.changed.notify_all()

    def admitted(self, scan: ScanInfo) -> ScanInfo:
        """Wait until memory is reserved for the session.

        Returns
        -------
        ScanInfo
            The scan, with memory spared if that is so for the session, and with its receive
            channels.

        Raises
        ------
        Mri2QmapError
            If the memory is insufficient or is not released in time, or if another node fails.
        """
        session = self._joined
        if self.reserves:
            return self._reserve(session, scan)
        account = session.account
        with self._sessions.changed:
            while account.spare_memory is None and session.failure is None:
                self._sessions.changed.wait(LOOK)
                raise_if_cancelled()
            if session.failure is not None:
                raise Mri2QmapError(session.failure)
            scan = replace(scan, spare_memory=bool(account.spare_memory), channels=account.channels)
            more = planned_bytes(scan, account.nodes_to_plan(scan)) - account.granted
            if more > 0:
                share = self._sessions.budget.share(
                    more, "the rest of this scan", first=True, patience=0
                )
                account.held.enter_context(share)
                account.granted += more
        return scan

    def _reserve(self, session: Session, scan: ScanInfo) -> ScanInfo:
        """Reserve the memory of the session and decide whether memory is spared."""
        budget, changed = self._sessions.budget, self._sessions.changed
        with changed:
            end = time.monotonic() + GATHERING
            while not session.whole and session.failure is None and time.monotonic() < end:
                changed.wait(LOOK)
                raise_if_cancelled()
            nodes = session.nodes_to_plan(scan)
        scan = fitted_to_memory(scan, nodes, budget.total)
        size = planned_bytes(scan, nodes)
        self.entry.size = size

        def queued(number: int) -> None:
            session.activity.waits_for_memory = True
            self.entry.queued(number)

        # until the session is closed
        session.held.enter_context(budget.share(size, "this scan", queued))
        with changed:
            if session.failure is not None:
                raise Mri2QmapError(session.failure)
            session.granted, session.channels = size, scan.channels
            session.spare_memory = scan.spare_memory
            session.activity.memory_came()
            changed.notify_all()
        return scan

    def put(self, item: Item) -> str:
        """Store an item for the next node and return its reference.

        Raises
        ------
        Mri2QmapError
            If the session has failed, or its items need more memory than is reserved.
        """
        session = self._joined
        with self._sessions.changed:
            if session.failure is not None:
                raise Mri2QmapError(session.failure)
            return self._sessions.items.put(session.name, item, session.account.granted)

    def arrived(self, size: int) -> None:
        """Count an array of an item that has arrived by value.

        The memory of a session is planned for all its items once. What its nodes get beyond that
        is reserved at once, or refused. Nodes that use the memory of another session count what
        its nodes have got, too.

        Raises
        ------
        Mri2QmapError
            If there is no memory for it.
        """
        session = self._joined
        with self._sessions.changed:
            session.by_value += size
            used = session.by_value
            if session.lender is not None:
                sharing = (session.lender, *session.lender.borrowers)
                used = sum(one.by_value for one in sharing)
            more = min(size, used - session.account.granted)
            if more > 0:
                share = self._sessions.budget.share(
                    more, "what arrives by value in this scan", first=True, patience=0
                )
                session.held.enter_context(share)

    def pop(self, number: str) -> Item:
        """Remove and return the item of a reference.

        Raises
        ------
        Mri2QmapError
            If the session has no such item.
        """
        session = self._joined
        with self._sessions.changed:
            if session.failure is not None:
                raise Mri2QmapError(session.failure)
            return self._sessions.items.pop(session.name, number)

    def find(self, first: object) -> None:
        """Look for the session of a node that fails before it has joined it.

        Parameters
        ----------
        first
            First message from the server.

        Raises
        ------
        Mri2QmapError
            If the session is not at this worker.
        """
        self._session = self._sessions.find(first)

    def fail(self, error: BaseException) -> None:
        """Let the whole session fail, unless the node has left it."""
        with self._sessions.changed:
            if self._session is not None and not self._left:
                self._sessions.fail(self._session, self._gadget, error)

    def leave(self) -> None:
        """Leave the session. May be called more than once."""
        with self._sessions.changed:
            self._left = True
            session = self._session
            if session is not None:
                if self.cancellation in session.members:
                    session.members.remove(self.cancellation)
                self._sessions.settle(session)
