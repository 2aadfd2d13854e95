"""Every pipeline gives the same maps on a GPU as on the CPU."""

from pathlib import Path

import numpy as np
import pytest
from helpers.every_pipeline import CASES, scan_of, scans_for_all

import mri2qmap
from mri2qmap.mrsignal.matching_settings import MatchingSettings

STEP = np.log1p(MatchingSettings.atom_step)
"""Difference of neighbours in the table of log T1 and log T2."""
SHARE = 0.999
UNCERTAIN = {"t1_std", "t2_std", "consistency"}
"""Maps of small differences, which rounding changes more."""
FOLDER = Path(__file__).parents[2] / "pipelines"


def test_every_pipeline_of_one_process_is_compared():
    in_process = {path.stem for path in FOLDER.glob("*.xml") if "_connect" not in path.stem} - {
        "mri2qmap_execute"
    }
    assert in_process == CASES.keys()


@pytest.fixture(scope="module")
def scans(make_scan):
    return scans_for_all(make_scan)


@pytest.mark.parametrize("name", CASES)
def test_maps_of_both_are_equal(name, scans, gpu, single_precision):
    maps = [
        mri2qmap.reconstruct(scan_of(name, scans), pipeline=name, settings=CASES[name], device=d)
        for d in (gpu, "cpu")
    ]
    there, here = maps
    assert str(gpu) in there.record["device"]
    # Relaxation times are zero where the signal is near the threshold of the mask.
    masks = [np.asarray(m.t1 > 0) for m in maps]
    assert (masks[0] == masks[1]).mean() >= SHARE
    inside = masks[0] & masks[1]
    assert inside.sum() > 500
    for of_gpu, of_cpu in ((there.t1, here.t1), (there.t2, here.t2)):
        steps = np.abs(np.log(of_gpu[inside] / of_cpu[inside])) / STEP
        assert (steps <= 1).mean() >= SHARE
        assert np.median(steps) < 0.02
    assert there.volumes.keys() == here.volumes.keys()
    for name in here.volumes.keys() - {"t1", "t2"}:
        of_gpu, of_cpu = there.volumes[name][inside], here.volumes[name][inside]
        if name in UNCERTAIN:
            assert np.median(np.abs(of_gpu - of_cpu)) < 0.02 * np.median(of_cpu), name
        else:
            assert np.linalg.norm(of_gpu - of_cpu) < 0.005 * np.linalg.norm(of_cpu), name
