"""The image for CPUs, built by the project's script and run as a careful site would run it."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
from helpers.containers import ANYBODY, data
from helpers.image_builds import BASE, Machine, cannot_run

__all__ = ["data"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(cannot_run()), reason=cannot_run() or "nothing is missing"),
]
SIMULATE = (
    "simulate",
    "scan.h5",
    "--anatomy",
    "nist",
    "--matrix",
    "16",
    "--fov",
    "0.2",
    "--coils",
    "2",
)
SERVE = ("serve", "--device", "cpu", "--status-port", "9003", "--dashboard", "9004")
LIMIT = 700 * 2**20


@pytest.fixture(scope="module")
def built():
    """The image, where its lists of packages are, and the last line of the script."""
    folder = Path(tempfile.mkdtemp(prefix="mri2qmap-containers-", dir="/var/tmp"))
    machine = Machine(folder)
    try:
        machine.import_base()
        said = machine.build("cpu", "localhost/mri2qmap:test", folder / "lists")
        yield machine.image("localhost/mri2qmap:test"), folder / "lists", said
    finally:
        machine.close()


@pytest.fixture(scope="module")
def image(built):
    return built[0]


def report_of(ended):
    """What the doctor found, by topic."""
    lines = (
        line for line in ended.output.splitlines() if line.startswith(("ok ", "missing", "MISS"))
    )
    return {line[9:].split("  ")[0]: line for line in lines}


def test_the_image_is_what_the_script_promises(built):
    image, lists, said = built
    configuration = image.configuration
    labels = configuration["Labels"]
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["org.opencontainers.image.version"] in said
    assert labels["org.opencontainers.image.base.name"] == BASE
    assert configuration["User"] == "1000:1000"
    assert set(configuration["ExposedPorts"]) == {f"{p}/tcp" for p in (9002, 9003, 9004, 18000)}
    assert list(configuration["Volumes"]) == ["/data"]
    bill = json.loads((lists / "sbom.cdx.json").read_text())
    assert bill["bomFormat"] == "CycloneDX"
    names = {entry["name"].lower(): entry["version"] for entry in bill["components"]}
    assert names["torch"].endswith("+cpu")
    assert {"mri2qmap", "pynetdicom", "dicomweb-client"} <= set(names)
    assert not [name for name in names if name.startswith(("nvidia", "triton", "cupy"))]
    if (lists / "audit.json").exists():
        assert json.loads((lists / "audit.json").read_text())["dependencies"]
    else:
        assert "no audit" in said
    assert (lists / "size.txt").read_text().strip() in said


def test_there_are_no_leftovers_and_no_second_copies(image):
    weights = [p for p in image.place.rglob("*.safetensors") if p.parent.name == "_models"]
    copies = [p for p in image.place.rglob("small.safetensors")]
    assert copies == [p for p in weights if p.stem == "small"]
    assert not (image.place / "build").exists()
    assert not list((image.place / "opt").rglob("*.whl"))
    assert not (image.place / "root/.cache").exists()


@pytest.mark.parametrize("user", [1000, ANYBODY])
def test_the_doctor_finds_all_that_a_scan_needs(image, data, user):
    os.chown(data, user, user)
    ended = image.container("doctor", data, "doctor", user=user).run()
    assert ended.code == 0, ended.output + ended.errors
    report = report_of(ended)
    assert "/data/.cache/mri2qmap" in report["cache folder"]
    assert report["compiled loops"].startswith("ok ")
    assert "/opt/mri2qmap/cache/numba" in report["compiled loops"]
    assert report["current folder"].endswith("/data")
    assert report["pynetdicom"].startswith("ok ")


def test_maps_are_the_same_offline_and_from_a_server(image, data):
    """Without a network; nothing is compiled, and no dictionary is made."""
    assert image.container("simulate", data, *SIMULATE).run().code == 0
    offline = image.container("offline", data, "replay", "scan.h5", "-o", "offline").run()
    assert offline.code == 0, offline.errors
    assert loops(data / ".cache/mri2qmap") == loops(image.place / "opt/mri2qmap/cache")
    assert not list(data.rglob("dictionary-*"))
    server = image.container("serve", data, *SERVE)
    with server.running(until="listening on") as running:
        health = image.configuration["Healthcheck"]["Test"]
        assert health[0] == "CMD"
        ended = server.execute(*health[1:])
        assert ended.code == 0, ended.errors
        words = ("replay", "scan.h5", "--server", "localhost:9002", "-o", "served")
        client = image.container("client", data, *words, beside=server, user=1000)
        served = client.run()
        assert served.code == 0, served.errors + running.output
        assert running.end("TERM") == 0
        assert "stopped" in running.output
    volumes = sorted(path.name for path in (data / "offline").rglob("*.nii.gz"))
    assert {"T1map.nii.gz", "T2map.nii.gz"} <= set(volumes)
    for name in volumes:
        one, other = (
            np.asarray(nibabel.load(next((data / run).rglob(name))).dataobj)
            for run in ("offline", "served")
        )
        # T1 and T2 come from a server in ms, in single precision.
        np.testing.assert_allclose(one, other, rtol=2**-22, err_msg=name)


def loops(cache):
    return {path.relative_to(cache) for path in (cache / "numba").rglob("*.nbc")}


def test_a_data_folder_of_root_is_an_error_that_says_so(image, data):
    assert image.container("simulate", data, *SIMULATE).run().code == 0
    os.chown(data, 0, 0)
    shutil.rmtree(data / ".cache", ignore_errors=True)
    ended = image.container("replay", data, "replay", "scan.h5", "-o", "maps").run()
    assert ended.code == 2
    assert "/data" in ended.errors
    report = report_of(image.container("doctor", data, "doctor").run())
    assert "/data cannot be written for user 1000" in report["current folder"]
    assert "/data/.cache/mri2qmap: Permission denied" in report["cache folder"]
    assert report["compiled loops"].startswith("ok ")


def test_a_memory_limit_is_seen(image, data):
    container = image.container("limited", data, "doctor", memory=LIMIT)
    ended = container.run()
    if ended.code and "cgroup" in ended.errors:
        pytest.skip(f"no limit can be set here: {ended.errors.splitlines()[-1]}")
    assert ended.code == 0, ended.errors
    assert "the container still allows 0." in report_of(ended)["CPU"]
