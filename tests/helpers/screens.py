"""A terminal: what a program has written to it, as it looks."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import select
import struct
import sys
import termios
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import mri2qmap

ROWS = 24
_CODE = re.compile(r"\x1b\[(\??[\d;]*)([A-Za-z])")


class Screen:
    """Lines without colours; of the codes, those that bars need. Others are errors."""

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.lines = [""]
        self.row = self.column = 0
        self.cursor_visible = True
        self._open = ""

    def feed(self, text: str) -> None:
        text, self._open = self._open + text, ""
        place = 0
        while place < len(text):
            char = text[place]
            if char == "\x1b":
                found = _CODE.match(text, place)
                if found is None:
                    self._open = text[place:]
                    assert len(self._open) < 20, self._open
                    return
                self._control(*found.groups())
                place = found.end()
                continue
            place += 1
            if char == "\r":
                self.column = 0
            elif char == "\n":
                self._down()
            else:
                self._put(char)

    def _control(self, values: str, code: str) -> None:
        if code == "K" and values == "2":
            self.lines[self.row] = ""
        elif code == "A":
            self.row = max(0, self.row - int(values or 1))
        elif code in "hl" and values == "?25":
            self.cursor_visible = code == "h"
        else:
            assert code == "m", f"{values}{code}"

    def _down(self) -> None:
        self.row += 1
        if self.row == len(self.lines):
            self.lines.append("")

    def _put(self, char: str) -> None:
        if self.column == self.columns:
            self.column = 0
            self._down()
        line = self.lines[self.row].ljust(self.column)
        self.lines[self.row] = line[: self.column] + char + line[self.column + 1 :]
        self.column += 1

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.lines).rstrip()


class Session:
    """What a Python program did in a terminal.

    Attributes
    ----------
    code
        Exit code.
    raw
        What it wrote.
    seen
        The screens after each of its writes.
    screen
        The last one.
    """

    def __init__(
        self,
        program: str,
        columns: int = 80,
        at: Callable[[str], bytes | None] = lambda text: None,
        environment: Mapping[str, str] | None = None,
        timeout: float = 120,
    ) -> None:
        """Run a program; `at` says by the text of the screen what is typed then, once."""
        self.screen, self.raw, self.seen = Screen(columns), "", []
        path = str(Path(mri2qmap.__file__).parents[1])
        inherited = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
        own = {**inherited, "TERM": "xterm", "PYTHONPATH": path, **(environment or {})}
        ends = time.monotonic() + timeout
        leader, follower = pty.openpty()
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
        process = _start(program, follower, own)
        os.close(follower)
        typed, decode = False, codecs.getincrementaldecoder("utf-8")().decode
        try:
            while True:
                assert time.monotonic() < ends, self.raw
                if not select.select([leader], [], [], 0.1)[0]:
                    continue
                try:
                    text = decode(os.read(leader, 2**16))
                except OSError:  # the program has ended
                    break
                self.raw += text
                self.screen.feed(text)
                self.seen.append(self.screen.text)
                keys = None if typed else at(self.screen.text)
                if keys is not None:
                    os.write(leader, keys)
                    typed = True
            self.code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        finally:
            os.close(leader)


def _start(program: str, terminal: int, environment: dict[str, str]) -> int:
    """Start a program in a session whose terminal this is; return its process."""
    code = (
        "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    )
    return os.posix_spawn(
        sys.executable,
        [sys.executable, "-c", code + program],
        environment,
        file_actions=[(os.POSIX_SPAWN_DUP2, terminal, number) for number in range(3)],
        setsid=True,
    )
