"""The page in Chromium, without a network: quiet, and with the values of the NIfTI files."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
from helpers import report_samples
from helpers.chromium import NEEDED, Opened, browser, opened_pages

from mri2qmap.export.nifti import nifti_image
from mri2qmap.export.quantity import QUANTITIES, Quantity
from mri2qmap.report.page import built_viewer, page

__all__ = ["browser"]
WAIT = 60_000  # ms

pytestmark = NEEDED


@pytest.fixture(scope="module")
def exported():
    return report_samples.exported(report_samples.head())


@pytest.fixture(scope="module")
def with_viewer(tmp_path_factory) -> Path:
    viewer = built_viewer()
    if viewer is None:
        pytest.skip("`make viewer` builds the viewer, with npm")
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(page(report_samples.content(), viewer), encoding="utf-8")
    return path


class OpenedPage(Opened):
    """With what these tests ask of it."""

    def quiet(self, path: Path) -> None:
        """Nothing was said, and nothing asked for but the page."""
        assert self.said == []
        assert [r for r in self.requests if not r.startswith(("data:", "blob:"))] == [path.as_uri()]


@pytest.fixture
def opened(browser):
    with opened_pages(browser, OpenedPage) as open_page:
        yield open_page


def wait_for(state: Opened, outcome: str) -> None:
    # A selector, because the policy of the page forbids to evaluate conditions in it.
    state.page.wait_for_selector(f"html[data-viewer={outcome}]", state="attached", timeout=WAIT)


def set_slider(state: Opened, axis: str, value: int) -> None:
    state.page.locator(f"#slice-{axis}").fill(str(value))


def drawn(state: Opened) -> bytes:
    return state.page.locator("#viewer canvas").screenshot()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "dark")])
def test_it_opens_quietly_and_sliders_show_the_values_of_the_nifti(
    opened, with_viewer, exported, width, scheme
):
    state = opened(with_viewer.as_uri(), width, scheme)
    wait_for(state, "complete")
    assert state.fits(width)
    before = drawn(state)
    assert len(before) > 3000
    files = {q: nibabel.as_closest_canonical(nifti_image(exported.volumes[q])) for q in Quantity}
    seen = set()
    for voxel in ((9, 13, 11), (4, 10, 9), (12, 20, 4), (0, 0, 0)):
        for axis, value in zip("xyz", voxel, strict=True):
            set_slider(state, axis, value)
        for quantity, file in files.items():
            cell = state.page.locator(f"#value-{quantity}").inner_text().split()
            value = file.get_fdata()[voxel] * QUANTITIES[quantity].to_unit
            decimals = len(cell[0].partition(".")[2])
            assert float(cell[0]) == pytest.approx(value, abs=0.5001 * 10.0**-decimals)
            assert cell[1:] == (
                ["ms"] if quantity in ("T1map", "T2map", "T1std", "T2std") else cell[1:]
            )
            seen.add(cell[0])
        size = file.shape
        assert [state.page.locator(f"output[for=slice-{a}]").inner_text() for a in "xyz"] == [
            f"{v + 1} of {n}" for v, n in zip(voxel, size, strict=True)
        ]
    assert len(seen) > 20
    assert drawn(state) != before
    state.quiet(with_viewer)


def test_each_slider_moves_its_slices(opened, with_viewer):
    state = opened(with_viewer.as_uri(), 1280)
    wait_for(state, "complete")
    for axis in "xyz":
        before = drawn(state)
        set_slider(state, axis, 3)
        assert drawn(state) != before
    state.quiet(with_viewer)


def test_a_click_moves_the_cross_hair(opened, with_viewer):
    state = opened(with_viewer.as_uri(), 1280)
    wait_for(state, "complete")
    place = state.page.locator("#place").inner_text()
    box = state.page.locator("#viewer canvas").bounding_box()
    state.page.mouse.click(box["x"] + 0.1 * box["width"], box["y"] + 0.3 * box["height"])
    state.page.wait_for_timeout(200)
    assert state.page.locator("#place").inner_text() != place
    sliders = [int(state.page.locator(f"#slice-{axis}").input_value()) for axis in "xyz"]
    assert sliders[0] > report_samples.content().centre[0]  # the patient's right is on the left
    expected = report_samples.content().volumes[0]
    assert state.page.locator("#value-T1map").inner_text() == (
        f"{expected.text(expected.values()[tuple(sliders)])} ms"
    )
    state.quiet(with_viewer)


def test_another_map_and_another_window_change_the_picture(opened, with_viewer):
    state = opened(with_viewer.as_uri(), 1280)
    wait_for(state, "complete")
    pictures = [drawn(state)]
    state.page.locator("#volume").select_option("T2map")
    state.page.wait_for_selector("#viewer .shown dd[id=value-T2map]", timeout=WAIT)
    assert state.page.locator("#viewer .shown dt").inner_text() == "T2"
    pictures.append(drawn(state))
    state.page.locator("#window-high").fill("80")
    state.page.locator("#window-high").press("Enter")
    pictures.append(drawn(state))
    state.page.locator("#window-low").fill("900")  # above the upper end: refused
    state.page.locator("#window-low").press("Enter")
    assert state.page.locator("#window-low").input_value() == "0"
    state.page.locator("#window-reset").click()
    assert state.page.locator("#window-high").input_value() == "200"
    pictures.append(drawn(state))
    assert len({*pictures}) == 3
    assert pictures[1] == pictures[3]
    state.quiet(with_viewer)


NO_WEBGL = """
const getContext = HTMLCanvasElement.prototype.getContext;
HTMLCanvasElement.prototype.getContext = function (kind, ...more) {
  return kind.startsWith("webgl") ? null : getContext.call(this, kind, ...more);
};
"""


def test_without_webgl_the_slices_stay_and_it_says_why(opened, with_viewer):
    state = opened(with_viewer.as_uri(), 1280, script=NO_WEBGL)
    wait_for(state, "failed")
    note = state.page.locator("#viewer-note")
    assert "this browser has no WebGL 2" in note.inner_text()
    assert not state.page.locator("#viewer").is_visible()
    assert shown_slices(state) == 33
    state.quiet(with_viewer)


@pytest.mark.parametrize("width", [1280, 400])
def test_a_page_without_the_viewer_shows_its_slices(opened, tmp_path, width):
    path = tmp_path / "report.html"
    path.write_text(page(report_samples.content()), encoding="utf-8")
    state = opened(path.as_uri(), width)
    assert shown_slices(state) == 33
    assert state.fits(width)
    assert state.page.locator("svg").count() >= 6
    state.quiet(path)


def shown_slices(state: Opened) -> int:
    widths = state.page.eval_on_selector_all(
        ".slice img", "images => images.map(i => i.complete && i.naturalWidth * i.clientWidth)"
    )
    return int(np.count_nonzero(widths))
