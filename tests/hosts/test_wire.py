import dataclasses
import io
import math
from typing import get_type_hints

import ismrmrd
import numpy as np
import pytest
import torch
from helpers.scans import acquisitions, small_dicom

from mri2qmap.errors import Mri2QmapError
from mri2qmap.hosts.session_message import session_of
from mri2qmap.hosts.wire import ITEM_CLASSES, PREFIX, Decoder, encode
from mri2qmap.mrsignal.synthesis import SpinEcho, SpinEchoes
from mri2qmap.pipeline.geometry import Geometry
from mri2qmap.pipeline.items import (
    AdjointTsmi,
    CoilMaps,
    Consistency,
    DicomObject,
    NiftiVolume,
    ParameterMaps,
    Provenance,
    ToeplitzKernels,
    Tsmi,
    WeightedImages,
)

THIRD = 1 / 3  # has no short decimal form, so it shows whether text keeps every digit
GEOMETRY = Geometry(
    (2, 3, 4),
    (1e-3 * THIRD, 2e-3, 0.1),
    (THIRD, -1e-9, 0.25),
    (0.6, 0.8, 0.0),
    (-0.8, 0.6, 0.0),
    (0.0, 0.0, -1.0),
)


def numbers(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(len(shape)))


def example(kind):
    """An item of class `kind` with something in every field."""
    values = {}
    for number, (name, hint) in enumerate(get_type_hints(kind).items()):
        if hint in (torch.Tensor, torch.Tensor | None):
            dtype = torch.complex64 if number % 2 == 0 else torch.float32
            values[name] = numbers(number + 1, 2, 3, 4, dtype=dtype)
        elif hint is Geometry:
            values[name] = GEOMETRY
        elif hint is float:
            values[name] = THIRD
        elif hint is int:
            values[name] = 2**32 - 1
        elif hint is str:
            values[name] = 'é "quoted" <1 & 2>'
        elif hint == tuple[float, float, float]:
            values[name] = (THIRD, 1e-30, -2.0)
        elif hint == SpinEchoes:
            values[name] = (SpinEcho(THIRD, 1e-3), SpinEcho(5.0, 0.1), SpinEcho(6.0, THIRD))
        else:
            raise AssertionError(f"give this test an example of {hint}")
    return kind(**values)


def round_trip(item, decoder=None):
    """Serialise and deserialise an item, as over a socket."""
    decoder = decoder or Decoder()
    result = None
    for message in encode(item):
        stream = io.BytesIO()
        message.serialize_into(stream.write)
        stream.seek(0)
        assert result is None
        result = decoder.decode(type(message).deserialize_from(stream.read))
        assert stream.read() == b""
    decoder.finish()
    return result


def assert_same(a, b):
    assert type(a) is type(b)
    for field in dataclasses.fields(a):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if isinstance(x, torch.Tensor):
            assert x.dtype == y.dtype
            assert torch.equal(x, y)
        elif isinstance(x, float) and math.isnan(x):
            assert math.isnan(y)
        else:
            assert x == y


@pytest.mark.parametrize("name", ITEM_CLASSES)
def test_every_item_survives_the_round_trip(name):
    item = example(ITEM_CLASSES[name])
    assert_same(round_trip(item), item)


def test_absent_fields_are_not_sent():
    maps = example(ParameterMaps)
    plain = dataclasses.replace(maps, t1_std=None, t2_std=None, consistency=None)
    assert_same(round_trip(plain), plain)
    assert len(encode(maps)) == len(encode(plain)) + 3
    words = [name for image in encode(plain) for name in (*image.meta, *image.meta.values())]
    text = " ".join(str(word) for word in words)
    assert "std" not in text  # invisible to other software
    assert "consistency" not in text


def test_all_item_classes_are_serialised():
    expected = {
        AdjointTsmi, CoilMaps, Consistency, ParameterMaps, ToeplitzKernels, Tsmi, WeightedImages,
    }  # fmt: skip
    assert expected <= set(ITEM_CLASSES.values())


