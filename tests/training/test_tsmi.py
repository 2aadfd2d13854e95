"""Networks that restore TSMIs: units, recordings, batches, training and inference."""

import argparse
import dataclasses
import math

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from mri2qmap.cli import train as command
from mri2qmap.denoiser.checkpoint import Task, load_denoiser, models_for, save_denoiser
from mri2qmap.denoiser.network import ConditionalResidualUNet, DenoiserConfig
from mri2qmap.denoiser.tsmi_images import (
    TsmiRecording,
    TsmiUnits,
    find_tsmi_recordings,
    tsmi_channels,
    tsmi_recording_path,
)
from mri2qmap.denoiser.tsmi_restoration import (
    ARTEFACT_SIGMA,
    check_coefficients,
    load_tsmi_network,
    remove_artefacts,
    restore_images,
    tsmi_denoiser,
)
from mri2qmap.errors import Mri2QmapError
from mri2qmap.mrsignal.sequence import default_sequence
from mri2qmap.training.trainer import Trainer
from mri2qmap.training.training_config import Subjects, TrainingConfig, config_from_json
from mri2qmap.training.tsmi_examples import TsmiExamples, validate_tsmi

SIDE = 16
COEFFICIENTS = 2
SEQUENCE = default_sequence(20)


def blocks(seed):
    """TSMI (2, z, y, x) of two blocks with a smooth phase."""
    generator = torch.Generator().manual_seed(seed)
    tsmi = torch.zeros(COEFFICIENTS, SIDE, SIDE, SIDE)
    tsmi[:, 2:14, 2:14, 2:14] = torch.tensor([-1.0, 0.5])[:, None, None, None]
    tsmi[:, 4:9, 5:12, 6 : 10 + seed % 3] = torch.tensor([-0.7, -0.4])[:, None, None, None]
    tsmi *= 1 + 0.3 * torch.rand(1, generator=generator)
    ramp = torch.linspace(0, 1, SIDE)
    return tsmi * torch.exp(1j * (0.5 + ramp[:, None, None] - 0.7 * ramp))


