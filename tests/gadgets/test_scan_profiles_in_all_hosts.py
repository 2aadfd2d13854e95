"""A scan in another convention, converted by a client, a server or the nodes of Gadgetron."""

import json
from pathlib import Path

import ismrmrd
import nibabel
import numpy as np
import pytest
from gadgets.test_hosts_agree import maps
from helpers.chain_server import Chain
from helpers.conventions import foreign_acquisition, foreign_header
from helpers.live import running_worker, scan_server

from mri2qmap.cli.main import main
from mri2qmap.files.mrd_file import MrdFile
from mri2qmap.hosts.client import RemoteReconstruction
from mri2qmap.hosts.connecting import connect
from mri2qmap.hosts.in_process import InProcessHost
from mri2qmap.hosts.protocol import ConfigDocument
from mri2qmap.pipeline.acquisition_checks import checked_acquisitions
from mri2qmap.pipeline.pipeline_file import parse_pipeline, pipeline_document
from mri2qmap.pipeline.scan_header import ScanInfo
from mri2qmap.pipeline.scan_profile import ScanProfile
from mri2qmap.pipeline.scan_profile_files import properties_of_profile
from mri2qmap.pipeline.scan_section import set_scan_sections
from mri2qmap.pipeline.server_pipeline import server_pipeline
from mri2qmap.pipeline.standard_scan import standard_scan
from mri2qmap.pipeline.xml_document import Element, parse_xml, xml_bytes

QUICK = {"combined_matching": {"atom_step": "0.2"}, "parametric_maps": {"dicom": "none"}}
NAMES = ("T1map", "T2map", "PDmap")


@pytest.fixture(scope="module")
def foreign(noisy_scan, tmp_path_factory):
    """Profile, header and items of the scan in its convention, its file, and the expected maps."""
    scan, items, _, path = noisy_scan
    host = InProcessHost(parse_pipeline(document(), "svdmrf", "svdmrf.xml"), scan)
    expected = maps(host.run(checked_acquisitions(items, scan)))
    profile = ScanProfile(
        name="foreign",
        frame_counter="repetition",
        first_frame=1,
        group_counter="user_1",
        encoding=1,
        trajectory_units="cycles/FOV",
        trajectory_axes=("-z", "x", "y"),
        flip_angles=tuple(scan.header.sequenceParameters.flipAngle_deg),
    )
    with MrdFile(path) as file:
        header = ismrmrd.xsd.CreateFromDocument(foreign_header(file.header, profile))
    header.encoding *= 2
    header.sequenceParameters.flipAngle_deg = [10.0]
    header = ismrmrd.xsd.ToXML(header)
    items = [foreign_acquisition(a, profile, scan) for a in items]
    file = tmp_path_factory.mktemp("foreign") / "scan.h5"
    dataset = ismrmrd.Dataset(str(file))
    dataset.write_xml_header(header)
    for item in items:
        dataset.append_acquisition(item)
    dataset.close()
    return profile, header, items, file, expected


def document(profile: ScanProfile | None = None) -> bytes:
    """The pipeline, with a section where a file of the user has it."""
    content = pipeline_document("svdmrf", QUICK)
    if profile is None:
        return content
    root = parse_xml(content, "svdmrf")
    properties = properties_of_profile(profile)
    children = [Element("property", {"name": k, "value": v}) for k, v in properties.items()]
    root.children.insert(1, Element("scan", children=children))
    return xml_bytes(root)


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name in found:
        np.testing.assert_array_equal(found[name], expected[name])


def test_the_server_converts(foreign):
    profile, header, items, _, expected = foreign
    with scan_server() as listener:
        peer = connect("127.0.0.1", listener.port)
        remote = RemoteReconstruction(peer, ConfigDocument(document(profile)), header.encode())
        same(maps(remote.run(items)), expected)
    assert remote.record["scan_profile"] == profile.record()


def test_the_nodes_of_a_gadgetron_server_convert(foreign, tmp_path):
    profile, header, items, _, expected = foreign
    file = tmp_path / "own.xml"
    file.write_bytes(document(profile))
    with running_worker() as (listener, _):
        chain = Chain(listener, server_pipeline(file, "connect"), header)
        chain.send(items)
        chain.finish()
    assert chain.errors == []
    same(maps(chain.items), expected)


def volumes(folder: Path) -> dict[str, np.ndarray]:
    return {n: nibabel.load(folder / f"nifti/{n}.nii.gz").get_fdata() for n in NAMES}


@pytest.mark.parametrize("where", ["option", "section"])
def test_the_client_converts(foreign, where, tmp_path):
    """The server gets a standard scan, with a pipeline that has no section."""
    profile, _, _, file, _ = foreign
    pipeline = tmp_path / "own.xml"
    pipeline.write_bytes(document(profile if where == "section" else None))
    toml = tmp_path / "own.toml"
    lines = [f"{key} = {json.dumps(value)}" for key, value in profile.record()["settings"].items()]
    toml.write_text("\n".join(lines))
    option = ["--scan-profile", str(toml)] if where == "option" else []
    common = ["replay", str(file), "--no-report", "-p", str(pipeline), *option, "-o"]
    assert main([*common, str(tmp_path / "here")]) == 0
    with scan_server() as listener:
        server = f"127.0.0.1:{listener.port}"
        assert main([*common, str(tmp_path / "there"), "--server", server]) == 0
    there, here = volumes(tmp_path / "there"), volumes(tmp_path / "here")
    for name in NAMES:  # those that come over the network are in ms
        assert here[name].any()
        np.testing.assert_allclose(there[name], here[name], rtol=1e-6)
    for folder in ("here", "there"):
        record = json.loads((tmp_path / folder / "run.json").read_text())
        assert record["scan_profile"]["settings"] == profile.record()["settings"]
    assert record["at_server"]["scan_profile"] == {"name": "standard", "settings": {}}


def test_a_client_and_a_server_convert_once(foreign):
    """The header says that the scan is converted; the section of the server does nothing then."""
    profile, _, _, file, expected = foreign
    with MrdFile(file) as scan, scan_server() as listener:
        header, conversion = standard_scan(scan.header, profile)
        items = conversion.items(scan.items(), ScanInfo.from_header(header))
        peer = connect("127.0.0.1", listener.port)
        remote = RemoteReconstruction(peer, ConfigDocument(document(profile)), header)
        same(maps(remote.run(items)), expected)
    assert any("it is not again" in text for text in remote.texts)


def test_pipeline_of_a_server_with_a_section_in_each_node(foreign):
    """It runs in process and in `serve` as well."""
    profile, header, items, _, expected = foreign
    root = parse_xml(pipeline_document("svdmrf", QUICK), "own")
    set_scan_sections(root, profile)
    with scan_server() as listener:
        peer = connect("127.0.0.1", listener.port)
        remote = RemoteReconstruction(peer, ConfigDocument(xml_bytes(root)), header.encode())
        same(maps(remote.run(items)), expected)
