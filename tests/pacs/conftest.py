import pytest

for package, module in (("pynetdicom", "pynetdicom"), ("dicomweb-client", "dicomweb_client")):
    pytest.importorskip(
        module, reason=f"{package} is missing; pip install 'mri2qmap[pacs]' installs it"
    )

from helpers.pacs_fixtures import certificates, run_folder, spool_place  # noqa: E402

__all__ = ["certificates", "run_folder", "spool_place"]
