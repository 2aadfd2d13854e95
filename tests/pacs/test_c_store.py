"""C-STORE to peers that take all, some or nothing, and to those that fail."""

import socket
import ssl
import threading

import pytest
from helpers.dicom_peers import COMMITMENT, Node, abort_after, dicom_node, slow, stalling_proxy
from helpers.pacs_fixtures import contents, push, status
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.sop_class import MRImageStorage, ParametricMapStorage

FAST = ("--timeout", "5", "--attempts", "2", "--wait", "0.01", "--commitment", "0")
IMPATIENT = ("--timeout", "0.3", "--attempts", "1", "--commitment", "0")


def kinds(folder) -> tuple[int, int]:
    """Number of classic and of parametric objects."""
    parametric = len(list((folder / "dicom" / "parametric").iterdir()))
    return len(contents(folder)) - parametric, parametric


def test_all_is_sent_as_it_is_in_the_files(run_folder, spool_place, capsys):
    with dicom_node() as node:
        assert push(run_folder, "--to", node.place, *FAST) == 0
    assert node.objects == contents(run_folder)
    assert set(node.times.values()) == {1}
    (contexts,) = node.contexts
    assert contexts == {
        (MRImageStorage, ExplicitVRLittleEndian),
        (ParametricMapStorage, ExplicitVRLittleEndian),
    }
    classic, parametric = kinds(run_folder)
    text = capsys.readouterr().out
    assert f"(MR Image Storage: {classic}, Parametric Map Storage: {parametric}), 0 pending" in text
    assert not list(spool_place.glob("batch-*"))


def test_what_was_sent_is_not_sent_again_unless_that_is_asked_for(run_folder, spool_place, capsys):
    with dicom_node() as node:
        assert push(run_folder, "--to", node.place, *FAST) == 0
        assert push(run_folder, "--to", node.place, *FAST) == 0
        assert f"0 recorded, {len(node.objects)} were sent before" in capsys.readouterr().out
        assert set(node.times.values()) == {1}
        assert push(run_folder, "--to", node.place, "--again", *FAST) == 0
    assert set(node.times.values()) == {2}
    assert node.objects == contents(run_folder)


def test_only_what_the_folder_holds_is_negotiated(run_folder, spool_place):
    with dicom_node() as node:
        assert push(run_folder / "dicom" / "parametric", "--to", node.place, *FAST) == 0
    assert node.contexts == [{(ParametricMapStorage, ExplicitVRLittleEndian)}]


@pytest.mark.parametrize("classes", [(MRImageStorage,), (ParametricMapStorage,)])
def test_peer_without_one_sop_class_gets_the_other(run_folder, spool_place, capsys, classes):
    with dicom_node(classes=classes) as node:
        assert push(run_folder, "--to", node.place, *FAST) == 3
    found = status(capsys)
    classic, parametric = kinds(run_folder)
    taken, refused = (
        (classic, parametric) if classes == (MRImageStorage,) else (parametric, classic)
    )
    assert len(node.objects) == found["sent"] == taken
    assert (found["pending"], found["refused"]) == (0, refused)
    (reason,) = (held["reason"] for held in found["objects"] if held["state"] == "refused")
    assert reason == "no presentation context: the peer does not support this SOP class"


def test_peer_without_any_sop_class_refuses_all(run_folder, spool_place, capsys):
    with dicom_node(classes=("1.2.840.10008.1.1",)) as node:
        assert push(run_folder, "--to", node.place, *FAST) == 3
    assert status(capsys)["refused"] == len(contents(run_folder))


STATUSES = {
    0xA900: ("refused", "data set does not match the SOP class"),
    0xC123: ("refused", "cannot understand"),
    0x0122: ("refused", "SOP class not supported"),
    0x0124: ("refused", "not authorised"),
    0x0111: ("refused", "has an object with this UID"),
    0x7777: ("refused", "unknown failure"),
    0xB000: ("sent", "changed by the peer"),
    0xB123: ("sent", "stored with a warning"),
    0xA700: ("pending", "out of resources"),
    0x0110: ("pending", "processing failure"),
}


def test_status_of_the_peer(run_folder, spool_place, capsys):
    given = {}

    def answer(event, number):
        uid = str(event.request.AffectedSOPInstanceUID)
        return given.setdefault(uid, ([*STATUSES] + [0] * 100)[len(given)])

    with dicom_node(Node(answer=answer)) as node:
        assert push(run_folder, "--to", node.place, *FAST) == 4
    lines = capsys.readouterr().out.splitlines()
    found = status(capsys)
    for code, (state, words) in STATUSES.items():
        (held,) = (held for held in found["objects"] if f"{code:04X}H" in held["reason"])
        assert (held["state"], held["count"]) == (state, 1)
        assert words in held["reason"]
        if state != "pending":
            assert any(held["reason"] in line for line in lines)
    assert found["sent"] == len(given) - 8
    pending = {uid for uid, code in given.items() if STATUSES.get(code, ("",))[0] == "pending"}
    assert set(found["sop_instances"]["pending"]) == pending
    assert {uid for uid, times in node.times.items() if times > 1} == pending
    assert sum(node.times.values()) - len(given) == 2 * len(pending)  # two attempts in vain


