"""The file of a site: its values, where they go, and what the doctor says of them."""

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest
from helpers.live import environment
from helpers.waiting import DEADLINE

from mri2qmap.cli.main import build_parser, main
from mri2qmap.cli.site_checks import site_findings
from mri2qmap.cli.site_file import Site, load_site
from mri2qmap.errors import Mri2QmapError

COMPLETE = """
[machine]
device = "cpu"
threads = 2
memory = "4GB"
cache = "cache"
cache_size = "3GB"
spool = "/var/spool/mri2qmap"

[serve]
address = "10.1.2.3"
port = 9100
status_address = "10.1.2.4"
status_port = 9101
dashboard = "9102"
queue = "queue"
queue_length = 5
retention = 14

[worker]
port = 18001

[limits]
patience = 30
silence = 120.5
contended = 5
longest = 900
grace = 60

[allow]
addresses = ["10.1.0.0/16", "fd00::/8"]
folders = ["b1", "/data/b1"]
push = ["PACS@pacs:104"]

[log]
format = "json"
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    for name in ("MRI2QMAP_CACHE", "MRI2QMAP_CACHE_SIZE", "MRI2QMAP_SPOOL"):
        monkeypatch.delenv(name, raising=False)  # restored at the end
        monkeypatch.setenv(name, "") if name in os.environ else None
    saved = dict(os.environ)

    def write(text):
        path = tmp_path / "site.toml"
        path.write_text(text)
        return path

    yield write
    os.environ.clear()
    os.environ.update(saved)


def options(*words: str) -> argparse.Namespace:
    args = build_parser().parse_args(words)
    args.complete(args)
    return args


def test_every_value_becomes_an_option(write, tmp_path):
    args = options("serve", "--site", str(write(COMPLETE)))
    assert (args.device, args.threads, args.memory) == ("cpu", 2, "4GB")
    assert (args.address, args.port) == ("10.1.2.3", 9100)
    assert (args.status_address, args.status_port, args.dashboard) == ("10.1.2.4", 9101, "9102")
    assert (args.queue, args.queue_length, args.retention) == (str(tmp_path / "queue"), 5, 14)
    limits = (args.patience, args.silence, args.contended, args.longest, args.grace)
    assert limits == (30, 120.5, 5, 900, 60)
    assert args.allow_address == ["10.1.0.0/16", "fd00::/8"]
    assert args.allow_folder == [str(tmp_path / "b1"), "/data/b1"]
    assert args.allow_push == ["PACS@pacs:104"]
    assert args.log_format == "json"
    assert os.environ["MRI2QMAP_CACHE"] == str(tmp_path / "cache")
    assert os.environ["MRI2QMAP_CACHE_SIZE"] == "3GB"
    assert os.environ["MRI2QMAP_SPOOL"] == "/var/spool/mri2qmap"


def test_the_worker_has_its_own_section(write):
    args = options("worker", "--site", str(write(COMPLETE)))
    assert (args.address, args.port, args.status_port) == ("127.0.0.1", 18001, None)
    assert args.silence == 120.5
    assert not hasattr(args, "queue")


def test_the_command_line_goes_first(write):
    words = ("--address", "127.0.0.1", "--silence", "300", "--allow-address", "10.9.9.9")
    for order in ((), ("--threads", "1")):
        args = options("serve", *words, "--site", str(write(COMPLETE)), *order)
        assert (args.address, args.silence) == ("127.0.0.1", 300)
        assert args.allow_address == ["10.9.9.9"]
        assert args.threads == (1 if order else 2)


def test_without_a_file_there_are_the_defaults(write):
    serve, worker = options("serve"), options("worker")
    assert (serve.port, worker.port) == (9002, 18000)
    for args in (serve, worker):
        assert (args.address, args.patience, args.silence, args.grace) == (
            "127.0.0.1",
            20,
            300,
            600,
        )
        assert (args.allow_address, args.allow_folder, args.allow_push) == ([], [], [])
    assert options("serve", "--site", str(write(""))).port == 9002
    assert load_site(write("")) == Site()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[serv]\n", "serv"),
        ("[serve]\nports = 1\n", "ports"),
        ("port = 1\n", "port"),
        ("[serve]\nport = '9002'\n", "serve.port"),
        ("[serve]\nport = 9002.5\n", "serve.port"),
        ("[machine]\nthreads = true\n", "machine.threads"),
        ("[machine]\ncache_size = 'much'\n", "cache_size"),
        ("[machine]\ncache_size = '-1GB'\n", "cache_size"),
        ("[allow]\npush = 'PACS@pacs:104'\n", "allow.push"),
        ("[allow]\nfolders = [1]\n", "allow.folders"),
        ("[log]\nformat = 'xml'\n", "log.format"),
        ("[limits]\nsilence = nan\n", "limits.silence"),
        ("serve = 1\n", "serve"),
        ("[serve\n", "site.toml"),
        ("\x00", "site.toml"),
        ("# " + "x" * 2**20, "more than 1 MiB"),
    ],
)
def test_a_wrong_file_is_refused_by_all(write, text, words, capsys):
    path = write(text)
    for command in ("serve", "worker", "doctor"):
        assert main([command, "--site", str(path)]) == 2
        said = capsys.readouterr().err
        assert words in said
        assert str(path) in said


def test_a_file_that_is_not_there_or_not_text(write, tmp_path):
    with pytest.raises(Mri2QmapError, match="cannot be read"):
        load_site(tmp_path / "no.toml")
    path = write("")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(Mri2QmapError, match=r"site\.toml"):
        load_site(path)


class TestDoctor:
    def wrong(self, path):
        return {f.topic: f.missing_for for f in site_findings(path) if f.found is None}

    def free(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            return server.getsockname()[1]

    def test_a_site_that_fits(self, write, tmp_path):
        (tmp_path / "b1").mkdir()
        with socket.create_server(("127.0.0.1", 0)) as pacs:
            port = pacs.getsockname()[1]
            path = write(
                f"[machine]\nmemory = '0.5GB'\nthreads = 1\ncache = 'c'\n[serve]\nqueue = 'q'\n"
                f"port = {self.free()}\nstatus_port = {self.free()}\n[limits]\nsilence = 100\n"
                f"[allow]\nfolders = ['b1']\npush = ['PACS@127.0.0.1:{port}',"
                f" 'http://127.0.0.1:{port}/dicom-web']\naddresses = ['10.0.0.0/8']\n"
            )
            assert not self.wrong(path)

    def test_everything_wrong_is_found(self, write, tmp_path):
        (tmp_path / "file").write_text("")
        with socket.create_server(("127.0.0.1", 0)) as taken:
            path = write(
                "[machine]\ndevice = 'tpu'\nmemory = '4000TB'\nthreads = 0\ncache = 'file'\n"
                "spool = 'file/x'\n[serve]\nqueue = 'file'\n"
                f"port = {taken.getsockname()[1]}\nstatus_port = 70000\n"
                "[worker]\naddress = '203.0.113.1'\n[limits]\nsilence = -1\n"
                f"[allow]\nfolders = ['no']\npush = ['PACS', 'PACS@127.0.0.1:{self.free()}']\n"
            )
            wrong = self.wrong(path)
        assert set(wrong) == {
            *("site: device", "site: memory", "site: threads", "site: cache", "site: spool"),
            *("site: queue", "site: serve port", "site: serve status_port", "site: worker port"),
            *("site: worker clients", "site: limits", "site: folders for clients", "site: push"),
        }

    def test_the_port_of_the_page_for_a_browser(self, write):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            (wrong,) = self.wrong(write(f"[serve]\nport = 0\ndashboard = '{port}'\n")).items()
        assert wrong[0] == "site: serve dashboard"
        assert wrong[1].count("in use") == 1
        wrong = self.wrong(write("[worker]\nport = 0\ndashboard = 'x'\n"))
        assert set(wrong) == {"site: worker dashboard"}
        assert not self.wrong(write(f"[serve]\nport = 0\ndashboard = '{self.free()}'\n"))

    def test_folders_of_patient_data_are_for_this_user_only(self, write, tmp_path):
        path = write("[machine]\nspool = 'a/s'\n[serve]\nport = 0\nqueue = 'q'\n")
        assert not self.wrong(path)
        for name in ("a/s", "q"):
            assert (tmp_path / name).stat().st_mode & 0o777 == 0o700

    def test_a_disk_that_is_too_full_for_the_queue(self, write, monkeypatch):
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**29))
        wrong = self.wrong(write("[machine]\nspool = 's'\n[serve]\nport = 0\nqueue = 'q'\n"))
        assert "512 MiB left" in wrong["site: queue"]
        assert set(wrong) == {"site: queue"}

    @pytest.mark.parametrize("address", ["0.0.0.0", "::"])
    def test_an_open_server_is_told(self, write, address):
        text = f"[serve]\naddress = '{address}'\nport = {self.free()}\n"
        assert "whoever can connect" in self.wrong(write(text))["site: serve clients"]
        assert not self.wrong(write(f"{text}[allow]\naddresses = ['10.0.0.0/8']\n"))

    def test_the_exit_code(self, write, capsys):
        assert main(["doctor", "--site", str(write("[machine]\nthreads = 1\n"))]) == 0
        assert "can run as the site asks for" in capsys.readouterr().out
        assert main(["doctor", "--site", str(write("[machine]\nthreads = 0\n"))]) == 2
        assert "cannot run as the site asks for" in capsys.readouterr().out


def test_a_server_runs_as_the_file_says(write, tmp_path):
    path = write("[machine]\nmemory = '1GB'\nthreads = 1\n[serve]\nport = 0\nqueue = 'q'\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "mri2qmap.cli.main", "serve", "--site", str(path)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert "listening on 127.0.0.1:" in process.stdout.readline()
        assert (tmp_path / "q").is_dir()
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=DEADLINE)
        assert (process.returncode, err) == (0, ""), out
    finally:
        process.kill()
        process.communicate()
