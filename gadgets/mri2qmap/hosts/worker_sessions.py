"""The sessions at the worker: the nodes, the stored items and the memory of each scan.

The nodes of a scan connect one by one, and a Gadgetron server tells them nothing but their
``<configuration>`` and the scan header, which twins of one protocol share. What is known of a
session therefore passes from node to node, with the items:

* The node that receives the raw acquisitions opens a session. Before everything else, a node that
  sends references sends the name of its session, so the next node joins it, and so on to the end of
  the chain. This takes no longer than the server needs to pass on six small messages.
* Where items are sent by value, the name is in the metadata of their images.
* A node whose first message has no name, such as an acquisition sent by value, opens a session of
  its own. It uses the memory of the oldest admitted session with this header in which no node of
  this gadget has been, which is its own scan or a twin. So the memory of all twins together is
  right, and a failure is never attributed to a twin.

Memory is reserved once for a session, by the node that opened it, for all nodes that have joined
by then. Whether memory is spared is decided at the same time, for all of them. A node waits for
memory only before it has passed anything on; the nodes after it wait for their first message, and
nodes that have joined wait for that decision. So no session waits while it holds memory, and no
deadlock is possible. A node that joins later and needs more than was reserved gets it at once or is
refused.

If a node fails or its connection breaks, the stored items of its session are deleted and its other
nodes are cancelled at once. The memory of a session is released when it has no node, no item that
somebody could take, and no other session that uses it.
"""

from __future__ import annotations

import secrets
import threading
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from mri2qmap.errors import Mri2QmapError
from mri2qmap.hosts.error_text import ERROR_PREFIX, format_error
from mri2qmap.hosts.item_store import ItemStore
from mri2qmap.hosts.wire import is_session_only, session_of
from mri2qmap.machine.cancellation import Cancellation
from mri2qmap.pipeline.items import Item
from mri2qmap.pipeline.memory_budget import MemoryBudget
from mri2qmap.pipeline.memory_plan import fitted_to_memory, planned_bytes
from mri2qmap.pipeline.pipeline_file import GadgetNode
from mri2qmap.pipeline.scan_header import ScanInfo

GATHERING = 5.0
"""Time that the first node of a session waits for the last one to join [s]."""


@dataclass(eq=False)
class _Session:
    """A scan, or a part of it; guarded by the lock of `WorkerSessions`.

    Attributes
    ----------
    header
        Identifies the scan header.
    lender
        Session whose memory is used; None: memory of its own.
    members
        Nodes that run.
    joined
        All nodes that have joined.
    whole
        Whether the last node that can take items has joined.
    spare_memory
        Whether memory is spared; None before the session is admitted.
    granted
        Reserved memory [bytes].
    failure
        Why the session has failed; None if it has not.
    """

    header: str
    lender: _Session | None
    name: str = field(default_factory=lambda: secrets.token_hex(16))
    members: list[WorkerNode] = field(default_factory=list)
    joined: dict[str, GadgetNode] = field(default_factory=dict)
    borrowers: list[_Session] = field(default_factory=list)
    whole: bool = False
    spare_memory: bool | None = None
    granted: int = 0
    held: ExitStack = field(default_factory=ExitStack)
    failure: str | None = None
    expiry: threading.Timer | None = None

    @property
    def account(self) -> _Session:
        """The session whose memory this one uses."""
        return self.lender or self

    @property
    def planned(self) -> dict[str, GadgetNode]:
        """All nodes that use the memory of this session."""
        nodes = dict(self.joined)
        for borrower in self.borrowers:
            nodes.update(borrower.joined)
        return nodes