@pytest.mark.parametrize("shape", [(2, 3, 4), (1, 2, 3, 4), (5, 2, 4, 6, 8), (7,), (0, 2, 2, 2)])
def test_number_of_axes_is_preserved(shape):
    item = ToeplitzKernels(numbers(*shape), GEOMETRY)
    assert round_trip(item).kernels.shape == shape


@pytest.mark.parametrize(
    "dtype",
    [torch.uint16, torch.uint32, torch.float32, torch.float64, torch.complex64, torch.complex128],
)
def test_array_type_is_preserved(dtype):
    item = Tsmi(torch.arange(24).reshape(1, 2, 3, 4).to(dtype), GEOMETRY)
    assert_same(round_trip(item), item)


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.int64, torch.bool])
def test_array_types_that_servers_do_not_relay_are_refused(dtype):
    with pytest.raises(TypeError, match=r"Tsmi.tsmi is .* Gadgetron server"):
        encode(Tsmi(torch.zeros(1, 2, 3, 4, dtype=dtype), GEOMETRY))


def test_half_precision_travels_as_single_precision():
    kernels = numbers(2, 2, 2, 1, 2, 2, 2).half()
    sent = ToeplitzKernels(kernels, GEOMETRY, 0.25)
    assert_same(round_trip(sent), ToeplitzKernels(kernels.float(), GEOMETRY, 0.25))


def test_axis_too_long_for_the_header_is_refused():
    with pytest.raises(ValueError, match="at most 65535"):
        encode(Tsmi(torch.zeros(1, 1, 1, 65536), GEOMETRY))


def test_views_and_conjugates_are_resolved():
    base = numbers(4, 3, 2, 5, dtype=torch.complex64)
    item = Tsmi(base.transpose(0, 3).conj(), GEOMETRY)
    np.testing.assert_array_equal(
        round_trip(item).tsmi.numpy(), base.numpy().transpose(3, 1, 2, 0).conj()
    )


def test_acquisitions_waveforms_and_foreign_images_are_unchanged():
    image = ismrmrd.Image(data=np.ones((1, 2, 2, 2), np.float32), meta=ismrmrd.Meta({"a": "b"}))
    wave = ismrmrd.Waveform.from_array(np.ones((1, 4), np.uint32))
    for message in (*acquisitions(), wave, image):
        assert encode(message) == [message]
        assert Decoder().decode(message) is message


def test_finished_files_are_not_serialised():
    for item in (DicomObject(small_dicom(), "a"), NiftiVolume(None, "b")):
        with pytest.raises(TypeError, match="cannot be serialised"):
            encode(item)


def test_image_header_contains_the_geometry():
    (image,) = encode(CoilMaps(numbers(2, 2, 3, 4, dtype=torch.complex64), GEOMETRY))
    assert image.channels == 2
    assert image.matrix_size == (4, 3, 2)
    assert image.image_type == ismrmrd.IMTYPE_COMPLEX
    assert list(image.field_of_view) == pytest.approx([400, 6, 2 * THIRD])
    assert list(image.position) == pytest.approx([1e3 * THIRD, -1e-6, 250])
    assert list(image.read_dir) == pytest.approx(GEOMETRY.read_dir)
    assert list(image.slice_dir) == pytest.approx(GEOMETRY.slice_dir)


def test_images_of_items_may_be_interleaved():
    a, b = example(ParameterMaps), example(ParameterMaps)
    b.t1.mul_(2)
    decoder = Decoder()
    shuffled = [m for pair in zip(encode(a), reversed(encode(b)), strict=True) for m in pair]
    done = [item for m in shuffled if (item := decoder.decode(m)) is not None]
    decoder.finish()
    assert_same(done[0], a)
    assert_same(done[1], b)


def test_parts_of_items_without_end_are_refused():
    """Each begins another item, which would have to be kept."""
    decoder = Decoder()

    def begin() -> None:
        decoder.decode(encode(example(ParameterMaps))[0])

    for _ in range(4):
        begin()
    with pytest.raises(Mri2QmapError, match="parts of too many items"):
        begin()


