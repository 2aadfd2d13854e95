"""`mri2qmap push`: DICOM objects of output folders go to a PACS."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mri2qmap.cli.console import say

if TYPE_CHECKING:
    from mri2qmap.pacs.destination import Connection, Destination
    from mri2qmap.pacs.pushing import PushOptions, PushResult
    from mri2qmap.pacs.spool import Spool

NOT_TAKEN = 3
"""Exit code: all was sent but what the peer does not take."""
KEPT = 4
"""Exit code: something could not be sent now, and is kept."""

_DESCRIPTION = """\
Send the DICOM objects of output folders to a PACS: by C-STORE (AE@host:port), or by STOW-RS of
DICOMweb (https://host/path).

What is to be sent is copied into the spool, a folder, before anything is sent, and stays there
until the peer has taken it. Without OUTDIR, everything pending is sent. An object that was sent is
not sent again. How the connection to a destination is made is kept in the spool, too, and holds
until other options are given; passwords and keys are only named by their files.

Exit codes: 0 when all was sent; 2 for wrong input or usage, and for a disk that fails; 3 when the
peer does not take some of the objects and has the others; 4 when something could not be sent now:
it is pending, and the next push sends it.
"""

_EXAMPLES = """\
examples:
  mri2qmap push maps/ --to PACS@10.0.0.5:104
  mri2qmap push maps/ --to PACS@pacs.example.org:2762 --ca-file ca.pem --cert my.pem --key my.key
  mri2qmap push maps/ --to https://pacs.example.org/dicom-web --token-file token.txt
  mri2qmap push                                   (everything pending, for example from cron)
  mri2qmap push --status --json
  mri2qmap push --discard refused --to PACS@10.0.0.5:104
"""


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "push",
        help="send the DICOM objects of output folders to a PACS",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "folders",
        metavar="OUTDIR",
        type=Path,
        nargs="*",
        help="output folder of a run or of several, any folder with DICOM files, or a DICOM file",
    )
    parser.add_argument("--to", metavar="DEST", help="AE@host:port, or https://host/path")
    parser.add_argument(
        "--again",
        action="store_true",
        help="send also what was sent before, as the same instances, for a peer that has lost it",
    )
    action = parser.add_mutually_exclusive_group()
    action.add_argument(
        "--status",
        action="store_true",
        help="list destinations with what is pending, sent (within 30 days) and refused, and why",
    )
    action.add_argument(
        "--discard",
        choices=("refused", "all"),
        help="forget what was refused; all: with --to, the destination and what is pending for it",
    )
    parser.add_argument("--json", action="store_true", help="with --status: as one JSON object")
    parser.add_argument(
        "--spool",
        metavar="FOLDER",
        type=Path,
        help="(default: MRI2QMAP_SPOOL, or mri2qmap/spool in XDG_STATE_HOME or ~/.local/state)",
    )
    _add_patience(parser.add_argument_group("patience"))
    _add_connection(parser.add_argument_group("connection, kept for the destination"))


def _add_patience(group: Any) -> None:
    from mri2qmap.pacs.pushing import PushOptions

    default = PushOptions()
    for name, kind, metavar, words in (
        ("timeout", float, "S", "how long the peer may take for the connection and each answer"),
        ("attempts", int, "N", "attempts without any progress before the rest stays pending"),
        ("wait", float, "S", "time before the second attempt; it doubles with each further one"),
        (
            "commitment",
            float,
            "S",
            "C-STORE: how long to wait for the report of storage commitment, if the peer offers "
            "it; 0: do not ask for it",
        ),
    ):
        value = getattr(default, name)
        unit = " s" if metavar == "S" else ""
        group.add_argument(
            f"--{name}",
            type=kind,
            metavar=metavar,
            default=value,
            help=f"{words} (default: {value:g}{unit})",
        )


def _add_connection(group: Any) -> None:
    add = group.add_argument
    add("--calling-ae", metavar="AE", help="C-STORE: own AE title (default: MRI2QMAP)")
    add("--tls", action="store_true", help="C-STORE: TLS; implied by the files of certificates")
    add(
        "--ca-file",
        type=Path,
        metavar="PEM",
        help="trusted authorities (default: C-STORE, the system's; else certifi's)",
    )
    add("--cert", type=Path, metavar="PEM", dest="certificate", help="own certificate")
    add("--key", type=Path, metavar="PEM", help="its key, without a passphrase")
    add("--token-file", type=Path, metavar="FILE", help="STOW-RS: file with a bearer token")
    add(
        "--allow-http",
        action="store_true",
        help="STOW-RS: http also to another machine; patient data go unencrypted",
    )
    add(
        "--listen",
        metavar="[ADDRESS:]PORT",
        help="C-STORE: port for reports of storage commitment on a connection of their own",
    )


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    from mri2qmap.errors import Mri2QmapError
    from mri2qmap.machine.folders import spool_folder
    from mri2qmap.pacs.destination import parse_destination
    from mri2qmap.pacs.spool import Spool

    folder = spool_folder() if args.spool is None else args.spool.absolute()
    destination = None if args.to is None else parse_destination(args.to)
    options, connection = _options(args), _connection(args)
    if args.json and not args.status:
        raise Mri2QmapError("--json is for --status")
    if args.status or args.discard:
        if args.folders or args.again or connection is not None:
            raise Mri2QmapError("--status and --discard take only --to, --spool and --json")
        if args.status:
            return _status(folder, destination, args.json)
        return _discard(folder, destination, args.discard)
    if destination is None and (args.folders or args.again or connection is not None):
        raise Mri2QmapError("--to AE@host:port or https://host/path is missing: where to send")
    if args.again and not args.folders:
        raise Mri2QmapError("--again needs the OUTDIR to send again")
    with Spool(folder) as spool:
        if destination is None:
            places = [parse_destination(name) for name in spool.destinations()]
        else:
            places = [destination]
            _record(args, spool, destination, options, connection)
        return _push(spool, places, options)


def _options(args: argparse.Namespace) -> PushOptions:
    from mri2qmap.errors import Mri2QmapError
    from mri2qmap.pacs.pushing import PushOptions

    try:
        return PushOptions(
            **{field.name: getattr(args, field.name) for field in dataclasses.fields(PushOptions)}
        )
    except ValueError as error:
        raise Mri2QmapError(f"--{error}") from error


def _connection(args: argparse.Namespace) -> Connection | None:
    """Return what the options say of the connection; None if they say nothing."""
    from mri2qmap.errors import Mri2QmapError
    from mri2qmap.pacs.destination import Connection

    given = {field.name: getattr(args, field.name) for field in dataclasses.fields(Connection)}
    given = {name: value for name, value in given.items() if value not in (None, False)}
    try:
        return Connection(**given) if given else None
    except ValueError as error:
        raise Mri2QmapError(f"connection: {error}") from error


def _record(
    args: argparse.Namespace,
    spool: Spool,
    destination: Destination,
    options: PushOptions,
    connection: Connection | None,
) -> None:
    """Put the objects of the folders into the spool, once all else is known to be right."""
    from mri2qmap.pacs.dicom_files import dicom_files
    from mri2qmap.pacs.pushing import sender_for

    name = str(destination)
    own = spool.connection(name) if connection is None else connection
    own = own.for_destination(destination)
    sender_for(destination, own, options)
    if not args.folders:
        spool.set_connection(name, own)
        return
    paths = list(dicom_files(args.folders))
    with spool.batch() as batch:
        for path in args.report.progress(paths, "spool", total=len(paths)):
            batch.add_file(path)
        recorded = spool.record(batch, name, own, args.again)
    known = f", {recorded.waiting} were pending already" if recorded.waiting else ""
    if recorded.sent:
        known += f", {recorded.sent} were sent before (--again sends them once more)"
    say(f"{name}: {recorded.new} recorded{known}")


def _push(spool: Spool, places: list[Destination], options: PushOptions) -> int:
    """Send what is pending; a destination that fails does not keep the others from theirs."""
    from mri2qmap.cli.main import REFUSED
    from mri2qmap.errors import Mri2QmapError
    from mri2qmap.pacs.pushing import push_pending

    if not places:
        say(f"spool {spool.folder}: nothing is pending")
    code = 0
    for place in places:
        try:
            result = push_pending(spool, place, options, tell=_complain)
        except Mri2QmapError as error:
            if len(places) == 1:
                raise
            _complain(str(error))
            code = REFUSED
            continue
        _say_result(result)
        if code != REFUSED and (result.pending or result.refused):
            code = max(code, KEPT if result.pending else NOT_TAKEN)
    return code


def _say_result(result: PushResult) -> None:
    from mri2qmap.pacs.entries import class_name

    name, sent = result.destination, sum(result.sent.values())
    kinds = ", ".join(sorted(f"{class_name(uid)}: {count}" for uid, count in result.sent.items()))
    say(f"{name}: {sent} sent{f' ({kinds})' if kinds else ''}, {result.pending} pending")
    for (uid, reason), count in sorted(result.refused.items()):
        say(f"{name}: {count} {class_name(uid)} refused: {reason}")
    for note in result.notes:
        say(f"{name}: {note}")
    if result.pending:
        say(f"{name}: still pending: {result.problem}; mri2qmap push sends them later")


def _complain(line: str) -> None:
    from mri2qmap.pipeline.scan_log import printable

    print(f"mri2qmap: {printable(line)}", file=sys.stderr)


def _status(folder: Path, destination: Destination | None, as_json: bool) -> int:
    from mri2qmap.errors import Mri2QmapError
    from mri2qmap.pacs.spool import Spool

    found = []
    if folder.exists():
        with Spool(folder) as spool:
            found = [
                _state_of(spool, name)
                for name in spool.destinations()
                if destination is None or name == str(destination)
            ]
    if destination is not None and not found:
        raise Mri2QmapError(f"--to {destination}: nothing of it is in spool {folder}")
    if as_json:
        print(json.dumps({"spool": str(folder), "destinations": found}, indent=1))
        return 0
    print(f"spool {folder}" + ("" if found else ": nothing was ever sent from here"))
    for state in found:
        counts = ", ".join(f"{state[key]} {key}" for key in ("pending", "sent", "refused"))
        print(f"{state['destination']}: {counts}")
        for held in state["objects"]:
            reason = f": {held['reason']}" if held["reason"] else ""
            print(f"  {held['state']:8} {held['count']:6} {held['sop_class_name']}{reason}")
        if state["problem"]:
            print(f"  last try {state['tried']}: {state['problem']}")
    return 0


def _state_of(spool: Spool, name: str) -> dict[str, Any]:
    """Return what the spool knows of a destination, as JSON values."""
    from mri2qmap.pacs.entries import State, class_name

    held = spool.held(name)
    counts = {state: sum(h.count for h in held if h.state is state) for state in State}
    problem, tried = spool.problem(name)
    return {
        "destination": name,
        "pending": counts[State.PENDING] + counts[State.STORED],
        "sent": counts[State.SENT],
        "refused": counts[State.REFUSED],
        "problem": problem,
        "tried": tried,
        "objects": [
            {**dataclasses.asdict(h), "sop_class_name": class_name(h.sop_class)} for h in held
        ],
        "sop_instances": {
            str(state): [entry.identity.sop_instance for entry in spool.entries(name, state)]
            for state in (State.PENDING, State.STORED, State.REFUSED)
        },
    }


def _discard(folder: Path, destination: Destination | None, what: str) -> int:
    from mri2qmap.errors import Mri2QmapError
    from mri2qmap.pacs.entries import State
    from mri2qmap.pacs.spool import Spool

    if what == "all" and destination is None:
        raise Mri2QmapError("--discard all needs --to: which destination to forget")
    with Spool(folder) as spool:
        names = spool.destinations() if destination is None else [str(destination)]
        for name in names:
            if what == "all":
                count = spool.forget(name)
            else:
                count = spool.discard(name, State.REFUSED)
            say(f"{name}: {count} discarded")
    return 0