class WorkerSessions:
    """The sessions at a worker. May be used from several threads.

    Parameters
    ----------
    budget
        Memory budget of all sessions together.
    grace
        Time after which the items of a session without nodes are deleted if a node that could take
        them may still connect [s].

    Attributes
    ----------
    items
        The stored items.
    """

    def __init__(self, budget: MemoryBudget, grace: float = 30.0) -> None:
        self.items = ItemStore()
        self.budget = budget
        self.changed = threading.Condition(threading.RLock())
        self._grace = grace
        self._sessions: dict[str, _Session] = {}

    def __len__(self) -> int:
        """Return the number of sessions."""
        with self.changed:
            return len(self._sessions)

    def close(self) -> None:
        """Delete all items."""
        with self.changed:
            for session in self._sessions.values():
                if session.expiry is not None:
                    session.expiry.cancel()
            self.items.close()

    def find(self, message: object) -> _Session | None:
        """Return the session that a message names; None if there is none.

        Raises
        ------
        Mri2QmapError
            If the message announces references to items of a session that is not here.
        """
        name = session_of(message)
        with self.changed:
            found = None if name is None else self._sessions.get(name)
        if found is None and is_session_only(message):
            raise Mri2QmapError(
                "the node before this one belongs to a session that is unknown to this worker: "
                "it runs in another worker, or its session has ended. All nodes must connect to "
                "the same worker"
            )
        return found

    def open(self, header: str, gadget: str, borrow: bool) -> _Session:
        """Open a session.

        Parameters
        ----------
        header
            Identifies the scan header.
        gadget
            Gadget of the node that opens it.
        borrow
            Whether to use the memory of a session with the same header that this gadget may belong
            to, if there is one.
        """
        with self.changed:
            lender = None
            if borrow:
                known = (s for s in self._sessions.values() if s.lender is None)
                lender = next((s for s in known if _lends(s, header, gadget)), None)
            session = _Session(header, lender)
            if lender is not None:
                lender.borrowers.append(session)
            self._sessions[session.name] = session
            return session

    def fail(self, session: _Session, gadget: str | None, error: BaseException) -> None:
        """Cancel the nodes of a session and delete its items, unless it has failed before."""
        with self.changed:
            if session.failure is not None:
                return
            reason = format_error(error, gadget).removeprefix(f"{ERROR_PREFIX}: ")
            session.failure = f"ended because of another gadget of this scan: {reason}"
            for member in session.members:
                member.cancellation.cancel(Mri2QmapError(session.failure))
            self.items.drop(session.name)
            self.changed.notify_all()

    def settle(self, session: _Session, expired: bool = False) -> None:
        """Close a session that is not needed any more."""
        with self.changed:
            if session.members or session.borrowers or session.name not in self._sessions:
                return
            needless = session.whole or session.failure is not None or expired
            if self.items.holds(session.name) and not needless:
                if session.expiry is None:
                    session.expiry = threading.Timer(self._grace, self.settle, (session, True))
                    session.expiry.daemon = True
                    session.expiry.start()
                return
            del self._sessions[session.name]
            self.items.drop(session.name)
            session.held.close()
            if session.expiry is not None:
                session.expiry.cancel()
            if session.lender is not None:
                session.lender.borrowers.remove(session)
                self.settle(session.lender)


def _lends(session: _Session, header: str, gadget: str) -> bool:
    admitted = session.spare_memory is not None and session.failure is None
    return admitted and session.header == header and gadget not in session.planned


class WorkerNode:
    """A node of the worker, and its place in a session.

    Parameters
    ----------
    sessions
        The sessions at the worker.
    header
        Identifies the scan header.

    Attributes
    ----------
    cancellation
        Cancelled when another node of the session fails.
    """

    def __init__(self, sessions: WorkerSessions, header: str) -> None:
        self.cancellation = Cancellation()
        self._sessions = sessions
        self._gadget: str | None = None
        self._header = header
        self._session: _Session | None = None
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
    def _joined(self) -> _Session:
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
                session = self._sessions.open(self._header, node.name, first is not None)
                self._opened = True
            if session.failure is not None:
                raise Mri2QmapError(session.failure)
            if session.expiry is not None:
                session.expiry.cancel()
                session.expiry = None
            self._session = session
            session.members.append(self)
            session.joined[node.name] = node
            session.whole = last
            self._sessions.changed.notify_all()

    def admitted(self, scan: ScanInfo) -> ScanInfo:
        """Wait until memory is reserved for the session.

        Returns
        -------
        ScanInfo
            The scan, with memory spared if that is so for the session.

        Raises
        ------
        Mri2QmapError
            If the memory is insufficient or is not released in time, or if another node fails.
        """
        session = self._joined
        if self._opened and session.lender is None:
            return self._reserve(session, scan)
        account = session.account
        with self._sessions.changed:
            self._sessions.changed.wait_for(
                lambda: account.spare_memory is not None or session.failure is not None
            )
            if session.failure is not None:
                raise Mri2QmapError(session.failure)
            scan = replace(scan, spare_memory=bool(account.spare_memory))
            more = planned_bytes(scan, account.planned.values()) - account.granted
            if more > 0:
                share = self._sessions.budget.share(
                    more, "the rest of this scan", first=True, patience=0
                )
                account.held.enter_context(share)
                account.granted += more
        return scan

    def _reserve(self, session: _Session, scan: ScanInfo) -> ScanInfo:
        """Reserve the memory of the session and decide whether memory is spared."""
        budget, changed = self._sessions.budget, self._sessions.changed
        with changed:
            changed.wait_for(lambda: session.whole or session.failure is not None, GATHERING)
            nodes = list(session.joined.values())
        scan = fitted_to_memory(scan, nodes, budget.total)
        size = planned_bytes(scan, nodes)
        session.held.enter_context(budget.share(size, "this scan"))  # until the session is closed
        with changed:
            if session.failure is not None:
                raise Mri2QmapError(session.failure)
            session.granted, session.spare_memory = size, scan.spare_memory
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
                if self in session.members:
                    session.members.remove(self)
                self._sessions.settle(session)
