"""Training of a denoiser: main loop, checkpoints and reports."""

from __future__ import annotations

import dataclasses
import os
import platform
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from mri2qmap.denoiser.checkpoint import Task, load_denoiser, save_denoiser
from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine.process_group import ProcessGroup
from mri2qmap.pipeline.progress_bars import progress_bar
from mri2qmap.storage.result_files import locked
from mri2qmap.training.patches import Batch, Conditions
from mri2qmap.training.progress import Progress
from mri2qmap.training.trainer import Trainer
from mri2qmap.training.training_config import TrainingConfig
from mri2qmap.training.training_data import TrainingData, TrainingFolders
from mri2qmap.training.tsmi_examples import TsmiExamples
from mri2qmap.training.validation import Validate

#: The validation level nearest to this noise level is logged.
_LOGGED_SIGMA = 0.1


class BatchSource(Protocol):
    """Source of batches; see :class:`mri2qmap.training.patches.PatchSource`."""

    def batch(
        self, step: int, patch: int, present: Tensor, sigmas: Tensor, first: int = 0
    ) -> Batch:
        """Draw the batch of a step, or a part of it."""


class Examples(Protocol):
    """Training and validation data."""

    def summary(self) -> list[str]:
        """Describe the data and possible problems, one line each."""

    def keep_split(self, path: Path) -> None:
        """Write the split of the subjects, or check it against that of an earlier run."""

    def provenance(self) -> dict[str, object]:
        """Return the description of the data for the training history."""

    def source(self, conditions: Conditions, device: torch.device) -> BatchSource:
        """Return the source of training batches."""

    def validator(self, device: torch.device) -> Validate:
        """Return a function that evaluates a network on the validation subjects."""


def train(
    config: TrainingConfig,
    folders: TrainingFolders,
    out: Path,
    device: torch.device,
    *,
    max_minutes: float | None = None,
    initial: str | None = None,
    processes: ProcessGroup | None = None,
    log: Callable[[str], None] = print,
) -> bool:
    """Train, or continue to train, until the last step or the time limit is reached.

    Parameters
    ----------
    config : TrainingConfig
        Complete configuration.
    folders : TrainingFolders
        Folders of the images.
    out : Path
        Folder for ``state.pt`` (continued from if it exists), ``weights.safetensors``,
        ``progress.csv`` and ``progress.png``, and ``subjects.yaml`` with the split of the subjects.
        The weights are the exponential moving average in half precision, which changes images by
        less than 1e-3.
    device : torch.device
        Device of the network.
    max_minutes : float, optional
        Time limit [min]; a checkpoint is written when it is reached.
    initial : str, optional
        Name or path of a denoiser with initial weights.
    processes : ProcessGroup, optional
        Group of processes (default: a single process). Each computes an equal part of every batch.
        Only the main process validates, reports and writes. All processes need access to ``out``.
    log : callable
        Called with one line of text at a time.

    Returns
    -------
    bool
        Whether the last step was reached.

    Raises
    ------
    Mri2QmapError
        If images are missing or unusable, the state in ``out`` belongs to another training, there
        are results but no state, another training uses the folder, ``initial`` does not match the
        configuration, the batch cannot be divided among the processes, or the training diverges.
    """
    processes = processes or ProcessGroup()
    part = batch_slice(processes, config.optimisation.batch)
    with processes.connected(device), _flushed_denormals():
        examples = _examples(config, folders, quiet=not processes.is_main)
        trainer = Trainer(config, device, processes)
        state = out / "state.pt"
        continued = state.exists()
        if not continued:
            _refuse_unrelated_results(out)
        if continued:
            trainer.restore(state)
        elif initial is not None:
            trainer.load_initial_weights(load_denoiser(initial, device, config.task))
        run = _Run(trainer, examples, out, processes, log)
        run.begin(continued)
        with _exclusive(out) if processes.is_main else nullcontext():
            return run.go(part, max_minutes)


def batch_slice(processes: ProcessGroup, batch: int) -> slice:
    """Return the patches of a batch that this process computes.

    Raises
    ------
    Mri2QmapError
        If the batch size is not a multiple of the number of processes.
    """
    if batch % processes.world_size:
        raise Mri2QmapError(
            f"training config, optimisation: a batch of {batch} patches cannot be divided"
            f" equally among {processes.world_size} processes; change one of the two"
        )
    return processes.share(batch)


def _refuse_unrelated_results(out: Path) -> None:
    """Refuse a folder with results that would be overwritten, but no state to continue from.

    Raises
    ------
    Mri2QmapError
        If the folder contains such results.
    """
    for name in ("weights.safetensors", "progress.csv", "progress.png"):
        if os.path.lexists(out / name):
            raise Mri2QmapError(
                f"training into {out}: it contains {name} but no state.pt to continue from, and "
                "existing files are not overwritten; move the file, or choose another folder"
            )


@contextmanager
def _exclusive(out: Path) -> Iterator[None]:
    """Lock the folder against other trainings.

    Raises
    ------
    Mri2QmapError
        If another training uses it.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(out, wait=False))
        except BlockingIOError as error:
            raise Mri2QmapError(
                f"training into {out}: another training uses this folder; wait for it, or choose "
                "another folder"
            ) from error
        yield


@contextmanager
def _flushed_denormals() -> Iterator[None]:
    """Flush denormal numbers to zero.

    The momentum of unused channels decays to denormal numbers, with which processors compute ten
    times as slowly; this doubled the time of a step.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def _examples(config: TrainingConfig, folders: TrainingFolders, quiet: bool) -> Examples:
    if config.task is Task.WEIGHTED:
        if folders.tsmi is not None:
            raise Mri2QmapError(
                "training: recorded TSMIs (--tsmi) are for networks that restore TSMIs, but the"
                f" task of the configuration is {config.task}"
            )
        return TrainingData(config, folders, quiet)
    if folders.tsmi is None or folders != TrainingFolders(tsmi=folders.tsmi):
        raise Mri2QmapError(
            f"training: a network for {config.task} is trained on recorded TSMIs only; give --tsmi"
            " and no other images"
        )
    return TsmiExamples(config, folders.tsmi)


