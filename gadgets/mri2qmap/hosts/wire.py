"""Serialisation of items as ISMRMRD messages.

Acquisitions, waveforms and images of other software are sent unchanged. Any other item is sent as
one ISMRMRD image for each of its arrays, with the metadata:

=====================  =========================================================================
``mri2qmap_item``      class of the item, for example ``CoilMaps``
``mri2qmap_id``        identifier of the item, the same in all of its images
``mri2qmap_array``     field of the item that this image contains
``mri2qmap_arrays``    number of images of the item
``mri2qmap_shape``     shape of the array
``mri2qmap_geometry``  matrix (z, y, x), voxel size (z, y, x) [m], position [m], read, phase and
                       slice direction: 18 numbers without loss of precision
``mri2qmap_<field>``   any other field of the item, as text; a spin echo as TR and TE [s]; omitted
                       if the field is None or empty
=====================  =========================================================================

An item without arrays is sent as an image of one voxel with ``mri2qmap_arrays`` 0.

Between two nodes of one `mri2qmap worker`, an item can be sent as a reference instead: an image of
one voxel whose metadata contain ``mri2qmap_reference``, the key of the item in the worker's store.

The nodes of a worker add ``mri2qmap_session`` to these metadata, the name of their session, so that
the next node of the same worker knows that it belongs to it. A node that sends references sends an
image of one voxel with ``mri2qmap_session`` alone before everything else.

The leading axis of an array (coils, coefficients, contrasts) is the channel axis of the image. The
image header repeats the geometry in millimetres for other software. Finished files (`DicomObject`,
`NiftiVolume`) cannot be serialised, because a Gadgetron server does not relay DICOM.
"""

from __future__ import annotations

import dataclasses
import functools
import uuid
from collections.abc import Callable
from typing import Any, TypeAlias, get_args

import ismrmrd
import numpy as np
import torch
from numpy.typing import NDArray

from mri2qmap.errors import Mri2QmapError
from mri2qmap.hosts.session_message import (
    PREFIX,
    SESSION,
    bare_image,
    is_session_only,
    refuse_lists,
)
from mri2qmap.machine.type_hints import type_hints
from mri2qmap.mrsignal.synthesis import SpinEcho, SpinEchoes
from mri2qmap.pipeline import items
from mri2qmap.pipeline.geometry import Geometry
from mri2qmap.pipeline.items import Item
from mri2qmap.pipeline.memory_budget import gib_apart

Message: TypeAlias = ismrmrd.Acquisition | ismrmrd.Waveform | ismrmrd.Image

FILES = (items.DicomObject, items.NiftiVolume)
ITEM_CLASSES: dict[str, Any] = {
    kind.__name__: kind
    for kind in get_args(Item)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type) and kind not in FILES
}
DTYPES = ("uint16", "uint32", "float32", "float64", "complex64", "complex128")
"""Array types that a Gadgetron server relays; others block or abort the session."""
LARGEST_AXIS = 2**16 - 1
_MOST_INCOMPLETE = 4
"""Maximum number of items whose arrays arrive at the same time."""
_MOST_ITEMS = 1000
"""Maximum number of images of items of one scan."""


def encode(
    item: Item, new_id: Callable[[], str] = lambda: uuid.uuid4().hex, session: str = ""
) -> list[Message]:
    """Serialise an item.

    Parameters
    ----------
    item
        Any item except a finished file.
    new_id
        Returns a new item identifier.
    session
        Name of the session; omitted if empty.

    Raises
    ------
    TypeError
        If the item or the type of an array cannot be serialised.
    ValueError
        If an axis of an array is too long for an ISMRMRD image.
    """
    if isinstance(item, Message):
        return [item]
    if type(item).__name__ not in ITEM_CLASSES:
        raise TypeError(f"{type(item).__name__} cannot be serialised")
    arrays: dict[str, NDArray[Any]] = {}
    meta = {f"{PREFIX}item": type(item).__name__, f"{PREFIX}id": new_id()}
    if session:
        meta[SESSION] = session
    geometry: Geometry | None = None
    for field in dataclasses.fields(item):
        value = getattr(item, field.name)
        if isinstance(value, torch.Tensor):
            array = value.detach().cpu().resolve_conj().contiguous()
            # ISMRMRD images have no half precision.
            array = array.float() if array.dtype == torch.float16 else array
            arrays[field.name] = array.numpy()
        elif isinstance(value, Geometry):
            geometry = value
            meta[f"{PREFIX}geometry"] = _geometry_text(value)
        elif value is not None and value != "":  # other software may turn "" into "None"
            meta[f"{PREFIX}{field.name}"] = _value_text(value)
    meta[f"{PREFIX}arrays"] = str(len(arrays))
    if not arrays:
        return [bare_image(meta)]
    return [
        _image(name, array, number, meta, geometry)
        for number, (name, array) in enumerate(arrays.items())
    ]


