import pytest


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory):
    """Use one dictionary cache for each test module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MRI2QMAP_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
