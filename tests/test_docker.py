"""The container files, as far as they can be checked without a container engine."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mri2qmap.cli.main import build_parser

DOCKER = Path(__file__).parents[1] / "docker"
DOCKERFILES = sorted(DOCKER.glob("Dockerfile.*"))


HADOLINT = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed")
@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_dockerfile_is_clean(dockerfile):
    run = subprocess.run([HADOLINT, str(dockerfile)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_compose_builds_what_is_there():
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    files = {DOCKER.parent / service["build"]["dockerfile"] for service in services.values()}
    assert files == set(DOCKERFILES)


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_servers_in_containers_are_told_what_they_understand(command):
    service = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"][command]
    words = service["command"].split()
    args = build_parser().parse_args(words)
    args.complete(args)
    assert words[0] == command
    assert args.address == "0.0.0.0"  # within the container
    (port,) = service["ports"]
    assert port == f"127.0.0.1:{args.port}:{args.port}"


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_copied_paths_exist(dockerfile):
    sources = [
        source
        for line in dockerfile.read_text().splitlines()
        if line.startswith("COPY ")
        for source in line.split()[1:-1]
    ]
    assert sources
    for source in sources:
        assert (DOCKER.parent / source).exists(), source
