"""What a peer hears of requests that fail: one line, without paths of this machine."""

import os
import re
import socket
import struct
import sys
from pathlib import Path

import pytest
from helpers.live import CLOSE, counted, data, dial, opening, receive_all, running_worker
from helpers.live import scan_server as serving
from helpers.scans import external, header, pipeline_xml
from helpers.server_side import configuration, read_answer
from hosts.test_external_node import serve

import mri2qmap
from mri2qmap.hosts import external_node
from mri2qmap.hosts.error_text import ERROR_PREFIX
from mri2qmap.hosts.protocol import Text
from mri2qmap.machine.file_access import FOLDERS_VARIABLE, FileAccess
from mri2qmap.pipeline import pipeline_file
from mri2qmap.pipeline.pipeline_file import pipeline_document
from mri2qmap.pipeline.xml_limits import HEADER, PIPELINE

REFUSED_FILE = "models of the installation, and files in folders that the site allows"
PACKAGE = str(Path(mri2qmap.__file__).parents[2])


@pytest.fixture(autouse=True)
def short_delay(monkeypatch):
    monkeypatch.setattr(external_node, "ERROR_DELAY", 0.01)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("of the site")
    (folder / "open").mkdir()
    (folder / "secret.nii").write_text("secret")
    (folder / "open" / "damaged.nii").write_text("no map")
    (folder / "open" / "damaged.safetensors").write_text("no network")
    return folder


@pytest.fixture(scope="module")
def server(site):
    with serving(files=FileAccess((site / "open",))) as listener:
        yield listener


def by_name(name: str | bytes) -> bytes:
    content = name if isinstance(name, bytes) else name.encode()
    return struct.pack("<H", 1) + content.ljust(1024, b"\0")


def document(**settings: str) -> bytes:
    own = {"atom_step": "0.5", **settings}
    matching = {name: own[name] for name in own if name != "denoiser"}
    return pipeline_document("mri2qmap", {"pnp_admm": own, "combined_matching": matching})


def scan(config: bytes, xml: str | None = None) -> bytes:
    return opening(config, xml) + data() + CLOSE


