"""What the command line of `mri2qmap push` refuses, before anything is recorded or sent."""

import re
import socket
import sys

import pytest
from helpers.pacs_fixtures import push

from mri2qmap.errors import Mri2QmapError
from mri2qmap.pacs.destination import Connection, parse_destination


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("PACS@host:104", "PACS@host:104"),
        (" MY PACS@Host.example.org:11112 ", "MY PACS@host.example.org:11112"),
        ("A@B@127.0.0.1:1", "A@B@127.0.0.1:1"),
        ("PACS@[::1]:104", "PACS@[::1]:104"),
        ("https://Host/dicom-web/", "https://host/dicom-web"),
        ("HTTPS://[::1]:8443/a", "https://[::1]:8443/a"),
        ("http://localhost:8042/dicom-web", "http://localhost:8042/dicom-web"),
    ],
)
def test_destinations(text, canonical):
    assert str(parse_destination(text)) == canonical
    assert parse_destination(canonical) == parse_destination(text)


@pytest.mark.parametrize(
    "text",
    [
        *("", "PACS", "host:104", "@host:104", "PACS@host", "PACS@host:0", "PACS@host:65536"),
        *("PACS@host:", "PACS@:104", "PACS@ho st:104", "PACS@host:1o4", "PACS@host:٤"),
        *("ABCDEFGHIJKLMNOPQ@host:104", "PÄCS@host:104", "A\\B@host:104", "A\nB@host:104"),
        *("ftp://host/", "https://", "https:///path", "https://host:port/", "https://ho\nst/"),
        *("https://user:secret@host/", "https://host/?token=secret", "https://host/#secret"),
    ],
)
def test_text_that_is_no_destination_is_refused_without_secrets(text):
    with pytest.raises(Mri2QmapError, match="destination") as caught:
        parse_destination(text)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{run}"], "--to AE@host:port or https://host/path is missing"),
        (["--calling-ae", "X"], "--to AE@host:port or https://host/path is missing"),
        (["--again", "--to", "A@h:1"], "--again needs the OUTDIR"),
        (["--json"], "--json is for --status"),
        (["--status", "{run}"], "take only --to"),
        (["--status", "--tls"], "take only --to"),
        (["--status", "--to", "B@h:1"], "nothing of it is in spool"),
        (["--discard", "all"], "--discard all needs --to"),
        (["{run}", "--to", "nowhere"], "AE@host:port for C-STORE"),
        (["{run}/none", "--to", "A@h:1"], "there is no such folder"),
        (["{tmp}", "--to", "A@h:1"], "holds no DICOM files"),
        (["{tmp}/bad", "--to", "A@h:1"], "it is no DICOM file"),
        (["{tmp}/cut", "--to", "A@h:1"], "cannot be read as a DICOM object"),
        (["{run}", "--to", "A@h:1", "--timeout", "0"], "--timeout must be positive"),
        (["{run}", "--to", "A@h:1", "--timeout", "nan"], "--timeout must be positive"),
        (["{run}", "--to", "A@h:1", "--attempts", "0"], "--attempts must be a whole number"),
        (["{run}", "--to", "A@h:1", "--wait", "-1"], "--wait must be 0 or more"),
        (["{run}", "--to", "A@h:1", "--commitment", "-1"], "--commitment must be 0 or more"),
        (["{run}", "--to", "A@h:1", "--calling-ae", "x" * 17], "1 to 16 ASCII"),
        (["{run}", "--to", "A@h:1", "--key", "k"], "a key needs the certificate"),
        (["{run}", "--to", "A@h:1", "--ca-file", "{tmp}/no"], "--ca-file .*cannot be read"),
        (["{run}", "--to", "A@h:1", "--token-file", "{tmp}/x"], "--token-file: only for STOW-RS"),
        (["{run}", "--to", "A@h:1", "--allow-http"], "--allow-http: only for STOW-RS"),
        (["{run}", "--to", "A@h:1", "--listen", "x:y"], "PORT or ADDRESS:PORT"),
        (["{run}", "--to", "A@h:1", "--listen", "70000"], "PORT or ADDRESS:PORT"),
        (["{run}", "--to", "https://h/", "--calling-ae", "X"], "--calling-ae: only for C-STORE"),
        (["{run}", "--to", "https://h/", "--listen", "104"], "--listen: only for C-STORE"),
        (["{run}", "--to", "http://h/"], "patient data would go over the network unencrypted"),
        (["{run}", "--to", "http://127.0.0.1/", "--ca-file", "{tmp}/x"], "need a URL with https"),
        (["{run}", "--to", "A@h:1", "--spool", "{tmp}/x/spool"], "spool .*cannot be written"),
    ],
)
def test_refused_before_anything_is_recorded(
    run_folder, spool_place, tmp_path, capsys, words, message
):
    (tmp_path / "x").write_text("x")
    for name, content in (("bad", b"text"), ("cut", bytes(128) + b"DICM\2\0")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.dcm").write_bytes(content)
    if "{tmp}" in words:
        for path in tmp_path.rglob("*.dcm"):
            path.unlink()
    given = [word.format(run=run_folder, tmp=tmp_path) for word in words]
    assert push(*given) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error)
    assert not list(spool_place.glob("batch-*"))
    assert push("--status") == 0
    assert "@" not in capsys.readouterr().out


