"""White and grey matter: published ranges, and peaks of histograms."""

import numpy as np
import pytest

from mri2qmap.report.tissue_peaks import T1_LIMIT, histogram, tissue_peaks
from mri2qmap.report.tissue_ranges import FIELDS, STUDIES, nearest_field, published_range


@pytest.mark.parametrize(
    ("strength", "field"),
    [
        (1.5, 1.5), (1.494, 1.5), (3.0, 3.0), (2.89, 3.0), (6.98, 7.0), (7.0, 7.0),
        (0.55, None), (2.2, None), (5.0, None), (11.7, None), (None, None),
    ],
)  # fmt: skip
def test_the_field_strength_of_the_ranges(strength, field):
    assert nearest_field(strength) == field


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("time", ["T1", "T2"])
def test_every_range_has_citations_and_holds_its_means(field, time):
    for tissue in ("white matter", "grey matter"):
        known = published_range(field, time, tissue)
        studies = STUDIES[field, time, tissue]
        assert all(known.holds(study.mean) for study in studies)
        assert set(known.citations) == {study.citation for study in studies}
        assert all("(" in citation for citation in known.citations)
        assert known.low < min(s.mean for s in studies) <= max(s.mean for s in studies) < known.high
    assert (
        published_range(field, "T1", "white matter").high
        < published_range(field, "T1", "grey matter").high
    )


def test_a_range_goes_two_deviations_beyond_the_means():
    known = published_range(3.0, "T1", "grey matter")
    assert known.low == pytest.approx(1193 - 2 * 65)
    assert known.high == pytest.approx(1607 + 2 * 112)


def tissues(*parts):
    """T1 and T2 [ms] of voxels: number, mean T1, mean T2 and relative deviation of each part."""
    random = np.random.default_rng(5)
    t1 = [t1 * (1 + spread * random.standard_normal(n)) for n, t1, _, spread in parts]
    t2 = [t2 * (1 + spread * random.standard_normal(n)) for n, _, t2, spread in parts]
    return np.concatenate(t1), np.concatenate(t2)


FLUID = (2000, 4000, 1500, 0.1)
FAT = (1500, 250, 70, 0.1)


@pytest.mark.parametrize(
    ("parts", "t1", "t2"),
    [
        ([(9000, 800, 70, 0.04), (9000, 1350, 95, 0.06)], (800, 1350), (70, 95)),
        ([(9000, 800, 70, 0.04), (5000, 1350, 95, 0.1), FLUID, FAT], (800, 1350), (70, 95)),
        ([(3000, 646, 72, 0.06), (9000, 1197, 95, 0.08), FLUID], (646, 1197), (72, 95)),
        ([(9000, 1126, 47, 0.06), (9000, 1939, 55, 0.06), FLUID], (1126, 1939), (47, 55)),
    ],
)
def test_peaks_are_found(parts, t1, t2):
    white, grey = tissue_peaks(*tissues(*parts))
    assert (white.tissue, grey.tissue) == ("white matter", "grey matter")
    assert (white.t1, grey.t1) == pytest.approx(t1, rel=0.03)
    assert (white.t2, grey.t2) == pytest.approx(t2, rel=0.04)
    assert white.voxels > 1000


@pytest.mark.parametrize(
    "parts",
    [
        [(9000, 1000, 70, 0.05)],
        [(9000, 1000, 70, 0.05), FLUID, FAT],
        [(40, 800, 70, 0.02), (40, 1300, 90, 0.02)],
        [FLUID],
    ],
)
def test_one_tissue_or_too_few_voxels_are_nothing_to_compare(parts):
    assert tissue_peaks(*tissues(*parts)) == []


@pytest.mark.parametrize("values", [np.zeros((3, 4, 5)), np.zeros(0)])
def test_without_an_object_there_is_no_peak(values):
    assert tissue_peaks(values, values) == []


def test_t2_above_its_histogram_is_not_made_up():
    white, grey = tissue_peaks(*tissues((5000, 800, 70, 0.04), (5000, 1350, 900, 0.02)))
    assert white.t2 == pytest.approx(70, rel=0.05)
    assert grey.t2 is None


def test_a_histogram_counts_every_positive_value_once():
    found = histogram(np.array([0, 5, 20, 39.9, T1_LIMIT - 1, T1_LIMIT + 1, 9e9]), T1_LIMIT, 20)
    assert len(found.counts) == 150
    assert found.counts[:2].tolist() == [1, 2]
    assert found.counts[-1] == 1
    assert found.beyond == 2
