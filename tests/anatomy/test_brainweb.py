import gzip

import nibabel as nib
import numpy as np
import pytest
from helpers.brainweb_files import (
    GRID,
    fuzzy_model,
    write_minc1,
    write_minc2,
    write_nifti,
    write_raw,
    write_subject,
)
from helpers.phantoms import affine_ras, labels_ras, write_labels

from mri2qmap.anatomy import fraction_maps
from mri2qmap.anatomy.brainweb import map_files, read_fractions
from mri2qmap.anatomy.fraction_maps import RAW_GRIDS, RawGrid, read_tissue_map
from mri2qmap.anatomy.sources import (
    anatomy_hash,
    find_anatomies,
    fraction_anatomy,
    label_anatomy,
    load_anatomy,
)
from mri2qmap.anatomy.tissues import (
    AROUND_FAT,
    CSF,
    DURA,
    FAT,
    GREY_MATTER,
    MARROW,
    MUSCLE,
    TISSUES,
    VESSELS,
    WHITE_MATTER,
)
from mri2qmap.anatomy.voxel_model import PURE, Region, tissue_fractions
from mri2qmap.cli.main import main
from mri2qmap.errors import Mri2QmapError

PRESENT = (CSF, GREY_MATTER, WHITE_MATTER, MUSCLE, VESSELS)


@pytest.fixture(autouse=True)
def small_grid(monkeypatch):
    monkeypatch.setattr(fraction_maps, "RAW_GRIDS", (GRID, RawGrid((4, 5, 6), 1.0, (0, 0, 0))))


