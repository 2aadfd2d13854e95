"""States of iterative algorithms in files: a run that was stopped goes on from them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from mri2qmap.errors import Mri2QmapError
from mri2qmap.pipeline.progress import Reporter
from mri2qmap.recon.saved_state import State, StateStore, StateStores
from mri2qmap.storage.atomic import is_scratch, why
from mri2qmap.storage.tensor_files import save_tensors

_SUFFIX = ".safetensors"
_RUN = "mri2qmap_run"
"""Key of the description of the run in the header of a file."""
_ADVICE = "delete the folder to start anew, or run without resuming"


class StateFiles(StateStores):
    """Stores that are files in a folder.

    Parameters
    ----------
    folder
        Folder of the files; it is made with the first state.
    run
        What the states depend on, such as the digest of the scan and the settings.
    device
        Device of the states that are loaded.
    report
        Receives a log line about each state that is loaded or cannot be kept.
    writes
        Whether states are kept; otherwise, what is there is read only.

    Raises
    ------
    Mri2QmapError
        If the folder holds states of another run, or anything else.
    """

    def __init__(
        self,
        folder: Path,
        run: Mapping[str, str],
        device: torch.device,
        report: Reporter,
        writes: bool = True,
    ) -> None:
        self._folder = folder
        self._writes = writes
        self._run = dict(run)
        self._device = device
        self._report = report
        self._check()

    def __getitem__(self, name: str) -> StateStore:
        """Return the store of this name."""
        path = self._folder / f"{name}{_SUFFIX}"
        return _StateFile(path, self._run, self._device, self._report, self._writes)

    def listing(self) -> str:
        """Names, sizes and times of the files."""
        paths = sorted(self._folder.glob(f"*{_SUFFIX}"))
        return json.dumps([(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in paths])

    def remove(self) -> None:
        """Remove the files, and the folder if nothing else is in it."""
        for path in self._folder.glob(f"*{_SUFFIX}"):
            with contextlib.suppress(OSError):
                path.unlink()
        with contextlib.suppress(OSError):
            self._folder.rmdir()

    def _check(self) -> None:
        try:
            there = sorted(self._folder.iterdir())
        except FileNotFoundError:
            return
        except OSError as error:
            raise Mri2QmapError(
                f"states {self._folder}: the folder cannot be read ({why(error)})"
            ) from error
        for path in there:
            if is_scratch(path):  # of a run that was killed while it wrote
                with contextlib.suppress(OSError):
                    path.unlink()
                continue
            if path.suffix != _SUFFIX or not path.is_file():
                raise Mri2QmapError(
                    f"states {self._folder}: {path.name} is not a state of a run; move it elsewhere"
                )
            with _opened(path, "cpu") as file:
                known = json.loads((file.metadata() or {}).get(_RUN, "{}"))
            other = [name for name, value in self._run.items() if known.get(name) != value]
            if other:
                raise Mri2QmapError(
                    f"states {self._folder}: they are of a run with another {', '.join(other)}; "
                    f"{_ADVICE}"
                )


class _StateFile(StateStore):
    def __init__(
        self,
        path: Path,
        run: Mapping[str, str],
        device: torch.device,
        report: Reporter,
        writes: bool,
    ) -> None:
        self._path = path
        self._writes = writes
        self._run = run
        self._device = device
        self._report = report

    def load(self) -> State | None:
        if not self._path.exists():
            return None
        with _opened(self._path, str(self._device)) as file:
            state = {name: file.get_tensor(name) for name in file.keys()}
        what = f"iteration {int(state['iterations'])}" if "iterations" in state else "the result"
        self._report.log(f"{self._path.stem}: {what} is taken from {self._path}")
        return state

    def save(self, state: Callable[[], State]) -> None:
        if not self._writes:
            return
        # A run must not fail because its state cannot be kept.
        try:
            self._path.parent.mkdir(exist_ok=True)
            save_tensors(state(), self._path, {_RUN: json.dumps(self._run)})
        except OSError as error:
            self._report.log(f"{self._path}: the state cannot be kept ({why(error)})")


@contextlib.contextmanager
def _opened(path: Path, device: str) -> Iterator[Any]:
    """Open a file of tensors; errors name it."""
    try:
        with safe_open(path, "pt", device=device) as file:
            yield file
    except (SafetensorError, OSError, ValueError) as error:
        raise Mri2QmapError(f"state {path}: it cannot be read ({error}); {_ADVICE}") from error
