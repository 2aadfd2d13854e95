"""Errors of T1 and T2 after each ADMM iteration of a reconstruction (paper, Fig. 7)."""

from __future__ import annotations

from dataclasses import dataclass

from mri2qmap.evaluation.metrics import mape
from mri2qmap.pipeline.pipeline_file import Pipeline
from mri2qmap.pipeline.progress import ForwardingReporter, Reporter
from mri2qmap.recon.plug_and_play import Iteration
from mri2qmap.simulation.truth import Truth
from mri2qmap.studies.extra_tables import ExtraTable


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


class IterationWatch(ForwardingReporter):
    """Reporter that compares the match of each ADMM iteration with the truth.

    Gadgets pass the state after each step to the reporter (`Reporter.steps`), so that this needs no
    code in them.

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
        super().__init__(report)
        self.errors: list[IterationError] = []
        self._truth = truth
        self._mask = truth.white_matter | truth.grey_matter

    def state(self, state: object) -> None:
        """Compare the match of an iteration with the truth."""
        if isinstance(state, Iteration):
            self.errors.append(self._error(state))

    def _error(self, state: Iteration) -> IterationError:
        t1, t2 = (times.cpu().numpy() for times in (state.match.t1, state.match.t2))
        return IterationError(
            state.number,
            state.sigma,
            mape(t1, self._truth.t1, self._mask),
            mape(t2, self._truth.t2, self._mask),
        )
