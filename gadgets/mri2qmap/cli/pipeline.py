"""`mri2qmap pipeline`: check a pipeline file, or make one for a Gadgetron server."""

from __future__ import annotations

import argparse
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mri2qmap.cli.console import say
from mri2qmap.cli.replay import add_profile_option, add_set_option, parse_overrides

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mri2qmap.pipeline.pipeline_file import Pipeline

_LONGEST_TYPE = 60

_DESCRIPTION = """\
Check a pipeline file and list the resolved settings of its gadgets, or write a pipeline with the
same settings for a Gadgetron server.

--check lists every setting with its type; an asterisk marks those that differ from the default.
--for-server execute: the server starts each gadget as a Python process. --for-server connect: the
gadgets run in mri2qmap worker, which must be running.
"""

_EXAMPLES = """\
examples:
  mri2qmap pipeline --check mri2qmap
  mri2qmap pipeline --check MY.xml --set pnp_admm.iterations=20
  mri2qmap pipeline --for-server connect MY.xml -o MY_connect.xml
"""


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "pipeline",
        help="check a pipeline file, or make one for a Gadgetron server",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("pipeline", metavar="XML", help="file, or the name of one in pipelines/")
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument(
        "--check", action="store_true", help="list the settings; errors name the wrong one"
    )
    action.add_argument(
        "--for-server", choices=("execute", "connect"), help="write a pipeline for Gadgetron"
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, help="file to write (default: print)"
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace FILE if it is as this command wrote it",
    )
    add_set_option(parser)
    add_profile_option(parser)
    parser.add_argument(
        "--address", help="with connect: address of the worker, seen from the server (127.0.0.1)"
    )
    parser.add_argument("--port", type=int, help="with connect: port of the worker (18000)")


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    from mri2qmap.errors import Mri2QmapError
    from mri2qmap.pipeline.pipeline_file import pipeline_path, read_pipeline
    from mri2qmap.pipeline.server_pipeline import WORKER_ADDRESS, WORKER_PORT, server_pipeline

    overrides = parse_overrides(args.overrides)
    port = WORKER_PORT if args.port is None else args.port
    if (args.address is not None or args.port is not None) and args.for_server != "connect":
        raise Mri2QmapError("--address and --port are for --for-server connect")
    if args.overwrite and args.output is None:
        raise Mri2QmapError("--overwrite is for -o FILE")
    if not 0 < port < 2**16:
        raise Mri2QmapError(f"--port {port}: a number from 1 to 65535 is expected")
    if args.check:
        pipeline = read_pipeline(args.pipeline, overrides, args.scan_profile)
        text = "\n".join(settings_lines(pipeline)) + "\n"
    else:
        address = args.address or WORKER_ADDRESS
        text = server_pipeline(
            args.pipeline, args.for_server, overrides, address, port, args.scan_profile
        ).decode()
    if args.output is None:
        sys.stdout.write(text)
    else:
        _write(args, text, pipeline_path(args.pipeline))
        say(f"{args.output}: written")
    return 0


def settings_lines(pipeline: Pipeline) -> Iterator[str]:
    """Yield a line for each gadget and each of its settings, with a mark on changed ones."""
    from mri2qmap.pipeline.scan_profile import STANDARD
    from mri2qmap.pipeline.settings import describe_type, field_types, property_text

    yield f"{pipeline.name}: {len(pipeline.nodes)} gadgets; * marks what differs from the default"
    shown = [(node.name, node.settings) for node in pipeline.nodes]
    if pipeline.scan_profile != STANDARD:
        shown.insert(0, ("scan", pipeline.scan_profile))
    for section, settings in shown:
        kinds = field_types(type(settings))
        default = type(settings)()
        values = {name: property_text(getattr(settings, name)) for name in kinds}
        width = max(map(len, kinds), default=0)
        yield section
        for name, kind in kinds.items():
            usual = property_text(getattr(default, name))
            differs = values[name] != usual
            words = textwrap.shorten(describe_type(kind, ""), _LONGEST_TYPE, placeholder=" ...")
            mark, more = ("*", f'; default "{usual}"') if differs else (" ", "")
            yield f'  {mark} {name:{width}} = "{values[name]}" ({words}{more})'


def _write(args: argparse.Namespace, text: str, source: Path) -> None:
    """Write the file with its mark, by which it is known again."""
    from mri2qmap.storage.atomic import cannot_write
    from mri2qmap.storage.file_place import FilePlace
    from mri2qmap.storage.written import add_mark

    place = FilePlace(args.output, overwrite=args.overwrite, inputs={"pipeline to read": source})
    try:
        place.partial.write_bytes(text.encode("utf-8", "backslashreplace"))
        add_mark(place.partial, xml=not args.check)
        place.put_in_place()
    except OSError as error:
        raise cannot_write(args.output, error) from error
    finally:
        place.remove()
