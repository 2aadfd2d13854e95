"""The services of docker/compose.yaml, from images that docker/build.sh has made."""

import json
import os
import shutil
import signal
import socket
import subprocess
import urllib.request
from pathlib import Path

import nibabel
import numpy as np
import pytest
import yaml
from helpers.waiting import eventually

from mri2qmap.cli.main import main

FILE = Path(__file__).parents[1] / "docker/compose.yaml"
SERVICES = yaml.safe_load(FILE.read_text())["services"]
STARTED = ("gadgetron", "worker", "serve", "orthanc")
PROJECT = "mri2qmap-test"
ORTHANC = "http://127.0.0.1:8042"
SIMULATED = ("--anatomy", "nist", "--matrix", "16", "--fov", "0.2", "--coils", "2")
START = 120.0


def docker(*words, environment=None):
    """Run a command of Docker."""
    command = ["docker", *words]
    variables = {**os.environ, **(environment or {})}
    return subprocess.run(command, capture_output=True, text=True, env=variables, timeout=600)


def missing():
    """What the services need and this machine does not have; empty if nothing."""
    if shutil.which("docker") is None or os.geteuid():
        return "docker and root are needed"
    if docker("compose", "version").returncode or docker("info").returncode:
        return "no engine of Docker with Compose runs here"
    for name in STARTED:
        if docker("image", "inspect", SERVICES[name]["image"]).returncode:
            return f"no image {SERVICES[name]['image']} here; docker/build.sh makes our own"
    for name in STARTED:
        for published in SERVICES[name]["ports"]:
            host, port, _ = published.split(":")
            with socket.socket() as probe:
                if not probe.connect_ex((host, int(port))):
                    return f"port {port} is taken"
    return ""


pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


class Site:
    """The services, of a project of their own, with a data folder."""

    def __init__(self, data):
        self.data = data
        self._environment = {"MRI2QMAP_DATA": str(data), "MRI2QMAP_MEMORY": "8g"}

    def compose(self, *words):
        where = ("compose", "--project-name", PROJECT, "--file", str(FILE))
        done = docker(*where, *words, environment=self._environment)
        assert not done.returncode, done.stderr + done.stdout
        return done.stdout

    def inspect(self, name):
        (found,) = json.loads(docker("inspect", f"{PROJECT}-{name}-1").stdout)
        return found

    def is_healthy(self, name):
        health = self.inspect(name)["State"].get("Health")
        return health is None or health["Status"] == "healthy"

    def crash(self, name):
        """Kill the first process of a service, and wait until the engine has started it again."""
        before = self.inspect(name)["State"]
        os.kill(before["Pid"], signal.SIGKILL)
        eventually(
            lambda: (
                self.inspect(name)["State"]["StartedAt"] != before["StartedAt"]
                and self.is_healthy(name)
            ),
            f"{name} does not come back",
            START,
        )


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    if reason := missing():
        pytest.skip(reason)
    data = tmp_path_factory.mktemp("data")
    os.chown(data, 1000, 1000)
    site = Site(data)
    try:
        site.compose("up", "--detach")
        for name in STARTED:
            eventually(lambda name=name: site.is_healthy(name), f"{name} does not start", START)
        yield site
    finally:
        site.compose("down", "--volumes", "--remove-orphans")


@pytest.fixture(scope="module")
def scan(site):
    path = site.data / "scan.h5"
    assert main(["simulate", str(path), *SIMULATED]) == 0
    return path


@pytest.fixture(scope="module")
def replayed(site, scan):
    """T1 of the scan, from the service that reconstructs one file."""
    before = in_the_pacs()
    site.compose("run", "--rm", "replay", scan.name, "-o", "maps")
    assert in_the_pacs() > before
    return t1(site.data / "maps")


def in_the_pacs():
    with urllib.request.urlopen(f"{ORTHANC}/statistics", timeout=20) as answer:
        return json.load(answer)["CountInstances"]


def received(scan, folder, port, *words):
    """T1 of the scan, from a service."""
    server = ("--server", f"localhost:{port}", *words)
    assert main(["replay", str(scan), *server, "-o", str(folder), "--no-report"]) == 0
    return t1(folder)


def t1(folder):
    return np.asarray(nibabel.load(next(folder.rglob("T1map.nii.gz"))).dataobj)


def same(one, other):
    """Whether maps are the same; T1 comes from a server in ms, in single precision."""
    return np.allclose(one, other, rtol=2**-22, atol=0)


def test_each_way_to_the_maps_has_the_same(site, scan, replayed, tmp_path):
    assert same(received(scan, tmp_path / "serve", 9012), replayed)
    for configuration in ("mri2qmap_connect.xml", "mri2qmap_execute.xml"):
        words = ("--configuration", configuration)
        assert same(received(scan, tmp_path / configuration, 9002, *words), replayed)


def test_maps_of_a_scanner_come_to_the_pacs(site, replayed, tmp_path):
    another = tmp_path / "scan.h5"
    assert main(["simulate", str(another), *SIMULATED, "--seed", "1"]) == 0
    before = in_the_pacs()
    received(another, tmp_path / "maps", 9002, "--configuration", "mri2qmap_connect_pacs.xml")
    eventually(lambda: in_the_pacs() > before, "nothing came to the PACS")


@pytest.mark.parametrize("name", ["gadgetron", "worker"])
def test_a_service_that_crashes_comes_back_and_finds_the_others(
    site, scan, replayed, name, tmp_path
):
    site.crash(name)
    words = ("--configuration", "mri2qmap_connect.xml")
    assert same(received(scan, tmp_path / "maps", 9002, *words), replayed)


@pytest.mark.parametrize("port", [9004, 9005])
def test_live_views_are_there(site, port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20) as answer:
        assert "MRI2Qmap" in answer.read().decode()


def test_services_end_as_they_should(site):
    site.compose("stop")
    ended = {name: site.inspect(name)["State"] for name in STARTED}
    assert {name: state["ExitCode"] for name, state in ended.items()} == dict.fromkeys(STARTED, 0)
