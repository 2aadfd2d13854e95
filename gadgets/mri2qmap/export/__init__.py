"""Export of the maps as DICOM, MRD images and NIfTI."""
