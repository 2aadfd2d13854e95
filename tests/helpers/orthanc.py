"""A real Orthanc on loopback with a storage of its own."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import requests
from helpers.waiting import eventually

PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
EXECUTABLE = shutil.which("Orthanc", path=PATH)
_PLUGINS = ("/usr/share/orthanc/plugins", "/usr/lib/orthanc", "/usr/local/share/orthanc/plugins")
DICOM_WEB = next(
    (path for folder in _PLUGINS if (path := Path(folder, "libOrthancDicomWeb.so")).exists()), None
)
TITLE = "ORTHANC"


class Orthanc:
    """A server in a folder; it can be killed and started again with what it has stored.

    Attributes
    ----------
    report_port
        Where it sends reports of storage commitment.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._http, self._dicom, self.report_port = _free_ports(3)
        self._process: subprocess.Popen[bytes] | None = None
        self._session = requests.Session()
        self._session.trust_env = False
        folder.mkdir()
        plugins = [] if DICOM_WEB is None else [str(DICOM_WEB)]
        content = {
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "HttpPort": self._http,
            "DicomPort": self._dicom,
            "DicomAet": TITLE,
            "DicomCheckCalledAet": True,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "Plugins": plugins,
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
            "DicomModalities": {"own": ["MRI2QMAP", "127.0.0.1", self.report_port]},
        }
        (folder / "orthanc.json").write_text(json.dumps(content))

    @property
    def node(self) -> str:
        return f"{TITLE}@127.0.0.1:{self._dicom}"

    @property
    def dicom_port(self) -> int:
        return self._dicom

    @property
    def web(self) -> str:
        return f"http://127.0.0.1:{self._http}/dicom-web"

    def start(self) -> None:
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(EXECUTABLE), str(self._folder / "orthanc.json")], stdout=log, stderr=log
            )
        eventually(self._answers, f"Orthanc did not start, see {self._folder}/log")

    def stop(self, kill: bool = False) -> None:
        if self._process is not None:
            (self._process.kill if kill else self._process.terminate)()
            self._process.wait(20)
            self._process = None
        self._session.close()

    def clear(self) -> None:
        """Delete all objects."""
        for name in self.get("/patients"):
            self._session.delete(f"http://127.0.0.1:{self._http}/patients/{name}", timeout=10)

    def get(self, path: str) -> Any:
        """JSON of the REST interface."""
        return self._ask(path).json()

    def files(self) -> list[bytes]:
        """All objects as files."""
        return [self._ask(f"/instances/{name}/file").content for name in self.get("/instances")]

    def _ask(self, path: str) -> requests.Response:
        answer = self._session.get(f"http://127.0.0.1:{self._http}{path}", timeout=10)
        answer.raise_for_status()
        return answer

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "log").read_text()
        try:
            self.get("/system")
            with socket.create_connection(("127.0.0.1", self._dicom), 1):
                return True
        except (OSError, requests.RequestException):
            return False


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [found.getsockname()[1] for found in sockets]
    for found in sockets:
        found.close()
    return ports
