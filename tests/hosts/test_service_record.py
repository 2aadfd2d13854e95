"""Log lines and metrics of the scans of a service."""

import json
import logging

import pytest
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from mri2qmap.errors import Mri2QmapError
from mri2qmap.hosts.service_record import ServiceRecord
from mri2qmap.machine.cancellation import Cancellation, raise_if_cancelled
from mri2qmap.pipeline.scan_log import SCAN_EVENTS, JsonFormatter


def metrics(record):
    families = text_string_to_metric_families(generate_latest(record.registry).decode())
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


@pytest.mark.parametrize(
    ("error", "outcome", "level"),
    [
        (None, "done", logging.INFO),
        (ConnectionError("the client has disconnected"), "cancelled", logging.WARNING),
        (Mri2QmapError("no memory"), "refused", logging.WARNING),
        (ZeroDivisionError("a bug"), "failed", logging.WARNING),
    ],
)
def test_each_scan_is_counted_and_its_end_logged(caplog, error, outcome, level):
    record = ServiceRecord()
    with caplog.at_level(logging.INFO, logger=SCAN_EVENTS):
        try:
            with record.session() as entry, entry.begin("pipeline svdmrf, 8 frames"):
                assert metrics(record)["mri2qmap_scans_running",] == 1
                entry.stage_seconds["toeplitz_cg"] = 4.0
                entry.sent = 3
                if error is not None:
                    raise error
        except type(error):
            pass
    found = metrics(record)
    assert found["mri2qmap_scans_running",] == 0
    counts = {key[1]: n for key, n in found.items() if key[0] == "mri2qmap_scans_total"}
    assert counts == {o: float(o == outcome) for o in ("done", "refused", "cancelled", "failed")}
    assert found["mri2qmap_scan_seconds_count",] == 1
    assert found["mri2qmap_stage_seconds_sum", "toeplitz_cg"] == 4
    begin, end = caplog.records
    assert begin.getMessage() == "scan begins: pipeline svdmrf, 8 frames"
    assert end.levelno == level
    assert end.getMessage().startswith(f"scan {outcome} after 0.0 s, 3 results sent")
    if error is not None:  # the lines of other errors are logged where they occur
        assert (str(error) in end.getMessage()) == isinstance(error, ConnectionError)
    assert json.loads(JsonFormatter().format(end)) | {"time": "", "seconds": 0} == {
        "time": "",
        "seconds": 0,
        "level": logging.getLevelName(level),
        "logger": SCAN_EVENTS,
        "message": end.getMessage(),
        "outcome": outcome,
        "results": 3,
        "stage_seconds": {"toeplitz_cg": 4.0},
    }


def test_a_cancelled_scan_is_not_a_refused_one():
    record, cancellation = ServiceRecord(), Cancellation()
    cancellation.cancel(Mri2QmapError("no data came for 300 s"))
    with pytest.raises(Mri2QmapError), cancellation.active(), record.session():
        raise_if_cancelled()
    assert metrics(record)["mri2qmap_scans_total", "cancelled"] == 1


def test_a_session_without_a_scan_is_not_counted(caplog):
    record = ServiceRecord("node")
    with caplog.at_level(logging.INFO, logger=SCAN_EVENTS), record.session():
        pass
    assert not caplog.records
    assert metrics(record)["mri2qmap_nodes_total", "done"] == 0


def test_values_are_asked_for_when_the_metrics_are_read():
    record, values = ServiceRecord(), [1.0]
    record.observe({"connections": ("Open connections", lambda: values[0])})
    assert metrics(record)["mri2qmap_connections",] == 1
    values[0] = 7.0
    assert metrics(record)["mri2qmap_connections",] == 7