def test_refused_objects_are_tried_again_or_discarded_on_request(run_folder, spool_place, capsys):
    _, parametric = kinds(run_folder)
    with dicom_node(classes=(MRImageStorage,)) as node:
        assert push(run_folder, "--to", node.place, *FAST) == 3
        assert push() == 0  # what was refused is not pending
        assert push(run_folder, "--to", node.place, *FAST) == 3
    with dicom_node(node, port=node.port):
        assert push(run_folder, "--to", node.place, *FAST) == 0
    assert node.objects == contents(run_folder)
    assert set(node.times.values()) == {1}
    with dicom_node(Node(), classes=(MRImageStorage,)) as other:
        assert push(run_folder, "--to", other.place, *FAST) == 3
    capsys.readouterr()
    assert push("--discard", "refused", "--to", other.place) == 0
    assert f"{parametric} discarded" in capsys.readouterr().out
    assert not list(spool_place.glob("batch-*"))


def test_rest_is_sent_after_an_abort(run_folder, spool_place, capsys):
    with dicom_node(Node(answer=abort_after(4))) as node:
        assert push(run_folder, "--to", node.place, *FAST) == 0
    assert node.objects == contents(run_folder)
    assert sorted(node.times.values())[-2:] == [1, 2]  # only the one without an answer came twice
    assert len(node.contexts) == 2
    assert "next attempt in 0.01 s" in capsys.readouterr().err


def test_peer_that_aborts_each_time_is_given_up(run_folder, spool_place, capsys):
    def answer(event, number):
        event.assoc.abort()
        return 0xC000

    with dicom_node(Node(answer=answer)) as node:
        assert push(run_folder, "--to", node.place, *FAST) == 4
    assert len(node.contexts) == 2
    assert status(capsys)["pending"] == len(contents(run_folder))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--to", "WRONG@127.0.0.1:{port}"], "does not know the AE title WRONG"),
        (["--to", "PACS@127.0.0.1:{port}", "--calling-ae", "SPY"], "enter it there, or give"),
    ],
)
def test_wrong_ae_title_is_told_and_everything_kept(
    run_folder, spool_place, capsys, options, words
):
    with dicom_node() as node:
        given = [word.format(port=node.port) for word in options]
        assert push(run_folder, *given, *FAST) == 4
        assert words in capsys.readouterr().out
        assert status(capsys)["pending"] == len(contents(run_folder))
        assert len(node.contexts) == 1  # a second attempt would end in the same way
        assert push("--discard", "all", "--to", given[1]) == 0
        assert push(run_folder, "--to", node.place, *FAST) == 0
    assert node.objects == contents(run_folder)


# the library leaves the socket open
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
def test_nobody_listens_there(run_folder, spool_place, capsys):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        assert push(run_folder, "--to", f"PACS@127.0.0.1:{port}", *FAST) == 4
    assert "no connection (Connection refused)" in capsys.readouterr().out
    assert push("--status") == 0
    assert "  last try 2" in capsys.readouterr().out
    with dicom_node(port=port) as node:
        assert push() == 0
    assert node.objects == contents(run_folder)
    assert push() == 0


def test_peer_that_never_answers_is_given_up(run_folder, spool_place, capsys):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        assert push(run_folder, "--to", f"PACS@127.0.0.1:{port}", *IMPATIENT) == 4
    assert "answered no association within 0.3 s" in capsys.readouterr().out


def test_peer_that_is_too_slow_is_given_up_and_keeps_its_chance(run_folder, spool_place, capsys):
    with dicom_node(Node(answer=slow(0.8))) as node:
        assert push(run_folder, "--to", node.place, *IMPATIENT) == 4
        assert "gave no answer within 0.3 s" in capsys.readouterr().out
        node.answer = slow(0)
        assert push(*FAST) == 0
    assert node.objects == contents(run_folder)


def test_peer_that_stops_reading_is_given_up(run_folder, spool_place, tmp_path, capsys):
    """The object is larger than what the system buffers."""
    large = dcmread(run_folder / "dicom" / "parametric" / "T1map.dcm")
    large.add_new(0x00090010, "LO", "TEST")
    large.add_new(0x00091001, "OB", bytes(20_000_000))
    large.save_as(tmp_path / "large.dcm", enforce_file_format=True)
    with dicom_node() as node, stalling_proxy(node.port, 100_000) as port:
        place = f"PACS@127.0.0.1:{port}"
        assert push(tmp_path / "large.dcm", "--to", place, *IMPATIENT) == 4
    assert "broke the association off" in capsys.readouterr().out


