"""STOW-RS to servers that take all, some or nothing, and to those that fail."""

import ssl

import pytest
from helpers.dicom_peers import WebServer, stow_answer, web_server
from helpers.pacs_fixtures import contents, push, status

FAST = ("--timeout", "5", "--attempts", "2", "--wait", "0.01")
JSON = "application/dicom+json"


def files(folder):
    return {path.read_bytes() for path in folder.rglob("*.dcm")}


@pytest.mark.parametrize("reply", ["json", "json with a charset"])
def test_all_is_sent_as_it_is_in_the_files(run_folder, spool_place, capsys, reply):
    kept = []

    def answer(objects):
        if reply == "json":
            return None
        kept.extend(objects)
        return 200, stow_answer(stored=objects), f"{JSON}; charset=utf-8"

    with web_server(WebServer(answer=answer)) as server:
        assert push(run_folder, "--to", server.place, *FAST) == 0
        count = len(server.objects) or len(kept)
        assert push(run_folder, "--to", f"{server.place}/", *FAST) == 0
    assert count == len(contents(run_folder)) == (len(server.objects) or len(kept))
    if reply == "json":
        assert set(server.objects.values()) == files(run_folder)
        assert set(server.times.values()) == {1}
    assert not list(spool_place.glob("batch-*"))
    assert all("authorization" not in headers for headers in server.requests)


@pytest.mark.parametrize(
    ("code", "reason", "state", "exit_code"),
    [
        (202, 0x0122, "refused", 3),
        (409, 0xA900, "refused", 3),
        (202, 0xA700, "pending", 4),
        (409, 0x0110, "pending", 4),
    ],
)
def test_some_fail(run_folder, spool_place, capsys, code, reason, state, exit_code):
    def answer(objects):
        failed = [item for item in objects if "FloatPixelData" in item]
        if not failed:
            return None
        stored = [item for item in objects if item not in failed]
        return code, stow_answer(stored, failed, reason), JSON

    with web_server(WebServer(answer=answer)) as server:
        assert push(run_folder, "--to", server.place, *FAST) == exit_code
    found = status(capsys)
    parametric = len(list((run_folder / "dicom" / "parametric").iterdir()))
    assert (found[state], found["sent"]) == (parametric, len(contents(run_folder)) - parametric)
    assert any(f"{reason:04X}H" in held["reason"] for held in found["objects"])


@pytest.mark.parametrize(
    ("code", "tries", "state", "words"),
    [
        (401, 1, "pending", "HTTP 401 Unauthorized; check the bearer token"),
        (403, 1, "pending", "HTTP 403 Forbidden; check the bearer token"),
        (404, 1, "pending", "is it the base URL of the DICOMweb services"),
        (302, 1, "pending", "the server redirects"),
        (500, 2, "pending", "HTTP 500 Internal Server Error"),
        (503, 2, "pending", "HTTP 503 Service Unavailable"),
        (429, 2, "pending", "HTTP 429 Too Many Requests"),
    ],
)
def test_failure_of_the_server(run_folder, spool_place, capsys, code, tries, state, words):
    server = WebServer(answer=lambda objects: (code, b"Lovelace^Ada", "text/plain"))
    with web_server(server):
        assert push(run_folder, "--to", server.place, *FAST) == 4
        assert len(server.requests) == tries
        output = capsys.readouterr()
        assert words in output.out
        assert "Lovelace" not in output.out + output.err
        server.answer = lambda objects: None
        assert push(*FAST) == 0
    assert set(server.objects.values()) == files(run_folder)


def test_request_that_is_too_large_or_malformed_is_divided(run_folder, spool_place, capsys):
    """One object that the server does not take says nothing against the others."""

    def answer(objects):
        if len(objects) > 1:
            return 413, b"", "text/plain"
        return (400, b"", "text/plain") if "FloatPixelData" in objects[0] else None

    with web_server(WebServer(answer=answer)) as server:
        assert push(run_folder, "--to", server.place, *FAST) == 3
    parametric = len(list((run_folder / "dicom" / "parametric").iterdir()))
    assert f"{parametric} Parametric Map Storage refused: HTTP 400" in capsys.readouterr().out
    assert len(server.objects) == len(contents(run_folder)) - parametric


