"""The report of a run: a page and a sheet to look at before the maps are used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mri2qmap.machine.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from mri2qmap.report.content import ReportContent, report_content
    from mri2qmap.report.file_names import DOCUMENT, PAGE, SHEET
    from mri2qmap.report.findings import Facts, Finding, Light
    from mri2qmap.report.making import report_files

__all__ = [
    "DOCUMENT",
    "PAGE",
    "SHEET",
    "Facts",
    "Finding",
    "Light",
    "ReportContent",
    "report_content",
    "report_files",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "DOCUMENT": "file_names",
        "PAGE": "file_names",
        "SHEET": "file_names",
        "Facts": "findings",
        "Finding": "findings",
        "Light": "findings",
        "ReportContent": "content",
        "report_content": "content",
        "report_files": "making",
    },
)
