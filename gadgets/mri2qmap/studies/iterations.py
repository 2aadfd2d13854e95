"""Errors of T1 and T2 after each ADMM iteration of a reconstruction (paper, Fig. 7)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from mri2qmap.evaluation.metrics import mape
from mri2qmap.pipeline.pipeline_file import Pipeline
from mri2qmap.pipeline.progress import Reporter
from mri2qmap.recon.plug_and_play import Iteration
from mri2qmap.simulation.truth import Truth
from mri2qmap.studies.extra_tables import ExtraTable

T = TypeVar("T")


@dataclass(frozen=True)
class IterationError:
    """Errors after one iteration.

    Attributes
    ----------
    number
        Number of the iteration, from 1.
    sigma
        Its noise level.
    mape_t1, mape_t2
        MAPE of its T1 and T2 over white and grey matter [%].
    """

    number: int
    sigma: float
    mape_t1: float
    mape_t2: float

    @property
    def mape_t1_t2(self) -> float:
        """Their sum [%]."""
        return self.mape_t1 + self.mape_t2


def admm_iterations(pipeline: Pipeline) -> int:
    """Number of ADMM iterations of a pipeline."""
    return sum(node.settings.iterations for node in pipeline.nodes if node.name == "pnp_admm")


ITERATIONS = ExtraTable(
    "iterations",
    ("iteration",),
    ("sigma", "mape_t1", "mape_t2"),
    keys=lambda pipeline: [(number,) for number in range(1, 1 + admm_iterations(pipeline))],
    row=IterationError,
)


class IterationWatch(Reporter):
    """Reporter that compares the match of each ADMM iteration with the truth.

    Gadgets pass the state after each step to the reporter (`Reporter.steps`), so that this needs no
    code in them. Everything is passed on to another reporter.

    Parameters
    ----------
    truth
        Truth of the scan, on the grid of the reconstruction.
    report
        Receives progress and log lines.

    Attributes
    ----------
    errors
        Errors of the iterations so far.
    """

    def __init__(self, truth: Truth, report: Reporter) -> None:
        self.errors: list[IterationError] = []
        self._truth = truth
        self._mask = truth.white_matter | truth.grey_matter
        self._report = report

    def progress(
        self, iterable: Iterable[T], description: str, total: int | None = None
    ) -> Iterator[T]:
        """See `Reporter.progress`."""
        return self._report.progress(iterable, description, total)

    def steps(self, count: int, description: str) -> Callable[..., None]:
        """See `Reporter.steps`."""
        pass_on = self._report.steps(count, description)

        def done(*states: object) -> None:
            pass_on(*states)
            self.errors += [self._error(state) for state in states if isinstance(state, Iteration)]

        return done

    def emit(self, line: str) -> None:
        """See `Reporter.emit`."""
        self._report.log(line)

    def _error(self, state: Iteration) -> IterationError:
        t1, t2 = (times.cpu().numpy() for times in (state.match.t1, state.match.t2))
        return IterationError(
            state.number,
            state.sigma,
            mape(t1, self._truth.t1, self._mask),
            mape(t2, self._truth.t2, self._mask),
        )
