"""Worker processes of this machine."""

import signal

import psutil
import pytest

from mri2qmap.cohort import task
from mri2qmap.cohort.cluster import local_cluster

STATE = (
    "(__import__('os').environ['OMP_NUM_THREADS'], "
    "__import__('os').environ.get('MALLOC_TRIM_THRESHOLD_'), "
    "__import__('signal').getsignal(2))"
)
"""What a worker evaluates: its environment, and what it does after Ctrl-C."""


@pytest.fixture(scope="module")
def cluster():
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("OMP_NUM_THREADS", raising=False)
        with local_cluster(2, 3, 1000) as found:
            yield found
    children = psutil.Process().children(recursive=True)
    assert [child for child in children if "spawn_main" in " ".join(child.cmdline())] == []


def test_workers_announce_their_share(cluster):
    workers = cluster.workers()
    assert [(worker.memory, worker.running, worker.unfit) for worker in workers] == [
        (1000, True, "")
    ] * 2


def test_nobody_else_can_connect(cluster):
    this = psutil.Process()
    listening = [
        connection.laddr.ip
        for process in (this, *this.children(recursive=True))
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) >= 3
    assert set(listening) == {"127.0.0.1"}
    assert all(worker.address.startswith("tls://127.0.0.1:") for worker in cluster.workers())


def test_a_second_cluster_does_not_disturb_the_first(cluster):
    with local_cluster(1, 1, 10) as other:
        assert [worker.memory for worker in other.workers()] == [10]
    assert len(cluster.workers()) == 2


def test_the_environment_of_workers(cluster):
    answers = cluster._client.run(eval, STATE)
    for answer in answers.values():
        assert answer == ("3", None, signal.SIG_IGN)


def test_all_run_this_version(cluster):
    assert set(cluster._client.run(task.version).values()) == {task.version()}


def test_errors_in_the_event_loop_stay_off_the_terminal(cluster, caplog):
    """As of `distributed.utils.sync`, when Ctrl-C comes before its coroutine has begun."""

    def fail() -> None:
        raise NameError("an error of the event loop")

    cluster._client.loop.add_callback(fail)
    assert len(cluster.workers()) == 2  # the loop goes on
    assert caplog.records == []