WRITERS = {
    "signed bytes": (".rawb", write_raw),
    "unsigned bytes, packed": (".rawb.gz", lambda p, v: write_raw(p, v, signed=False)),
    "MINC 1": (".mnc", write_minc1),
    "MINC 1, packed": (".mnc.gz", write_minc1),
    "MINC 1, another order": (".mnc", lambda p, v: write_minc1(p, v, order="yxz")),
    "MINC 2": (".mnc", write_minc2),
    "MINC 2, packed": (".mnc.gz", write_minc2),
    "MINC 2, to the left": (".mnc", lambda p, v: write_minc2(p, v, flipped=True)),
    "NIfTI": (".nii.gz", write_nifti),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_all_formats_give_the_same_anatomy(tmp_path, kind):
    ending, write = WRITERS[kind]
    folder = tmp_path / "model"
    folder.mkdir()
    for name, values in fuzzy_model().items():
        write(folder / f"subject04_{name}{ending}", values)
    anatomy = load_anatomy(str(folder))
    maps = fuzzy_model()
    names = ("csf_v", "gm_v", "wm_v", "muscles_skin_v", "vessels")
    assert anatomy.tissues == PRESENT
    np.testing.assert_allclose(
        anatomy.fractions, np.stack([maps[name] for name in names]) / 255, atol=1e-6
    )
    np.testing.assert_array_equal(anatomy.brain, np.isin(labels_ras(), (2, 3, 24, 30)))
    np.testing.assert_allclose(anatomy.affine, affine_ras(), atol=1e-9)
    assert anatomy.fractions.dtype == np.float32
    assert anatomy.name == "model"


def test_a_map_defines_the_orientation_of_the_patient(tmp_path):
    """Grey matter is on the right, CSF anterior, the vessel superior."""
    anatomy = load_anatomy(str(write_subject(tmp_path / "s", ending=".mnc")))
    found = tissue_fractions(anatomy, Region.BRAIN, (24, 24, 24), (0.24, 0.24, 0.24))
    z, y, x = np.meshgrid(*[np.arange(24) - 12] * 3, indexing="ij")
    for tissue, axis in ((GREY_MATTER, -x), (CSF, -y), (VESSELS, z)):
        share = found.fractions[found.tissues.index(tissue)]
        assert (share * axis).sum() / share.sum() > 2


def test_grids_of_raw_files_are_those_of_the_models():
    brains, brain = RAW_GRIDS
    assert [np.prod(grid.shape) for grid in RAW_GRIDS] == [56_873_096, 7_109_137]
    np.testing.assert_allclose(brains.affine @ (0, 0, 0, 1), (-90.25, -126.25, -72.25, 1))
    np.testing.assert_allclose(brains.affine @ (361, 433, 361, 1), (90.25, 90.25, 108.25, 1))
    np.testing.assert_allclose(brain.affine @ (90, 126, 72, 1), (0, 0, 0, 1))


def test_small_values_in_air_are_set_to_zero(tmp_path):
    values = np.maximum(fuzzy_model()["vessels"], 1)
    for path in (
        write_raw(tmp_path / "vessels.rawb", values),
        write_raw(tmp_path / "unsigned_vessels.rawb", values, signed=False),
        write_minc1(tmp_path / "vessels.mnc", values),
    ):
        found = read_tissue_map(path).values
        np.testing.assert_allclose(found, fuzzy_model()["vessels"] / 255, atol=1e-6)


def test_formats_of_fractions_may_be_mixed(tmp_path):
    maps = fuzzy_model()
    write_raw(tmp_path / "subject04_gm_v.rawb", maps["gm_v"])
    write_minc1(tmp_path / "subject04_wm_v.mnc.gz", maps["wm_v"])
    image = nib.Nifti1Image(maps["csf_v"] / np.float32(255), affine_ras())
    nib.save(image, tmp_path / "subject04_csf_v.nii")
    tissues, fractions, _ = read_fractions(tmp_path)
    assert tissues == (CSF, GREY_MATTER, WHITE_MATTER)
    expected = np.stack([maps[name] for name in ("csf_v", "gm_v", "wm_v")]) / 255
    np.testing.assert_allclose(fractions, expected, atol=1e-6)


NAMES = {
    "bck_v": None,
    "csf_v": CSF,
    "gm_v": GREY_MATTER,
    "wm_v": WHITE_MATTER,
    "fat_v": FAT,
    "muscles_v": MUSCLE,
    "muscles_skin_v": MUSCLE,
    "skull_v": None,
    "vessels": VESSELS,
    "fat2_v": AROUND_FAT,
    "dura_v": DURA,
    "marrow_v": MARROW,
}
DOWNLOAD_NAMES = {
    "bck": None, "csf": CSF, "gry": GREY_MATTER, "wht": WHITE_MATTER, "fat": FAT, "mus": MUSCLE,
    "m-s": MUSCLE, "skl": None, "ves": VESSELS, "fat2": AROUND_FAT, "dura": DURA, "mrw": MARROW,
}  # fmt: skip
SINGLE_NAMES = {
    "bck": None, "csf": CSF, "gry": GREY_MATTER, "wht": WHITE_MATTER, "fat": FAT, "m+s": MUSCLE,
    "skn": MUSCLE, "skl": None, "gli": GREY_MATTER, "mit": AROUND_FAT,
}  # fmt: skip


@pytest.mark.parametrize(
    ("begin", "names"),
    [
        ("subject04", NAMES),
        ("subject54", DOWNLOAD_NAMES),
        ("phantom_1.0mm_normal", SINGLE_NAMES),
    ],
)
def test_file_names_of_the_brainweb_site(tmp_path, begin, names):
    for name in names:
        (tmp_path / f"{begin}_{name}.mnc.gz").touch()
    for name in ("crisp_v.mnc.gz", "t1w_p4.mnc.gz", "readme.txt"):
        (tmp_path / f"{begin}_{name}").touch()
    for source in (tmp_path, tmp_path / begin):
        found = {path.name: tissue for path, tissue in map_files(source).items()}
        assert found == {f"{begin}_{n}.mnc.gz": t for n, t in names.items() if t is not None}


def broken(name, content):
    def make(folder):
        write_subject(folder)
        for old in folder.glob(f"subject04_{name.split('.')[0]}.*"):
            old.unlink()
        (folder / f"subject04_{name}").write_bytes(content)
        return folder

    return make


def replaced(name, write, values, **options):
    def make(folder):
        write_subject(folder)
        for old in folder.glob(f"subject04_{name.split('.')[0]}.*"):
            old.unlink()
        write(folder / f"subject04_{name}", values(fuzzy_model()["gm_v"]), **options)
        return folder

    return make


def without(name):
    def make(folder):
        write_subject(folder)
        (folder / f"subject04_{name}.rawb").unlink()
        return folder

    return make


def cut(ending, keep):
    def make(folder):
        write_subject(folder, ending=ending)
        path = folder / f"subject04_gm_v{ending}"
        path.write_bytes(path.read_bytes()[:keep])
        return folder

    return make


def elsewhere(folder):
    write_subject(folder)
    (folder / "subject04_wm_v.rawb").unlink()
    image = nib.Nifti1Image(fuzzy_model()["wm_v"], np.diag([10.0, 10.0, 10.0, 1.0]))
    nib.save(image, folder / "subject04_wm_v.nii")
    return folder


def float_map(value):
    def make(folder):
        write_subject(folder, ending=".nii")
        values = (fuzzy_model()["gm_v"] / 255).astype(np.float32)
        values[10, 10, 10] = value
        nib.save(nib.Nifti1Image(values, affine_ras()), folder / "subject04_gm_v.nii")
        return folder

    return make


def two_subjects(folder):
    write_subject(folder)
    return write_subject(folder, "subject05")


def twice(folder):
    write_subject(folder)
    write_minc1(folder / "subject04_gm_v.mnc.gz", fuzzy_model()["gm_v"])
    return folder


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (without("gm_v"), ("no map of grey matter", "add it")),
        (without("csf_v"), ("no map of csf",)),
        (broken("liver_v.rawb", b""), ("liver_v.rawb", "does not contain a tissue", "csf")),
        (two_subjects, ("2 subjects", "name one", "subject04, subject05")),
        (twice, ("subject04_gm_v.mnc.gz and subject04_gm_v.rawb are the same map",)),
        (cut(".rawb", -1), ("gm_v.rawb", "8639 bytes", "8640 (20 x 24 x 18)", "120 (4 x 5 x 6)")),
        (cut(".rawb.gz", -20), ("gm_v.rawb.gz", "cannot be read as raw bytes")),
        (cut(".mnc", -2000), ("gm_v.mnc", "cannot be read as MINC")),
        (cut(".mnc.gz", -20), ("gm_v.mnc.gz", "cannot be read as MINC")),
        (cut(".nii.gz", -20), ("gm_v.nii.gz", "cannot be read as NIfTI")),
        (broken("gm_v.mnc", b"not an image"), ("gm_v.mnc", "cannot be read as MINC")),
        (broken("gm_v.mnc", b"\x89HDF not an image"), ("gm_v.mnc", "cannot be read as MINC")),
        (broken("gm_v.mnc", b""), ("gm_v.mnc", "cannot be read as MINC")),
        (
            replaced("gm_v.rawb", write_raw, lambda v: v[::2]),
            ("gm_v.rawb", "4320 bytes", "truncated"),
        ),
        (
            replaced("gm_v.rawb", write_raw, lambda v: np.full_like(v, 60)),
            ("gm_v.rawb", "corners are 188", "in air"),
        ),
        (
            replaced("gm_v.mnc", write_minc1, lambda v: v, highest=255.0),
            ("gm_v.mnc", "range from 0 to 255", "fractions from 0 to 1"),
        ),
        (
            replaced("gm_v.mnc", write_minc1, lambda v: v[:, :, :-1]),
            ("gm_v.mnc", "(20, 24, 17)", "same 3-D grid"),
        ),
        (elsewhere, ("wm_v.nii", "at (0, 0, 0) mm", "same 3-D grid")),
        (
            replaced("gm_v.nii", write_nifti, lambda v: v),
            ("reach 255", "use one format"),
        ),
        (float_map(-0.1), ("gm_v.nii", "not negative")),
        (float_map(np.nan), ("gm_v.nii", "must be finite")),
        (lambda folder: write_subject(folder) / "subject06", ("no such file or folder",)),
        (lambda folder: write_subject(folder) / "subject04_gm_v.rawb", ("a single tissue",)),
    ],
)
def test_bad_models_are_refused(tmp_path, make, words):
    with pytest.raises(Mri2QmapError) as refusal:
        load_anatomy(str(make(tmp_path / "bad")))
    assert "bad" in str(refusal.value)
    assert all(word in str(refusal.value) for word in words), refusal.value


