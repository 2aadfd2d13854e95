"""Without the packages of the extra, importing the studies fails with one clear line."""

import importlib
import sys

import pytest

from mri2qmap.cli.main import main
from mri2qmap.errors import Mri2QmapError

HINT = "pip install 'mri2qmap[studies]'"


@pytest.fixture
def without(monkeypatch):
    """Function that hides a package; the studies must be imported again."""

    def hide(module):
        monkeypatch.setitem(sys.modules, module, None)
        for name in list(sys.modules):
            if name == "mri2qmap.studies" or name.startswith("mri2qmap.studies."):
                monkeypatch.delitem(sys.modules, name)

    return hide


@pytest.mark.parametrize(
    ("module", "package"), [("matplotlib", "matplotlib"), ("skimage", "scikit-image")]
)
def test_the_import_names_the_package_and_the_extra(without, module, package):
    without(module)
    with pytest.raises(Mri2QmapError, match=f"not installed: {package};") as error:
        importlib.import_module("mri2qmap.studies.catalogue")
    assert HINT in str(error.value)


@pytest.mark.parametrize(
    "arguments",
    [
        ["evaluate", "out", "--experiment", "table1"],
        ["evaluate", "out", "--experiment", "nist"],
        ["bench", "denoiser", "--anatomy", "icbm", "-o", "out"],
    ],
)
def test_commands_fail_with_one_line(without, arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    without("matplotlib")
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert HINT in error
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())
