"""The gadgets from subspace compression to maps, alone and in a row."""

import dataclasses

import ismrmrd
import numpy as np
import pytest
import torch

from mri2qmap import subspace_compression as subspace_compression_module
from mri2qmap.coil_sensitivity import CoilSensitivitySettings, coil_sensitivity
from mri2qmap.combined_matching import CombinedMatchingSettings, combined_matching
from mri2qmap.denoiser.checkpoint import Task, save_denoiser
from mri2qmap.denoiser.network import ConditionalResidualUNet, DenoiserConfig
from mri2qmap.denoiser.tsmi_images import tsmi_channels
from mri2qmap.denoiser.tsmi_restoration import (
    load_tsmi_network,
    remove_artefacts,
    tsmi_denoiser,
)
from mri2qmap.denoiser.tsmi_wiener import TsmiWiener
from mri2qmap.errors import Mri2QmapError
from mri2qmap.mrsignal.dictionary import load_dictionary, subspace
from mri2qmap.operators.subspace_sampling import SubspaceSampling
from mri2qmap.operators.toeplitz import ToeplitzGram
from mri2qmap.pipeline.acquisition_checks import checked_acquisitions
from mri2qmap.pipeline.acquisition_kinds import is_noise_scan
from mri2qmap.pipeline.items import (
    AdjointTsmi,
    CoilMaps,
    ParameterMaps,
    ToeplitzKernels,
    Tsmi,
    WeightedImages,
)
from mri2qmap.pipeline.readouts import counted_samples, gather_readouts
from mri2qmap.pipeline.settings import parse_settings
from mri2qmap.pnp_admm import PnpAdmmSettings, pnp_admm
from mri2qmap.recon.llr import LlrParameters, llr
from mri2qmap.recon.lrtv import lrtv
from mri2qmap.recon.mrf_pnp import mrf_pnp
from mri2qmap.recon.plug_and_play import plug_and_play
from mri2qmap.recon.plug_and_play_parameters import PlugAndPlayParameters
from mri2qmap.recon.regulariser import SplitParameters
from mri2qmap.subspace_compression import SubspaceCompressionSettings, subspace_compression
from mri2qmap.toeplitz_cg import ToeplitzCgSettings, toeplitz_cg


def of_type(items, kind):
    (found,) = [i for i in items if isinstance(i, kind)]
    return found


def difference(value, reference):
    return float((value - reference).norm() / reference.norm())


@pytest.fixture(scope="module")
def calibrated(noisy_scan):
    scan, items, _, _ = noisy_scan
    settings = CoilSensitivitySettings(energy_kept=1.0)
    return scan, list(coil_sensitivity(iter(items), scan, settings))


@pytest.fixture(scope="module")
def system(calibrated):
    scan, items = calibrated
    return scan, list(subspace_compression(iter(items), scan, SubspaceCompressionSettings()))


def test_the_order_within_a_readout_group_does_not_matter(noisy_scan, calibrated, system):
    scan, items, _, _ = noisy_scan
    order = np.random.default_rng(0).permutation(len(items))
    shuffled = sorted(
        (items[i] for i in order), key=lambda a: (not is_noise_scan(a), a.idx.segment)
    )
    assert [a.idx.contrast for a in shuffled] != [a.idx.contrast for a in items]
    settings = CoilSensitivitySettings(energy_kept=1.0)
    out = list(coil_sensitivity(iter(shuffled), scan, settings))
    summed = list(subspace_compression(iter(out), scan, SubspaceCompressionSettings()))
    expected = of_type(system[1], AdjointTsmi).tsmi
    inside = expected.norm(dim=0) > 0.2 * expected.norm(dim=0).max()  # maps of noise vary outside
    for kind, field, error in (
        (CoilMaps, "maps", 1e-2),
        (AdjointTsmi, "tsmi", 1e-2),
        (ToeplitzKernels, "kernels", 2e-4),
    ):
        found, wanted = (getattr(of_type(x, kind), field) for x in (summed, system[1]))
        if kind is not ToeplitzKernels:
            found, wanted = found[:, inside], wanted[:, inside]
        assert difference(found, wanted) < error


