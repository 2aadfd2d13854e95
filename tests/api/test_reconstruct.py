"""`mri2qmap.reconstruct` from every kind of scan; what it gives and what it refuses."""

import copy
import dataclasses
import io
import json
import pickle
import sys
from pathlib import Path

import ismrmrd
import nibabel
import numpy as np
import pydicom
import pytest
import torch
from helpers.scans import acquisitions, external, header, pipeline_xml, write_scan

import mri2qmap
from mri2qmap.api.reconstruction import reconstruct_to_folder
from mri2qmap.files.mrd_file import MrdFile
from mri2qmap.pipeline.progress import Reporter

PIPELINE = "svdmrf"
NIFTI = {
    "t1": "T1map",
    "t2": "T2map",
    "proton_density": "PDmap",
    "match_quality": "matchquality",
    "T1w": "T1w",
    "T2w": "T2w",
    "PDw": "PDw",
}


def all_equal(maps: mri2qmap.Maps, other: mri2qmap.Maps) -> bool:
    assert maps.volumes.keys() == other.volumes.keys()
    return all(np.array_equal(v, other.volumes[name]) for name, v in maps.volumes.items())


def test_the_maps_are_those_that_replay_writes(maps, files):
    assert maps.volumes.keys() == NIFTI.keys()
    for name, stem in NIFTI.items():
        image = nibabel.load(files / f"maps/nifti/{stem}.nii.gz")
        np.testing.assert_array_equal(np.abs(maps.volumes[name]), np.asarray(image.dataobj).T)
        np.testing.assert_allclose(maps.affine, image.affine, atol=1e-4)
    assert maps.proton_density.dtype == np.complex64
    assert np.iscomplex(maps.proton_density).any()
    assert maps.t1.shape == maps.geometry.matrix == (14, 12, 16)
    assert maps.units == {
        **dict.fromkeys(NIFTI, "a.u."), "t1": "s", "t2": "s", "match_quality": "1",
    }  # fmt: skip
    assert 0.3 < np.median(maps.t1[maps.t1 > 0]) < 3  # seconds


def content(path: Path) -> bytes:
    """Bytes of a file, without the time of day at which a parametric map was made."""
    if path.parent.name != "parametric":
        return path.read_bytes()
    dataset = pydicom.dcmread(path)
    del dataset.ContentDate, dataset.ContentTime
    made = io.BytesIO()
    dataset.save_as(made)
    return made.getvalue()


def test_saved_maps_are_those_that_replay_writes(maps, files, tmp_path):
    assert maps.save(tmp_path / "saved") == tmp_path / "saved"
    written = {p.relative_to(files / "maps") for p in (files / "maps").rglob("*") if p.is_file()}
    saved = {p.relative_to(tmp_path / "saved") for p in tmp_path.rglob("*") if p.is_file()}
    assert saved == written
    measured = {Path("run.json"), Path("mrd.h5"), Path("report.html"), Path("report.png")}
    assert measured <= written
    for path in written - measured:
        assert content(tmp_path / "saved" / path) == content(files / "maps" / path)
    records = [
        json.loads((f / "run.json").read_text()) for f in (tmp_path / "saved", files / "maps")
    ]
    for record in records:
        for name in ("started", "source", "log", "files", "versions", "sha256_without_this_line"):
            assert record.pop(name)
        for gadget in record["gadgets"]:
            gadget.pop("busy_s")
        for owner in (record, *record["gadgets"]):
            for name in [n for n in owner if n.endswith(("_s", "_bytes", "first_map_s"))]:
                owner.pop(name)
    assert records[0] == records[1]
    assert [gadget["name"] for gadget in records[0]["gadgets"]][-1] == "parametric_maps"


