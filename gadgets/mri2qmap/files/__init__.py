"""Reading of scan files and B1 maps, and writing of output folders."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mri2qmap.machine.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from mri2qmap.files.b1_map import B1Map, read_b1_map
    from mri2qmap.files.mrd_file import MrdFile, MrdImageWriter
    from mri2qmap.files.mrd_stream_file import MrdStreamFile
    from mri2qmap.files.output_folder import OutputFolder
    from mri2qmap.files.scan_files import open_scan

__all__ = [
    "B1Map",
    "MrdFile",
    "MrdImageWriter",
    "MrdStreamFile",
    "OutputFolder",
    "open_scan",
    "read_b1_map",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "B1Map": "b1_map",
        "MrdFile": "mrd_file",
        "MrdImageWriter": "mrd_file",
        "MrdStreamFile": "mrd_stream_file",
        "OutputFolder": "output_folder",
        "open_scan": "scan_files",
        "read_b1_map": "b1_map",
    },
)
