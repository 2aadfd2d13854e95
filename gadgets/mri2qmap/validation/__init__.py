"""Checks of a scan and a pipeline before a run, and what the run will take.

They are those that a run makes itself: their errors are collected instead of raised. `header` and
`acquisitions` read the scan, `scan_checks` and `pipeline_checks` compare it with the pipeline,
`description` says what it is, `run_time` estimates the time, and `result` holds all of it.
"""