def test_mrd_images_are_those_that_replay_writes(maps, files, tmp_path):
    maps.save(tmp_path / "saved")
    contents = []
    for folder in (tmp_path / "saved", files / "maps"):
        dataset = ismrmrd.Dataset(str(folder / "mrd.h5"), mode="r")
        groups = sorted(name for name in dataset.list() if name.startswith("image_"))
        images = [dataset.read_image(group, 0) for group in groups]
        contents.append(
            [(bytes(i.getHead()), i.data.tobytes(), i.attribute_string) for i in images]
        )
        dataset.close()
    assert contents[0] == contents[1]
    assert len(contents[0]) == 7


def test_the_log_of_saved_maps_has_no_line_twice(maps, files, tmp_path):
    maps.save(tmp_path / "saved")
    texts = [
        [line.split(" ", 1)[1] for line in json.loads((f / "run.json").read_text())["log"]]
        for f in (tmp_path / "saved", files / "maps")
    ]
    texts = [[line for line in lines if "memory: " not in line] for lines in texts]  # varies
    assert sorted(texts[0]) == sorted(texts[1])
    assert any("noise scans" in line for line in texts[0])
    assert maps.log


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copied_and_pickled_maps_are_saved_as_the_maps(copied, maps, files, tmp_path):
    made = mri2qmap.reconstruct(files / "scan.h5", PIPELINE, progress=lambda *step: None)
    found = copied(made)
    assert all_equal(found, maps)
    assert found.geometry == maps.geometry
    with pytest.raises(ValueError, match="read-only"):
        found.t1[0, 0, 0] = 1
    found.save(tmp_path / "maps")
    for path in (files / "maps/nifti").iterdir():
        assert content(tmp_path / "maps/nifti" / path.name) == content(path)
    record, saved = found.record, json.loads((tmp_path / "maps/run.json").read_text())
    assert saved["log"][: len(record["log"])] == record["log"]
    assert saved["provenance"] == json.loads((files / "maps/run.json").read_text())["provenance"]
    with pytest.raises(mri2qmap.Mri2QmapError, match="contains the scan"):
        found.save(files, overwrite=True)


def test_maps_of_a_gpu_are_not_saved_without_one(maps, tmp_path, monkeypatch):
    moved = pickle.loads(pickle.dumps(maps))
    host = moved._write._host
    host.scan = dataclasses.replace(host.scan, device=torch.device("cuda:1"))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(mri2qmap.Mri2QmapError, match=r"on cuda:1.*no GPU here"):
        moved.save(tmp_path / "maps")


def in_file(simulated, files):
    return str(files / "scan.h5")


def in_memory(simulated, files):
    with MrdFile(files / "scan.h5") as file:
        return mri2qmap.Scan(file.header, list(file.items()))


def parsed(simulated, files):
    with MrdFile(files / "scan.h5") as file:
        header = ismrmrd.xsd.CreateFromDocument(file.header)
        return mri2qmap.Scan(header, iter(list(file.items())), "arriving")


@pytest.mark.parametrize("make", [in_file, in_memory, parsed, lambda simulated, files: simulated])
def test_every_kind_of_scan_gives_the_same_maps(make, simulated, files, maps):
    scan = make(simulated, files)
    for _ in range(1 if make is parsed else 2):  # an iterator is consumed, a list is not changed
        found = mri2qmap.reconstruct(scan, PIPELINE)
        assert all_equal(found, maps)
        assert found.record["provenance"] == maps.record["provenance"]


def test_an_open_data_set_stays_open(files, maps):
    with ismrmrd.Dataset(str(files / "scan.h5"), mode="r") as dataset:
        found = mri2qmap.reconstruct(dataset, PIPELINE)
        assert dataset.number_of_acquisitions() > 0
    assert all_equal(found, maps)


def test_the_record_says_what_was_done(maps, files):
    record = maps.record
    assert record["input"]["file"] == str(files / "scan.h5")
    assert record["versions"]["mri2qmap"] == mri2qmap.__version__
    assert record["total_s"] > 0
    assert maps.settings["subspace_compression"]["output"] == "gridded"
    assert json.loads(json.dumps(record)) == record


