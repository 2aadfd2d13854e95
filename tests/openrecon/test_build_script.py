"""The script that builds the OpenRecon package; with buildah, on a stand-in for the base image."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from openrecon.test_package import image_config, saved_image

from mri2qmap.openrecon.label import LABEL_NAME
from mri2qmap.openrecon.package import package_label, refuse_unfit_image

DOCKER = Path(__file__).parents[2] / "docker"
SCRIPT = DOCKER / "build_openrecon.sh"
DOCKERFILE = DOCKER / "openrecon" / "Dockerfile"
HADOLINT = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")


@pytest.fixture
def real_command(tmp_path):
    """The command of this environment; it takes seconds to start."""
    path = tmp_path / "mri2qmap"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mri2qmap.cli.main "$@"\n')
    path.chmod(0o755)
    return path


@pytest.fixture
def command(tmp_path):
    """A stand-in that knows the label, and copies the image for zip."""
    label = package_label()
    lines = " ".join((label.base_name, label.image_name, label.encoded()))
    path = tmp_path / "stand_in"
    path.write_text(
        "#!/bin/bash\n"
        f'[ "$1" = openrecon ] && [ "$2" = build ] && printf "%s\\n" {lines} && exit\n'
        '[ "$*" = "openrecon zip --image $4 -o ." ] && cp "$4" packed.tar\n'
    )
    path.chmod(0o755)
    return path


@pytest.fixture
def script(tmp_path, command):
    """Function that runs the script with options, in a folder of its own."""
    (tmp_path / "work").mkdir()

    def run(*options: str, **variables: str) -> subprocess.CompletedProcess[str]:
        package = str(DOCKER.parent / "gadgets")
        own = {"MRI2QMAP": str(command), "PYTHONPATH": package, "TMPDIR": str(tmp_path)}
        return subprocess.run(
            [str(SCRIPT), *options],
            cwd=tmp_path / "work",
            env=os.environ | own | variables,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed")
def test_dockerfile_is_clean():
    run = subprocess.run([HADOLINT, str(DOCKERFILE)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_dockerfile_has_the_label_and_the_port():
    text = DOCKERFILE.read_text()
    label = package_label()
    assert f'LABEL "{LABEL_NAME}"="${{LABEL}}"' in text
    assert f"EXPOSE {label.reconstruction.port}\n" in text
    (command,) = (line for line in text.splitlines() if line.startswith("CMD "))
    words = json.loads(command.removeprefix("CMD "))
    assert words[:2] == ["mri2qmap", "serve"]
    assert words[-2:] == ["--port", str(label.reconstruction.port)]


def test_the_default_keeps_the_user_of_the_base():
    stages = DOCKERFILE.read_text().split("\nFROM ")
    names = [stage.splitlines()[0].rpartition(" ")[2] for stage in stages[1:]]
    assert names == ["labelled", "root", "cuda118", "package"]
    assert stages[-1].startswith("labelled AS ")
    assert "USER root" not in stages[1]


@pytest.mark.parametrize("engine", ["docker", "podman", "buildah"])
def test_steps_are_said_without_being_done(script, tmp_path, engine):
    command = tmp_path / "docker"  # answers the question for its version
    command.write_text("#!/bin/sh\n[ $1 = version ] && echo 28.2.1\n")
    command.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    run = script("-n", "-t", "root", "-b", "base:1", "-o", "out", ENGINE=engine, PATH=path)
    assert run.returncode == 0, run.stderr
    label = package_label()
    named, build, save, packed = run.stdout.splitlines()
    assert named == f"package {label.base_name}.zip"
    assert build.startswith(f"{engine} build --target root --tag {label.image_name} ")
    assert "--build-arg BASE=base:1" in build
    assert ("--format docker" in build) == (engine != "docker")
    assert save.startswith(f"{engine} {'push' if engine == 'buildah' else 'save'} ")
    assert packed.endswith(" -o out")
    assert ("saved by Docker before 25" in run.stderr) == (engine == "docker")
    assert list((tmp_path / "work").iterdir()) == []
    assert not list(tmp_path.glob("openrecon.*"))


@pytest.mark.slow
def test_a_saved_image_is_packed(script, tmp_path, real_command):
    label = package_label(DOCKER / "openrecon" / "cuda118.toml")
    image = saved_image(tmp_path / "saved.tar", image_config(label))
    run = script("-t", "cuda118", "-i", str(image), MRI2QMAP=str(real_command))
    assert run.returncode == 0, run.stderr
    with zipfile.ZipFile(tmp_path / "work" / f"{label.base_name}.zip") as package:
        assert [Path(name).suffix for name in package.namelist()] == [".tar", ".pdf"]
    assert label.document()["reconstruction"]["can_use_gpu"] is True


def test_a_package_that_exists_is_not_built_again(script, tmp_path):
    name = f"{package_label().base_name}.zip"
    (tmp_path / "work" / name).write_text("mine")
    run = script(ENGINE="buildah")
    assert run.returncode == 2
    assert f"./{name} exists already" in run.stderr
    assert [path.name for path in (tmp_path / "work").iterdir()] == [name]


@pytest.mark.parametrize(
    ("options", "variables", "words"),
    [
        (["-t", "gpu"], {}, "package, root or cuda118 is expected"),
        (["image.tar"], {}, "unknown argument image.tar"),
        (["-x"], {}, "usage:"),
        (["-n"], {"ENGINE": "rkt"}, "docker, podman or buildah is expected"),
        (["-n"], {"MRI2QMAP": "/nowhere/mri2qmap"}, "/nowhere/mri2qmap is not found"),
    ],
)
def test_wrong_use_of_the_script_is_refused(script, tmp_path, options, variables, words):
    run = script(*options, **variables)
    assert run.returncode == 2
    assert words in run.stderr
    assert list((tmp_path / "work").iterdir()) == []


needs_buildah = pytest.mark.skipif(
    shutil.which("buildah") is None or os.geteuid() != 0,
    reason="buildah is not installed, or this is not root, who builds without user namespaces",
)


@pytest.fixture
def storage(tmp_path):
    """Environment with a storage of images of its own, and a stand-in for the base image."""
    settings = tmp_path / "storage.conf"
    settings.write_text(
        f'[storage]\ndriver = "vfs"\ngraphroot = "{tmp_path}/images"\nrunroot = "{tmp_path}/run"\n'
    )
    environment = {"CONTAINERS_STORAGE_CONF": str(settings)}

    def buildah(*words: str) -> str:
        return subprocess.run(
            ["buildah", *words],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    (tmp_path / "file").write_text("all that the stand-in has")
    container = buildah("from", "scratch")
    buildah("copy", container, str(tmp_path / "file"), "/file")
    buildah("config", "--user", "1000", "--entrypoint", '["mri2qmap"]', container)
    buildah("commit", "--format", "docker", container, "stand-in:1")
    buildah("rm", container)
    return environment


@needs_buildah
@pytest.mark.parametrize(("target", "user"), [("package", "1000"), ("root", "root")])
def test_package_is_built(script, storage, tmp_path, target, user):
    run = script(
        *("-b", "stand-in:1", "-t", target),
        ENGINE="buildah",
        BUILD_OPTIONS="--isolation chroot",
        **storage,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert not list(tmp_path.glob("openrecon.*"))
    label = package_label()
    saved = tmp_path / "work" / "packed.tar"
    refuse_unfit_image(saved, label)
    with tarfile.open(saved) as archive:
        (image,) = json.load(archive.extractfile("manifest.json"))
        config = json.load(archive.extractfile(image["Config"]))["config"]
    assert config["Labels"][LABEL_NAME] == label.encoded()
    assert config["User"] == user
    assert not config["Entrypoint"]
    assert config["Cmd"][:2] == ["mri2qmap", "serve"]
    assert any(tag.endswith(label.image_name) for tag in image["RepoTags"])
