"""The command `mri2qmap` and its subcommands.

Exit codes: 0 when what was asked for is there; 1 after a failure inside the program; 2 for wrong
input, settings or usage; 74 for a disk that is full or fails; 129 after SIGHUP, 130 after Ctrl-C,
143 after SIGTERM; 141 when what reads the output, as `| head`, has had enough. `push` and
`validate` have more.

Each subcommand is a module of this package with ``add_parser(subparsers)`` and
``run(args) -> int``. Besides its own arguments, `args` holds ``verbose`` (how many -v were given),
``report`` (a `Reporter` for progress and log lines) and ``command`` (the command line). The
modules import what is heavy inside `run`, so that help is there at once.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import select
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import Any

import mri2qmap
from mri2qmap.cli.console import standard_streams
from mri2qmap.cli.thread_option import set_threads
from mri2qmap.errors import (
    GadgetError,
    Mri2QmapError,
    ReportedElsewhereError,
    failing_library,
    with_causes,
)
from mri2qmap.machine.cancellation import Cancellation
from mri2qmap.machine.streams import discard
from mri2qmap.storage.atomic import (
    DISK_FAILURE,
    is_disk_error,
    remove_all_scratch,
    uninterrupted,
    why,
)

COMMANDS = (
    "anatomy",
    "simulate",
    "validate",
    "replay",
    "queue",
    "serve",
    "worker",
    "pipeline",
    "openrecon",
    "push",
    "warm-up",
    "evaluate",
    "demo",
    "train",
    "record-loop",
    "record-tsmi",
    "bench",
    "doctor",
)

FAILED = 1
REFUSED = 2
HUNG_UP = 129
INTERRUPTED = 130
UNREAD = 141
TERMINATED = 143

_WITH_STAGES = ("replay", "simulate", "demo")
"""Commands whose stages are lines where standard error is no terminal."""

_ENDINGS = {signal.SIGTERM: ("terminated", TERMINATED), signal.SIGHUP: ("hung up", HUNG_UP)}
"""What ends the program as Ctrl-C does: what is said, and the exit code."""

_EXAMPLES = """\
examples:
  mri2qmap simulate scan.h5 --matrix 64 --coils 8 --truth truth/
  mri2qmap replay scan.h5 --pipeline mri2qmap -o maps/
  mri2qmap evaluate maps/ --truth truth/
  mri2qmap demo -o demo/
"""


def build_parser(commands: Sequence[str] = COMMANDS) -> argparse.ArgumentParser:
    """Return a parser that knows `commands`; only their modules are imported."""
    parser = argparse.ArgumentParser(
        prog="mri2qmap",
        description="T1, T2 and proton-density maps from 3D MR fingerprinting.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mri2qmap {mri2qmap.__version__}")
    _add_verbose(parser, default=0)
    subparsers = parser.add_subparsers(dest="subcommand", metavar="COMMAND", required=True)
    for name in commands:
        module = importlib.import_module(f"mri2qmap.cli.{name.replace('-', '_')}")
        module.add_parser(subparsers)
        subparser = subparsers.choices[name]
        subparser.set_defaults(run=module.run)
        _add_verbose(subparser, default=argparse.SUPPRESS)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` and return the exit code."""
    with standard_streams():
        try:
            return _main(argv)
        except (KeyboardInterrupt, _Ended) as ended:  # once more, while it was ending already
            remove_all_scratch()
            return ended.code if isinstance(ended, _Ended) else INTERRUPTED