def test_settings_are_python_values_of_either_form(files):
    changed = mri2qmap.reconstruct(
        files / "scan.h5",
        PIPELINE,
        settings={
            "parametric_maps.mask_threshold": 0,
            "combined_matching": {"uncertainty": True, "tr_t1w": np.float32(0.75)},
        },
    )
    assert changed.settings["combined_matching"]["tr_t1w"] == 0.75
    masked = mri2qmap.reconstruct(
        files / "scan.h5", PIPELINE, settings={"parametric_maps": {"mask_threshold": 0.3}}
    )
    assert (changed.t1 > 0).sum() > (masked.t1 > 0).sum()
    assert changed.t1_std is not None
    assert changed.units["t1_std"] == "s"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"combined_matching.uncertanty": True}, 'did you mean "uncertainty"'),
        ({"combined_match.uncertainty": True}, 'did you mean "combined_matching"'),
        ({"combined_matching": {"uncertainty": "perhaps"}}, "true or false is expected"),
        ({"combined_matching": {"uncertainty": None}}, "uncertainty: None is not a value; leave"),
        ({"parametric_maps.dicom": None}, "dicom: None is not a value; leave the setting out"),
        ({"parametric_maps": {"lut": [None]}}, "lut: None is not a value"),
        ("a.b=1", "a mapping such as .* got str"),
        ("", "a mapping such as .* got str"),
        (["a.b=1"], "a mapping such as .* got list"),
        ({3: 4}, "settings: 3: .*GADGET.PROPERTY"),
        ({None: {"x": 1}}, '"None" is not known'),
        ({"coil_sensitivity.virtual_coils": 2.5}, "a whole number is expected"),
        ({"combined_matching.uncertainty_factor": float("nan")}, "a finite number is expected"),
        ({"combined_matching.uncertainty_factor": -1}, "must be positive"),
        ({"combined_matching.uncertainty": {1}}, "got set"),
        ({"iterations": 5}, "GADGET.PROPERTY"),
        ({"combined_matching": 5}, "GADGET.PROPERTY"),
        ({"pnp_admm.": 5}, "GADGET.PROPERTY"),
        ({"combined_matching.b1": 1, "combined_matching": {"b1": 1}}, "given twice"),
    ],
)
def test_wrong_settings_are_refused(files, settings, words):
    with pytest.raises(mri2qmap.Mri2QmapError, match=words):
        mri2qmap.reconstruct(files / "scan.h5", PIPELINE, settings=settings)


def test_progress_goes_to_a_function(files):
    calls = []
    mri2qmap.reconstruct(files / "scan.h5", PIPELINE, progress=lambda *call: calls.append(call))
    reading = [(done, total) for stage, done, total in calls if stage == "acquisitions"]
    total = reading[0][1]
    assert reading == [(done, total) for done in range(total + 1)]