SILENT = {
    "nothing": (200, b"", JSON),
    "a page of a proxy": (200, b"<html>Please log in</html>", "text/html"),
    "an empty object": (200, b"{}", JSON),
    "an empty list": (200, b"[]", JSON),
    "an empty sequence": (200, b'{"00081199": {"vr": "SQ", "Value": []}}', JSON),
    "no sequence": (200, b'{"00081199": null}', JSON),
    "far too deep": (200, b"[" * 100_000, JSON),
    "an empty document": (
        200,
        b"<?xml version='1.0'?><NativeDicomModel/>",
        "application/dicom+xml",
    ),
    "created": (201, b"{}", JSON),
    "accepted": (202, stow_answer(), JSON),
    "no content": (204, b"", JSON),
}


@pytest.mark.parametrize("answer", SILENT.values(), ids=SILENT)
def test_success_without_words_on_objects_leaves_them_pending(
    run_folder, spool_place, capsys, answer
):
    with web_server(WebServer(answer=lambda objects: answer)) as server:
        assert push(run_folder, "--to", server.place, *FAST) == 4
    assert "does not say whether it stored the object" in capsys.readouterr().out


def test_success_of_another_object_leaves_it_pending(run_folder, spool_place, capsys):
    def answer(objects):
        objects[0].SOPInstanceUID = "1.2.3.4"
        return 200, stow_answer(stored=objects[:1]), JSON

    with web_server(WebServer(answer=answer)) as server:
        place = run_folder / "dicom" / "parametric" / "T1map.dcm"
        assert push(place, "--to", server.place, *FAST) == 4
    assert "does not say whether it stored the object" in capsys.readouterr().out


def test_token_and_certificates_of_files(run_folder, spool_place, certificates, tmp_path, capsys):
    token = tmp_path / "token"
    token.write_text("c2VjcmV0\n")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificates.authority)
    context.load_cert_chain(certificates.server, certificates.server_key)
    context.verify_mode = ssl.CERT_REQUIRED
    with web_server(tls=context) as server:
        place = server.place.replace("http:", "https:")
        assert push(run_folder, "--to", place, *FAST) == 4
        assert "TLS failed" in capsys.readouterr().out
        known = ["--ca-file", certificates.authority, "--token-file", token]
        own = ["--cert", certificates.client, "--key", certificates.client_key]
        assert push("--to", place, *known, *own, *FAST) == 0
    assert set(server.objects.values()) == files(run_folder)
    assert {headers["authorization"] for headers in server.requests} == {"Bearer c2VjcmV0"}
    output = capsys.readouterr()
    assert "c2VjcmV0" not in output.out + output.err
    for path in spool_place.rglob("*"):
        assert path.is_dir() or b"c2VjcmV0" not in path.read_bytes()


@pytest.mark.parametrize("content", ["", "two words", "x\ny"])
def test_token_file_that_holds_no_token(run_folder, spool_place, tmp_path, capsys, content):
    token = tmp_path / "token"
    token.write_text(content)
    with web_server() as server:
        assert push(run_folder, "--to", server.place, "--token-file", token, *FAST) == 4
    assert "one token is expected" in capsys.readouterr().out
    assert not server.requests


def test_server_that_never_answers_is_given_up(run_folder, spool_place, capsys):
    import threading

    go_on = threading.Event()
    with web_server(WebServer(answer=lambda objects: go_on.wait(20) and None)) as server:
        options = ["--timeout", "0.3", "--attempts", "1"]
        assert push(run_folder, "--to", server.place, *options) == 4
        go_on.set()
    assert "no answer within 0.3 s" in capsys.readouterr().out