def recording(seed):
    truth = blocks(seed)
    generator = torch.Generator().manual_seed(100 + seed)
    noise = torch.randn(truth.shape, generator=generator, dtype=torch.complex64)
    units = TsmiUnits.of(truth + 0.1 * noise)
    return TsmiRecording(
        units.images(truth).half(),
        units.images(truth + 0.1 * noise).half(),
        tuple(SEQUENCE.numbers().tolist()),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Recordings of three heads, two of each."""
    folder = tmp_path_factory.mktemp("tsmi")
    for number in range(6):
        recording(number).save(tsmi_recording_path(folder, f"head_{'abc'[number % 3]}", number))
    return folder


def config(task=Task.TSMI_NOISE, **optimisation):
    shape = DenoiserConfig(
        channels=(8, 12),
        blocks=(1, 1),
        embedding=8,
        joint=True,
        contrasts=tsmi_channels(COEFFICIENTS),
    )
    base = TrainingConfig(network=shape, task=task)
    return dataclasses.replace(
        base,
        subjects=Subjects(("head_a",), ("head_b",), ("head_c",)),
        images=dataclasses.replace(base.images, size=SIDE),
        optimisation=dataclasses.replace(
            base.optimisation,
            **{"steps": 4, "batch": 2, "patch": 8, "warmup": 1, "validate_every": 2} | optimisation,
        ),
    )


# Units


def test_images_are_the_tsmi_without_phase_and_scale():
    tsmi = blocks(0) * 7e-3
    units = TsmiUnits.of(tsmi)
    images = units.images(tsmi)
    assert images.shape == (2 * COEFFICIENTS, SIDE, SIDE, SIDE)
    assert images.dtype == torch.float32
    torch.testing.assert_close(units.tsmi(images), tsmi, rtol=1e-5, atol=1e-8)
    inner = images[:, 5:11, 5:11, 5:11]
    assert float(inner[1::2].abs().max()) < 0.2 * float(inner[::2].abs().max())
    assert float(inner[0].min()) > 0
    norm = torch.linalg.vector_norm(images, dim=0)
    assert 0.7 < float(norm.flatten().quantile(0.99)) < 1.3


def test_images_are_independent_of_scale_and_phase():
    tsmi = blocks(1)
    images = TsmiUnits.of(tsmi).images(tsmi)
    other = tsmi * (250 * torch.exp(torch.tensor(2.5j)))
    torch.testing.assert_close(TsmiUnits.of(other).images(other), images, rtol=1e-4, atol=1e-4)


def test_units_of_a_zero_tsmi():
    units = TsmiUnits.of(torch.zeros(2, 8, 8, 8, dtype=torch.complex64))
    assert units.scale == 1
    assert bool(torch.isfinite(torch.view_as_real(units.phase)).all())


@pytest.mark.parametrize(
    "tsmi",
    [torch.zeros(2, 8, 8, 8), torch.zeros(8, 8, 8, dtype=torch.complex64),
     torch.full((2, 8, 8, 8), torch.nan, dtype=torch.complex64)],
    ids=["real", "three axes", "not finite"],
)  # fmt: skip
def test_invalid_tsmis_have_no_units(tsmi):
    with pytest.raises(ValueError, match=r"expected complex|not finite"):
        TsmiUnits.of(tsmi)


# Recordings


def test_recordings_are_found_by_subject(folder, tmp_path):
    found = find_tsmi_recordings(folder)
    assert {name: len(paths) for name, paths in found.items()} == {
        "head_a": 2,
        "head_b": 2,
        "head_c": 2,
    }
    again = TsmiRecording.load(found["head_a"][0])
    assert again.sequence == recording(0).sequence
    torch.testing.assert_close(again.truth, recording(0).truth)  # rounding depends on the threads
    with pytest.raises(Mri2QmapError, match=r"contains none .* mri2qmap record-tsmi"):
        find_tsmi_recordings(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"nonsense", "cannot be read"),
        ({"truth": torch.zeros(4, 8, 8, 8)}, "cannot be read"),
        ({"truth": torch.zeros(4, 8, 8, 8), "least_squares": torch.zeros(2, 8, 8, 8)}, "shapes"),
        ({"truth": torch.zeros(3, 8, 8, 8), "least_squares": torch.zeros(3, 8, 8, 8)}, "shapes"),
    ],
)
def test_other_files_are_refused_as_recordings(tmp_path, content, message):
    path = tmp_path / "x-0.tsmi.safetensors"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        save_file(content, path, metadata={"sequence": "[1.0]"})
    with pytest.raises(Mri2QmapError, match=message):
        TsmiRecording.load(path)


# Batches


def draw(source, step, count=2, first=0):
    sigmas = torch.tensor([0.03, 0.05])[first : first + count]
    return source.batch(step, 8, torch.ones(count, 2 * COEFFICIENTS), sigmas, first)


def test_noise_is_white_and_has_the_requested_level(folder):
    source = TsmiExamples(config(), folder).source(None, None)
    batch = draw(source, 0)
    assert batch.clean.shape == batch.noise.shape == (2, 2 * COEFFICIENTS, 8, 8, 8)
    assert batch.estimates.shape[1] == 0
    assert batch.sigma.tolist() == pytest.approx([0.03, 0.05])
    assert not batch.synthesised.any()
    assert float(batch.noise.std()) == pytest.approx(1, abs=0.05)
    torch.testing.assert_close(
        batch.noisy, batch.clean + batch.sigma[:, None, None, None, None] * batch.noise
    )


def test_artefacts_are_the_errors_of_least_squares(folder):
    source = TsmiExamples(config(Task.TSMI_ARTEFACTS), folder).source(None, None)
    batch = draw(source, 3)
    assert batch.sigma.tolist() == pytest.approx([ARTEFACT_SIGMA] * 2)
    known = [recording(number) for number in (0, 3)]  # of head_a, in training
    values = torch.cat([(r.least_squares.float() - r.truth.float()).flatten() for r in known])
    error = (batch.noisy - batch.clean).flatten()
    assert float(error.std()) == pytest.approx(float(values.std()), rel=0.3)
    # Up to gain and orientation, every error is that of a recording.
    for number in (0, 1):
        size = (batch.noisy - batch.clean)[number].square().sum()
        assert float(size) > 0


def test_a_batch_depends_only_on_the_step(folder):
    examples = TsmiExamples(config(), folder)
    source = examples.source(None, None)
    draw(source, 7)
    whole, again = draw(source, 5), draw(examples.source(None, None), 5)
    other = draw(source, 6)
    assert torch.equal(whole.clean, again.clean)
    assert torch.equal(whole.noise, again.noise)
    assert not torch.equal(whole.noise, other.noise)
    part = draw(source, 5, count=1, first=1)  # as computed by another process
    assert torch.equal(part.noisy[0], whole.noisy[1])


# Training


def parse(*words):
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers(required=True))
    return parser.parse_args(["train", *map(str, words)])


def write(path, training):
    content = yaml.safe_load(yaml.safe_dump(_plain(dataclasses.asdict(training))))
    path.write_text(yaml.safe_dump(content))
    return path


def _plain(value):
    """Convert tuples to lists and enumerations to strings."""
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Task) else value


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.parametrize("task", [Task.TSMI_NOISE, Task.TSMI_ARTEFACTS])
def test_training_continues_where_it_stopped_and_weights_name_the_task(folder, tmp_path, task):
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    path = write(tmp_path / "c.yaml", config(task))
    assert (
        parse(path, "--tsmi", folder, "-o", whole).run(parse(path, "--tsmi", folder, "-o", whole))
        == 0
    )
    args = parse(path, "--tsmi", folder, "-o", halved, "--max-minutes", "1e-9")
    while load_step(halved) < 4:
        assert args.run(args) == 0
    first, second = (
        load_denoiser(str(f / "weights.safetensors"), task=task) for f in (whole, halved)
    )
    assert first.task is task
    for a, b in zip(first.network.parameters(), second.network.parameters(), strict=True):
        assert torch.equal(a, b)
    lines = (whole / "progress.csv").read_text().splitlines()
    assert "psnr_TSMI_" in lines[0]
    assert len(lines) == 3
    with pytest.raises(
        Mri2QmapError, match=f"trained for the task {task}, but weighted is required"
    ):
        load_denoiser(str(whole / "weights.safetensors"))
    path = str(whole / "weights.safetensors")
    network = load_tsmi_network(path, task, rounded(SEQUENCE), torch.device("cpu"))
    check_coefficients(network, 2)
    with pytest.raises(Mri2QmapError, match="TSMIs of 2 coefficients, but this TSMI has 5"):
        check_coefficients(network, 5)
    for other in (default_sequence(21), slower(SEQUENCE)):
        with pytest.raises(Mri2QmapError, match="trained for another sequence"):
            load_tsmi_network(path, task, other, torch.device("cpu"))


def rounded(sequence):
    """Sequence with the rounding of a header."""
    flips = tuple(float(np.float32(angle)) for angle in sequence.flip_angles)
    return dataclasses.replace(sequence, flip_angles=flips)


def slower(sequence):
    times = tuple(1.001 * time for time in sequence.repetition_times)
    return dataclasses.replace(sequence, repetition_times=times)


def test_recordings_of_two_sequences_are_refused(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    other = dataclasses.replace(recording(1), sequence=(1.0, 2.0))
    other.save(tsmi_recording_path(tmp_path, "head_b", 1))
    with pytest.raises(Mri2QmapError, match="holds recordings of 2 sequences"):
        TsmiExamples(config(), tmp_path)


def load_step(out):
    path = out / "state.pt"
    return torch.load(path, weights_only=True)["step"] if path.exists() else 0


def test_training_reduces_the_error(folder):
    """On a head not used for training, the output becomes better than the input."""
    training = config(Task.TSMI_ARTEFACTS, steps=200, batch=4, matrix_rate=0.02)
    examples = TsmiExamples(training, folder)
    source, score = examples.source(None, None), examples.validator(torch.device("cpu"))
    trainer = Trainer(training, torch.device("cpu"))
    for step in range(200):
        trainer.train_step(source.batch(step, 8, *trainer.step_conditions(step)))
    (((_, before), after),) = score(trainer.network).items()
    assert after > -20 * math.log10(before) + 1


@pytest.mark.parametrize(
    ("change", "folders", "message"),
    [
        ({}, {}, "is trained on recorded TSMIs only; give --tsmi"),
        ({}, {"tsmi": "folder", "labels": "folder"}, "is trained on recorded TSMIs only"),
        ({"task": Task.WEIGHTED, "network": DenoiserConfig(channels=(4,), blocks=(1,))},
         {"tsmi": "folder"}, "are for networks that restore TSMIs"),
        ({"subjects": Subjects(("head_x",), ("head_b",))}, {"tsmi": "folder"}, "head_x not found"),
        ({"network": DenoiserConfig(channels=(4,), blocks=(1,), joint=True,
                                    contrasts=tsmi_channels(5))},
         {"tsmi": "folder"}, r"shape \(4, 16, 16, 16\); the configuration .* \(10, 16, 16, 16\)"),
    ],
)  # fmt: skip
def test_wrong_folders(folder, tmp_path, change, folders, message):
    path = write(tmp_path / "c.yaml", dataclasses.replace(config(), **change))
    words = [word for name in folders for word in (f"--{name}", str(folder))]
    args = parse(path, *words, "-o", tmp_path / "out")
    with pytest.raises(Mri2QmapError, match=message):
        args.run(args)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (DenoiserConfig(), "a network for tsmi_noise must be joint"),
        (DenoiserConfig(joint=True, prefilter=True), "must be joint and without prefilter"),
        (DenoiserConfig(joint=True), r"needs re1, im1, re2, im2, \.\.\."),
    ],
)
def test_networks_that_cannot_restore_tsmis(network, message):
    with pytest.raises(Mri2QmapError, match=message):
        TrainingConfig(network=network, task=Task.TSMI_NOISE)


def test_an_unknown_task():
    with pytest.raises(Mri2QmapError, match="task is 'cooking', expected one of weighted, tsmi_"):
        config_from_json('{"task": "cooking"}')


# Inference


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return ConditionalResidualUNet(config().network).eval().requires_grad_(False)


def test_restored_whole_and_back_in_its_units(network):
    tsmi = blocks(2) * 3
    units = TsmiUnits.of(tsmi)
    expected = units.tsmi(restore_images(network, units.images(tsmi), ARTEFACT_SIGMA))
    torch.testing.assert_close(remove_artefacts(network, tsmi), expected, rtol=1e-4, atol=1e-4)


def test_the_prior_keeps_the_units_of_its_start(network):
    tsmi = blocks(2)
    denoise = tsmi_denoiser(network, tsmi, 0.02, torch.Generator())
    other = tsmi * (0.5 * torch.exp(torch.tensor(0.4j)))
    units = TsmiUnits.of(tsmi)
    expected = units.tsmi(restore_images(network, units.images(other), 0.02, flip_average=False))
    torch.testing.assert_close(denoise(other), expected, rtol=1e-4, atol=1e-4)


def test_scores_are_those_of_the_input_for_a_network_that_does_nothing(network):
    class Nothing(ConditionalResidualUNet):
        def forward(self, noisy, *_):
            return noisy

    idle = Nothing(config().network)
    scores = validate_tsmi(idle, [recording(0)], Task.TSMI_NOISE, torch.device("cpu"))
    for (name, sigma), score in scores.items():
        assert name == "TSMI"
        assert score == pytest.approx(-20 * math.log10(sigma), abs=0.15)


def test_models_are_selected_by_their_task(tmp_path, monkeypatch, network):
    from mri2qmap.denoiser import checkpoint

    monkeypatch.setattr(checkpoint, "model_folders", lambda: (tmp_path,))
    info = {"training": {"task": "tsmi_noise"}}
    save_denoiser(tmp_path / "a.safetensors", network, info)
    save_denoiser(tmp_path / "b.safetensors", network, {})
    save_denoiser(tmp_path / "c.safetensors", network, {"training": {"task": "cooking"}})
    (tmp_path / "d.safetensors").write_bytes(b"nonsense")
    assert models_for(Task.TSMI_NOISE) == ["a"]
    assert models_for(Task.WEIGHTED) == ["b"]
    with pytest.raises(Mri2QmapError, match="but weighted is required; available: b"):
        load_denoiser("a")
    with pytest.raises(Mri2QmapError, match="do not form a valid network"):
        load_denoiser("c")
