from helpers.gpu_fixtures import gpu, single_precision  # noqa: F401 - fixtures
