import pytest

from mri2qmap.hosts.stage_timing import NodeTiming

TIMES = {
    "ready_s": 0.016,
    "first_item_s": 1.5,
    "last_item_s": 12.345,
    "last_acquisition_s": 11.0,
    "total_s": 12.5,
    "busy_s": 3.25,
}


@pytest.mark.parametrize("missing", [None, *TIMES])
def test_timing_survives_the_round_trip(missing):
    timing = NodeTiming("pnp_admm", 5, 2, **{**TIMES, **({missing: None} if missing else {})})
    line = f"MRI2Qmap: {timing}"
    assert NodeTiming.from_line(line) == timing
    assert "\n" not in line


@pytest.mark.parametrize(
    "line", ["", "MRI2Qmap: ADMM, 16 steps", "pnp_admm: 5 items in, two out", "x: ready 1.0"]
)
def test_other_lines_have_no_timing(line):
    assert NodeTiming.from_line(line) is None