def test_a_progress_function_can_end_the_run(files):
    def stop(stage, done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mri2qmap.reconstruct(files / "scan.h5", PIPELINE, progress=stop)


def test_progress_true_shows_log_lines_and_false_nothing(files, capsys):
    silent = mri2qmap.reconstruct(files / "scan.h5", PIPELINE, progress=False)
    assert capsys.readouterr() == ("", "")
    assert silent.log
    mri2qmap.reconstruct(files / "scan.h5", PIPELINE, progress=True)
    assert "acquisitions" in capsys.readouterr().err


def test_a_reporter_takes_the_log(files):
    class Mine(Reporter):
        def __init__(self):
            self.taken = []

        def emit(self, line):
            self.taken.append(line)

    mine = Mine()
    mri2qmap.reconstruct(files / "scan.h5", PIPELINE, progress=mine)
    assert any("running on cpu" in line for line in mine.taken)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scan": "none.h5"}, "none.h5: the file does not exist"),
        ({"scan": 5}, "got int"),
        (
            {"scan": mri2qmap.Scan(header(angles="10 20 30 40 50 60", limit=5), ["x"])},
            "item 0 is of the type str",
        ),
        *(
            ({"scan": mri2qmap.Scan(header(angles="10 20 30 40 50 60", limit=5), empty)}, words)
            for empty, words in (
                ([], "there are no acquisitions: .*consumed before; a list"),
                (iter(()), "there are no acquisitions: .*consumed before; a list"),
                (None, "its acquisitions must be a list or an iterator .* got NoneType$"),
                (object.__new__(ismrmrd.Dataset), "got Dataset; give the data set itself"),
            )
        ),
        *(({"group": group}, "group: a name is expected, got") for group in (3, b"dataset", True)),
        *(({"pipeline": name}, "pipeline: .* is expected, got") for name in (None, 3, ["svdmrf"])),
        ({"scan": mri2qmap.Scan(5, [])}, "its header must be XML"),
        ({"scan": mri2qmap.Scan("<ismrmrdHeader", [])}, "not well-formed"),
        ({"scan": mri2qmap.Scan(header(), []), "group": "dataset"}, "only a file has groups"),
        ({"pipeline": "nonsense"}, "'nonsense'"),
        ({"device": "abacus"}, "'abacus'"),
        ({"memory": 1000}, "0.0 GiB"),
        *(
            ({"memory": value}, r"memory .*a positive whole number of bytes")
            for value in (0, -1, True, np.nan, np.inf, "1", 1.5, 2**63, [1], 1j)
        ),
        ({"progress": "yes"}, "progress: True"),
    ],
)
def test_wrong_arguments_are_refused(files, change, words):
    arguments = {"scan": files / "scan.h5", "pipeline": PIPELINE, **change}
    with pytest.raises(mri2qmap.Mri2QmapError, match=words):
        mri2qmap.reconstruct(**arguments)


@pytest.mark.parametrize("folder", [None, 3, b"x", ["maps"]])
def test_an_output_is_a_path(folder, maps, simulated, files):
    words = f"a path is expected, got {type(folder).__name__}"
    for save in (
        maps.save,
        simulated.save,
        lambda place: reconstruct_to_folder(files / "scan.h5", place, PIPELINE),
    ):
        with pytest.raises(mri2qmap.Mri2QmapError, match=words):
            save(folder)
    if folder is not None:
        with pytest.raises(mri2qmap.Mri2QmapError, match=f"truth: {words}"):
            simulated.save("scan.h5", folder)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ((1, 2, 3), r"maps: t1: an array of three axes \(z, y, x\) is expected, got int"),
        ((np.ones((2, 2)),) * 3, r"maps: t1: .* got \(2, 2\)"),
        ((np.ones((2, 2, 2)), np.ones((2, 2, 3)), np.ones((2, 2, 2))), "maps: t2 has the matrix"),
        ((np.ones((2, 2, 2)), np.ones((2, 2, 2)), None), "maps: proton_density: .* got NoneType"),
    ],
)
def test_maps_are_arrays_of_one_matrix(arrays, words):
    with pytest.raises(mri2qmap.Mri2QmapError, match=words):
        mri2qmap.Maps(*arrays)


def test_scans_can_be_shown_in_one_line(simulated):
    assert repr(simulated.scan).startswith("<Scan 'simulated scan of")
    assert repr(mri2qmap.Scan(header(), [1, 2], "mine")) == "<Scan 'mine': 2 acquisitions>"
    assert repr(mri2qmap.Scan(header(), iter([]))) == (
        "<Scan 'scan in memory': arriving acquisitions>"
    )


def test_a_closed_data_set_is_refused(files):
    dataset = ismrmrd.Dataset(str(files / "scan.h5"), mode="r")
    dataset.close()
    with pytest.raises(mri2qmap.Mri2QmapError, match="closed"):
        mri2qmap.reconstruct(dataset, PIPELINE)


