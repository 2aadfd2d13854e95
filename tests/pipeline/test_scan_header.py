import math

import ismrmrd
import numpy as np
import pytest
from helpers.scans import header, readout, scan_info

from mri2qmap.errors import Mri2QmapError
from mri2qmap.pipeline.progress import Reporter
from mri2qmap.pipeline.scan_header import ScanInfo, geometry_from_acquisition


def test_header_values_are_in_seconds_radians_and_metres():
    scan = scan_info(header(matrix="8 10 12", fov="16 30 48", tr="12 13 14 15"))
    assert scan.matrix == (12, 10, 8)
    assert scan.voxel_size == pytest.approx((4e-3, 3e-3, 2e-3))
    assert scan.sequence.flip_angles == pytest.approx([math.radians(a) for a in (10, 20, 30, 40)])
    assert scan.sequence.repetition_times == pytest.approx((12e-3, 13e-3, 14e-3, 15e-3))
    assert scan.sequence.echo_times == pytest.approx((0.7e-3,) * 4)
    assert scan.sequence.inversion_time == pytest.approx(20e-3)
    assert scan.device.type == "cpu"


@pytest.mark.parametrize("kind", [str, str.encode, ismrmrd.xsd.CreateFromDocument])
def test_header_may_be_text_bytes_or_object(kind):
    assert ScanInfo.from_header(kind(header())).sequence == scan_info().sequence


def test_trailing_nul_and_unknown_elements_are_ignored():
    text = header(extra="<vendorSecrets><a>1</a></vendorSecrets>")
    assert ScanInfo.from_header(text.encode() + b"\0").matrix == (8, 8, 8)


def test_header_rewritten_by_a_gadgetron_server_gives_the_same_scan():
    angles = [10.12345, 20.1, 1 / 3, 74.99999]
    fov = [191.7, 100.1 + 0.2, 230.0]

    def words(values, form):
        return " ".join(form(v) for v in values)

    def rewritten(value):
        return f"{np.float32(value):.9g}"

    ours, servers = (
        scan_info(
            header(angles=words(angles, form), te=form(0.7), ti=form(20.3), fov=words(fov, form))
        )
        for form in (repr, rewritten)
    )
    assert ours.sequence == servers.sequence
    assert ours.sequence.digest() == servers.sequence.digest()
    assert ours.voxel_size == servers.voxel_size


def test_single_flip_angle_applies_to_all_frames_of_the_limits():
    scan = scan_info(header(angles="30", limit=5))
    assert scan.sequence.flip_angles == pytest.approx((math.radians(30),) * 6)


def test_number_of_frames_from_the_flip_angles():
    assert scan_info(header(limit=None)).sequence.n_frames == 4