class _Run:
    """One run of a training, which may continue earlier runs."""

    def __init__(
        self,
        trainer: Trainer,
        examples: Examples,
        out: Path,
        processes: ProcessGroup,
        log: Callable[[str], None],
    ) -> None:
        self._trainer = trainer
        self._examples = examples
        self._out = out
        self._processes = processes
        self._log = log if processes.is_main else lambda line: None
        self._losses: list[Tensor] = []
        self._earlier = trainer.seconds
        self._start = time.monotonic()

    def begin(self, continued: bool) -> None:
        """Log the data, and prepare validation and reports in the main process."""
        for line in self._examples.summary():
            self._log(line)
        if continued:
            self._log(f"continuing after step {self._trainer.step}")
        if self._processes.is_main:
            self._validate = self._examples.validator(self._trainer.device)
            self._out.mkdir(parents=True, exist_ok=True)
            self._examples.keep_split(self._out / "subjects.yaml")
            self._progress = Progress(self._out, self._trainer.step)

    def go(self, part: slice, max_minutes: float | None) -> bool:
        """Train until the last step or the time limit; return whether it was the last step."""
        trainer, settings = self._trainer, self._trainer.config.optimisation
        source = self._examples.source(trainer.draw_conditions, trainer.device)

        def draw(step: int) -> Batch:
            present, sigmas = trainer.step_conditions(step)
            return source.batch(step, settings.patch, present[part], sigmas[part], part.start)

        self._start = last_save = time.monotonic()
        batches = prefetched_batches(
            draw, trainer.step, settings.steps, ahead=trainer.device.type != "cpu"
        )
        try:
            for batch in self._shown(batches):
                self._losses.append(trainer.train_step(batch))
                if trainer.step % settings.validate_every == 0 or trainer.step == settings.steps:
                    self._report()
                now = time.monotonic()
                if now - last_save > 60 * settings.checkpoint_minutes:
                    self._checkpoint()
                    last_save = now
                late = max_minutes is not None and now - self._start > 60 * max_minutes
                if max_minutes is not None and self._processes.broadcast_flag(late, trainer.device):
                    self._log(f"stopped after {max_minutes:g} minutes at step {trainer.step}")
                    break
        finally:
            batches.close()
            if trainer.consistent:
                self._checkpoint()
        return trainer.step >= settings.steps

    def _shown(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield the batches; the main process shows a bar."""
        if not self._processes.is_main:
            yield from batches
            return
        trainer = self._trainer
        steps = trainer.config.optimisation.steps
        with progress_bar("training", steps, done=trainer.step) as step:
            for batch in batches:
                yield batch
                step()

    def _seconds(self) -> float:
        """Return the training time of this and earlier runs [s]."""
        return self._earlier + time.monotonic() - self._start

    def _report(self) -> None:
        """Validate and report the progress."""
        trainer = self._trainer
        loss = float(self._processes.mean(torch.stack(self._losses).mean()))
        self._losses.clear()
        if not self._processes.is_main:
            return
        seconds = self._seconds()
        scores = self._validate(trainer.ema_network)
        self._progress.add(trainer.step, seconds, loss, scores)
        level = min((sigma for _, sigma in scores), key=lambda sigma: abs(sigma - _LOGGED_SIGMA))
        shown = ", ".join(f"{c} {v:.2f}" for (c, s), v in scores.items() if s == level)
        self._log(f"step {trainer.step}: loss {loss:.4f}, PSNR at {level:g}: {shown} dB")

    def _checkpoint(self) -> None:
        """Write state and weights."""
        if not self._processes.is_main:
            return
        trainer = self._trainer
        trainer.seconds = self._seconds()
        trainer.save(self._out / "state.pt")
        info = {
            "step": trainer.step,
            "seconds": round(trainer.seconds),
            "training": dataclasses.asdict(trainer.config),
            **self._examples.provenance(),
            "torch": torch.__version__,
            "processor": platform.machine() if trainer.device.type == "cpu" else "cuda",
            "threads": torch.get_num_threads(),
            "processes": self._processes.world_size,
        }
        path = self._out / "weights.safetensors"
        save_denoiser(path, trainer.ema_network, info, torch.float16)


def prefetched_batches(
    draw: Callable[[int], Batch], first: int, end: int, ahead: bool
) -> Generator[Batch, None, None]:
    """Yield the batches of the steps from ``first`` to ``end - 1``.

    Parameters
    ----------
    draw : callable
        Returns the batch of a step.
    first, end : int
        First step, and step after the last.
    ahead : bool
        Whether to prepare each batch in a thread while the previous one is processed; useful with a
        GPU.
    """
    if not ahead:
        yield from map(draw, range(first, end))
        return
    with ThreadPoolExecutor(max_workers=1) as executor:
        pending = [executor.submit(draw, step) for step in range(first, min(end, first + 1))]
        for step in range(first, end):
            batch = pending.pop().result()
            if step + 1 < end:
                pending.append(executor.submit(draw, step + 1))
            yield batch