def test_what_dicom_cannot_hold_is_logged_before_the_run_and_once(files, tmp_path):
    with MrdFile(files / "scan.h5") as file:
        weight = b"</patientName><patientWeight_kg>71500</patientWeight_kg>"
        xml = file.header.replace(b"</patientName>", weight)
        items = list(file.items())
    assert xml != file.header
    lines = []

    class Mine(Reporter):
        def emit(self, line):
            lines.append(line)

    def begin():
        assert any("patientWeight_kg" in line for line in lines)
        yield from items

    maps = mri2qmap.reconstruct(mri2qmap.Scan(xml, begin()), PIPELINE, progress=Mine())
    maps.save(tmp_path / "maps")
    assert sum("patientWeight_kg" in line for line in lines) == 1


def test_a_pipeline_without_the_last_gadget_is_refused(tmp_path, fake_gadgets):
    scan = write_scan(tmp_path / "scan.h5")
    (tmp_path / "short.xml").write_text(pipeline_xml(external("coil_sensitivity")))
    with pytest.raises(mri2qmap.Mri2QmapError, match="its last gadget must be parametric_maps"):
        mri2qmap.reconstruct(scan, tmp_path / "short.xml")


def test_maps_of_a_users_own_pipeline(tmp_path, maps_pipeline):
    scan = mri2qmap.Scan(header(), acquisitions())
    found = mri2qmap.reconstruct(scan, maps_pipeline)
    assert np.all(found.t1 == 1)
    assert found.t1.shape == (8, 8, 8)
    found.save(tmp_path / "maps")
    assert (tmp_path / "maps/nifti/T1map.nii.gz").exists()


def test_saving_never_replaces_what_is_not_its_own(maps, files, tmp_path):
    folder = tmp_path / "maps"
    maps.save(folder)
    with pytest.raises(mri2qmap.Mri2QmapError, match="exists already"):
        maps.save(folder)
    maps.save(folder, overwrite=True)
    (folder / "mine").touch()
    with pytest.raises(mri2qmap.Mri2QmapError, match="not among what this program wrote"):
        maps.save(folder, overwrite=True)
    with pytest.raises(mri2qmap.Mri2QmapError, match="contains the scan"):
        maps.save(files, overwrite=True)


def test_changed_maps_cannot_be_saved_as_if_they_were_reconstructed(maps, tmp_path):
    with pytest.raises(ValueError, match="read-only"):
        maps.t1[0, 0, 0] = 1
    changed = dataclasses.replace(maps, t1=2 * maps.t1)
    with pytest.raises(mri2qmap.Mri2QmapError, match=r"not made by mri2qmap\.reconstruct"):
        changed.save(tmp_path / "maps")
    assert not list(tmp_path.iterdir())


def test_a_figure_has_units_and_planes(maps, tmp_path):
    figure = maps.plot()
    words = " ".join(
        [axes.get_title() for axes in figure.axes] + [axes.get_ylabel() for axes in figure.axes]
    )
    for word in ("T1 [ms]", "T2 [ms]", "|PD| [a.u.]", "axial", "coronal", "sagittal"):
        assert word in words
    figure.savefig(tmp_path / "maps.png")
    assert (tmp_path / "maps.png").stat().st_size > 5000
    assert figure._repr_png_().startswith(b"\x89PNG")
    one = maps.plot(["T1w"])
    assert len(one.axes) == 4
    for names, words in (
        (["t1", "t3"], "t3 is not among the volumes"),
        ([None], "None is not among the volumes"),
        ([["t1"]], "is not among the volumes"),
        ([], "no volume is named"),
        (3, "a list of names is expected, got 3"),
        ("t1", "a list of names is expected, got 't1'"),
    ):
        with pytest.raises(mri2qmap.Mri2QmapError, match=words):
            maps.plot(names)


def test_without_matplotlib_the_extra_is_named(maps, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(mri2qmap.Mri2QmapError, match=r"pip install 'mri2qmap\[demo\]'"):
        maps.plot()


def test_maps_can_be_shown_in_one_line(maps):
    assert repr(maps).startswith("<Maps 14 x 12 x 16 (z, y, x): t1, t2, proton_density")
    assert io.StringIO(repr(maps)).read().count("\n") == 0