@pytest.mark.parametrize(
    ("xml", "words"),
    [
        ("", ["ISMRMRD header", "not well-formed"]),
        ("<html/>", ["<ismrmrdHeader> is expected"]),
        ("<!DOCTYPE a>" + header(), ["<!DOCTYPE"]),
        (header().replace("<trajectory>spiral</trajectory>", ""), ["trajectory", "missing"]),
        (header().replace("<x>8</x>", "<x>eight</x>"), ["eight"]),
        (header(tr="x"), ["ISMRMRD header", "x"]),
        (header(angles=""), ["sequenceParameters.flipAngle_deg is missing", "degrees"]),
        (header(tr=""), ["sequenceParameters.TR is missing", "ms"]),
        (header(te=""), ["sequenceParameters.TE is missing", "ms"]),
        (header(ti=""), ["sequenceParameters.TI is missing", "ms"]),
        (header(angles="nan 1 2 3"), ["flipAngle_deg", "not finite"]),
        (header(angles="30", limit=None), ["number of frames is unknown"]),
        (header(angles="30", limit=0), ["number of frames is unknown"]),
        (header(limit=9), ["flipAngle_deg: 4", "encodingLimits.contrast: 10"]),
        (header(angles="30", limit=2**31 - 2), ["2147483647 frames"]),
        (header(tr="1 2 3"), ["TR: 3", "flipAngle_deg: 4"]),
        (header(te="1 2 3"), ["TE: 3", "flipAngle_deg: 4"]),
        (
            header().replace("<contrast><minimum>0", "<contrast><minimum>1"),
            ["encodingLimits.contrast starts at 1"],
        ),
        (header(ti="20 30"), ["sequenceParameters.TI", "2 different values"]),
        (header(tr="0.012", te="0.0007"), ["TR is 0.012 ms", "seconds"]),
        (header(angles="0.2 0.4 0.6 1.1"), ["1.1 degrees", "radians"]),
        (header(te="13"), ["sequenceParameters", "TE must be shorter than TR"]),
        (header(tr="12 12 12 -1"), ["sequenceParameters.TR of frame 3 is -1 ms", "0.5 to"]),
        (header(matrix="8 8 1"), ["8 x 8 x 1", "3D"]),
        (header(fov="16 0 16"), ["fieldOfView_mm", "16.0 x 0.0 x 16.0"]),
        (header(fov="0.2 0.2 0.2"), ["0.2 mm", "metres"]),
        (
            header()[: header().index("<encoding>")] + header()[header().index("<sequenceP") :],
            ["encoding is missing"],
        ),
        (
            header().replace("sequenceParameters", "userParameters"),
            ["sequenceParameters is missing"],
        ),
    ],
)
def test_invalid_header_names_the_element(xml, words):
    with pytest.raises(Mri2QmapError) as caught:
        ScanInfo.from_header(xml)
    for word in words:
        assert word in str(caught.value)


class Listening(Reporter):
    def __init__(self):
        self.lines = []

    def log(self, text):
        self.lines.append(text)


def test_geometry_from_the_acquisition_header():
    scan = scan_info(header(matrix="8 10 12", fov="16 30 48"))
    acquisition = readout(0, 0)
    acquisition.position[:] = (1, -20, 300)
    acquisition.read_dir[:] = (0, 1, 0)
    acquisition.phase_dir[:] = (0, 0, -1)
    acquisition.slice_dir[:] = (-1, 0, 0)
    geometry = geometry_from_acquisition(acquisition, scan)
    assert geometry.matrix == (12, 10, 8)
    assert geometry.position == pytest.approx((1e-3, -20e-3, 300e-3))
    centre = geometry.affine_lps @ (4, 5, 6, 1)
    np.testing.assert_allclose(centre[:3], geometry.position, atol=1e-12)
    step = geometry.affine_lps @ (5, 5, 6, 1) - centre  # one voxel along x, the readout
    np.testing.assert_allclose(step[:3], (0, 2e-3, 0), atol=1e-12)
    step = geometry.affine_lps @ (4, 5, 7, 1) - centre
    np.testing.assert_allclose(step[:3], (-4e-3, 0, 0), atol=1e-12)


def test_default_directions_are_logged():
    listening = Listening()
    scan = ScanInfo.from_header(header(), report=listening)
    geometry = geometry_from_acquisition(readout(0, 0), scan)
    assert geometry.read_dir == (1, 0, 0)
    assert geometry.slice_dir == (0, 0, 1)
    assert len(listening.lines) == 1
    assert "no orientation" in listening.lines[0]


@pytest.mark.parametrize("read_dir", [(2, 0, 0), (0, 1, 0), (0, 0, 0), (math.nan, 0, 0)])
def test_invalid_directions_are_refused(read_dir):
    acquisition = readout(0, 0)
    acquisition.read_dir[:] = read_dir
    acquisition.phase_dir[:] = (0, 1, 0)
    acquisition.slice_dir[:] = (0, 0, 1)
    with pytest.raises(Mri2QmapError, match=r"orthonormal|not finite"):
        geometry_from_acquisition(acquisition, scan_info())