def test_subjects_of_a_folder(tmp_path):
    write_subject(tmp_path, "subject05", ".mnc.gz")
    write_subject(tmp_path, "subject04")
    write_subject(tmp_path / "converted", "subject06", ".nii.gz")
    write_labels(tmp_path / "head_1.nii.gz")
    (tmp_path / "subject04_crisp_v.nii.gz").touch()
    (tmp_path / "empty").mkdir()
    found = find_anatomies(tmp_path)
    assert sorted(found) == ["converted", "head_1", "subject04", "subject05"]
    first, second, third = (
        load_anatomy(str(found[name])) for name in ("subject04", "subject05", "converted")
    )
    np.testing.assert_allclose(second.fractions, first.fractions, atol=1e-6)
    np.testing.assert_allclose(third.fractions, first.fractions, atol=1e-6)
    assert (first.name, second.name) == ("subject04", "subject05")
    assert list(find_anatomies(tmp_path, ["subject05", "head_1"])) == ["subject05", "head_1"]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["subject09", "head"], "--subjects subject09 head: not in .* available: subject04"),
        ([], "subject04 exists twice"),
    ],
)
def test_missing_and_duplicate_subjects_are_refused(tmp_path, names, words):
    write_subject(tmp_path)
    if not names:
        write_subject(tmp_path / "subject04")
    with pytest.raises(Mri2QmapError, match=words):
        find_anatomies(tmp_path, names)


