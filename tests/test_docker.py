"""The container files, as far as they can be checked without a container engine."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from mri2qmap.cli.main import build_parser
from mri2qmap.machine.gpu_packages import CUPY
from mri2qmap.pipeline.server_pipeline import WORKER_PORT

ROOT = Path(__file__).parents[1]
DOCKER = ROOT / "docker"
DOCKERFILES = sorted(DOCKER.glob("Dockerfile.*"))
OWN = [path for path in DOCKERFILES if path.suffix != ".gadgetron"]
SERVICES = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
WITH_GADGETS = [name for name, s in SERVICES.items() if s["image"].startswith("mri2qmap:c")]
SERVERS = [name for name in WITH_GADGETS if name != "replay"]
LOCKS = sorted(DOCKER.glob("lock/*.txt"))

HADOLINT = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")


def of_suffix(path):
    return path.name


def instructions(dockerfile, name):
    """What follows a name of an instruction, with its continued lines."""
    text = dockerfile.read_text().replace("\\\n", " ")
    return [
        line.split(" ", 1)[1].strip() for line in text.splitlines() if line.startswith(f"{name} ")
    ]


def argument(dockerfile, name):
    return next(a for a in instructions(dockerfile, "ARG") if a.startswith(f"{name}=")).split(
        "=", 1
    )[1]


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed")
@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=of_suffix)
def test_dockerfile_is_clean(dockerfile):
    run = subprocess.run([HADOLINT, str(dockerfile)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=of_suffix)
def test_copied_paths_exist_and_are_sent_to_the_builder(dockerfile):
    copies = [c for c in instructions(dockerfile, "COPY") if not c.startswith("--from=")]
    sources = [source for copy in copies for source in copy.split()[:-1]]
    assert sources
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert lines[0] == "*"
    sent = {line[1:] for line in lines if line.startswith("!")}
    for source in sources:
        assert (ROOT / source).exists(), source
        assert Path(source).parts[0] in sent, source


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=of_suffix)
def test_images_run_as_a_user_and_take_signals(dockerfile):
    """The first process passes signals on, and the user is a number, as Kubernetes asks for."""
    assert instructions(dockerfile, "USER")[-1] == "1000:1000"
    entry = json.loads(instructions(dockerfile, "ENTRYPOINT")[-1])
    assert entry == (
        ["sh", "/opt/mri2qmap/gadgetron.sh"] if dockerfile not in OWN else ["mri2qmap"]
    )
    labels = instructions(dockerfile, "LABEL")[-1]
    for name in ("title", "version", "revision", "created", "licenses", "base.name"):
        assert f"org.opencontainers.image.{name}=" in labels


@pytest.mark.parametrize("dockerfile", OWN, ids=of_suffix)
def test_the_command_of_an_image_answers_its_health_check(dockerfile):
    args = build_parser().parse_args(json.loads(instructions(dockerfile, "CMD")[-1]))
    args.complete(args)
    assert f"127.0.0.1:{args.status_port}/health" in instructions(dockerfile, "HEALTHCHECK")[-1]
    ports = set(instructions(dockerfile, "EXPOSE")[-1].split())
    assert {str(args.port), str(args.status_port)} < ports


def test_the_image_for_gpus_has_one_release_of_cuda():
    """The base image, PyTorch with its index, CuPy and cufinufft."""
    dockerfile = DOCKER / "Dockerfile.cuda"
    major, minor = re.search(r"/cuda:(\d+)\.(\d+)", argument(dockerfile, "BASE")).groups()
    assert argument(dockerfile, "TORCH").endswith(f"+cu{major}{minor}")
    assert argument(dockerfile, "TORCH_INDEX").endswith(f"/cu{major}{minor}")
    lock = (DOCKER / "lock/cuda.txt").read_text()
    for release, (name, _) in CUPY.items():
        assert (f"\n{name}==" in lock) == (release == int(major))
    assert "\ncufinufft==" in lock


def pins(lock):
    """Releases of a lock file with their numbers of hashes."""
    entries = re.split(r"\n(?=\S)", lock.read_text().strip())[1:]
    return {
        match[1]: (match[2], entry.count("--hash=sha256:"))
        for entry in entries
        if (match := re.match(r"([\w.-]+)==(\S+) \\", entry))
    } | {entry: ("", 0) for entry in entries if not re.match(r"[\w.-]+==\S+ \\", entry)}


@pytest.mark.parametrize("lock", LOCKS, ids=of_suffix)
def test_all_that_is_installed_is_pinned_by_hashes(lock):
    found = pins(lock)
    assert found
    assert [name for name, (_, hashes) in found.items() if not hashes] == []
    assert "://" not in lock.read_text()  # neither an index nor a file of a machine


@pytest.mark.parametrize(("name", "extras"), [("cpu", ["pacs"]), ("cuda", ["pacs", "gpu"])])
def test_lock_files_have_what_the_project_asks_for(name, extras):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    texts = [*project["dependencies"], *(text for extra in extras for text in optional[extra])]
    found = pins(DOCKER / f"lock/{name}.txt")
    for wanted in map(Requirement, texts):
        if wanted.name == "torch":
            torch = argument(DOCKER / f"Dockerfile.{name}", "TORCH")
            assert wanted.specifier.contains(torch.removeprefix("torch=="))
        else:
            assert wanted.specifier.contains(found[wanted.name][0]), wanted
    assert not {"torch", "triton"} & set(found)
    assert not [package for package in found if package.startswith("nvidia-")]


def test_both_images_for_cpus_have_the_same_build_of_pytorch():
    cpu, gadgetron = DOCKER / "Dockerfile.cpu", DOCKER / "Dockerfile.gadgetron"
    for name in ("TORCH", "TORCH_INDEX"):
        assert argument(cpu, name) == argument(gadgetron, name)
    assert argument(cpu, "TORCH").endswith("+cpu")


def test_compose_builds_what_is_there():
    built = [service["build"] for service in SERVICES.values() if "build" in service]
    assert {ROOT / build["dockerfile"] for build in built} == set(DOCKERFILES)
    images = {s["image"] for s in SERVICES.values() if s["image"].startswith("mri2qmap:")}
    assert images == {f"mri2qmap:{path.suffix[1:]}" for path in DOCKERFILES}


@pytest.mark.parametrize("name", [*WITH_GADGETS, "gadgetron"])
def test_services_may_write_in_one_volume_only(name):
    service = SERVICES[name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["user"] == "${MRI2QMAP_USER:-1000:1000}"
    assert service["tmpfs"] == ["/tmp:mode=1777"]
    assert [v.split(":")[-1] for v in service.get("volumes", [])] in ([], ["/data"])


@pytest.mark.parametrize("name", SERVICES)
def test_services_have_limits_and_come_back(name):
    service = SERVICES[name]
    assert set(service["deploy"]["resources"]["limits"]) == {"memory", "pids"}
    assert service["restart"] == ("no" if name == "replay" else "unless-stopped")
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


@pytest.mark.parametrize("name", SERVERS)
def test_servers_in_containers_are_told_what_they_understand(name):
    service = SERVICES[name]
    args = build_parser().parse_args(service["command"].split())
    args.complete(args)
    assert args.subcommand == ("worker" if name == "worker" else "serve")
    assert args.status_port == 9003  # of the health check
    grace = int(service["stop_grace_period"].removesuffix("m")) * 60
    assert grace > args.grace
    targets = {int(port.split(":")[-1]) for port in service["ports"]}
    assert int(args.dashboard.removeprefix("0.0.0.0:")) in targets
    assert args.address == "0.0.0.0"  # within the container
    # The pipelines of the Gadgetron server know the worker by the name of its service.
    assert (args.port in targets) == (name != "worker")
    if name == "worker":
        assert args.port == WORKER_PORT
        assert argument(DOCKER / "Dockerfile.gadgetron", "WORKER") == name


@pytest.mark.parametrize("name", SERVICES)
def test_services_may_be_started_again_without_the_others(name):
    """A container in the network of another one has none when that is started again."""
    assert not {"network_mode", "depends_on"} & set(SERVICES[name])


def test_a_scan_is_replayed_into_the_pacs_that_all_may_send_to():
    program, *words = SERVICES["replay"]["entrypoint"]
    assert program == "mri2qmap"
    args = build_parser().parse_args([*words, "scan.h5", "-o", "maps"])
    assert args.subcommand == "replay"
    (setting,) = args.overrides
    destination = SERVICES["serve"]["environment"]["MRI2QMAP_ALLOWED_PUSH"]
    assert setting == f"parametric_maps.push={destination}"
    assert argument(DOCKER / "Dockerfile.gadgetron", "PUSH") == destination
    title, host = destination.split("@")
    assert SERVICES[host.split(":")[0]]["environment"]["ORTHANC__DICOM_AET"] == title


ENGINE = """#!/bin/sh
echo "$@" >>"$LOG"
case $1 in
create) echo a-container ;;
cp) mkdir -p "$3" && cp "$AUDIT" "$3/audit.json" || true ;;
image) echo 1234567890 ;;
esac
"""
AUDIT = {
    "dependencies": [
        {"name": "one", "version": "1", "vulns": [{"id": "X-1"}, {"id": "X-2"}]},
        {"name": "two", "version": "2", "vulns": []},
        {"name": "three", "skip_reason": "not in the index"},
    ]
}


@pytest.fixture
def script(tmp_path):
    """Run docker/build.sh with an engine that notes its command lines."""
    engine, log, audit = tmp_path / "docker", tmp_path / "log", tmp_path / "found.json"
    engine.write_text(ENGINE)
    engine.chmod(0o755)
    environment = {**os.environ, "LOG": str(log), "AUDIT": str(audit)}
    environment["PATH"] = f"{tmp_path}:{environment['PATH']}"
    environment.pop("BUILDER", None)

    def run(*words, found=None, checkout=ROOT, folder=tmp_path):
        log.write_text("")
        audit.unlink(missing_ok=True)
        if found is not None:
            audit.write_text(json.dumps(found))
        command = [str(checkout / "docker/build.sh"), *words]
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
        return done, log.read_text().splitlines()

    return run


def test_the_script_tells_the_builder_what_it_builds(script, tmp_path):
    lists = tmp_path / "lists"
    words = ("cpu", "--base", "some/base:1", "-t", "some:tag", "-o", lists, "--", "--no-cache")
    done, lines = script(*words, found=AUDIT)
    assert done.returncode == 0, done.stderr
    build, create, copy, *_, remove = lines
    for expected in (
        *("build --file docker/Dockerfile.cpu", "--tag some:tag", "--build-arg BASE=some/base:1"),
        *("--build-arg REVISION=", "--no-cache ."),
    ):
        assert expected in build
    assert re.search(r"--build-arg VERSION=\d+\.\d+\S* ", build)
    assert create == "create some:tag"
    assert copy.startswith("cp a-container:/opt/mri2qmap/packages/.")
    assert remove == "rm a-container"
    assert "2 known vulnerabilities in 2 packages" in done.stdout
    assert "1 packages that the index of vulnerabilities does not have" in done.stdout
    assert "1.3GB" in done.stdout
    assert (lists / "size.txt").read_text() == "1.3GB\n"


def test_the_script_says_when_nothing_was_audited(script, tmp_path):
    done, _ = script("-o", "lists")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "lists/size.txt").exists()  # relative to the folder of the caller
    assert "no audit, as the index of vulnerabilities did not answer" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rocm"], "there is no docker/Dockerfile.rocm; cpu, cuda and gadgetron are known"),
        (["cpu", "--bse", "x"], "--bse is not known"),
        (["cpu", "--base"], "--base: a value is expected"),
        (["cpu", "--no-cache", "x"], "--no-cache is not known"),
    ],
)
def test_the_script_refuses_what_it_does_not_know(script, words, said):
    done, lines = script(*words)
    assert done.returncode == 2
    assert said in done.stderr
    assert lines == []


def test_the_version_is_that_of_the_tag_or_of_the_commits_since(script, tmp_path):
    checkout = tmp_path / "checkout"
    (checkout / "docker").mkdir(parents=True)
    for name in ("build.sh", "Dockerfile.cpu"):
        shutil.copy(DOCKER / name, checkout / "docker")

    def git(*words):
        who = ("-c", "user.name=A", "-c", "user.email=a@b")
        subprocess.run(["git", *who, *words], cwd=checkout, check=True, capture_output=True)

    def version():
        done, lines = script("cpu", "-o", str(tmp_path / "lists"), checkout=checkout)
        assert done.returncode == 0, done.stderr
        found = re.search(r"VERSION=(\S+)", lines[0])[1]
        assert str(Version(found)) == found
        return found

    git("init", "--quiet")
    assert version() == "0.1.0.dev0"
    git("add", ".")
    git("commit", "--quiet", "--message", "one")
    assert re.fullmatch(r"0\.1\.0\.dev1\+g[0-9a-f]{8}", version())
    git("tag", "v1.2.9")
    assert version() == "1.2.9"
    (checkout / "new").touch()
    assert version() == "1.2.9+changed"
    git("add", ".")
    git("commit", "--quiet", "--message", "two")
    assert re.fullmatch(r"1\.2\.10\.dev1\+g[0-9a-f]{7,}", version())


@pytest.mark.parametrize(("server", "code"), [("exec sleep 60", 0), ("exit 3", 3)])
def test_a_gadgetron_server_ends_when_it_is_told_to(tmp_path, server, code):
    """The script is the first process of the container, and passes signals on."""
    executable = tmp_path / "bin/gadgetron"
    executable.parent.mkdir()
    executable.write_text(f'#!/bin/sh\necho "runs $@ in $GADGETRON_HOME"\n{server}\n')
    executable.chmod(0o755)
    environment = {**os.environ, "PATH": f"{executable.parent}:{os.environ['PATH']}"}
    environment.pop("GADGETRON_HOME", None)
    command = ["sh", str(DOCKER / "gadgetron.sh"), "--disable_storage", "true"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == f"runs --disable_storage true in {tmp_path}\n"
        if not code:
            process.terminate()
        assert process.wait(20) == code
