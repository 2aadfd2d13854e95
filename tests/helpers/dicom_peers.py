"""Peers for the tests of `mri2qmap push`: DICOM nodes and a DICOMweb server in this process."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.filebase import DicomBytesIO
from pynetdicom import AE, evt
from pynetdicom.sop_class import MRImageStorage, ParametricMapStorage

TITLE = "PACS"
COMMITMENT = "1.2.840.10008.1.20.1"


@dataclass
class Node:
    """A DICOM node that keeps what it gets.

    Attributes
    ----------
    port
        Where it listens.
    objects
        SHA-256 of the data set of each object, by SOP Instance UID.
    times
        How often each object came.
    contexts
        Abstract and transfer syntaxes that were proposed, of each association.
    answer
        Gives the status for the n-th object, from 1; may end the association instead.
    """

    port: int = 0
    objects: dict[str, str] = field(default_factory=dict)
    times: Counter[str] = field(default_factory=Counter)
    contexts: list[set[tuple[str, str]]] = field(default_factory=list)
    answer: Callable[[evt.Event, int], int] = lambda event, number: 0x0000
    received: threading.Event = field(default_factory=threading.Event)

    @property
    def place(self) -> str:
        return f"{TITLE}@127.0.0.1:{self.port}"

    def store(self, event: evt.Event) -> int:
        number = sum(self.times.values()) + 1
        uid = str(event.request.AffectedSOPInstanceUID)
        self.times[uid] += 1
        status = self.answer(event, number)
        if status == 0x0000 or status >> 12 == 0xB:
            content = event.request.DataSet.getvalue()
            self.objects[uid] = hashlib.sha256(content).hexdigest()
        self.received.set()
        return status

    def note(self, event: evt.Event) -> None:
        proposed = event.assoc.requestor.primitive.presentation_context_definition_list
        self.contexts.append(
            {(str(c.abstract_syntax), " ".join(map(str, c.transfer_syntax))) for c in proposed}
        )


@contextlib.contextmanager
def dicom_node(
    node: Node | None = None,
    classes: tuple[str, ...] = (MRImageStorage, ParametricMapStorage),
    handlers: tuple[Any, ...] = (),
    tls: Any = None,
    port: int = 0,
) -> Iterator[Node]:
    """Run a node that checks its AE title and takes objects of some SOP classes."""
    node = node or Node()
    entity = AE(TITLE)
    entity.require_called_aet = True
    entity.require_calling_aet = ["MRI2QMAP"]
    for uid in classes:
        entity.add_supported_context(uid)
    bound = [(evt.EVT_C_STORE, node.store), (evt.EVT_REQUESTED, node.note), *handlers]
    server = entity.start_server(
        ("127.0.0.1", port), block=False, evt_handlers=bound, ssl_context=tls
    )
    node.port = server.socket.getsockname()[1]
    try:
        yield node
    finally:
        ending = threading.Thread(target=server.shutdown)
        ending.start()
        ending.join(0.02)
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", node.port)):
            pass  # the server looks only every half second else
        ending.join()


def abort_after(count: int) -> Callable[[evt.Event, int], int]:
    """Take `count` objects, and abort the association at the next one, once."""

    def answer(event: evt.Event, number: int) -> int:
        if number == count + 1:
            event.assoc.abort()
        return 0x0000

    return answer


def slow(seconds: float) -> Callable[[evt.Event, int], int]:
    """Answer late."""

    def answer(event: evt.Event, number: int) -> int:
        time.sleep(seconds)
        return 0x0000

    return answer


@dataclass
class WebServer:
    """A DICOMweb server that keeps what it gets.

    Attributes
    ----------
    objects
        The bytes of each object, by SOP Instance UID.
    requests
        Headers of each request.
    answer
        Gives status, content and media type for the objects of a request; None: all are stored.
    """

    port: int = 0
    objects: dict[str, bytes] = field(default_factory=dict)
    times: Counter[str] = field(default_factory=Counter)
    requests: list[dict[str, str]] = field(default_factory=list)
    answer: Callable[[list[Dataset]], tuple[int, bytes, str] | None] = lambda objects: None

    @property
    def place(self) -> str:
        return f"http://127.0.0.1:{self.port}/dicom-web"

    def take(self, headers: dict[str, str], body: bytes) -> tuple[int, bytes, str]:
        self.requests.append(headers)
        (boundary,) = (
            part.split("=")[1].strip('" ')
            for part in headers["content-type"].split(";")
            if part.strip().startswith("boundary")
        )
        parts = body.split(f"--{boundary}".encode())[1:-1]
        files = [part.split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n") for part in parts]
        objects = [dcmread(DicomBytesIO(file)) for file in files]
        answer = self.answer(objects)
        if answer is not None:
            return answer
        for item, file in zip(objects, files, strict=True):
            self.objects[item.SOPInstanceUID] = file
            self.times[item.SOPInstanceUID] += 1
        return 200, stow_answer(stored=objects), "application/dicom+json"


def stow_answer(stored=(), failed=(), reason: int = 0x0122) -> bytes:
    """Content of a STOW-RS response."""
    answer = Dataset()
    answer.ReferencedSOPSequence = [_reference(item) for item in stored]
    answer.FailedSOPSequence = [_reference(item, reason) for item in failed]
    return answer.to_json().encode()


def _reference(item: Dataset, reason: int | None = None) -> Dataset:
    found = Dataset()
    found.ReferencedSOPClassUID = item.SOPClassUID
    found.ReferencedSOPInstanceUID = item.SOPInstanceUID
    if reason is not None:
        found.FailureReason = reason
    return found


@contextlib.contextmanager
def web_server(server: WebServer | None = None, tls: Any = None) -> Iterator[WebServer]:
    """Run a DICOMweb server."""
    server = server or WebServer()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self._body()
            headers = {name.lower(): value for name, value in self.headers.items()}
            if self.path != "/dicom-web/studies":
                answer = 404, b"", "text/plain"
            else:
                answer = server.take(headers, body)
            code, content, kind = answer
            self.send_response(code)
            if 300 <= code < 400:
                self.send_header("Location", "http://127.0.0.1:9/elsewhere")
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers["Content-Length"]))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def log_message(self, *words: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, request: Any, address: Any) -> None:
            pass  # the client has given up

    listening = Server(("127.0.0.1", 0), Handler)
    if tls is not None:
        listening.socket = tls.wrap_socket(listening.socket, server_side=True)
    server.port = listening.server_address[1]
    thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()


@contextlib.contextmanager
def stalling_proxy(port: int, count: int) -> Iterator[int]:
    """Pass a connection on to a port, and stop reading after some bytes; yield the own port."""
    done = threading.Event()

    def back(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while content := source.recv(65536):
                target.sendall(content)

    def forward() -> None:
        with contextlib.suppress(OSError), listening.accept()[0] as client:
            with socket.create_connection(("127.0.0.1", port)) as peer:
                answers = threading.Thread(target=back, args=(peer, client))
                answers.start()
                passed = 0
                while passed < count and (content := client.recv(min(4096, count - passed))):
                    peer.sendall(content)
                    passed += len(content)
                done.wait(30)
                peer.shutdown(socket.SHUT_RDWR)
                answers.join()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=forward)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            done.set()
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()
