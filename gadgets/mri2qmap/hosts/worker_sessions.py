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
* A node whose first message names a session that has ended, because the nodes before it were done,
  opens one with memory of its own.

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
from dataclasses import dataclass, field

from mri2qmap.errors import Mri2QmapError
from mri2qmap.hosts.activity import Activity
from mri2qmap.hosts.error_text import ERROR_PREFIX, format_error
from mri2qmap.hosts.item_store import ItemStore
from mri2qmap.hosts.session_message import is_session_only, session_of
from mri2qmap.machine.cancellation import Cancellation
from mri2qmap.pipeline.memory_budget import MemoryBudget
from mri2qmap.pipeline.memory_plan import planned_bytes
from mri2qmap.pipeline.pipeline_file import GADGETS, GadgetNode
from mri2qmap.pipeline.scan_header import ScanInfo

_NOT_OF_THE_SCAN = "it used the memory of a scan whose own node of this gadget has come"


@dataclass(eq=False)
class Session:
    """A scan, or a part of it; guarded by the lock of `WorkerSessions`.

    Attributes
    ----------
    header
        Identifies the scan header.
    lender
        Session whose memory is used; None: memory of its own.
    members
        The cancellations of the nodes that run.
    joined
        All nodes that have joined.
    whole
        Whether the last node that can take items has joined.
    spare_memory
        Whether memory is spared; None before the session is admitted.
    channels
        Receive channels of the scan; None if unknown.
    granted
        Reserved memory [bytes].
    by_value
        Size of all items that have arrived by value at its nodes [bytes].
    failure
        Why the session has failed; None if it has not.
    activity
        Of the connections of its nodes.
    """

    header: str
    lender: Session | None
    name: str = field(default_factory=lambda: secrets.token_hex(16))
    members: list[Cancellation] = field(default_factory=list)
    joined: dict[str, GadgetNode] = field(default_factory=dict)
    borrowers: list[Session] = field(default_factory=list)
    whole: bool = False
    spare_memory: bool | None = None
    channels: int | None = None
    granted: int = 0
    by_value: int = 0
    held: ExitStack = field(default_factory=ExitStack)
    failure: str | None = None
    activity: Activity = field(default_factory=Activity)
    expiry: threading.Timer | None = None

    @property
    def account(self) -> Session:
        """The session whose memory this one uses."""
        return self.lender or self

    @property
    def sharing(self) -> dict[str, GadgetNode]:
        """All nodes that use the memory of this session."""
        nodes = dict(self.joined)
        for borrower in self.borrowers:
            nodes.update(borrower.joined)
        return nodes

    def nodes_to_plan(self, scan: ScanInfo) -> list[GadgetNode]:
        """Return the nodes by which memory is planned; none if the defaults need more.

        A pipeline ends with `parametric_maps`. Without it, other nodes may follow that need as much
        as the defaults.
        """
        nodes = list(self.sharing.values())
        whole = GADGETS[-1] in self.sharing
        if not whole and planned_bytes(scan) > planned_bytes(scan, nodes):
            return []
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
        self._sessions: dict[str, Session] = {}

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

    def find(self, message: object) -> Session | None:
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

    def open(self, header: str, gadget: str, borrow: bool) -> Session:
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
            session = Session(header, lender)
            if lender is not None:
                lender.borrowers.append(session)
            self._sessions[session.name] = session
            return session

    def refuse_another(self, session: Session, gadget: str) -> None:
        """Refuse a node for which no memory is planned: each scan has a gadget once.

        Twins may use the memory of each other, so all scans with this header count together. A node
        of a scan goes before one with a session of its own, which then fails: anybody who knows the
        header can open one.

        Raises
        ------
        Mri2QmapError
            If a node of this gadget has joined each of them.
        """
        with self.changed:
            twins = [known for known in self._sessions.values() if known.header == session.header]
            scans = sum(known.lender is None for known in twins)
            having = [known for known in twins if gadget in known.joined]
            if gadget not in session.joined:
                if len(having) < scans:
                    return
                borrower = next((known for known in having if known.lender is not None), None)
                if borrower is not None and session.lender is None:
                    self.fail(borrower, gadget, Mri2QmapError(_NOT_OF_THE_SCAN))
                    return
        raise Mri2QmapError(
            f"this scan has a node {gadget} already; use each gadget once in a chain"
        )

    def fail(self, session: Session, gadget: str | None, error: BaseException) -> None:
        """Cancel the nodes of a session and delete its items, unless it has failed before."""
        with self.changed:
            if session.failure is not None:
                return
            reason = format_error(error, gadget).removeprefix(f"{ERROR_PREFIX}: ")
            session.failure = f"ended because of another gadget of this scan: {reason}"
            for member in session.members:
                member.cancel(Mri2QmapError(session.failure))
            self.items.drop(session.name)
            self.changed.notify_all()

    def settle(self, session: Session, expired: bool = False) -> None:
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


def _lends(session: Session, header: str, gadget: str) -> bool:
    admitted = session.spare_memory is not None and session.failure is None
    return admitted and session.header == header and gadget not in session.sharing