@pytest.mark.parametrize(("changed", "value"), [("array", "x0"), ("arrays", "64")])
def test_arrays_that_an_item_does_not_have_are_refused(changed, value):
    part = encode(example(ParameterMaps))[0]
    part.meta[f"{PREFIX}{changed}"] = value
    with pytest.raises(Mri2QmapError, match="it has no array"):
        Decoder().decode(part)


def test_items_need_no_more_than_is_planned():
    first, second, third, *_ = encode(example(ParameterMaps))
    decoder = Decoder(limit=first.data.nbytes + second.data.nbytes)
    assert decoder.decode(first) is None
    assert decoder.decode(second) is None
    with pytest.raises(Mri2QmapError, match="its memory was planned as"):
        decoder.decode(third)


def test_complete_items_count_too():
    (part,) = encode(example(Tsmi))
    decoder = Decoder(limit=2 * part.data.nbytes)
    for _ in range(2):
        assert decoder.decode(part) is not None
    with pytest.raises(Mri2QmapError, match="its memory was planned as"):
        decoder.decode(part)


@pytest.mark.parametrize("name", ["session", "item", "id", "arrays", "array", "shape"])
def test_two_values_of_a_field_are_refused(name):
    part = encode(example(Tsmi), session="s")[0]
    part.meta[f"{PREFIX}{name}"] = ["1", "2"]
    with pytest.raises(Mri2QmapError, match=f"2 values of mri2qmap_{name}"):
        Decoder().decode(part)
    with pytest.raises(Mri2QmapError, match=f"2 values of mri2qmap_{name}"):
        session_of(part)


def test_items_without_end_are_refused():
    decoder = Decoder()
    for _ in range(1000):
        assert decoder.decode(*encode(Provenance("0" * 64))) is not None
    with pytest.raises(Mri2QmapError, match="more than 1000 images of items"):
        decoder.decode(*encode(Provenance("0" * 64)))


def test_the_identifier_can_be_chosen():
    (image,) = encode(Tsmi(numbers(1, 2, 3, 4), GEOMETRY), new_id=lambda: "17")
    assert image.meta["mri2qmap_id"] == "17"


def corrupted(**changes):
    image = encode(WeightedImages(numbers(3, 2, 3, 4), (1.0, 2.0, 3.0), GEOMETRY))[0]
    for key, value in changes.items():
        if value is None:
            del image.meta[f"mri2qmap_{key}"]
        else:
            image.meta[f"mri2qmap_{key}"] = value
    return image


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"item": "Password"}, "'Password'; known types are Provenance, CoilMaps"),
        ({"item": "DicomObject"}, "'DicomObject'; known types are"),
        ({"array": None}, "WeightedImages cannot be decoded"),
        ({"array": "t1"}, "WeightedImages cannot be decoded"),
        ({"arrays": "many"}, "WeightedImages cannot be decoded"),
        ({"id": None}, "WeightedImages cannot be decoded"),
        ({"shape": "3 2 3 5"}, "WeightedImages cannot be decoded"),
        ({"weights": None}, "WeightedImages cannot be decoded"),
        ({"weights": "1 two 3"}, "WeightedImages cannot be decoded"),
        ({"echoes": None}, "WeightedImages cannot be decoded"),
        ({"echoes": "1 2 3 4"}, "WeightedImages cannot be decoded"),
        ({"echoes": "1 2 3 4 5"}, "WeightedImages cannot be decoded"),
        ({"geometry": "1 2 3"}, "WeightedImages cannot be decoded"),
        ({"geometry": " ".join(["1"] * 18)}, "orthonormal"),
    ],
)
def test_inconsistent_image_is_refused(changes, words):
    with pytest.raises(Mri2QmapError, match=words):
        Decoder().decode(corrupted(**changes))


def test_stream_that_ends_within_an_item_is_refused():
    decoder = Decoder()
    decoder.decode(encode(example(ParameterMaps))[0])
    with pytest.raises(Mri2QmapError, match="within an item of type ParameterMaps: 1 of 9 images"):
        decoder.finish()


def test_empty_text_stays_empty():
    item = Provenance("0" * 64)
    (image,) = encode(item)
    for _ in range(3):  # like servers that read and write it
        image = ismrmrd.Image.from_bytes(image.to_bytes())
    assert Decoder().decode(image) == item