def _main(argv: Sequence[str] | None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        chosen = [word for word in arguments if word in COMMANDS][:1]
        args = build_parser(chosen or COMMANDS).parse_args(arguments)
    except SystemExit as finished:  # help, version and usage errors
        return int(finished.code or 0)
    from mri2qmap.pipeline.progress import TerminalReporter
    from mri2qmap.pipeline.progress_bars import bars_end_here
    from mri2qmap.pipeline.scan_log import configure_logging

    args.command = ["mri2qmap", *arguments]
    if hasattr(args, "complete"):
        try:
            args.complete(args)
        except Mri2QmapError as error:
            return _complain(str(error), REFUSED)
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(args.verbose, 2)]
    configure_logging(level, getattr(args, "log_format", "text"))
    cancellation = Cancellation()
    previous = _catch_endings(cancellation)
    try:
        set_threads(args)
        args.report = TerminalReporter(args.verbose, stages=args.subcommand in _WITH_STAGES)
        with bars_end_here(), cancellation.active():
            code = int(args.run(args))
        sys.stdout.flush()
        return code
    except ReportedElsewhereError:
        return REFUSED
    except Mri2QmapError as error:
        code = DISK_FAILURE if any(map(is_disk_error, with_causes(error))) else REFUSED
        return _complain(str(error), code, traceback_too=args.verbose >= 2)
    except KeyboardInterrupt:
        return _complain("interrupted", INTERRUPTED)
    except _Ended as ended:
        return _complain(ended.text, ended.code)
    except (Exception, SystemExit) as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return UNREAD
        if isinstance(error, OSError) and is_disk_error(error):
            discard(sys.stdout)  # it may be what failed, and would fail again
            return _complain(_of_disk(error), DISK_FAILURE, traceback_too=args.verbose >= 1)
        if library := failing_library(error):
            text, code = _of_library(library, _innermost(error))
            return _complain(text, code, traceback_too=args.verbose >= 2)
        if isinstance(error, SystemExit):
            raise
        text = str(error) if str(error) else "no message"
        hint = "" if args.verbose else " (-v shows where)"
        return _complain(f"{_kind(error)}{text}{hint}", FAILED, traceback_too=args.verbose >= 1)
    finally:
        with uninterrupted():
            remove_all_scratch()
        for number, handler in previous.items():
            signal.signal(number, handler)


class _Ended(BaseException):
    """A signal arrived; like KeyboardInterrupt, it passes by all handlers but those that clean."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.text, self.code = _ENDINGS[signal.Signals(number)]


def _catch_endings(cancellation: Cancellation) -> dict[signal.Signals, Any]:
    """Let signals end the command as Ctrl-C does; return the handlers that there were.

    A signal that is ignored, as SIGHUP under nohup, stays so. The exception gets lost if it arrives
    in a finaliser; the command is then ended by the cancellation.
    """

    def end(number: int, frame: FrameType | None) -> None:
        error = KeyboardInterrupt() if number == signal.SIGINT else _Ended(number)
        cancellation.cancel(error)
        raise error

    numbers = (signal.SIGINT, *_ENDINGS)
    caught = (number for number in numbers if signal.getsignal(number) != signal.SIG_IGN)
    return {number: signal.signal(number, end) for number in caught}


def _nobody_reads() -> bool:
    """Whether the reader of standard output is gone; then nothing more is written to it."""
    output = sys.__stdout__
    if output is None:
        return False
    poll = select.poll()
    poll.register(output, 0)
    gone = any(event & select.POLLERR for _, event in poll.poll(0))
    if gone:
        discard(output)
    return gone


def _complain(text: str, code: int, traceback_too: bool = False) -> int:
    """Write one line, after the traceback when that was asked for; return `code`."""
    if traceback_too:
        traceback.print_exc()
    from mri2qmap.pipeline.scan_log import printable

    # a server's words, or a file's, may be in it
    print(f"mri2qmap: error: {printable(' '.join(text.split()))}", file=sys.stderr)
    return code


def _of_disk(error: OSError) -> str:
    """Say of what a disk failed."""
    where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
    return f"{where}it cannot be read or written ({why(error)})"


def _kind(error: Exception) -> str:
    """Name the type of an exception whose message may not speak for itself."""
    return "" if isinstance(error, GadgetError) else f"{type(error).__name__}: "


def _of_library(library: str, cause: BaseException) -> tuple[str, int]:
    """Message about a library that cannot be imported, and the exit code.

    An extra that is not installed is a wrong request; else the installation is broken.
    """
    from mri2qmap.machine.optional_packages import EXTRAS, missing_package

    if library in EXTRAS and isinstance(cause, ModuleNotFoundError) and cause.name == library:
        return missing_package(library), REFUSED
    return (
        f"{library} cannot be loaded ({type(cause).__name__}: {cause}); mri2qmap doctor says what "
        "is missing for what"
    ), FAILED


def _innermost(error: BaseException) -> BaseException:
    """What an error began with."""
    *_, innermost = with_causes(error)
    return innermost


def _add_verbose(parser: argparse.ArgumentParser, default: int | str) -> None:
    parser.add_argument(
        "-v",
        "--verbose",
        action="count",
        default=default,
        help="say what is done, and where an internal error arose; -vv for more",
    )


if __name__ == "__main__":
    sys.exit(main())
