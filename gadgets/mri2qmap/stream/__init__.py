"""The former name of the package `mri2qmap.hosts`, for pipeline files written before the change."""
