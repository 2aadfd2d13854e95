"""Iterations that were stopped go on as if they had not been."""

import dataclasses

import pytest
import torch
from recon.cases import make_case

from mri2qmap.recon.llr import LlrParameters, llr
from mri2qmap.recon.lrtv import lrtv
from mri2qmap.recon.mrf_pnp import mrf_pnp
from mri2qmap.recon.nonlocal_prior import NonlocalVariables, solve_with_guided_filter
from mri2qmap.recon.regulariser import SplitParameters
from mri2qmap.recon.saved_state import StateStore, StateStores, StateWithGenerator

SIX = SplitParameters(strength=0.5, iterations=6, cg_iterations=3)
SIX_OF_LLR = LlrParameters(strength=0.5, iterations=6, cg_iterations=3, block=3)


class StoppedError(Exception):
    pass


class Memory(StateStore):
    """Copies the states, and stops the algorithm after some of them."""

    def __init__(self, stop_after):
        self.kept = None
        self.left = stop_after

    def load(self):
        return self.kept and {name: value.clone() for name, value in self.kept.items()}

    def save(self, state):
        self.kept = {name: value.clone() for name, value in state().items()}
        self.left -= 1
        if not self.left:
            raise StoppedError


def denoised_at_random(case, iterations, store=None):
    """MRF-PnP with a denoiser that draws random numbers."""
    generator = torch.Generator().manual_seed(3)

    def denoise(tsmi):
        return tsmi * (0.8 + 0.1 * torch.rand(1, generator=generator))

    kept = None if store is None else StateWithGenerator(store, generator)
    parameters = dataclasses.replace(SIX, iterations=iterations)
    return mrf_pnp(case.gram, case.adjoint, case.initial, denoise, parameters, store=kept)


def guided(case, iterations, store=None):
    """The iterations with a guided filter; the state is kept in the way of `plug_and_play`."""
    state = store and store.load()
    now = state and NonlocalVariables.from_state(state)
    now = now or NonlocalVariables.at_start(case.initial)

    def after(number):
        if store is not None and number < iterations:
            store.save(lambda: {**now.state(), "iterations": torch.tensor(number)})

    return solve_with_guided_filter(
        case.gram,
        case.adjoint,
        now,
        lambda guide, sigma: lambda tsmi: 0.9 * tsmi + 0.1 * sigma * guide,
        iterations,
        SIX,
        after,
    )


def total_variation(case, iterations, store=None):
    parameters = dataclasses.replace(SIX, iterations=iterations)
    return lrtv(case.gram, case.adjoint, case.initial, parameters, store=store)


def low_rank(case, iterations, store=None):
    parameters = dataclasses.replace(SIX_OF_LLR, iterations=iterations)
    return llr(case.gram, case.adjoint, case.initial, parameters, store=store)


@pytest.fixture(scope="module")
def case():
    return make_case((8, 6, 6))


@pytest.mark.parametrize("solve", [denoised_at_random, total_variation, low_rank, guided])
@pytest.mark.parametrize("stop_after", [1, 4])
def test_a_run_that_was_stopped_gives_the_same(case, solve, stop_after):
    expected = solve(case, 6)
    store = Memory(stop_after)
    with pytest.raises(StoppedError):
        solve(case, 6, store)
    assert int(store.kept["iterations"]) == stop_after
    assert not torch.equal(store.kept["restored" if "restored" in store.kept else "tsmi"], expected)
    assert torch.equal(solve(case, 6, store), expected)


def test_a_finished_state_is_the_result(case):
    store = Memory(-1)
    expected = total_variation(case, 3, store)
    assert torch.equal(total_variation(case, 3, store), expected)


def test_by_default_nothing_is_kept():
    store = StateStores()["any"]
    store.save(lambda: pytest.fail("the state is not needed"))
    assert store.load() is None