def test_little_is_left_to_do_after_the_last_readout(calibrated, system, monkeypatch):
    scan, items = calibrated
    readouts = [i for i in items if isinstance(i, ismrmrd.Acquisition)]
    assert scan.expected_readouts == len(readouts)
    samples = readouts[0].number_of_samples
    monkeypatch.setattr(subspace_compression_module, "SHORTEST_BATCH", 10 * samples)
    batches = []

    def gather(acquisitions, device):
        batches.append(len(acquisitions))
        return gather_readouts(acquisitions, device)

    monkeypatch.setattr(subspace_compression_module, "gather_readouts", gather)
    out = list(subspace_compression(iter(items), scan, SubspaceCompressionSettings()))
    assert batches[0] == len(readouts) / 2
    assert batches == sorted(batches, reverse=True)
    assert sum(batches) == len(readouts)
    assert batches[-1] <= 20
    for kind, field in ((AdjointTsmi, "tsmi"), (ToeplitzKernels, "kernels")):
        found, expected = (getattr(of_type(x, kind), field) for x in (out, system[1]))
        assert difference(found, expected) < 2e-4


def test_batches_add_up_to_the_forward_model(calibrated, system):
    scan, items = calibrated
    acquisitions = [i for i in items if isinstance(i, ismrmrd.Acquisition)]
    maps = of_type(items, CoilMaps).maps
    readouts = gather_readouts(acquisitions, torch.device("cpu"))
    basis, _ = subspace(scan.sequence, 5)
    sampling = SubspaceSampling(readouts.trajectory, readouts.frames, basis, scan.matrix, maps)
    expected = sampling.adjoint(readouts.kspace)
    x = torch.randn(expected.shape, dtype=torch.complex64)
    for batch in (1_000_000, 5_000):
        settings = SubspaceCompressionSettings(batch_samples=batch)
        out = list(subspace_compression(iter(items), scan, settings))
        assert isinstance(out[0], CoilMaps)
        adjoint = of_type(out, AdjointTsmi).tsmi
        assert float((adjoint - expected).norm() / expected.norm()) < 1e-3
        gram = ToeplitzGram(of_type(out, ToeplitzKernels).kernels, maps)
        reference = sampling.H(sampling(x))
        assert float((gram(x) - reference).norm() / reference.norm()) < 1e-3


def test_batches_are_worked_on_while_readouts_arrive(calibrated, monkeypatch):
    from mri2qmap import subspace_compression as module

    scan, items = calibrated
    done = []
    original = module._Accumulator._process_batch

    def work(self):
        done.append(len(self.waiting))
        original(self)

    monkeypatch.setattr(module._Accumulator, "_process_batch", work)
    arrived = []

    def arriving():
        for item in items:
            arrived.append((item, len(done)))
            yield item

    list(subspace_compression(arriving(), scan, SubspaceCompressionSettings(batch_samples=8_000)))
    assert arrived[-1][1] >= 2
    assert len(done) > arrived[-1][1] - 1


def test_conjugate_gradients_solve_the_system(system):
    scan, items = system
    out = list(toeplitz_cg(iter(items), scan, ToeplitzCgSettings(iterations=100, tolerance=1e-3)))
    gram = ToeplitzGram(of_type(out, ToeplitzKernels).kernels, of_type(out, CoilMaps).maps)
    adjoint, solution = of_type(out, AdjointTsmi).tsmi, of_type(out, Tsmi).tsmi
    assert float((gram(solution) - adjoint).norm() / adjoint.norm()) < 1.1e-3


