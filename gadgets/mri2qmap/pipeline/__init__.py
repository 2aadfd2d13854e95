"""Items, settings, pipeline files, scan headers and the checks of acquisitions."""
