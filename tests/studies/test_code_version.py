"""The version of the code, under which results are stored."""

import re
import shutil
from pathlib import Path

import pytest

import mri2qmap
from mri2qmap.errors import Mri2QmapError
from mri2qmap.studies import code_version as module
from mri2qmap.studies.code_version import WITHOUT_EFFECT, code_digest, code_version

PACKAGE = Path(mri2qmap.__file__).parent
SOURCE = '''"""A module."""

A = 1


class C:
    """A class."""

    a: int = 2
    """An attribute."""

    def f(self, x):
        """Double it."""
        return 2 * x  # comment
'''


@pytest.fixture
def package(tmp_path):
    folder = tmp_path / "package"
    for name in ("gadget.py", "recon/algorithm.py", "cli/command.py", "studies/a_report.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(SOURCE)
    return folder


def test_the_version_is_fixed():
    assert re.fullmatch("[0-9a-f]{12}", code_version())
    assert code_version() == code_version()


@pytest.mark.parametrize("name", ["gadget.py", "recon/algorithm.py"])
@pytest.mark.parametrize(
    ("old", "new"), [("2 * x", "3 * x"), ("A = 1", "A = 1.0"), ("A = 1", ""), ("def f", "def g")]
)
def test_a_changed_statement_changes_the_digest(package, name, old, new):
    before = code_digest(package)
    file = package / name
    file.write_text(file.read_text().replace(old, new))
    assert code_digest(package) != before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# comment", "# another one"),
        ("Double it.", "Return twice x."),
        ('"""A module."""', '"""Another module.\n\nWith more lines."""'),
        ('"""A class."""', ""),
        ('"""An attribute."""', ""),
        ("2 * x", "(2*x)"),
    ],
)
def test_text_and_layout_do_not_count(package, old, new):
    before = code_digest(package)
    file = package / "gadget.py"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    assert code_digest(package) == before


def test_commands_and_reports_do_not_count_and_new_modules_do(package):
    before = code_digest(package)
    for name in ("cli/command.py", "studies/a_report.py", "studies/b_figures.py"):
        (package / name).write_text("B = 5\n")
    assert code_digest(package) == before
    (package / "recon" / "new.py").write_text("")
    assert code_digest(package) != before


def test_the_digest_does_not_depend_on_the_place(package, tmp_path):
    before = code_digest(package)
    assert code_digest(shutil.copytree(package, tmp_path / "another")) == before


def test_a_change_of_this_package_changes_the_version(tmp_path, monkeypatch):
    copy = shutil.copytree(
        PACKAGE, tmp_path / "mri2qmap", ignore=shutil.ignore_patterns("__pycache__")
    )
    monkeypatch.setattr(module.mri2qmap, "__file__", str(copy / "__init__.py"))
    compute = code_version.__wrapped__  # without the cache
    assert compute() == code_version()
    with (copy / "recon" / "plug_and_play.py").open("a") as file:
        file.write("\nCHANGED = True\n")
    assert compute() != code_version()


def test_other_libraries_are_another_version(monkeypatch):
    monkeypatch.setattr(module, "code_digest", lambda package: "0")
    monkeypatch.setattr(module, "numerical_packages", lambda: {"numpy": "0"})
    first = code_version.__wrapped__()
    monkeypatch.setattr(module, "numerical_packages", lambda: {"numpy": "1"})
    assert code_version.__wrapped__() != first


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"def"])
def test_a_package_that_cannot_be_read_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "a.py").write_bytes(content)
    with pytest.raises(Mri2QmapError, match="install the package"):
        code_digest(tmp_path)


def test_no_module_that_counts_imports_one_that_does_not():
    """Except for the catalogue: all that it chooses is in the keys of the rows."""
    names = {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        for pattern in WITHOUT_EFFECT
        for path in PACKAGE.glob(pattern)
        if path.stem not in ("__init__", "catalogue")
    }
    assert len(names) > 20
    for path in module._modules(PACKAGE):
        used = set(re.findall(r"mri2qmap(?:\.\w+)+", path.read_text()))
        assert not used & names, path
    assert "recon/plug_and_play.py" in {
        path.relative_to(PACKAGE).as_posix() for path in module._modules(PACKAGE)
    }
