"""How large and how deep the XML documents may be that this program reads."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class XmlLimits:
    """Largest extent of a document.

    Attributes
    ----------
    size
        Length of the document as received, in its own encoding [bytes].
    depth
        Levels of elements, with the root.
    elements
        Number of elements and comments.
    attributes
        Attributes of one element, among them declarations of namespaces.
    text
        Length of the character data of one element, of an attribute or a comment [characters].
    name
        Length of the name of an element or attribute [characters].
    """

    size: int
    depth: int
    elements: int
    attributes: int
    text: int
    name: int = 256


HEADER = XmlLimits(size=2**24, depth=32, elements=2**16, attributes=256, text=2**23)
"""Of an ISMRMRD header.

The schema has 6 levels. Four values (TR, TE, TI, flip angle) for each of 8192 frames, labels of
1024 coils and 2000 user parameters of each of three types are 54 000 elements in 1.3 MB. Some
converters keep the scanner's protocol buffers in base 64 in user parameters, a few MB each.
"""

PIPELINE = XmlLimits(size=2**20, depth=32, elements=2**14, attributes=64, text=2**16)
"""Of a pipeline, or of the configuration of a node. The longest of this project has 8 kB, 133
elements and 6 levels."""

META = XmlLimits(size=2**22, depth=16, elements=2**12, attributes=64, text=2**21)
"""Of the metadata of an image. They have 3 levels and some tens of elements. Converters keep
protocol headers or DICOM attributes in them in base 64, some 100 kB."""