def encode_reference(item: Item, keep: Callable[[Item], str]) -> list[Message]:
    """Serialise an item as a reference to the stored item.

    Parameters
    ----------
    item
        Any item except a finished file. ISMRMRD messages are returned unchanged.
    keep
        Stores the item for the node that decodes the message and returns its reference.
    """
    if isinstance(item, Message):
        return [item]
    meta = {f"{PREFIX}item": type(item).__name__, f"{PREFIX}reference": keep(item)}
    return [bare_image(meta)]


class Decoder:
    """Assembles items from messages.

    Parameters
    ----------
    device
        Device of the decoded arrays.
    take
        Returns the stored item of a reference written by `encode_reference`.
    limit
        Maximum size of the arrays of all items together [bytes]; None: no limit.
    arrived
        Called with the size of each array [bytes].
    """

    def __init__(
        self,
        device: torch.device | str = "cpu",
        take: Callable[[str], Item] | None = None,
        limit: int | None = None,
        arrived: Callable[[int], None] = lambda size: None,
    ) -> None:
        self.device = torch.device(device)
        self._arrived = arrived
        self._take = take
        self._limit = limit
        self._items = self._bytes = 0
        self._incomplete: dict[str, dict[str, ismrmrd.Image]] = {}

    def decode(self, message: Message) -> Item | None:
        """Process the next message; return the item if it completes one, else None.

        Raises
        ------
        Mri2QmapError
            If an image is marked as part of an item but cannot be decoded.
        """
        if is_session_only(message):
            return None
        if not isinstance(message, ismrmrd.Image) or f"{PREFIX}item" not in message.meta:
            return message
        meta = message.meta
        refuse_lists(meta)
        if meta[f"{PREFIX}item"] not in ITEM_CLASSES:
            raise Mri2QmapError(
                f"an image is marked as part of an item of type {meta[f'{PREFIX}item']!r}; known "
                f"types are {', '.join(ITEM_CLASSES)}"
            )
        self._items += 1
        if self._items > _MOST_ITEMS:
            raise Mri2QmapError(f"more than {_MOST_ITEMS} images of items arrived within the scan")
        if reference := meta.get(f"{PREFIX}reference"):
            if self._take is None:
                raise Mri2QmapError(
                    f"an item of type {meta[f'{PREFIX}item']} arrived as a reference, which only a "
                    "node of the same worker can resolve; set transport to "
                    '"value" in the node before'
                )
            return self._take(reference)
        try:
            if meta.get(f"{PREFIX}arrays") == "0":
                return self._item(ITEM_CLASSES[meta[f"{PREFIX}item"]], meta, {})
            kind = ITEM_CLASSES[meta[f"{PREFIX}item"]]
            name, parts = meta[f"{PREFIX}array"], int(meta[f"{PREFIX}arrays"])
            if name not in _array_names(kind) or parts > len(_array_names(kind)):
                raise ValueError(f"it has no array {name!r}, or fewer than {parts} arrays")
            self._count(message.data.nbytes)
            arrived = self._incomplete.setdefault(meta[f"{PREFIX}id"], {})
            arrived[name] = message
            if len(self._incomplete) > _MOST_INCOMPLETE:
                raise ValueError("the parts of too many items arrive at the same time")
            if len(arrived) < parts:
                return None
            del self._incomplete[meta[f"{PREFIX}id"]]
            return self._item(ITEM_CLASSES[meta[f"{PREFIX}item"]], meta, arrived)
        except (LookupError, ValueError, TypeError) as error:
            raise Mri2QmapError(
                f"an image of an item of type {meta[f'{PREFIX}item']} cannot be decoded: "
                f"{type(error).__name__}: {error}"
            ) from error

    def _count(self, size: int) -> None:
        """Count an array; refuse more than is planned for the scan: each item comes once."""
        self._bytes += size
        if self._limit is not None and self._bytes > self._limit:
            found, planned = gib_apart(self._bytes, self._limit)
            raise ValueError(
                f"the items of this scan have {found} so far, but its memory was planned as "
                f"{planned}"
            )
        self._arrived(size)

    def finish(self) -> None:
        """Check that all items are complete at the end of the stream.

        Raises
        ------
        Mri2QmapError
            If images of an item are missing.
        """
        for arrived in self._incomplete.values():
            meta = next(iter(arrived.values())).meta
            raise Mri2QmapError(
                f"the stream ended within an item of type {meta[f'{PREFIX}item']}: {len(arrived)} "
                f"of {meta[f'{PREFIX}arrays']} images arrived"
            )

    def _item(self, kind: Any, meta: ismrmrd.Meta, arrived: dict[str, ismrmrd.Image]) -> Item:
        values: dict[str, Any] = {}
        hints = type_hints(kind)
        for field in dataclasses.fields(kind):
            if field.name in arrived:
                values[field.name] = self._tensor(arrived[field.name])
            elif hints[field.name] is Geometry:
                values[field.name] = _geometry(meta[f"{PREFIX}geometry"])
            elif hints[field.name] is str:
                values[field.name] = meta.get(f"{PREFIX}{field.name}", "")
            elif field.default is not None:
                values[field.name] = _value(meta[f"{PREFIX}{field.name}"], hints[field.name])
        item: Item = kind(**values)
        return item

    def _tensor(self, image: ismrmrd.Image) -> torch.Tensor:
        shape = tuple(int(n) for n in image.meta[f"{PREFIX}shape"].split())
        return torch.from_numpy(image.data.reshape(shape)).to(self.device)


