"""One folder of compiled loops for all tests, no spool of the user, own log lines, and SIGINT."""

import os
import signal

import pytest

from mri2qmap.machine.folders import cache_folder

if (folder := cache_folder()) is not None:
    os.environ.setdefault("NUMBA_CACHE_DIR", str(folder / "numba"))  # read when numba is imported

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in a background job of a shell
    signal.signal(signal.SIGINT, signal.default_int_handler)  # programs under test would inherit it


@pytest.fixture(autouse=True, scope="session")
def _no_spool_of_the_user(tmp_path_factory):
    """Servers under test would send what waits there to its PACS."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        patch.delenv("MRI2QMAP_SPOOL", raising=False)
        yield


@pytest.fixture(autouse=True)
def _own_log_context():
    """The scan of one test is not in the log lines of the next one."""
    from mri2qmap.pipeline.scan_log import own_log_context

    with own_log_context():
        yield
