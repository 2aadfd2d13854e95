"""Items, settings, pipeline files, scan headers and checks of the acquisitions."""
