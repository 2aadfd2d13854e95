"""Training a denoiser: the loop, its checkpoints and its reports."""

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
from tqdm import tqdm

from mri2qmap.denoiser.checkpoint import Task, load_denoiser, save_denoiser
from mri2qmap.errors import Mri2QmapError
from mri2qmap.storage.result_files import locked
from mri2qmap.training.distributed import ProcessGroup
from mri2qmap.training.patches import Batch, Conditions
from mri2qmap.training.progress import Progress
from mri2qmap.training.trainer import Trainer
from mri2qmap.training.training_config import TrainingConfig
from mri2qmap.training.training_data import TrainingData, TrainingFolders
from mri2qmap.training.tsmi_examples import TsmiExamples
from mri2qmap.training.validation import Validate

#: Noise level of the validation that is logged, or the nearest that there is.
_LOGGED_SIGMA = 0.1


class BatchSource(Protocol):
    """Makes batches; see :class:`mri2qmap.training.patches.PatchSource`."""

    def batch(
        self, step: int, patch: int, present: Tensor, sigmas: Tensor, first: int = 0
    ) -> Batch:
        """Draw the batch of a step, or some patches of it."""


class Examples(Protocol):
    """What a training learns from, and is measured on."""

    def summary(self) -> list[str]:
        """Say who is for what, and what may surprise, a line each."""

    def keep_split(self, path: Path) -> None:
        """Write who is for what, or make sure that it is as an earlier run wrote it."""

    def provenance(self) -> dict[str, object]:
        """What the history of the weights says of the data."""

    def source(self, conditions: Conditions, device: torch.device) -> BatchSource:
        """Batches by the number of the step."""

    def validator(self, device: torch.device) -> Validate:
        """Measure of the network on subjects for validation."""


def train(
    config: TrainingConfig,
    folders: TrainingFolders,
    out: Path,
    device: torch.device,
    *,
    max_minutes: float | None = None,
    initial: str | None = None,
    processes: ProcessGroup | None = None,
    log: Callable[[str], None] = tqdm.write,
) -> bool:
    """Train, or continue to train, until the last step or the time is reached.

    Parameters
    ----------
    config : TrainingConfig
        Everything that decides the result.
    folders : TrainingFolders
        The images.
    out : Path
        Folder for ``state.pt`` (continued from if it is there), ``weights.safetensors``,
        ``progress.csv`` and ``progress.png``, and ``subjects.yaml``: who was for what. The weights
        are the running mean, stored in half precision, which changes the images by less than 1e-3.
    device : torch.device
        Where to train.
    max_minutes : float, optional
        Stop after this time, with a checkpoint.
    initial : str, optional
        Name or path of a denoiser of the same shape to begin with.
    processes : ProcessGroup, optional
        This process among those that train together (default: it is alone). Each takes an equal
        part of every batch; the first alone validates, reports and writes. All must see ``out``.
    log : callable
        Takes one line at a time.

    Returns
    -------
    bool
        Whether the last step was reached.

    Raises
    ------
    Mri2QmapError
        If images are missing or cannot be used, the state in ``out`` is of another training, there
        are weights but no state, another training runs there, ``initial`` has another shape, the
        batch cannot be shared by the processes, or the training diverges.
    """
    processes = processes or ProcessGroup()
    part = processes.batch_slice(config.optimisation.batch)
    with processes.connected(device), _without_denormals():
        examples = _examples(config, folders, quiet=not processes.is_main)
        trainer = Trainer(config, device, processes)
        state = out / "state.pt"
        continued = state.exists()
        if not continued:
            _refuse_strangers(out)
        if continued:
            trainer.restore(state)
        elif initial is not None:
            trainer.load_initial_weights(load_denoiser(initial, device, config.task))
        run = _Run(trainer, examples, out, processes, log)
        run.begin(continued)
        with _alone_in(out) if processes.is_main else nullcontext():
            return run.go(part, max_minutes)


def _refuse_strangers(out: Path) -> None:
    """Refuse a folder with files that would be replaced, but no training to continue.

    Raises
    ------
    Mri2QmapError
        If it is such a folder.
    """
    for name in ("weights.safetensors", "progress.csv", "progress.png"):
        if os.path.lexists(out / name):
            raise Mri2QmapError(
                f"training into {out}: there is a {name}, but no state.pt of a training to be "
                "continued, and nothing is overwritten; move it away, or choose another folder"
            )


@contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    """Keep other trainings out of the folder.

    Raises
    ------
    Mri2QmapError
        If another one is in there.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(out, wait=False))
        except BlockingIOError as error:
            raise Mri2QmapError(
                f"training into {out}: another training runs there; wait for it, or choose "
                "another folder"
            ) from error
        yield


@contextmanager
def _without_denormals() -> Iterator[None]:
    """Take numbers next to zero for zero.

    What a channel that is no longer used leaves in the momentum fades into such numbers, with
    which processors calculate ten times as slowly: it doubled the time of a step.
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
                "training: recorded TSMIs (--tsmi) are for networks that restore TSMIs, and the"
                f" task of the configuration is {config.task}"
            )
        return TrainingData(config, folders, quiet)
    if folders.tsmi is None or folders != TrainingFolders(tsmi=folders.tsmi):
        raise Mri2QmapError(
            f"training: a network for {config.task} learns from recorded TSMIs (--tsmi) alone"
        )
    return TsmiExamples(config, folders.tsmi)


class _Run:
    """One run of a training, which may have been begun by an earlier one."""

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
        """Make ready what only the first process does."""
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
        """Take steps until the last one or the time is reached; return whether it was the last."""
        trainer, settings = self._trainer, self._trainer.config.optimisation
        source = self._examples.source(trainer.draw_conditions, trainer.device)

        def draw(step: int) -> Batch:
            present, sigmas = trainer.step_conditions(step)
            return source.batch(step, settings.patch, present[part], sigmas[part], part.start)

        self._start = last_save = time.monotonic()
        bar = tqdm(
            total=settings.steps,
            initial=trainer.step,
            desc="training",
            unit="step",
            disable=not self._processes.is_main,
        )
        batches = prefetched_batches(
            draw, trainer.step, settings.steps, ahead=trainer.device.type != "cpu"
        )
        try:
            for batch in batches:
                self._losses.append(trainer.train_step(batch))
                bar.update()
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
            bar.close()
            if trainer.whole:
                self._checkpoint()
        return trainer.step >= settings.steps

    def _seconds(self) -> float:
        """Seconds of training, in this run and in earlier ones."""
        return self._earlier + time.monotonic() - self._start

    def _report(self) -> None:
        """Validate, and note down how far it has come."""
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
        """Write the state and the weights."""
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
    """Batches of the steps from ``first`` to before ``end``.

    Parameters
    ----------
    draw : callable
        Draws the batch of a step.
    first, end : int
        Steps.
    ahead : bool
        Draw each batch while the one before is used: worthwhile if a GPU uses it.
    """
    if not ahead:
        yield from map(draw, range(first, end))
        return
    with ThreadPoolExecutor(max_workers=1) as executor:
        coming = [executor.submit(draw, step) for step in range(first, min(end, first + 1))]
        for step in range(first, end):
            batch = coming.pop().result()
            if step + 1 < end:
                coming.append(executor.submit(draw, step + 1))
            yield batch
