"""Where DICOM objects are sent, and how the connection is made."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit

from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine.words import shortened

DEFAULT_CALLING_AE = "MRI2QMAP"
_MOST_LETTERS = 16
_FORMS = "AE@host:port for C-STORE, or https://host/path for STOW-RS, is expected"


@dataclass(frozen=True)
class DicomNode:
    """A peer that takes C-STORE requests.

    Attributes
    ----------
    title
        Its application entity title.
    host, port
        Its address.
    """

    title: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.title}@{host}:{self.port}"


@dataclass(frozen=True)
class WebService:
    """A DICOMweb server that takes STOW-RS requests.

    Attributes
    ----------
    url
        Base URL of its services.
    """

    url: str

    def __str__(self) -> str:
        return self.url

    @property
    def secure(self) -> bool:
        """Whether the connection is encrypted."""
        return self.url.startswith("https:")

    @property
    def host(self) -> str:
        """Name or address of the server."""
        return urlsplit(self.url).hostname or ""


Destination: TypeAlias = DicomNode | WebService


def parse_destination(text: str) -> Destination:
    """Parse the text of a destination; its `str` is the same for all spellings of it.

    Parameters
    ----------
    text
        ``AE@host:port`` or a URL.

    Raises
    ------
    Mri2QmapError
        If it is neither, or the URL contains a password or a query, which could hold a secret.
    """
    text = text.strip()
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text):
        return _web_service(text)
    title, at, address = text.rpartition("@")
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.%\w]+\]|[\w.-]+):(\d{1,5})", address, re.ASCII)
    if not at or match is None or not 1 <= int(match[2]) <= 65535:
        raise Mri2QmapError(f"destination {shortened(text)!r}: {_FORMS}")
    try:
        title = checked_title(title)
    except ValueError as error:
        raise Mri2QmapError(f"destination {shortened(text)!r}: {error}") from error
    return DicomNode(title, match[1].strip("[]").lower(), int(match[2]))


def checked_title(title: str) -> str:
    """Return an application entity title without spaces around it.

    Raises
    ------
    ValueError
        If DICOM does not allow it (PS3.5, VR AE).
    """
    title = title.strip()
    printable = all(" " <= letter <= "~" for letter in title)
    if not 1 <= len(title) <= _MOST_LETTERS or not printable or "\\" in title:
        raise ValueError(
            f"an AE title has 1 to {_MOST_LETTERS} ASCII characters and no backslash, "
            f"got {shortened(title)!r}"
        )
    return title


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, by its name or address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _web_service(text: str) -> WebService:
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise Mri2QmapError(f"destination: the URL is malformed ({error}); {_FORMS}") from error
    if "@" in parts.netloc or parts.query or parts.fragment:  # not repeated: it may be secret
        raise Mri2QmapError(
            "destination: a URL without user, password, query and fragment is expected; the file "
            "of a bearer token is given by --token-file"
        )
    if parts.scheme.lower() not in ("https", "http") or not host or not text.isprintable():
        raise Mri2QmapError(f"destination {shortened(text)!r}: {_FORMS}")
    place = f"[{host}]" if ":" in host else host
    address = place if port is None else f"{place}:{port}"
    return WebService(f"{parts.scheme.lower()}://{address}{parts.path.rstrip('/')}")


@dataclass(frozen=True)
class Connection:
    """How the connection to a destination is made. It names files of secrets, and holds none.

    Attributes
    ----------
    calling_ae
        Application entity title of this program, for C-STORE.
    tls
        Whether C-STORE is encrypted by TLS; any of the files below implies it.
    ca_file
        Certificates (PEM) of the authorities that are trusted; None: those of the system for
        C-STORE, those of the package certifi for STOW-RS.
    certificate, key
        Certificate of this program and its key (PEM, without a passphrase). The key may be in the
        file of the certificate.
    token_file
        File with a bearer token, for STOW-RS. It is read anew for each connection.
    allow_http
        Whether STOW-RS may go unencrypted to another machine.
    listen
        Port, or address and port, on which reports of storage commitment are awaited; empty: they
        are only taken on the association of the request.
    """

    calling_ae: str = DEFAULT_CALLING_AE
    tls: bool = False
    ca_file: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    token_file: Path | None = None
    allow_http: bool = False
    listen: str = ""

    def __post_init__(self) -> None:
        checked_title(self.calling_ae)
        if self.key is not None and self.certificate is None:
            raise ValueError("a key needs the certificate that belongs to it (--cert)")
        if self.listen:
            listening_address(self.listen)

    @property
    def encrypted(self) -> bool:
        """Whether C-STORE uses TLS; for STOW-RS, whether files of certificates are given."""
        return self.tls or self.ca_file is not None or self.certificate is not None

    def for_destination(self, destination: Destination) -> Connection:
        """Return the connection with absolute paths.

        Raises
        ------
        Mri2QmapError
            If an option does not fit the kind of the destination, STOW-RS would be unencrypted
            without leave, or a file cannot be read.
        """
        web = isinstance(destination, WebService)
        unfit = ("calling_ae", "tls", "listen") if web else ("token_file", "allow_http")
        wrong = [
            _OPTIONS[field.name]
            for field in fields(self)
            if field.name in unfit and getattr(self, field.name) != field.default
        ]
        if wrong:
            kind = "C-STORE (AE@host:port)" if web else "STOW-RS (https://...)"
            raise Mri2QmapError(f"{destination}: {', '.join(wrong)}: only for {kind}; leave it out")
        if isinstance(destination, WebService) and not destination.secure:
            if not (self.allow_http or is_loopback(destination.host)):
                raise Mri2QmapError(
                    f"{destination}: patient data would go over the network unencrypted; use "
                    "https, or --allow-http if the network is protected otherwise"
                )
            if self.ca_file is not None or self.certificate is not None:
                raise Mri2QmapError(f"{destination}: certificates need a URL with https")
        return replace(
            self,
            ca_file=self._readable("ca_file"),
            certificate=self._readable("certificate"),
            key=self._readable("key"),
            token_file=self._readable("token_file"),
        )

    def _readable(self, name: str) -> Path | None:
        path: Path | None = getattr(self, name)
        if path is None:
            return None
        path = Path(os.path.abspath(path))
        try:
            with path.open("rb"):
                return path
        except OSError as error:
            raise Mri2QmapError(
                f"{_OPTIONS[name]} {path}: it cannot be read ({error.strerror})"
            ) from error


_OPTIONS = {
    "calling_ae": "--calling-ae",
    "tls": "--tls",
    "ca_file": "--ca-file",
    "certificate": "--cert",
    "key": "--key",
    "token_file": "--token-file",
    "allow_http": "--allow-http",
    "listen": "--listen",
}
"""Options of the command line, for messages."""


def listening_address(
    text: str, option: str = "--listen", default: str = "0.0.0.0", least_port: int = 1
) -> tuple[str, int]:
    """Return the address and the port of PORT or ADDRESS:PORT.

    Parameters
    ----------
    text
        The text.
    option
        For messages.
    default
        Address where there is none.
    least_port
        1, or 0, which selects a free port.

    Raises
    ------
    ValueError
        If it is neither.
    """
    match = re.fullmatch(r"(?:(\[[0-9A-Fa-f:.]+\]|[\w.-]+):)?(\d{1,5})", text, re.ASCII)
    if match is None or not least_port <= int(match[2]) <= 65535:
        raise ValueError(f"PORT or ADDRESS:PORT is expected for {option}, got {shortened(text)!r}")
    return (match[1] or default).strip("[]"), int(match[2])
