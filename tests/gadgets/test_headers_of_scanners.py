"""Whole reconstructions of a scan whose file and header are as converters write them."""

import re
import shutil
import struct

import h5py
import ismrmrd
import nibabel
import numpy as np
import pydicom
import pytest
from ismrmrd.serialization import ProtocolSerializer

from mri2qmap.cli.main import main

QUICK = ("--set", "combined_matching.atom_step=0.2", "--set", "parametric_maps.dicom=classic")
WITHOUT_CONTENT = (
    "<subjectInformation><patientName>Ada</patientName><patientWeight_kg></patientWeight_kg>"
    "<patientHeight_m/><patientBirthdate> </patientBirthdate><patientGender/></subjectInformation>"
    "<studyInformation><studyDate/><studyTime/></studyInformation>"
    "<measurementInformation><patientPosition/><protocolName>mrf</protocolName>"
    "</measurementInformation><acquisitionSystemInformation><systemFieldStrength_T/>"
    "</acquisitionSystemInformation>"
    "<experimentalConditions><H1resonanceFrequency_Hz/></experimentalConditions>"
)


def replay(scan, output, *more):
    return main(["replay", str(scan), "-p", "svdmrf", "-o", str(output), *QUICK, *more])


def volume(output, name):
    return nibabel.load(output / f"nifti/{name}.nii.gz").get_fdata()


def stored_header(path) -> str:
    with h5py.File(path) as file:
        return bytes(file["dataset/xml"][0]).decode()


def emptied(document: str) -> str:
    """The header without content in any element that the maps do not need."""
    first = document.index("<subjectInformation>")
    return document[:first] + WITHOUT_CONTENT + document[document.index("<encoding>") :]


def as_hdf5(path, scan, document):
    """Without a namespace, in a group of another name."""
    shutil.copy(scan, path)
    with h5py.File(path, "r+") as file:
        file["dataset/xml"][0] = re.sub(r'xmlns(:\w+)?="[^"]*"', "", document).encode()
        file.move("dataset", "meas_1/raw")


def as_stream(path, scan, document):
    """In UTF-16, as no C string could be."""
    content = document.replace('encoding="ascii"', 'encoding="UTF-16"').encode("utf-16")
    dataset = ismrmrd.Dataset(str(scan), mode="r")
    with path.open("wb") as file:
        file.write(struct.pack("<HI", 3, len(content)) + content)
        serializer = ProtocolSerializer(file)
        for number in range(dataset.number_of_acquisitions()):
            serializer.serialize(dataset.read_acquisition(number))
        serializer.close()
    dataset.close()


@pytest.fixture(scope="module")
def expected(noisy_scan, tmp_path_factory):
    scan = noisy_scan[3]
    output = tmp_path_factory.mktemp("plain") / "maps"
    assert replay(scan, output) == 0
    return scan, output


@pytest.mark.parametrize("write", [as_hdf5, as_stream])
def test_the_maps_are_those_of_a_full_header(write, expected, tmp_path):
    scan, plain = expected
    write(tmp_path / "scan", scan, emptied(stored_header(scan)))
    output = tmp_path / "maps"
    assert replay(tmp_path / "scan", output) == 0
    for name in ("T1map", "T2map", "PDmap"):
        np.testing.assert_array_equal(volume(output, name), volume(plain, name))
    (first, *_) = sorted((output / "dicom/T1map").iterdir())
    dataset = pydicom.dcmread(first)
    assert dataset.PatientName == "Ada"
    assert dataset.ProtocolName == "mrf"
    for keyword in ("PatientWeight", "PatientSize", "ImagingFrequency", "MagneticFieldStrength"):
        assert keyword not in dataset
    for keyword in ("PatientPosition", "PatientBirthDate", "StudyDate", "PatientSex"):
        assert dataset[keyword].value in ("", None)
