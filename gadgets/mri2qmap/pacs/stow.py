"""STOW-RS of the objects of the spool to a DICOMweb server (PS3.18 section 10.5)."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from http.client import responses
from typing import TYPE_CHECKING, Any

from mri2qmap.machine.optional_packages import load_optional
from mri2qmap.pacs.destination import Connection, WebService, is_loopback
from mri2qmap.pacs.entries import Entry, Outcome, PeerError, State
from mri2qmap.pacs.status_codes import state_after, stated
from mri2qmap.pacs.tls import client_context

if TYPE_CHECKING:
    import requests
    from pydicom import Dataset

_BATCH_BYTES = 16 << 20
_BATCH_COUNT = 64
_LATER = frozenset((408, 423, 425, 429, 500, 502, 503, 504, 507))
"""HTTP status codes that may pass."""
_OF_THE_SERVER = frozenset((401, 403, 404, 405, 407, 501))
"""HTTP status codes that say nothing against the objects."""
_ADVICE = {
    401: "; check the bearer token (--token-file) or the certificate (--cert)",
    403: "; check the bearer token (--token-file) or the certificate (--cert)",
    404: "; is it the base URL of the DICOMweb services, without /studies?",
}


class StowClient:
    """Sends objects to a DICOMweb server, several in one request.

    Parameters
    ----------
    service, connection
        The server, and how to reach it.
    timeout
        How long the server may take for the connection and for each whole answer [s].

    Attributes
    ----------
    notes
        What is to be reported besides the outcomes.
    """

    def __init__(self, service: WebService, connection: Connection, timeout: float) -> None:
        load_optional("dicomweb_client", "sending by STOW-RS")
        self._service = service
        self._connection = connection
        self._timeout = timeout
        self._responses: list[requests.Response] = []
        self.notes: list[str] = []

    def send(self, entries: Sequence[Entry]) -> Generator[Outcome]:
        """Send objects, and yield what became of each.

        Raises
        ------
        PeerError
            If the server cannot be reached, does not let this program in, or has a failure.
        """
        client = self._client()
        for batch in _batches(entries):
            yield from self._send(client, batch)

    def _send(self, client: Any, entries: Sequence[Entry]) -> Iterator[Outcome]:
        import requests
        from pydicom import dcmread

        self._responses.clear()
        answer = None
        try:
            answer = client.store_instances([dcmread(entry.path) for entry in entries])
        except requests.exceptions.SSLError as error:
            raise PeerError(f"TLS failed ({_innermost(error)})", permanent=True) from error
        except requests.exceptions.TooManyRedirects as error:
            raise PeerError("the server redirects; give its final URL", permanent=True) from error
        except requests.exceptions.Timeout as error:
            raise PeerError(f"no answer within {self._timeout:g} s") from error
        except (requests.exceptions.HTTPError, requests.exceptions.InvalidJSONError):
            pass  # the response says what became of the objects
        except requests.exceptions.RequestException as error:
            raise PeerError(f"no connection ({_innermost(error)})") from error
        except (ValueError, LookupError, AttributeError, TypeError, SyntaxError, RecursionError):
            pass  # an answer of a form that the library does not read
        if not self._responses:
            raise PeerError("no answer")
        yield from self._outcomes(client, entries, self._responses[-1], answer)

    def _outcomes(
        self, client: Any, entries: Sequence[Entry], response: requests.Response, answer: Any
    ) -> Iterator[Outcome]:
        """Yield the outcomes that a response states; send those alone that it says nothing of.

        A success without words on any object may be a page of a proxy, and says nothing.
        """
        code = response.status_code
        failure = f"HTTP {code} {responses.get(code, '')}".rstrip()  # not the server's words
        if code in _OF_THE_SERVER:
            raise PeerError(f"{failure}{_ADVICE.get(code, '')}", permanent=True)
        if code in _LATER:
            raise PeerError(failure)
        stored, failed = _stated(response, answer)
        silent = [e for e in entries if e.identity.sop_instance not in stored | failed.keys()]
        for entry in entries:
            uid = entry.identity.sop_instance
            if uid in failed:
                yield Outcome(entry, *state_after(failed[uid]))
            elif uid in stored:
                yield Outcome(entry, State.SENT)
        if not silent:
            return
        alone = len(entries) == 1
        if response.ok and (alone or not (stored or failed)):
            words = f"{failure}: the server does not say whether it stored the object"
            yield from (Outcome(entry, State.PENDING, words) for entry in silent)
        elif alone:
            yield Outcome(silent[0], State.REFUSED, failure)
        else:
            for entry in silent:
                yield from self._send(client, [entry])

    def _client(self) -> Any:
        import requests
        from dicomweb_client import DICOMwebClient

        from mri2qmap.pacs.bounded_http import bound_answers

        connection = self._connection
        session = requests.Session()
        bound_answers(session)
        session.max_redirects = 0
        session.trust_env = not is_loopback(self._service.host)  # a proxy is another machine
        session.auth = _Bearer(connection)
        if connection.encrypted:
            client_context(connection)  # the library would ask for a passphrase on the terminal
        if connection.ca_file is not None:
            session.verify = str(connection.ca_file)
        if connection.certificate is not None:
            certificate, key = str(connection.certificate), connection.key
            session.cert = certificate if key is None else (certificate, str(key))
        client = DICOMwebClient(
            self._service.url,
            session,
            headers={"Accept": "application/dicom+json"},
            callback=self._note,
            timeout=self._timeout,
        )
        client.set_http_retry_params(retry=False)
        return client

    def _note(self, response: requests.Response, *args: object, **options: object) -> None:
        from mri2qmap.pacs.bounded_http import read_whole

        read_whole(response)
        self._responses.append(response)


class _Bearer:
    """Puts the token of a file into a request; without one, it keeps ~/.netrc out of it."""

    def __init__(self, connection: Connection) -> None:
        self._token = ""
        path = connection.token_file
        if path is None:
            return
        try:
            token = path.read_text(encoding="ascii").strip()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is not ASCII text"
            raise PeerError(f"--token-file {path}: {reason}", permanent=True) from None
        if not token or not token.isprintable() or " " in token:
            raise PeerError(f"--token-file {path}: one token is expected", permanent=True)
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _batches(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Divide objects into requests of a limited size."""
    batch: list[Entry] = []
    size = 0
    for entry in entries:
        more = entry.path.stat().st_size
        if batch and (size + more > _BATCH_BYTES or len(batch) == _BATCH_COUNT):
            yield batch
            batch, size = [], 0
        batch.append(entry)
        size += more
    if batch:
        yield batch


def _stated(response: requests.Response, answer: Any) -> tuple[set[str], dict[str, int]]:
    """Return the UIDs that a server has stored, and the reason of each failure by UID."""
    content = _dataset(response, answer)
    if content is None:
        return set(), {}
    return stated(content)


def _dataset(response: requests.Response, answer: Any) -> Dataset | None:
    """Return the data set in a response; None if there is none."""
    from pydicom import Dataset

    if answer is not None and len(answer):
        return Dataset(answer)
    if "json" not in response.headers.get("Content-Type", ""):
        return None
    try:
        content = response.json()
        if isinstance(content, list):  # the form of QIDO-RS, which some servers use here too
            content = content[0] if content else {}
        return Dataset.from_json(content)
    except Exception:  # whatever the server sent instead
        return None


def _innermost(error: Exception) -> str:
    """Return the words of the error that a request began with."""
    cause: BaseException = error
    while True:
        reason = getattr(cause, "reason", None)
        below = cause.__cause__ or (reason if isinstance(reason, BaseException) else None)
        below = below or next((a for a in cause.args if isinstance(a, BaseException)), None)
        if below is None:
            return getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
        cause = below
