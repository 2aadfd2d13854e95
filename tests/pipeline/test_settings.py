import json
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import ClassVar, Literal

import pytest

from mri2qmap.errors import Mri2QmapError
from mri2qmap.pipeline.settings import (
    field_types,
    parse_settings,
    property_text,
    settings_as_dict,
)


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Settings:
    flag: bool = False
    count: int = 3
    factor: float = 1.5
    name: str = "none of these"
    mode: Literal["fast", "exact"] = "fast"
    level: Literal[1, 2] = 1
    colour: Colour = Colour.RED
    limit: float | None = 2.0
    weights: tuple[float, ...] = (1.0, 2.0)
    shape: tuple[int, int] = (4, 5)
    file: Path = Path("a")
    extra: list = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError(f"count must not be negative, got {self.count}")


@dataclass(frozen=True)
class Required:
    count: int


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("flag", "true", True),
        ("flag", "No", False),
        ("flag", "1", True),
        ("count", " 12 ", 12),
        ("factor", "2", 2.0),
        ("factor", "1e-3", 1e-3),
        ("name", "", ""),
        ("mode", "exact", "exact"),
        ("level", "2", 2),
        ("colour", "blue", Colour.BLUE),
        ("limit", "none", None),
        ("limit", "", None),
        ("limit", "0.25", 0.25),
        ("weights", "0.1 0.2,0.3", (0.1, 0.2, 0.3)),
        ("weights", "", ()),
        ("shape", "7, 8", (7, 8)),
        ("file", "/x/y.z", Path("/x/y.z")),
    ],
)
def test_a_property_gets_the_type_of_its_field(name, text, value):
    settings = parse_settings(Settings, {name: text}, "toy")
    assert getattr(settings, name) == value
    assert type(getattr(settings, name)) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("flag", "maybe", "true or false"),
        ("count", "2.5", "a whole number"),
        ("count", "many", "a whole number"),
        ("factor", "nan", "a finite number"),
        ("factor", "inf", "a finite number"),
        ("factor", "1_000.5", "a finite number"),
        ("factor", "٣", "a finite number"),
        ("factor", "", "a finite number"),
        ("mode", "slow", "one of fast, exact"),
        ("level", "3", "one of 1, 2"),
        ("colour", "green", "one of red, blue"),
        ("limit", "x", "a finite number or none"),
        ("weights", "1 x", "a list, each a finite number"),
        ("shape", "1 2 3", "2 values, each a whole number"),
        ("file", "", "a file name"),
        ("count", "-1", "count must not be negative"),
    ],
)
def test_a_wrong_value_is_refused_by_name(name, text, words):
    with pytest.raises(Mri2QmapError) as caught:
        parse_settings(Settings, {name: text}, "toy", "file.xml, line 3")
    message = str(caught.value)
    assert message.startswith("file.xml, line 3: gadget toy: ")
    assert f'{name}="{text}"' in message
    assert words in message


def test_an_unknown_name_is_refused_with_the_closest_one():
    with pytest.raises(
        Mri2QmapError, match='gadget toy: property "wieghts" is not known'
    ) as caught:
        parse_settings(Settings, {"wieghts": "1"}, "toy")
    assert 'did you mean "weights"' in str(caught.value)
    assert "known: flag, count," in str(caught.value)


def test_a_field_that_is_no_parameter_cannot_be_set():
    with pytest.raises(Mri2QmapError, match='"extra" is not known'):
        parse_settings(Settings, {"extra": "1"}, "toy")


def test_a_missing_required_property_is_named():
    with pytest.raises(Mri2QmapError, match="property count is missing: a whole number"):
        parse_settings(Required, {}, "toy")


def test_the_text_of_a_value_gives_the_value_again():
    settings = Settings(flag=True, factor=1e-3, limit=None, weights=(0.1, 2e7), colour=Colour.BLUE)
    words = {name: property_text(getattr(settings, name)) for name in field_types(Settings)}
    assert words["factor"] == "0.001"
    assert words["limit"] == "none"
    assert parse_settings(Settings, words, "toy") == settings


@dataclass(frozen=True)
class Renamed(Settings):
    FORMER_NAMES: ClassVar[dict[str, str]] = {"tally": "count", "number": "count"}


def test_a_former_name_is_read_with_a_warning_that_gives_the_new_one(caplog):
    place = "file.xml, line 7"
    for _ in range(2):
        assert parse_settings(Renamed, {"tally": "4"}, "toy", place).count == 4
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage().startswith(
        'file.xml, line 7: gadget toy: property "tally" is now called "count"'
    )


@pytest.mark.parametrize("names", [("tally", "count"), ("count", "tally"), ("tally", "number")])
def test_a_property_under_two_of_its_names_is_refused(names):
    with pytest.raises(Mri2QmapError, match=r'property "(tally|number)" is the former name'):
        parse_settings(Renamed, dict.fromkeys(names, "4"), "toy")


def test_settings_become_json():
    settings = Settings(colour=Colour.BLUE, factor=float("inf"), limit=None)
    values = json.loads(json.dumps(settings_as_dict(settings), allow_nan=False))
    assert values["colour"] == "blue"
    assert values["factor"] == "inf"
    assert values["limit"] is None
    assert values["weights"] == [1.0, 2.0]
    assert values["file"] == "a"