def test_tls_with_certificates_of_both(run_folder, spool_place, certificates, capsys):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificates.authority)
    context.load_cert_chain(certificates.server, certificates.server_key)
    context.verify_mode = ssl.CERT_REQUIRED
    own = ["--cert", certificates.client, "--key", certificates.client_key]
    with dicom_node(tls=context) as node:
        assert push(run_folder, "--to", node.place, "--tls", *FAST) == 4
        assert "is not trusted" in capsys.readouterr().out
        trusted = ["--ca-file", certificates.authority]
        assert push("--to", node.place, *trusted, *own, *FAST) == 0
        assert push(run_folder, "--to", node.place, "--again", *FAST) == 0  # the files are known
    assert node.objects == contents(run_folder)
    secret = certificates.client_key.read_text().splitlines()[1]
    for path in spool_place.rglob("*"):
        assert path.is_dir() or secret.encode() not in path.read_bytes()


@pytest.mark.parametrize("by", ["the same association", "one of its own"])
@pytest.mark.parametrize("lost", [0, 2])
def test_storage_commitment(run_folder, spool_place, capsys, by, lost):
    """The peer commits to all but some of the objects; these are sent once more."""
    asked = []
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def action(event):
        request = event.action_information
        asked.append(len(request.ReferencedSOPSequence))
        items = list(request.ReferencedSOPSequence)
        missing = items[:lost] if len(asked) == 1 else []
        for item in missing:
            item.FailureReason = 0x0112
        request.ReferencedSOPSequence = items[len(missing) :]
        if missing:
            request.FailedSOPSequence = missing
        place = None if by == "the same association" else ("127.0.0.1", port)
        threading.Thread(target=report, args=(event.assoc, request, place)).start()
        return 0x0000, None

    def report(association, content, place):
        what = content, 2 if "FailedSOPSequence" in content else 1, COMMITMENT, COMMITMENT + ".1"
        if place is None:
            association.send_n_event_report(*what)
            return
        entity = AE("PACS")
        entity.add_requested_context(COMMITMENT)
        from pynetdicom import build_role

        own = entity.associate(*place, ext_neg=[build_role(COMMITMENT, scp_role=True)])
        own.send_n_event_report(*what)
        own.release()

    options = ["--timeout", "5", "--attempts", "2", "--wait", "0.01", "--commitment", "5"]
    if by != "the same association":
        options += ["--listen", f"127.0.0.1:{port}"]
    classes = (MRImageStorage, ParametricMapStorage, COMMITMENT)
    with dicom_node(classes=classes, handlers=((evt.EVT_N_ACTION, action),)) as node:
        assert push(run_folder, "--to", node.place, *options) == 0
    count = len(contents(run_folder))
    assert asked == ([count] if not lost else [count, lost])
    assert sum(node.times.values()) == count + lost
    text = capsys.readouterr().out
    assert f"storage commitment: the peer keeps {lost or count} of {lost or count}" in text
    assert status(capsys)["sent"] == count
    assert not list(spool_place.glob("batch-*"))


def test_peer_that_never_commits_is_given_up(run_folder, spool_place, capsys):
    def action(event):
        request = event.action_information
        request.FailedSOPSequence = request.ReferencedSOPSequence
        del request.ReferencedSOPSequence
        for item in request.FailedSOPSequence:
            item.FailureReason = 0x0112
        what = request, 2, COMMITMENT, COMMITMENT + ".1"
        threading.Thread(target=event.assoc.send_n_event_report, args=what).start()
        return 0x0000, None

    classes = (ParametricMapStorage, COMMITMENT)
    folder = run_folder / "dicom" / "parametric"
    with dicom_node(classes=classes, handlers=((evt.EVT_N_ACTION, action),)) as node:
        options = ["--timeout", "5", "--attempts", "2", "--wait", "0.01", "--commitment", "5"]
        assert push(folder, "--to", node.place, *options) == 4
    assert set(node.times.values()) == {2}
    assert "the peer does not commit to it" in capsys.readouterr().out
    assert status(capsys)["pending"] == len(node.times)


def test_peer_without_storage_commitment_or_without_a_report(run_folder, spool_place, capsys):
    options = ["--timeout", "5", "--commitment", "0.1"]
    with dicom_node() as node:
        assert push(run_folder, "--to", node.place, *options) == 0
        assert "storage commitment: the peer does not offer it" in capsys.readouterr().out
    silent = ((evt.EVT_N_ACTION, lambda event: (0x0000, None)),)
    classes = (MRImageStorage, ParametricMapStorage, COMMITMENT)
    with dicom_node(Node(), classes=classes, handlers=silent) as node:
        assert push(run_folder, "--to", node.place, *options) == 0
        assert "asked for, no report within 0.1 s; peers that" in capsys.readouterr().out