@pytest.mark.parametrize(
    ("settings", "solve", "parameters"),
    [
        (
            ToeplitzCgSettings(prior="total_variation", strength=4.0, prior_iterations=3),
            lrtv,
            SplitParameters(strength=4.0, iterations=3),
        ),
        (
            ToeplitzCgSettings(
                prior="low_rank", strength=3.0, prior_iterations=3, block=4, shifted=False
            ),
            llr,
            LlrParameters(strength=3.0, iterations=3, block=4, shifted=False),
        ),
    ],
)
def test_a_prior_goes_on_from_conjugate_gradients(system, settings, solve, parameters):
    scan, items = system
    plain = dataclasses.replace(settings, prior="none")
    start = of_type(list(toeplitz_cg(iter(items), scan, plain)), Tsmi).tsmi
    out = list(toeplitz_cg(iter(items), scan, settings))
    gram = ToeplitzGram(of_type(out, ToeplitzKernels).kernels, of_type(out, CoilMaps).maps)
    found = of_type(out, Tsmi).tsmi
    expected = solve(gram, of_type(out, AdjointTsmi).tsmi, start, parameters)
    assert difference(found, expected) < 1e-5
    assert difference(found, start) > 1e-2


@pytest.fixture(scope="module")
def tsmi_models(tmp_path_factory, system):
    """Path of a small network for each task, that nobody trained."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    shape = DenoiserConfig(
        channels=(4, 8), blocks=(1, 1), embedding=8, joint=True, contrasts=tsmi_channels(5)
    )
    paths = {}
    for task in (Task.TSMI_NOISE, Task.TSMI_ARTEFACTS):
        paths[task] = folder / f"{task}.safetensors"
        network = ConditionalResidualUNet(shape)
        numbers = system[0].sequence.numbers().tolist()
        save_denoiser(paths[task], network, {"training": {"task": task}, "sequence": numbers})
    return {task: str(path) for task, path in paths.items()}


@pytest.mark.parametrize(
    ("prior", "task"),
    [
        ("total_variation", None),
        ("low_rank", None),
        ("denoiser", Task.TSMI_NOISE),
        ("artefact_removal", Task.TSMI_ARTEFACTS),
    ],
)
def test_a_prior_has_nothing_to_do_with_an_empty_scan(system, tsmi_models, prior, task):
    scan, (maps, adjoint, kernels) = system
    empty = dataclasses.replace(adjoint, tsmi=torch.zeros_like(adjoint.tsmi))
    settings = ToeplitzCgSettings(prior=prior, denoiser=tsmi_models.get(task, "none"))
    out = toeplitz_cg(iter([maps, empty, kernels]), scan, settings)
    assert not of_type(list(out), Tsmi).tsmi.any()


def test_networks_for_tsmis_go_on_from_conjugate_gradients(system, tsmi_models):
    scan, items = system
    start = of_type(list(toeplitz_cg(iter(items), scan, ToeplitzCgSettings())), Tsmi).tsmi

    def solution(**settings):
        out = list(toeplitz_cg(iter(items), scan, ToeplitzCgSettings(**settings)))
        return of_type(out, Tsmi).tsmi, out

    artefacts, noise = tsmi_models[Task.TSMI_ARTEFACTS], tsmi_models[Task.TSMI_NOISE]
    found, _ = solution(prior="artefact_removal", denoiser=artefacts, seed=3)
    network = load_tsmi_network(artefacts, Task.TSMI_ARTEFACTS, scan.sequence, scan.device)
    assert difference(found, remove_artefacts(network, start, 3)) < 1e-5
    found, out = solution(
        prior="denoiser", denoiser=noise, sigma=0.02, strength=0.2, prior_iterations=3, seed=4
    )
    gram = ToeplitzGram(of_type(out, ToeplitzKernels).kernels, of_type(out, CoilMaps).maps)
    network = load_tsmi_network(noise, Task.TSMI_NOISE, scan.sequence, scan.device)
    expected = mrf_pnp(
        gram,
        of_type(out, AdjointTsmi).tsmi,
        start,
        tsmi_denoiser(network, start, 0.02, torch.Generator().manual_seed(4)),
        SplitParameters(strength=0.2, iterations=3),
    )
    assert difference(found, expected) < 1e-5
    assert difference(found, start) > 1e-2


def test_a_network_for_something_else_is_told_before_the_scan(system, tsmi_models):
    scan, items = system
    settings = ToeplitzCgSettings(prior="denoiser", denoiser=tsmi_models[Task.TSMI_ARTEFACTS])
    with pytest.raises(Mri2QmapError, match="trained for the task tsmi_artefacts, but tsmi_noise"):
        next(toeplitz_cg(iter(items), scan, settings))
    with pytest.raises(Mri2QmapError, match="trained for the task tsmi_noise, but weighted"):
        next(pnp_admm(iter(items), scan, PnpAdmmSettings(denoiser=tsmi_models[Task.TSMI_NOISE])))


def test_patches_too_small_for_a_network_are_told_before_the_scan(system, tmp_path):
    scan, items = system
    deep = DenoiserConfig(channels=(4,) * 4, blocks=(1,) * 4, embedding=8)
    restoring = dataclasses.replace(deep, joint=True, contrasts=tsmi_channels(5))
    numbers = scan.sequence.numbers().tolist()
    for task, config in ((Task.WEIGHTED, deep), (Task.TSMI_ARTEFACTS, restoring)):
        info = {"training": {"task": task}, "sequence": numbers}
        save_denoiser(tmp_path / f"{task}.safetensors", ConditionalResidualUNet(config), info)
    weighted, artefacts = (
        str(tmp_path / f"{task}.safetensors") for task in (Task.WEIGHTED, Task.TSMI_ARTEFACTS)
    )
    words = "patches of 8 voxels are too small for it; set patch=16 or more"
    with pytest.raises(Mri2QmapError, match=words):
        next(pnp_admm(iter(items), scan, PnpAdmmSettings(denoiser=weighted, patch=8)))
    cg = ToeplitzCgSettings(prior="artefact_removal", denoiser=artefacts, patch=8)
    with pytest.raises(Mri2QmapError, match=words):
        next(toeplitz_cg(iter(items), scan, cg))
    next(toeplitz_cg(iter(items), scan, dataclasses.replace(cg, patch=16)))


@pytest.mark.parametrize(
    ("properties", "words"),
    [
        ({"prior": "wavelets"}, "prior"),
        ({"prior": "denoiser"}, "prior 'denoiser' and denoiser 'none' do not go together"),
        ({"prior": "artefact_removal"}, "need a model"),
        ({"denoiser": "arnet"}, "prior 'none' and denoiser 'arnet' do not go together"),
        ({"sigma": "0"}, "sigma must be above 0 and up to 1"),
        ({"patch": "0"}, "patch must be a whole number from 8 to 2048"),
        ({"strength": "-1"}, "strength must be 0 or more"),
        ({"block": "0"}, "block must be a whole number from 1 to 32"),
        ({"seed": "1" * 30}, "seed must be a whole number from 0 to 9223372036854775807"),
        ({"seed": "-1"}, "seed must be a whole number from 0"),
        ({"iterations": "9" * 30}, "iterations must be a whole number from 1 to 1000"),
        ({"prior_iterations": "0"}, "prior_iterations must be a whole number from 1 to 1000"),
    ],
)
def test_wrong_settings_of_the_prior_are_refused(properties, words):
    with pytest.raises(Mri2QmapError, match=words):
        parse_settings(ToeplitzCgSettings, properties, "toeplitz_cg")


def run_chain(scan, items, *, compression=None, admm=None, cg=None, energy_kept=0.999):
    stream = coil_sensitivity(iter(items), scan, CoilSensitivitySettings(energy_kept=energy_kept))
    stream = subspace_compression(stream, scan, compression or SubspaceCompressionSettings())
    if cg is not None:
        stream = toeplitz_cg(stream, scan, cg)
    if admm is not None:
        stream = pnp_admm(stream, scan, admm)
    return of_type(list(combined_matching(stream, scan, CombinedMatchingSettings())), ParameterMaps)


def errors(maps, simulation):
    """Mean relative errors of T1 and T2 where a voxel and its surroundings are one tissue."""
    fractions = simulation.truth.fractions
    t1_error, t2_error = [], []
    for tissue, fraction in zip(simulation.truth.tissues, fractions, strict=True):
        pure = torch.nn.functional.avg_pool3d(
            torch.from_numpy(fraction)[None, None], 3, 1, padding=1
        )[0, 0]
        core = pure > 0.999
        if tissue.t1 == 0 or not bool(core.any()):
            continue
        t1_error.append((maps.t1[core] / tissue.t1 - 1).abs())
        t2_error.append((maps.t2[core] / tissue.t2 - 1).abs())
    return float(torch.cat(t1_error).mean()), float(torch.cat(t2_error).mean())


@pytest.mark.parametrize("coils", [1, 4])
def test_full_sampling_without_noise_gives_the_truth(make_scan, coils):
    scan, items, simulation, _ = make_scan(coils=coils)
    maps = run_chain(scan, items, cg=ToeplitzCgSettings(iterations=60, tolerance=1e-5))
    t1, t2 = errors(maps, simulation)
    assert t1 < 0.03
    assert t2 < 0.05
    inside = torch.from_numpy(simulation.truth.proton_density() > 0.7)
    assert float(maps.match_quality[inside].median()) > 0.99


def test_the_order_of_arrival_and_the_dwell_time_of_noise_do_not_change_the_errors(eight_coils):
    scan, noise, imaging, simulation = eight_coils
    gridded = SubspaceCompressionSettings(output="gridded")

    def found(before, after):
        checked = checked_acquisitions([*before, *after], scan)
        return sum(
            errors(run_chain(scan, checked, compression=gridded, energy_kept=0.95), simulation)
        )

    expected = found(noise, imaging)
    n = len(imaging)
    slower = []
    for scan_of_noise in noise:
        head = scan_of_noise.getHead()
        head.sample_time_us *= 16
        slower.append(ismrmrd.Acquisition(head, scan_of_noise.data / np.float32(4)))
    by_frame = sorted(imaging, key=lambda a: (a.idx.contrast, a.idx.segment))
    shuffled = [imaging[i] for i in np.random.default_rng(3).permutation(n)]
    assert found(noise, by_frame) == pytest.approx(expected, rel=0.005)
    assert found(slower, imaging) == pytest.approx(expected, rel=0.005)
    assert found(noise, shuffled) == pytest.approx(expected, rel=0.05)


def test_gridding_gives_maps_of_the_right_order(make_scan):
    scan, items, simulation, _ = make_scan(coils=1)
    maps = run_chain(scan, items, compression=SubspaceCompressionSettings(output="gridded"))
    t1, t2 = errors(maps, simulation)
    assert t1 < 0.3
    assert t2 < 0.6
    density = maps.proton_density.abs()
    inside = torch.from_numpy(simulation.truth.proton_density() > 0.7)
    assert 0.4 < float(density[inside].median()) < 1.6  # the truth is 0.75 and 0.85


def test_admm_improves_on_conjugate_gradients(make_scan):
    scan, items, simulation, _ = make_scan(coils=1, acceleration=4.0)
    cg = ToeplitzCgSettings(iterations=10)
    plain = sum(errors(run_chain(scan, items, cg=cg), simulation))
    admm = PnpAdmmSettings(denoiser="none", iterations=8)
    assert sum(errors(run_chain(scan, items, cg=cg, admm=admm), simulation)) < plain


def test_the_admm_gadget_runs_the_algorithm_with_its_settings(system):
    scan, items = system
    before = list(toeplitz_cg(iter(items), scan, ToeplitzCgSettings()))
    settings = PnpAdmmSettings(
        denoiser="none",
        iterations=2,
        cg_iterations=3,
        cg_reduction=0.0,
        coupling=20.0,
        sigma_start=0.3,
        total_variation=4.0,
    )
    out = of_type(list(pnp_admm(iter(before), scan, settings)), Tsmi).tsmi
    expected = plug_and_play(
        ToeplitzGram(of_type(before, ToeplitzKernels).kernels, of_type(before, CoilMaps).maps),
        of_type(before, AdjointTsmi).tsmi,
        of_type(before, Tsmi).tsmi,
        load_dictionary(scan.sequence, settings.dictionary(5)),
        None,
        PlugAndPlayParameters(
            iterations=2,
            cg_iterations=3,
            cg_reduction=0.0,
            coupling=20.0,
            sigma_start=0.3,
            total_variation=4.0,
        ),
        guided_filter=TsmiWiener,
    )
    assert difference(out, expected.tsmi) < 1e-4


def test_the_prior_yields_weighted_images_and_is_reproducible(make_scan):
    scan, items, simulation, _ = make_scan(coils=1, noise=0.25, acceleration=1.0, seed=2)
    cg = ToeplitzCgSettings(iterations=10)
    settings = PnpAdmmSettings(denoiser="small", iterations=3, patch=16)
    stream = coil_sensitivity(iter(items), scan, CoilSensitivitySettings())
    stream = subspace_compression(stream, scan, SubspaceCompressionSettings())
    before = list(toeplitz_cg(stream, scan, cg))
    first, again, other = (
        list(pnp_admm(iter(before), scan, s))
        for s in (settings, settings, dataclasses.replace(settings, seed=5))
    )
    weighted = of_type(first, WeightedImages)
    assert weighted.images.shape == (3, *scan.matrix)
    assert min(weighted.weights) > 0
    result = of_type(first, Tsmi).tsmi
    assert difference(of_type(again, Tsmi).tsmi, result) < 1e-4
    assert difference(of_type(other, Tsmi).tsmi, result) > 1e-3
    maps = of_type(
        list(combined_matching(iter(first), scan, CombinedMatchingSettings())), ParameterMaps
    )
    assert sum(errors(maps, simulation)) < 0.5


def test_missing_parts_are_named(system):
    scan, items = system
    maps, adjoint, kernels = items
    cg = ToeplitzCgSettings()
    with pytest.raises(Mri2QmapError, match="toeplitz_cg: adjoint TSMI, Toeplitz kernels did not"):
        list(toeplitz_cg(iter([maps]), scan, cg))
    with pytest.raises(Mri2QmapError, match="pnp_admm: no initial TSMI"):
        list(pnp_admm(iter([maps, adjoint, kernels]), scan, PnpAdmmSettings(denoiser="none")))
    with pytest.raises(Mri2QmapError, match="combined_matching: no TSMI"):
        list(combined_matching(iter([maps]), scan, CombinedMatchingSettings()))
    with pytest.raises(Mri2QmapError, match="subspace_compression: no coil maps"):
        list(subspace_compression(iter([]), scan, SubspaceCompressionSettings()))


def test_readouts_before_maps_or_of_other_coils_are_refused(calibrated):
    scan, items = calibrated
    maps, first = items[0], items[1]
    settings = SubspaceCompressionSettings()
    with pytest.raises(Mri2QmapError, match="before the coil maps"):
        list(subspace_compression(iter([first]), scan, settings))
    fewer = dataclasses.replace(maps, maps=maps.maps[:2])
    with pytest.raises(Mri2QmapError, match="channels, but the coil maps have 2"):
        list(subspace_compression(iter([fewer, first]), scan, settings))
    flat = ismrmrd.Acquisition.from_array(first.data)
    beyond = ismrmrd.Acquisition(first.getHead(), first.data, first.traj)
    beyond.idx.contrast = scan.sequence.n_frames
    for wrong, words in ((flat, "frame 0 .* 0 dimensions"), (beyond, "frame 120 of 120")):
        with pytest.raises(Mri2QmapError, match=words):
            list(subspace_compression(iter([maps, wrong]), scan, settings))


def test_gridding_holds_no_more_samples_than_are_planned(calibrated, monkeypatch):
    scan, items = calibrated
    monkeypatch.setattr(subspace_compression_module, "gridded_samples", lambda scan: 1000)
    settings = SubspaceCompressionSettings(output="gridded")
    with pytest.raises(Mri2QmapError, match=r"more than 1000 samples in each coil.*encodingLimits"):
        list(subspace_compression(iter(items), scan, settings))


def test_short_acquisitions_count_as_the_memory_that_they_need():
    short, long = (ismrmrd.Acquisition.from_array(np.zeros((2, n), np.complex64)) for n in (1, 500))
    assert 50 < counted_samples(short) < 200
    assert counted_samples(long) == 500


def test_scans_that_do_not_fit_are_refused(calibrated):
    scan, items = calibrated
    settings = SubspaceCompressionSettings()
    odd = dataclasses.replace(scan, matrix=(15, 16, 16))
    with pytest.raises(Mri2QmapError, match="even numbers"):
        list(subspace_compression(iter(items), odd, settings))
    short = dataclasses.replace(
        scan,
        sequence=dataclasses.replace(
            scan.sequence,
            flip_angles=scan.sequence.flip_angles[:3],
            repetition_times=scan.sequence.repetition_times[:3],
            echo_times=scan.sequence.echo_times[:3],
        ),
    )
    with pytest.raises(Mri2QmapError, match="only 3 frames"):
        list(subspace_compression(iter(items), short, settings))


def test_an_unknown_denoiser_is_told_before_the_scan(system):
    scan, _ = system

    def never():
        raise AssertionError("the scan was waited for")
        yield

    with pytest.raises(Mri2QmapError, match="nosuch"):
        list(pnp_admm(never(), scan, PnpAdmmSettings(denoiser="nosuch")))


def test_data_that_are_not_finite_are_refused(system):
    scan, items = system
    maps, adjoint, kernels = items
    broken = dataclasses.replace(adjoint, tsmi=adjoint.tsmi * np.nan)
    with pytest.raises(Mri2QmapError, match="toeplitz_cg"):
        list(toeplitz_cg(iter([maps, broken, kernels]), scan, ToeplitzCgSettings()))


@pytest.mark.parametrize(
    ("settings", "change", "message"),
    [
        (SubspaceCompressionSettings, {"coefficients": 0}, "coefficients"),
        (SubspaceCompressionSettings, {"batch_samples": 0}, "batch_samples"),
        (ToeplitzCgSettings, {"iterations": 0}, "iterations"),
        (ToeplitzCgSettings, {"tolerance": 1.0}, "tolerance"),
        (SubspaceCompressionSettings, {"batch_samples": 10**9}, "batch_samples"),
        (PnpAdmmSettings, {"iterations": 0}, "iterations"),
        (PnpAdmmSettings, {"cg_iterations": 10**9}, "cg_iterations"),
        (PnpAdmmSettings, {"seed": 2**63}, "seed"),
        (PnpAdmmSettings, {"patch": 10**9}, "patch"),
        (PnpAdmmSettings, {"coupling": 0.0}, "coupling"),
        (PnpAdmmSettings, {"sigma_start": 0.01}, "sigma_end <= sigma_start"),
        (PnpAdmmSettings, {"weight_t2w": -1.0}, "weight_t2w"),
        (PnpAdmmSettings, {"total_variation": -0.1}, "total_variation"),
        (PnpAdmmSettings, {"edge_contrast": -0.1}, "edge_contrast"),
        (PnpAdmmSettings, {"cg_tolerance": 1.0}, "cg_tolerance"),
        (PnpAdmmSettings, {"final_sigma": 0.0}, "final_sigma"),
        (PnpAdmmSettings, {"final_weight": -1.0}, "final_weight"),
        (PnpAdmmSettings, {"atom_step": 0.0}, "step"),
        (CombinedMatchingSettings, {"b1": 9.0}, "b1"),
        (PnpAdmmSettings, {"te_t2w": 0.0}, "te_t2w"),
        (PnpAdmmSettings, {"tr_t1w": 500.0}, "tr_t1w"),
        (CombinedMatchingSettings, {"tr_pdw": -1.0}, "tr_pdw"),
        (CombinedMatchingSettings, {"te_t1w": np.nan}, "te_t1w"),
    ],
)
def test_refused_settings(settings, change, message):
    with pytest.raises(ValueError, match=message):
        settings(**change)