def test_a_subject_and_a_label_map_with_the_same_name(tmp_path):
    write_subject(tmp_path)
    write_labels(tmp_path / "subject04.nii.gz")
    with pytest.raises(Mri2QmapError, match=r"twice, as subject04 and subject04\.nii\.gz"):
        find_anatomies(tmp_path)


def test_folder_without_anatomies(tmp_path):
    with pytest.raises(Mri2QmapError, match=r"no label maps .* and no BrainWeb subjects"):
        find_anatomies(tmp_path)
    with pytest.raises(Mri2QmapError, match="not a folder"):
        find_anatomies(tmp_path / "none")


def test_the_hash_depends_on_the_files(tmp_path):
    write_subject(tmp_path)
    source = str(tmp_path / "subject04")
    before = anatomy_hash(source)
    assert len(before) == 12
    write_subject(tmp_path, "subject05")
    (tmp_path / "subject04_crisp_v.rawb").write_bytes(b"other")
    assert anatomy_hash(source) == before
    values = fuzzy_model()["gm_v"]
    values[14, 10, 10] = 254
    write_raw(tmp_path / "subject04_gm_v.rawb", values)
    assert anatomy_hash(source) != before
    assert anatomy_hash("icbm") == anatomy_hash(str(tmp_path / "none")) == ""


def test_simulate_accepts_a_subject(tmp_path, capsys):
    write_subject(tmp_path / "brainweb", ending=".mnc.gz")
    write_subject(tmp_path / "brainweb", "subject05")
    arguments = ["simulate", str(tmp_path / "scan.h5"), "--truth", str(tmp_path / "truth")]
    arguments += ["--matrix", "16", "--fov", "0.24", "--coils", "1", "--frames", "12", "--anatomy"]
    assert main([*arguments, str(tmp_path / "brainweb")]) == 2
    assert "subject04, subject05" in capsys.readouterr().err
    assert main([*arguments, str(tmp_path / "brainweb/subject04")]) == 0
    grey = nib.load(tmp_path / "truth/grey_matter_mask.nii.gz")
    voxels = np.argwhere(np.asarray(grey.dataobj))
    assert len(voxels) > 20
    index = nib.affines.apply_affine(np.linalg.inv(affine_ras()) @ grey.affine, voxels)
    np.testing.assert_array_equal(labels_ras()[tuple(np.rint(index).astype(int).T)], 3)


