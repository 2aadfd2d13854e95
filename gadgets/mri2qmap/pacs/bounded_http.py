"""HTTP answers that are bounded in size and time, for a session of the library requests.

Its own timeout holds for each receive, and it reads a body of any size.
"""

from __future__ import annotations

import io
import socket
import time
from http.client import HTTPResponse
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError, ReadTimeoutError

from mri2qmap.pacs.entries import PeerError

MOST_ANSWER_BYTES = 4 << 20
"""Maximum size of an answer, with its headers and informational answers before it [bytes].
Servers state some hundred bytes for each of the objects of a request."""
_TOO_LARGE = f"the peer sends an answer of more than {MOST_ANSWER_BYTES >> 20} MiB"


def bound_answers(session: requests.Session) -> None:
    """Let the answers in a session be read within its timeout and up to `MOST_ANSWER_BYTES`.

    Parameters
    ----------
    session
        Its answers are to be passed through `read_whole`, before their content is used.
    """
    session.stream = True  # the body is not read before the hooks are called
    session.headers["Accept-Encoding"] = "identity"
    for scheme in ("http://", "https://"):
        session.mount(scheme, _Adapter())


def read_whole(response: requests.Response) -> None:
    """Read the body of an answer, so that its content can be used.

    Raises
    ------
    PeerError
        If it is larger than `MOST_ANSWER_BYTES`, also after it has been decompressed.
    requests.exceptions.RequestException
        If it cannot be read.
    """
    try:
        content = response.raw.read(MOST_ANSWER_BYTES + 1, decode_content=True)
    except ReadTimeoutError as error:
        raise requests.exceptions.ReadTimeout(error) from error
    except (HTTPError, OSError) as error:
        raise requests.exceptions.ConnectionError(error) from error
    finally:
        response.raw.close()
    if len(content) > MOST_ANSWER_BYTES:
        raise PeerError(_TOO_LARGE)
    response.raw = io.BytesIO(content)


class _Bounded(io.RawIOBase):
    """The bytes of one answer, all of them within the timeout that the connection has."""

    def __init__(self, connection: socket.socket, stream: io.RawIOBase) -> None:
        self._connection = connection
        self._stream = stream
        self._left = MOST_ANSWER_BYTES
        timeout = connection.gettimeout()
        self._end = None if timeout is None else time.monotonic() + timeout

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        if self._end is not None:
            left = self._end - time.monotonic()
            if left <= 0:
                raise TimeoutError("timed out")
            self._connection.settimeout(left)
        count = self._stream.readinto(buffer)
        self._left -= count or 0
        if self._left < 0:
            raise PeerError(_TOO_LARGE)
        return count

    def close(self) -> None:
        self._stream.close()
        super().close()


class _Answer(HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp = io.BufferedReader(_Bounded(sock, self.fp.detach()))


class _PlainConnection(HTTPConnection):
    response_class = _Answer


class _TlsConnection(HTTPSConnection):
    response_class = _Answer


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _PlainConnection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


_POOLS = {"http": _PlainPool, "https": _TlsPool}


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, *args: Any, **options: Any) -> Any:
        manager = super().proxy_manager_for(*args, **options)
        manager.pool_classes_by_scheme = _POOLS
        return manager
