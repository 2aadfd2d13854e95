"""Every command in one process, for a user whom the system does not know: see the test.

Usage: python without_home.py FOLDER, in which everything is written.
"""

from __future__ import annotations

import io
import os
import re
import signal
import sys
import threading
import types
from pathlib import Path

from mri2qmap.cli import demo
from mri2qmap.cli.main import main

SIZE = ("--region", "ball", "--matrix", "16", "--fov", "0.07", "--coils", "2")
SAMPLING = ("--frames", "50", "--acceleration", "1", "--noise", "0.05")


class Watched(io.StringIO):
    """Standard output that tells when a server listens."""

    def __init__(self) -> None:
        super().__init__()
        self.listening = threading.Event()

    def write(self, text: str) -> int:
        written = super().write(text)
        if "listening on" in self.getvalue():
            self.listening.set()
        return written

    @property
    def port(self) -> int:
        return int(re.findall(r"listening on \S+:(\d+)", self.getvalue())[0])


def serve(command: str, folder: Path, failures: list[str]) -> int:
    """Run a server until its client, in another thread, is done."""
    from mri2qmap.cli.remote_replay import replay_remotely
    from mri2qmap.errors import Mri2QmapError

    shown, sys.stdout = sys.stdout, Watched()
    watched = sys.stdout

    def be_a_client() -> None:
        try:
            watched.listening.wait(60)
            address = f"127.0.0.1:{watched.port}"
            replay_remotely(
                folder / "scan.h5", address, folder / f"maps_{command}", pipeline="svdmrf"
            )
        except Mri2QmapError as error:
            if command != "worker" or "the server reports" not in str(error):
                failures.append(f"{command}: {error}")
        except BaseException as error:
            failures.append(f"{command}: {type(error).__name__}: {error}")
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    client = threading.Thread(target=be_a_client)
    client.start()
    try:
        return main([command, "--port", "0", "--device", "cpu"])
    finally:
        client.join()
        sys.stdout = shown


def work(folder: Path) -> list[str]:
    """Run all; return what went wrong."""
    failures: list[str] = []
    scan, truth, maps = str(folder / "scan.h5"), str(folder / "truth"), str(folder / "maps")
    demo.SCAN = {"region": "ball", "matrix": 16, "field_of_view": 0.07, "coils": 2}
    demo.SCAN |= {"acceleration": 1, "noise": 0.05}
    demo.FRAMES = 50
    demo.METHODS = {"SVDMRF": "svdmrf"}  # fast
    sys.modules["monai"] = types.ModuleType("monai")  # the doctor imports it, which takes seconds
    codes = {
        "doctor": main(["doctor"]),
        "simulate": main(["simulate", scan, "--truth", truth, *SIZE, *SAMPLING]),
        "replay": main(["replay", scan, "-p", "svdmrf", "-o", maps]),
        "evaluate": main(["evaluate", maps, "--truth", truth]),
        "demo": main(["demo", "-o", str(folder / "demo")]),
        "serve": serve("serve", folder, failures),
        "worker": serve("worker", folder, failures),
    }
    return failures + [f"{command}: exit code {code}" for command, code in codes.items() if code]


if __name__ == "__main__":
    wrong = work(Path(sys.argv[1]))
    print(f"uid {os.getuid()}, went wrong: {wrong}")
    sys.exit(bool(wrong))
