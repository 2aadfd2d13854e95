"""A reconstruction that is cancelled at any point ends at once, with the reason."""

import pytest
from helpers.every_pipeline import CASES, scan_of, scans_for_all

import mri2qmap
from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine.cancellation import Cancellation

REASON = Mri2QmapError("the server has been stopped")
SHARES = (0.01, 0.2, 0.5, 0.8, 0.99)


class CancelledAtLook(Cancellation):
    """Cancelled when the computation looks for the so-many-th time; never if 0."""

    def __init__(self, number=0):
        super().__init__()
        self.number, self.looks = number, 0

    @property
    def error(self):
        self.looks += 1
        return REASON if 0 < self.number <= self.looks else None


@pytest.fixture(scope="module")
def scans(make_scan):
    return scans_for_all(make_scan)


@pytest.mark.parametrize("name", CASES)
def test_a_pipeline_ends_wherever_it_is_cancelled(name, scans):
    def reconstruct(cancellation):
        with cancellation.active():
            mri2qmap.reconstruct(
                scan_of(name, scans), pipeline=name, settings=CASES[name], device="cpu"
            )

    reconstruct(CancelledAtLook())  # fills the caches
    whole = CancelledAtLook()
    reconstruct(whole)
    assert whole.looks > 500
    for share in SHARES:
        cancelled = CancelledAtLook(max(int(share * whole.looks), 1))
        with pytest.raises(Mri2QmapError) as raised:
            reconstruct(cancelled)
        assert raised.value is REASON
        assert cancelled.looks - cancelled.number < 20  # nothing went on
