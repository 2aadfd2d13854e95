"""Types of the fields of classes and of the parameters of functions, looked up once."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, get_type_hints

_MOST = 512


def type_hints(of: Any, marks: bool = False) -> Mapping[str, Any]:
    """Return the type of each field or parameter, by name.

    Annotations are text that is compiled each time that it is asked for, which would be most of the
    time in which a pipeline is read.

    Parameters
    ----------
    of
        A class or function of a module.
    marks
        Whether the types keep the marks of `typing.Annotated`.
    """
    return _looked_up(of, marks)


@lru_cache(maxsize=_MOST)
def _looked_up(of: Hashable, marks: bool) -> Mapping[str, Any]:
    return MappingProxyType(get_type_hints(of, include_extras=marks))
