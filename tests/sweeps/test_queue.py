"""The queue on a database server, where a trial's heartbeat tells whether its worker is alive."""

import time

from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback

from edakari.sweeps.queue import Queue, Worker
from edakari.sweeps.storage import Storage


def test_the_last_run_of_a_dead_worker_goes_back_though_no_other_run_begins(tmp_path):
    """A file stands in for the server."""
    opened = RDBStorage(
        f"sqlite:///{tmp_path}/queue.db",
        heartbeat_interval=1,
        grace_period=1,
        heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(),
    )
    storage = Storage(opened, "a server", local=False)
    queue = Queue.opened("queue", storage, Worker(tmp_path), tmp_path, [{"seed": 0}], "", directions=["maximize"])
    assert [item.state for item in queue.refresh()] == ["waiting"]
    opened.record_heartbeat(queue.study.ask()._trial_id)
    assert [item.state for item in queue.refresh()] == ["running"]
    time.sleep(3)
    assert [item.state for item in queue.refresh()] == ["waiting"]
