"""What the tests of `mri2qmap push` share: a run's DICOM objects, a spool, certificates."""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from export.scans import export, full_header, oblique_geometry, random_maps
from pydicom import dcmread

from mri2qmap.cli.main import main
from mri2qmap.machine.folders import SPOOL_VARIABLE
from mri2qmap.pipeline.items import DicomObject

SECRET_NAME = "Lovelace^Ada"


def push(*words: object) -> int:
    """Run the command, and return its exit code."""
    return main(["push", *map(str, words)])


def status(capsys) -> dict:
    """What --status --json says of the only destination."""
    capsys.readouterr()
    assert push("--status", "--json") == 0
    (found,) = json.loads(capsys.readouterr().out)["destinations"]
    return found


def contents(folder: Path) -> dict[str, str]:
    """Digest of the data set of each file, as `Node` keeps it, by SOP Instance UID."""
    found = {}
    for path in folder.rglob("*.dcm"):
        meta = dcmread(path, specific_tags=["SOPInstanceUID"]).file_meta
        start = 132 + 12 + meta.FileMetaInformationGroupLength
        uid = str(meta.MediaStorageSOPInstanceUID)
        found[uid] = hashlib.sha256(path.read_bytes()[start:]).hexdigest()
    return found


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory) -> Path:
    """Output folder of a run with classic series and parametric maps of 2 slices."""
    folder = tmp_path_factory.mktemp("run") / "maps"
    maps = random_maps(oblique_geometry(matrix=(2, 3, 5)))
    header = full_header(SECRET_NAME)
    for item in export(maps, header, mrd="none", nifti=False, synthetic_images=False):
        assert isinstance(item, DicomObject)
        path = folder / "dicom" / item.path
        path.parent.mkdir(parents=True, exist_ok=True)
        item.dataset.save_as(path, enforce_file_format=True)
    (folder / "run.json").write_text("{}")
    return folder


@pytest.fixture
def spool_place(monkeypatch) -> Iterator[Path]:
    """A spool of its own for a test, in memory if possible: there, no disk is waited for."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        place = Path(folder) / "spool"
        monkeypatch.setenv(SPOOL_VARIABLE, str(place))
        yield place


@dataclass(frozen=True)
class Certificates:
    """Files (PEM) of an authority, and of certificates that it issued."""

    authority: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path


@pytest.fixture(scope="session")
def certificates(tmp_path_factory) -> Certificates:
    """An authority, a certificate of 127.0.0.1, and one of a client."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        NoEncryption,
        PrivateFormat,
    )
    from cryptography.x509.oid import NameOID

    folder = tmp_path_factory.mktemp("certificates")
    locked = BestAvailableEncryption(b"passphrase")
    now = datetime.datetime.now(datetime.UTC)
    root_key = ec.generate_private_key(ec.SECP256R1())
    root = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root")])

    def issue(name: str, key, authority: bool) -> Path:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        usage = dict.fromkeys(
            (
                *("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
                *("encipher_only", "decipher_only"),
            ),
            False,
        )
        own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key())
        signs = {"key_cert_sign": authority, "crl_sign": authority}
        built = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(root)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(authority, None), critical=True)
            .add_extension(x509.KeyUsage(digital_signature=True, **signs, **usage), critical=True)
            .add_extension(x509.SubjectAlternativeName([address]), critical=False)
            .add_extension(own, critical=False)
            .add_extension(issuer, critical=False)
            .sign(root_key, hashes.SHA256())
        )
        path = folder / f"{name}.pem"
        path.write_bytes(built.public_bytes(Encoding.PEM))
        for suffix, protection in ((".key", NoEncryption()), (".locked", locked)):
            secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection)
            path.with_suffix(suffix).write_bytes(secret)
        return path

    authority = issue("root", root_key, authority=True)
    server = issue("server", ec.generate_private_key(ec.SECP256R1()), authority=False)
    client = issue("client", ec.generate_private_key(ec.SECP256R1()), authority=False)
    return Certificates(
        authority, server, server.with_suffix(".key"), client, client.with_suffix(".key")
    )