@functools.cache
def _array_names(kind: type[Any]) -> frozenset[str]:
    """Names of the arrays of an item class."""
    hints = type_hints(kind)
    return frozenset(
        field.name
        for field in dataclasses.fields(kind)
        if hints[field.name] is torch.Tensor or torch.Tensor in get_args(hints[field.name])
    )


def _image(
    name: str,
    array: NDArray[Any],
    number: int,
    meta: dict[str, str],
    geometry: Geometry | None,
) -> ismrmrd.Image:
    if array.dtype.name not in DTYPES:
        raise TypeError(
            f"{meta[f'{PREFIX}item']}.{name} is {array.dtype}; a Gadgetron server relays only "
            f"{', '.join(DTYPES)}"
        )
    shape = array.shape
    lead = int(np.prod(shape[:-3], dtype=np.int64))
    folded = array.reshape(lead, *(1, 1, 1, *shape)[-3:])
    if max(folded.shape) > LARGEST_AXIS:
        raise ValueError(
            f"{meta[f'{PREFIX}item']}.{name} has shape {shape}; an axis of an ISMRMRD image has at "
            f"most {LARGEST_AXIS} elements"
        )
    head = ismrmrd.ImageHeader()
    head.version = 1
    head.image_type = ismrmrd.IMTYPE_COMPLEX if np.iscomplexobj(array) else ismrmrd.IMTYPE_REAL
    head.image_index = number + 1
    if geometry is not None:
        head.position[:] = tuple(1e3 * p for p in geometry.position)
        head.read_dir[:] = geometry.read_dir
        head.phase_dir[:] = geometry.phase_dir
        head.slice_dir[:] = geometry.slice_dir
        head.field_of_view[:] = tuple(1e3 * f for f in geometry.field_of_view[::-1])
    roles = {f"{PREFIX}array": name, f"{PREFIX}shape": " ".join(str(n) for n in shape)}
    return ismrmrd.Image(head=head, data=folded, meta=ismrmrd.Meta({**meta, **roles}))


def _geometry_text(geometry: Geometry) -> str:
    matrix, *vectors = dataclasses.astuple(geometry)
    return " ".join([*(str(int(n)) for n in matrix), *(repr(float(x)) for v in vectors for x in v)])


def _geometry(text: str) -> Geometry:
    words = text.split()
    z, y, x = (int(word) for word in words[:3])
    voxel_size, position, read_dir, phase_dir, slice_dir = (
        (float(words[i]), float(words[i + 1]), float(words[i + 2])) for i in range(3, 18, 3)
    )
    return Geometry((z, y, x), voxel_size, position, read_dir, phase_dir, slice_dir)


def _value_text(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(_value_text(v) for v in value)
    if isinstance(value, SpinEcho):
        return _value_text((value.repetition_time, value.echo_time))
    if isinstance(value, float):
        return repr(float(value))
    if isinstance(value, int) and not isinstance(value, bool):
        return str(int(value))
    if isinstance(value, str):
        return value
    raise TypeError(f"a field of type {type(value).__name__} cannot be serialised")


def _value(text: str, annotation: Any) -> Any:
    arguments = get_args(annotation)
    if annotation == SpinEchoes:
        times = [float(word) for word in text.split()]
        t1w, t2w, pdw = (SpinEcho(*pair) for pair in zip(times[::2], times[1::2], strict=True))
        return (t1w, t2w, pdw)
    if arguments:
        return tuple(arguments[0](word) for word in text.split())
    return annotation(text)