def test_tissue_values_are_those_of_the_supplement():
    """T1 [ms], T2 [ms] and proton density of S.II; 85 and 75 of 100 are grey and white matter."""
    assert {t.name: (1e3 * t.t1, 1e3 * t.t2, t.proton_density) for t in TISSUES} == {
        "csf": (4000, 1990, 1),
        "grey_matter": (1250, 90, 0.85),
        "white_matter": (750, 70, 0.75),
        "fat": (250, 70, 1),
        "muscle_skin": (1485, 50, 1),
        "vessels": (1960, 200, 1.5),
        "around_fat": (250, 70, 1),
        "dura": (990, 150, 1),
        "bone_marrow": (587, 50, 1),
    }


def test_masks_contain_voxels_filled_to_more_than_90_per_cent():
    """Eight voxels of a model at 0.5 mm form one voxel of the scan at 1 mm."""
    along_x = np.array([1, 0.85, 1, 0.75, 0.5, 0.6], dtype=np.float32)
    grey = along_x[:, None, None] * np.ones((6, 2, 2), np.float32)
    affine = np.diag([0.5, 0.5, 0.5, 1.0])
    fractions = np.stack([grey, 1 - grey])
    anatomy = fraction_anatomy((GREY_MATTER, WHITE_MATTER), fractions, affine, "steps")
    found = tissue_fractions(anatomy, Region.HEAD, (1, 1, 3), (0.001, 0.001, 0.003))
    # x of the scan increases to the left.
    np.testing.assert_allclose(found.fractions[0, 0, 0, ::-1], (0.925, 0.875, 0.55), atol=1e-6)
    assert found.pure(GREY_MATTER)[0, 0, ::-1].tolist() == [True, False, False]
    assert PURE == 0.9


def test_compressed_files_are_recognised_by_content(tmp_path):
    """Browsers decompress downloads without renaming them; users rename them."""
    values = fuzzy_model()["gm_v"]
    plain = write_minc1(tmp_path / "a_gm.mnc", values)
    (tmp_path / "b_gm.mnc.gz").write_bytes(plain.read_bytes())
    (tmp_path / "c_gm.mnc").write_bytes(gzip.compress(plain.read_bytes()))
    expected = read_tissue_map(plain).values
    for name in ("b_gm.mnc.gz", "c_gm.mnc"):
        np.testing.assert_array_equal(read_tissue_map(tmp_path / name).values, expected)


def test_the_crisp_phantom_and_the_fuzzy_one_agree(tmp_path):
    crisp = tissue_fractions(
        label_anatomy(labels_ras(), affine_ras(), "labels"),
        Region.BRAIN,
        (24, 24, 24),
        (0.24, 0.24, 0.24),
    )
    fuzzy = tissue_fractions(
        load_anatomy(str(write_subject(tmp_path / "s"))),
        Region.BRAIN,
        (24, 24, 24),
        (0.24, 0.24, 0.24),
    )
    for tissue in (CSF, VESSELS):
        np.testing.assert_allclose(
            fuzzy.fractions[fuzzy.tissues.index(tissue)],
            crisp.fractions[crisp.tissues.index(tissue)],
            atol=1e-6,
        )
    assert fuzzy.geometry.position == pytest.approx(crisp.geometry.position)


def test_a_subject_and_a_folder_of_quantitative_maps_with_the_same_name(tmp_path):
    write_subject(tmp_path)
    (tmp_path / "subject04").mkdir()
    (tmp_path / "subject04" / "T1map.nii.gz").touch()
    with pytest.raises(Mri2QmapError, match="subject04 exists twice"):
        find_anatomies(tmp_path)
