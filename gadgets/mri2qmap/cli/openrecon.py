"""`mri2qmap openrecon`: the label and the package for OpenRecon hosts."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mri2qmap.cli.console import say

if TYPE_CHECKING:
    from mri2qmap.openrecon.label import Label

_DESCRIPTION = """\
Write the parts of a package for OpenRecon hosts; docker/build_openrecon.sh builds all of it.

label: the label as JSON. build: what a build needs, a line each: base name of the files of the
package, name of the image, and the label in base64, as it is in the image. parameters: what a host
sends if the operator changes nothing, for FIRE clients. pdf: the document. zip: the package, from a
saved image.
"""

_EXAMPLES = """\
examples:
  mri2qmap openrecon label
  mri2qmap openrecon parameters > openrecon.json
  mri2qmap openrecon zip --image saved.tar -o packages/
"""
_PRINTED = ("label", "build", "parameters")


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "openrecon",
        help="write the package for OpenRecon hosts",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("part", choices=(*_PRINTED, "pdf", "zip"), help="what is written")
    parser.add_argument(
        "--package",
        metavar="TOML",
        type=Path,
        help="file with the tables general and reconstruction, for what differs in the label",
    )
    parser.add_argument(
        "--image", metavar="TAR", type=Path, help="with zip: the image, as docker save writes it"
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FOLDER",
        type=Path,
        help="with pdf and zip: where the file is written, under the name of the package (default: "
        "the working folder)",
    )


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    from mri2qmap.errors import Mri2QmapError
    from mri2qmap.openrecon.package import package_label, write_leaflet, write_package

    if (args.image is not None) != (args.part == "zip"):
        raise Mri2QmapError("--image TAR is needed with zip, and only with it")
    if args.output is not None and args.part in _PRINTED:
        raise Mri2QmapError("-o is for pdf and zip; redirect the output")
    label = package_label(args.package)
    folder = args.output or Path()
    if args.part == "zip":
        say(f"{write_package(args.image, label, folder)}: written")
    elif args.part == "pdf":
        say(f"{write_leaflet(label, folder)}: written")
    else:
        sys.stdout.write(f"{_printed(label, args.part)}\n")
    return 0


def _printed(label: Label, part: str) -> str:
    if part == "parameters":
        return json.dumps(label.host_parameters(), indent=2)
    if part == "build":
        return "\n".join((label.base_name, label.image_name, label.encoded()))
    return label.text()