REQUESTS = {
    "a long name": (lambda site: by_name("x" * 1023), "there is no pipeline 'xxx"),
    "an unknown name": (lambda site: by_name("mri3qmap.xml"), "no pipeline 'mri3qmap.xml' here"),
    "no name": (lambda site: by_name(""), "there is no pipeline '' here"),
    "control characters": (lambda site: by_name("\x1b[2J\n\tERROR a"), r"'\x1b[2J\n\tERROR a'"),
    "no UTF-8": (lambda site: by_name(b"\xff\xfe\x80"), "there is no pipeline"),
    "a path": (lambda site: by_name(f"{site}/secret.nii"), "no pipeline 'secret.nii' here"),
    "a path upwards": (lambda site: by_name("../pyproject.toml"), "there is no pipeline"),
    "a folder": (lambda site: by_name("/"), "there is no pipeline"),
    "no XML": (lambda site: scan(b"\x7fELF"), "not well-formed XML"),
    "deep XML": (lambda site: scan(b"<a>" * 1000), "33 levels of elements"),
    "a long configuration": (
        lambda site: counted(2, b"x" * (PIPELINE.size + 1)),
        "is announced; the limit is 1048576",
    ),
    "a long header": (
        lambda site: counted(2, document()) + struct.pack("<HI", 3, HEADER.size + 1),
        "is announced; the limit is 16777216",
    ),
    "an entity": (
        lambda site: scan(b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>'),
        "a document type (<!DOCTYPE ...>) is not allowed",
    ),
    "a gadget with a path": (
        lambda site: scan(pipeline_xml(external(f"{site}/a")).encode()),
        'gadget "a" is not known',
    ),
    "a long value": (
        lambda site: scan(document().replace(b'"0.5"', b'"' + b"9" * 60_000 + b'x"')),
        'property atom_step="999',
    ),
    "a header of another kind": (
        lambda site: scan(document(), "<a/>"),
        "<ismrmrdHeader> is expected",
    ),
    "too many frames": (
        lambda site: scan(document(), header(angles="30", limit=65_535)),
        "65536 frames; at most 8192",
    ),
    "a file that exists": (lambda site: scan(document(b1_map=f"{site}/secret.nii")), REFUSED_FILE),
    "a file that does not": (lambda site: scan(document(b1_map=f"{site}/none.nii")), REFUSED_FILE),
    "a file upwards": (
        lambda site: scan(document(b1_map=f"{site}/open/../secret.nii")),
        REFUSED_FILE,
    ),
    "a file of the system": (lambda site: scan(document(b1_map="/dev/zero")), REFUSED_FILE),
    "weights elsewhere": (
        lambda site: scan(document(denoiser=f"{site}/none.safetensors")),
        REFUSED_FILE,
    ),
    "an allowed file that is damaged": (
        lambda site: scan(document(b1_map=f"{site}/open/damaged.nii")),
        "b1_map damaged.nii: it cannot be read",
    ),
    "an allowed file that is not there": (
        lambda site: scan(document(b1_map=f"{site}/open/none.nii")),
        "b1_map none.nii: the file does not exist",
    ),
    "allowed weights that are damaged": (
        lambda site: scan(document(denoiser=f"{site}/open/damaged.safetensors")),
        "denoiser damaged.safetensors: damaged or incomplete",
    ),
    "an unknown model": (lambda site: scan(document(denoiser="x" * 5000)), "denoiser 'xxx"),
    "data before the header": (lambda site: counted(2, document()) + data() + CLOSE, "Acquisition"),
    "an unknown message": (lambda site: struct.pack("<H", 999), "unknown identifier 999"),
}


def the_error(texts: list[str], site: Path) -> str:
    """The only error; it tells nothing of this machine."""
    (error,) = (text.strip() for text in texts if ERROR_PREFIX in text)
    for place in (site, PACKAGE, sys.prefix, os.getcwd(), Path.home()):
        assert str(place) not in error
    assert not re.search(r"(^|[\s'\"(=])/\w", error)
    assert error.isprintable()
    assert len(error) < 2100
    return error


@pytest.mark.parametrize("name", REQUESTS)
def test_failing_requests_get_one_line_without_paths(server, site, name):
    request, words = REQUESTS[name]
    with dial(server) as connection:
        connection.sendall(request(site))
        if name != "an unknown message":
            connection.sendall(CLOSE)
        texts = [m.text for m in receive_all(connection) if isinstance(m, Text)]
    assert words in the_error(texts, site)


def test_the_log_has_the_whole_error(server, site, caplog):
    with dial(server) as connection:
        connection.sendall(scan(document(b1_map=f"{site}/open/none.nii")))
        receive_all(connection)
    assert f"{site}/open/none.nii: the file does not exist" in caplog.text


@pytest.mark.parametrize("name", ["a file that exists", "a file that does not"])
def test_pipelines_of_the_site_may_name_any_file(site, server, tmp_path, monkeypatch, name):
    """The gadget looks at the file, instead of a refusal of its name."""
    request, _ = REQUESTS[name]
    size = struct.unpack_from("<I", request(site), 2)[0]
    (tmp_path / "of_the_site.xml").write_bytes(request(site)[6 : 6 + size])
    monkeypatch.setattr(pipeline_file, "pipeline_folders", lambda: (tmp_path,))
    with dial(server) as connection:
        connection.sendall(by_name("of_the_site") + counted(3, header().encode()) + data() + CLOSE)
        texts = [m.text for m in receive_all(connection) if isinstance(m, Text)]
    error = the_error(texts, site)
    assert ("cannot be read as NIfTI" if "exists" in name else "does not exist") in error


SMALL = pipeline_xml(external("coil_sensitivity"), external("parametric_maps")).encode()
HALF = {
    "at once": b"",
    "within the configuration": opening(SMALL)[:8],
    "after the configuration": counted(2, SMALL),
    "after the header": opening(SMALL),
    "between acquisitions": opening(SMALL) + data(),
    "within an acquisition": opening(SMALL) + data()[:-5],
}


@pytest.mark.usefixtures("fake_gadgets")
@pytest.mark.parametrize("name", HALF)
def test_a_client_that_closes_its_half_hears_why_there_are_no_maps(server, site, name):
    with dial(server) as connection:
        connection.sendall(HALF[name])
        connection.shutdown(socket.SHUT_WR)
        texts = [m.text for m in receive_all(connection) if isinstance(m, Text)]
    assert "the peer closed the connection" in the_error(texts, site)


NODES = {
    "a file that exists": {"b1_map": "secret.nii"},
    "a file that does not": {"b1_map": "none.nii"},
    "weights": {"denoiser": "none.safetensors"},
}


@pytest.mark.parametrize("name", NODES)
def test_nodes_open_files_of_allowed_folders_only(site, name, monkeypatch):
    """The server may have the configuration from a client."""
    properties = {k: f"{site}/{v}" for k, v in NODES[name].items()}
    sent = scan(configuration(gadget="pnp_admm", **properties))
    monkeypatch.delenv(FOLDERS_VARIABLE, raising=False)
    answer, _ = serve("pnp_admm", scan(configuration(**properties)))
    assert REFUSED_FILE in the_error(answer.errors, site)
    with running_worker() as (listener, _), dial(listener) as connection:
        connection.sendall(sent)
        assert REFUSED_FILE in the_error(read_answer(connection).errors, site)
    monkeypatch.setenv(FOLDERS_VARIABLE, str(site))
    answer, _ = serve("pnp_admm", scan(configuration(**properties)))
    error = the_error(answer.errors, site)
    assert REFUSED_FILE not in error
    assert next(iter(NODES[name].values())) in error
