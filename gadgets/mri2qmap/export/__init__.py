"""Maps as DICOM, MRD images and NIfTI."""
