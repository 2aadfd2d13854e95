"""Which files the settings of a pipeline may name."""

import dataclasses
import os
from pathlib import Path

import pytest

from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine.file_access import (
    ANY_FILE,
    FOLDERS_VARIABLE,
    INSTALLED_FILES,
    FileAccess,
    InputFile,
    ModelFile,
    named_files,
    site_files,
)
from mri2qmap.machine.folders import model_folders, pipeline_folders
from mri2qmap.pipeline.pipeline_file import GADGETS, load_gadget
from mri2qmap.pipeline.provenance import input_files
from mri2qmap.pipeline.settings import parse_settings


@dataclasses.dataclass(frozen=True)
class Settings:
    text: str = "/etc/passwd"
    field: InputFile = ""
    model: ModelFile = "small"
    table: Path | None = None
    more: tuple[Path, ...] = ()


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """An allowed folder, and a secret beside it."""
    (tmp_path / "open" / "inner").mkdir(parents=True)
    (tmp_path / "open" / "b1.nii").touch()
    (tmp_path / "open-not").mkdir()
    (tmp_path / "secret.nii").touch()
    (tmp_path / "open" / "out").symlink_to(tmp_path)
    (tmp_path / "open" / "link.nii").symlink_to(tmp_path / "secret.nii")
    (tmp_path / "open" / "loop").symlink_to(tmp_path / "open" / "loop")
    (tmp_path / "alias").symlink_to(tmp_path / "open")
    return tmp_path


ALLOWED = ["open/b1.nii", "open/none.nii", "open/inner/../b1.nii", "alias/b1.nii", "open"]
REFUSED = [
    "secret.nii",
    "none.nii",
    "open/../secret.nii",
    "open/inner/../../none.nii",
    "open/link.nii",
    "open/out/secret.nii",
    "open/out/none.nii",
    "open-not/b1.nii",
    "open/" + "x/../" * 3 + "../secret.nii",
    "open\0/../secret.nii",
    "x" * 5000,
]


@pytest.mark.parametrize("name", [*ALLOWED, *REFUSED])
def test_files_in_allowed_folders_only(site, name):
    files = FileAccess((site / "open",))
    assert files.allows(str(site / name)) == (name in ALLOWED)
    assert ANY_FILE.allows(str(site / name))
    assert not INSTALLED_FILES.allows(str(site / name))


def test_files_of_the_installation_are_allowed():
    for folder in (*model_folders(), *pipeline_folders()):
        assert INSTALLED_FILES.allows(folder / "a.safetensors")
        assert not INSTALLED_FILES.allows(f"{folder}/../a.safetensors")


def test_relative_names_count_from_the_current_folder(site, monkeypatch):
    files = FileAccess((site / "open",))
    assert not files.allows("b1.nii")
    monkeypatch.chdir(site / "open")
    assert files.allows("b1.nii")


def test_settings_that_name_files_are_found_by_their_type():
    settings = Settings(
        field="f", model="m.safetensors", table=Path("t"), more=(Path("a"), Path("b"))
    )
    assert list(named_files(settings)) == [
        ("field", "f"),
        ("model", "m.safetensors"),
        ("table", Path("t")),
        ("more", Path("a")),
        ("more", Path("b")),
    ]
    assert list(named_files(Settings())) == []


@pytest.mark.parametrize("gadget", GADGETS)
def test_every_file_that_a_gadget_reads_has_such_a_type(gadget, tmp_path):
    """Settings with every file set: what is read as an input is what is checked."""
    _, kind = load_gadget(gadget)
    model = tmp_path / "m.safetensors"
    model.touch()
    own = {"b1_map": "b1.nii", "denoiser": str(model), "prior": "denoiser"}
    given = {f.name: own[f.name] for f in dataclasses.fields(kind) if f.name in own}
    settings = parse_settings(kind, given, gadget)
    checked = {name: Path(file) for name, file in named_files(settings)}
    assert checked == input_files(settings)
    if checked:
        with pytest.raises(Mri2QmapError, match="in folders that the site allows"):
            parse_settings(kind, given, gadget, files=INSTALLED_FILES)
    assert parse_settings(kind, given, gadget, files=FileAccess((tmp_path, Path.cwd())))


def test_refusal_does_not_tell_whether_the_file_exists(site):
    words = set()
    for name in ("secret.nii", "none.nii", "open-not", "x" * 5000, "a\0b"):
        with pytest.raises(Mri2QmapError) as caught:
            FileAccess((site / "open",)).check(Settings(field=str(site / name)), "gadget g")
        words.add(str(caught.value))
    (text,) = words
    assert text.startswith("gadget g: property field: a pipeline that came over the network")
    assert str(site) not in text


def test_folders_of_a_site(site, monkeypatch):
    monkeypatch.setenv(FOLDERS_VARIABLE, f"{site / 'open'}{os.pathsep}")
    assert site_files([site / "open-not"]).folders == (site / "open-not", site / "open")
    monkeypatch.delenv(FOLDERS_VARIABLE)
    assert site_files() == INSTALLED_FILES
    with pytest.raises(Mri2QmapError, match=r"--allow-folder .*none: it is not a folder"):
        site_files([site / "none"])
