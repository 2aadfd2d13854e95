"""TLS contexts from the files that a connection names."""

from __future__ import annotations

import ssl
from pathlib import Path

from mri2qmap.pacs.destination import Connection
from mri2qmap.pacs.entries import PeerError


def client_context(connection: Connection) -> ssl.SSLContext:
    """Return the context with which this program connects: TLS 1.2 or newer, peer verified.

    Raises
    ------
    PeerError
        If a file cannot be used.
    """
    return _context(connection, ssl.Purpose.SERVER_AUTH)


def server_context(connection: Connection) -> ssl.SSLContext:
    """Return the context for reports that the peer sends on a connection of its own.

    Raises
    ------
    PeerError
        If a file cannot be used, or there is no certificate.
    """
    if connection.certificate is None:
        raise PeerError("--listen with TLS needs a certificate (--cert)", permanent=True)
    context = _context(connection, ssl.Purpose.CLIENT_AUTH)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def _context(connection: Connection, purpose: ssl.Purpose) -> ssl.SSLContext:
    try:
        authorities = None if connection.ca_file is None else str(connection.ca_file)
        context = ssl.create_default_context(purpose, cafile=authorities)
    except (OSError, ssl.SSLError) as error:
        raise _unusable("certificates", connection.ca_file, error) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if connection.certificate is not None:
        try:
            context.load_cert_chain(connection.certificate, connection.key, password=_no_passphrase)
        except (OSError, ssl.SSLError, ValueError) as error:
            raise _unusable("certificate or key", connection.certificate, error) from error
    return context


def _no_passphrase() -> str:
    raise ValueError("the key has a passphrase; give one without, readable for this user only")


def _unusable(what: str, path: Path | None, error: Exception) -> PeerError:
    text = getattr(error, "strerror", None) or str(error) or "it cannot be parsed"
    return PeerError(f"{what} {path}: not usable ({text})", permanent=True)