def test_unknown_options_are_refused(spool_place, capsys):
    assert push("--password", "x") == 2
    assert "unrecognized arguments" in capsys.readouterr().err


def test_nothing_to_do(spool_place, capsys):
    assert push("--status") == 0
    assert "nothing was ever sent from here" in capsys.readouterr().out
    assert not spool_place.exists()
    assert push() == 0
    assert "nothing is pending" in capsys.readouterr().out
    assert spool_place.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("module", ["pynetdicom", "dicomweb_client"])
def test_missing_package_is_named_before_anything_is_recorded(
    run_folder, spool_place, capsys, monkeypatch, module
):
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [_Missing(module), *sys.meta_path])
    place = "A@127.0.0.1:1" if module == "pynetdicom" else "https://127.0.0.1/"
    assert push(run_folder, "--to", place) == 2
    assert "pip install 'mri2qmap[pacs]'" in capsys.readouterr().err
    assert not list(spool_place.glob("batch-*"))


class _Missing:
    """Lets a module be absent."""

    def __init__(self, module: str) -> None:
        self._module = module

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == self._module:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


@pytest.mark.parametrize("place", ["A@127.0.0.1:{port}", "https://127.0.0.1:{port}/"])
@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--key", "certificate or key .* not usable .the key has a passphrase"),
        ("--cert", "certificate or key .* not usable"),
        ("--ca-file", "certificates .* not usable"),
    ],
)
def test_unusable_certificates_are_told(
    run_folder, spool_place, certificates, tmp_path, capsys, place, option, words
):
    (tmp_path / "no.pem").write_text("no certificate")
    files = {
        "--ca-file": certificates.authority,
        "--cert": certificates.client,
        "--key": certificates.client_key,
    }
    files[option] = tmp_path / "no.pem"
    if option == "--key":
        files[option] = certificates.client_key.with_suffix(".locked")
    options = [word for item in files.items() for word in item]
    with socket.create_server(("127.0.0.1", 0)) as server:
        to = place.format(port=server.getsockname()[1])
        assert push(run_folder, "--to", to, *options, "--timeout", "1", "--attempts", "1") == 4
    assert re.search(f"still pending: {words}", capsys.readouterr().out)


def test_http_to_another_machine_needs_leave():
    place = parse_destination("http://pacs.example.org/dicom-web")
    with pytest.raises(Mri2QmapError, match="unencrypted"):
        Connection().for_destination(place)
    assert Connection(allow_http=True).for_destination(place).allow_http
    for host in ("localhost", "127.0.0.1", "127.1.2.3", "[::1]"):
        Connection().for_destination(parse_destination(f"http://{host}:8042/dicom-web"))


@pytest.mark.parametrize("word", ["--status", "--discard=refused"])
def test_status_of_several_destinations(run_folder, spool_place, capsys, word):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        place = run_folder / "dicom" / "parametric" / "T1map.dcm"
        options = ["--attempts", "1", "--timeout", "1"]
        web, node = f"http://127.0.0.1:{port}/x", f"A@127.0.0.1:{port}"
        assert push(place, "--to", web, *options) == 4
        assert push("--to", web, "--allow-http", *options) == 4
    assert "no connection (Connection refused)" in capsys.readouterr().out
    assert push(word) == 0
    text = capsys.readouterr().out
    assert f"{web}: " in text
    assert node not in text
