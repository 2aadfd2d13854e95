"""The image with Gadgetron, built by the script and run as a careful site would run it."""

import os
import shutil
import tempfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
from helpers.containers import ANYBODY, Container, data
from helpers.image_builds import GADGETRON_BASE, Machine, cannot_run
from helpers.waiting import eventually

__all__ = ["data"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(bool(cannot_run()), reason=cannot_run() or "nothing is missing"),
    pytest.mark.skipif(shutil.which("gadgetron") is None, reason="no gadgetron server on the PATH"),
]
PROGRAM = "/opt/venv/bin/mri2qmap"
SCAN = ("scan.h5", "--anatomy", "nist", "--matrix", "16", "--fov", "0.2", "--coils", "2")
WORKER = ("worker", "--device", "cpu", "--threads", "1")
CONFIGURATIONS = ("mri2qmap_connect.xml", "mri2qmap_execute.xml")
# Maps depend on the number of threads.
ENVIRONMENT = {"MRI2QMAP_CACHE": "/data/cache", "OMP_NUM_THREADS": "1"}
START = 60.0


@pytest.fixture(scope="module")
def image():
    folder = Path(tempfile.mkdtemp(prefix="mri2qmap-gadgetron-", dir="/var/tmp"))
    machine = Machine(folder)
    try:
        machine.import_base()
        machine.import_gadgetron()
        machine.build("gadgetron", "localhost/mri2qmap:gt", folder / "lists", GADGETRON_BASE)
        yield machine.image("localhost/mri2qmap:gt")
    finally:
        machine.close()


def command(image, name, data, *words, **options) -> Container:
    """One of our commands in a container of the image, instead of the server."""
    options.setdefault("environment", ENVIRONMENT)
    return Container(
        image,
        name,
        data,
        ["/bin/sh", "-c", f'cd /data && exec {PROGRAM} "$@"', "sh", *words],
        **options,
    )


@pytest.mark.parametrize("user", [1000, ANYBODY])
def test_the_doctor_finds_all_that_a_scan_needs(image, data, user):
    os.chown(data, user, user)
    ended = command(image, "doctor", data, "doctor", user=user).run()
    assert ended.code == 0, ended.output + ended.errors


def test_maps_are_the_same_offline_and_from_gadgetron(image, data):
    """Of a user without rights on a read-only root, without a network but loopback."""
    assert command(image, "simulate", data, "simulate", *SCAN).run().code == 0
    offline = command(image, "offline", data, "replay", "scan.h5", "-o", "offline").run()
    assert offline.code == 0, offline.errors
    server = image.container("gadgetron", data, environment=ENVIRONMENT)
    worker = command(image, "worker", data, *WORKER, beside=server)
    health = image.configuration["Healthcheck"]["Test"]
    with server.running(until="Running on port 9002") as running:
        eventually(lambda: not server.execute(*health[1:]).code, "it does not listen", START)
        with worker.running(until="listening on") as working:
            for configuration in CONFIGURATIONS:
                words = ("--server", "localhost:9002", "--configuration", configuration)
                client = command(
                    image,
                    "client",
                    data,
                    *("replay", "scan.h5", *words, "-o", configuration),
                    beside=server,
                )
                ended = client.run()
                assert ended.code == 0, ended.errors + running.output + working.output
            assert working.end("TERM") == 0
        assert running.end("TERM") == 0
    volumes = sorted(path.name for path in (data / "offline").rglob("*.nii.gz"))
    assert {"T1map.nii.gz", "T2map.nii.gz"} <= set(volumes)
    for configuration in CONFIGURATIONS:
        for name in volumes:
            one, other = (
                np.asarray(nibabel.load(next((data / run).rglob(name))).dataobj)
                for run in ("offline", configuration)
            )
            # T1 and T2 come from a server in ms, in single precision.
            np.testing.assert_allclose(one, other, rtol=2**-22, err_msg=name)
