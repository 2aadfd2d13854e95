"""Decompression of shapes, with the examples of the specification."""

from array import array

import numpy as np
import pytest

from mri2qmap.errors import Mri2QmapError
from mri2qmap.pulseq.content import PulseqContent, StoredShape
from mri2qmap.pulseq.shapes import shape_samples

RAMPS = [0, 0.1, 0.15, 0.25, 0.5, 0, 0, 4, -0.25, -0.25, 2]
EXAMPLES = {
    "ramps": (RAMPS, [0, 0.1, 0.25, 0.5, *[1.0] * 7, 0.75, 0.5, 0.25, 0]),
    "zeros": ([0, 0, 98], [0.0] * 100),
    "ones": ([1, 0, 0, 97], [1.0] * 100),
    "a run of two": ([0.5, 0, 0, 0, 0.25], [0.5, 0.5, 0.5, 0.75]),
    "two runs of one number": ([0.25, 0.25, 1, 0.25, 0.25, 0], [0.25, 0.5, 0.75, 1.0, 1.25]),
}


def samples(stored, count, version=(1, 4, 0)):
    content = PulseqContent("here.seq", version)
    content.shapes[3] = StoredShape(12, count, array("d", stored))
    return shape_samples(content, 3, "there")


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples(name):
    stored, expected = EXAMPLES[name]
    np.testing.assert_allclose(samples(stored, len(expected)), expected, atol=1e-12)


def test_samples_that_are_not_compressed():
    """Since version 1.4; before, as many numbers are the steps from one sample to the next."""
    stored = [0.5, 0.25, 0.5]
    np.testing.assert_array_equal(samples(stored, 3), stored)
    np.testing.assert_array_equal(samples(stored, 3, (1, 3, 1)), [0.5, 0.75, 1.25])


BAD = {
    "too few": ([0, 0, 5], 100, "7 samples when it is decompressed, but num_samples is 100"),
    "too many": ([0, 0, 500], 100, "more than 100 samples"),
    "gigabytes": ([0, 0, 1e12], 1000, "more than 1000 samples"),
    "gigabytes of runs": ([0, 0, 9e5] * 300, 2**20, "more than 1048576 samples"),
    "no count": ([1, 0, 0], 100, "is missing, or is -1"),
    "part of a repetition": ([0, 0, 1.5], 100, "or is 1.5"),
    "negative count": ([0, 0, -1], 100, "or is -1"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_shape(name):
    stored, count, words = BAD[name]
    with pytest.raises(Mri2QmapError) as caught:
        samples(stored, count)
    text = str(caught.value)
    assert "here.seq: section [SHAPES], line 12: shape 3" in text
    assert words in text
    assert "write it again" in text
