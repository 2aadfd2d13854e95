"""The parts of a message that came as one text."""

import pytest

from mri2qmap.errors import Mri2QmapError
from mri2qmap.pipeline.findings import Findings, finding_of_text


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (
            "b1_map a.nii: its unit of length is m; mm is expected",
            ("b1_map a.nii", "its unit of length is m", "mm is expected", ""),
        ),
        (
            "denoiser small: patches of 4 voxels are too small for it; set patch=8 or more",
            (
                "denoiser small",
                "patches of 4 voxels are too small for it",
                "",
                "set patch=8 or more",
            ),
        ),
        (
            "b1_map a.nii: it cannot be read as NIfTI (a; b: c)",
            ("b1_map a.nii", "it cannot be read as NIfTI (a; b: c)", "", ""),
        ),
        (
            'p.xml, line 3: gadget g: property n="a; b": a number is expected',
            ("p.xml, line 3", 'gadget g: property n="a; b": a number is expected', "", ""),
        ),
        ("the scan has 3 coils: too few", ("", "the scan has 3 coils: too few", "", "")),
        ("nothing works", ("", "nothing works", "", "")),
        ("a: b; c; d", ("a", "b", "c; d", "")),
        ("; ", ("", "", "", "")),
        ("", ("", "", "", "")),
    ],
)
def test_a_message_is_taken_to_pieces(text, parts):
    finding = finding_of_text("code", text)
    assert (finding.where, finding.what, finding.why, finding.advice) == parts
    words = finding.message.replace(":", ";")
    assert words.rstrip("; ") == text.replace(":", ";").rstrip("; ")  # nothing is lost


def test_an_error_without_parts_gets_them():
    def check() -> None:
        raise Mri2QmapError("b1_map x: it is 0 everywhere; use another map")

    findings = Findings()
    findings.attempt(check, code="b1-map")
    (finding,) = findings.found
    assert (finding.code, finding.where, finding.what) == (
        "b1-map",
        "b1_map x",
        "it is 0 everywhere",
    )
    assert finding.advice == "use another map"
