"""Tissue parameters of the paper's BrainWeb phantom, and the labels and files of each tissue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Tissue:
    """Relaxation times [s] and proton density (relative to water) of one tissue."""

    name: str
    t1: float
    t2: float
    proton_density: float


CSF = Tissue("csf", 4.0, 1.99, 1.0)
GREY_MATTER = Tissue("grey_matter", 1.25, 0.09, 0.85)
WHITE_MATTER = Tissue("white_matter", 0.75, 0.07, 0.75)
FAT = Tissue("fat", 0.25, 0.07, 1.0)
MUSCLE = Tissue("muscle_skin", 1.485, 0.05, 1.0)
VESSELS = Tissue("vessels", 1.96, 0.2, 1.5)
AROUND_FAT = Tissue("around_fat", 0.25, 0.07, 1.0)
DURA = Tissue("dura", 0.99, 0.15, 1.0)
MARROW = Tissue("bone_marrow", 0.587, 0.05, 1.0)

TISSUES = (CSF, GREY_MATTER, WHITE_MATTER, FAT, MUSCLE, VESSELS, AROUND_FAT, DURA, MARROW)
"""Supplement S.II of the paper. Background and compact bone give no signal and are omitted."""

BRAIN_TISSUES = (CSF, GREY_MATTER, WHITE_MATTER, VESSELS)

FIRST_LABEL_OUTSIDE_BRAIN = 500

_LABELS: tuple[tuple[Tissue | None, tuple[int, ...]], ...] = (
    # Background and compact bone; air sinuses and their walls.
    (None, (0, 515, 509)),
    # Ventricles, choroid plexus (31, 63, and 136, 137, 163, 164 on ventricle walls), sulcal CSF;
    # 506 is at the position of the eyeballs.
    (CSF, (4, 5, 14, 15, 24, 31, 43, 44, 63, 72, 136, 137, 163, 164, 506)),
    # 512 is below the brain stem: spinal cord.
    (WHITE_MATTER, (2, 41, 7, 46, 16, 25, 57, 77, 85, 512)),
    (
        GREY_MATTER,
        (3, 42, 8, 47, 10, 49, 11, 50, 12, 51, 13, 52, 17, 53, 18, 54, 26, 58, 28, 60),
    ),
    (VESSELS, (30, 62)),
    (MUSCLE, (502, 507, 511, 530)),
    (FAT, (508,)),
    (DURA, (514,)),
    (MARROW, (516,)),
)

LABEL_TISSUES: Mapping[int, Tissue | None] = {
    label: tissue for tissue, labels in _LABELS for label in labels
}
"""Tissue of each label; None for no signal.

Labels below 500 are those of FreeSurfer. Labels from 500 on are extra-cerebral clusters of the
SynthSeg training label maps (github.com/BBillot/SynthSeg), assigned by their position.
"""

BRAINWEB_CLASSES: tuple[Tissue | None, ...] = (
    None,
    CSF,
    GREY_MATTER,
    WHITE_MATTER,
    FAT,
    MUSCLE,
    MUSCLE,
    None,
    VESSELS,
    AROUND_FAT,
    DURA,
    MARROW,
)
"""Classes of BrainWeb's fuzzy models of 20 normal brains, in order: background, CSF, grey matter,
white matter, fat, muscle, muscle and skin, skull, vessels, around fat, dura, marrow."""

FILE_TOKENS: Mapping[str, Tissue | None] = {
    "bck": None,
    "background": None,
    "skull": None,
    "skl": None,
    "bone": None,
    "csf": CSF,
    "gm": GREY_MATTER,
    "gry": GREY_MATTER,
    "gray": GREY_MATTER,
    "grey": GREY_MATTER,
    "gli": GREY_MATTER,
    "wm": WHITE_MATTER,
    "wht": WHITE_MATTER,
    "white": WHITE_MATTER,
    "fat": FAT,
    "fat2": AROUND_FAT,
    "around": AROUND_FAT,
    "mit": AROUND_FAT,
    "muscle": MUSCLE,
    "muscles": MUSCLE,
    "mus": MUSCLE,
    "m+s": MUSCLE,
    "m-s": MUSCLE,
    "skin": MUSCLE,
    "skn": MUSCLE,
    "vessels": VESSELS,
    "ves": VESSELS,
    "dura": DURA,
    "marrow": MARROW,
    "mrw": MARROW,
}
"""Words in file names and their tissues; "around" takes precedence over "fat".

BrainWeb's 20 brains use bck, csf, gm, wm, fat, muscles, muscles_skin, skull, vessels, fat2 (around
fat), dura and marrow; its download form uses bck, csf, gry, wht, fat, mus, m-s, skl, ves, fat2,
dura and mrw. The single brain uses bck, csf, gry, wht, fat, m+s, skn, skl, gli (glial matter, with
the values of grey matter) and mit (connective tissue, the name there for the tissue around fat).
"""

NO_TISSUE_MAP = frozenset({"crisp", "t1w"})
"""Words in the names of BrainWeb's discrete models and images, which are not tissue maps."""
