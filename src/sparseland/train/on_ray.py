"""`fan_out` on Ray: an actor per attempt, which starts and watches the same worker process on the node where it lives.

So a job finds there what it finds on one machine: a process of its own, pinned threads, the same errors. The only file
that imports `ray`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sparseland.core.errors import SparselandError
from sparseland.train.fan_out import Place
from sparseland.train.fan_out_worker import Call, Outcome, room

PATIENCE = 5.0  # seconds an address may take to answer
OBJECT_STORE = 80 * 2**20  # bytes (Ray's least are 75 MiB): arguments and results are small


class Cluster(Place):
    """Ray as a place; every attempt holds ``threads`` CPUs of one node.

    If Ray runs in this process already, that one is used; it, and clusters given by an address, are left running.

    Parameters:
        address: of a cluster; None: a local one, which ends with `close`.
        workers: jobs at a time; None: as many as the CPUs allow.
        threads: of each job.

    Raises:
        SparselandError: Ray is not installed, nothing answers at the address, or no node has that many CPUs.

    >>> Cluster("127.0.0.1:1", None, 1)
    Traceback (most recent call last):
    sparseland.core.errors.SparselandError: ...
    """

    def __init__(self, address: str | None, workers: int | None, threads: int) -> None:
        ray = _ray()
        self.ray, self.ours, self.grace = ray, not ray.is_initialized(), 0.0
        self._sigterm = signal.getsignal(signal.SIGTERM)
        if self.ours:
            _connect(ray, address, workers, threads)
        try:
            largest = max((node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]), default=0)
            if largest < threads:
                raise SparselandError(f"threads={threads}, but the largest node of this Ray has {largest:g} CPUs")
            self.workers = workers or max(1, int(ray.cluster_resources().get("CPU", 1)) // threads)
            # Two threads: one waits for the worker, the other hears `end`. Not a task: ray.cancel would stop it, but
            # this process may crash when the task ends at the same moment.
            self._watcher = ray.remote(num_cpus=threads, max_restarts=0, max_concurrency=2)(_watcher())
        except BaseException:
            self.close()
            raise

    def start(self, call: Call) -> Any:
        """An actor for the attempt, and what it will say."""
        self.grace = max(self.grace, call.grace)
        actor = self._watcher.remote()
        return actor, actor.run.remote(asdict(call) | {"reuse": False})  # the process ends with the actor

    def poll(self, handle: Any) -> Outcome | None:
        """How it ended; None while it waits or runs. A lost actor or node is a failed attempt."""
        actor, said = handle
        try:
            if not self.ray.wait([said], timeout=0)[0]:
                return None
            outcome = Outcome(**self.ray.get(said))
        except Exception as error:  # Ray's own, of many classes, with texts of many lines
            reason = (str(error).strip().splitlines() or [""])[0]
            outcome = Outcome(error=f"{error}\n{type(error).__name__}: {reason}")
        self._kill([actor])  # now, for its CPUs
        return outcome

    def stop(self, handles: Sequence[Any]) -> None:
        """End workers as Ctrl-C does, then their actors."""
        actors = [actor for actor, _ in handles]
        try:
            with contextlib.suppress(Exception):  # the cluster may be what failed
                ended = [actor.end.remote() for actor in actors]
                self.ray.wait(ended, num_returns=len(ended), timeout=self.grace + 1) if ended else None
        finally:
            self._kill(actors)

    def _kill(self, actors: Sequence[Any]) -> None:
        for actor in actors:
            with contextlib.suppress(Exception):
                self.ray.kill(actor)

    def close(self) -> None:
        """Stop the local cluster, or leave the other one, if this object has entered it."""
        if self.ours:
            self.ray.shutdown()
            if threading.current_thread() is threading.main_thread() and self._sigterm is not None:
                signal.signal(signal.SIGTERM, self._sigterm)  # Ray sets its own


def _ray() -> Any:
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0"}  # nobody is told
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # a task sees the GPUs, as a process does
    try:
        import ray
    except ImportError as error:
        raise SparselandError(
            f"Ray is not installed ({error}): pip install ray, or use on='processes', which needs nothing"
        ) from error
    return ray


def _connect(ray: Any, address: str | None, workers: int | None, threads: int) -> None:
    if address is None:
        options = {
            "address": "local",  # a new one, whatever RAY_ADDRESS says
            "num_cpus": threads * (workers or room(threads)),
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE,
            # Else Ray, when it ends, kills a job but not what the job has started; workers see to both.
            "_system_config": {"kill_child_processes_on_worker_exit": False},
        }
    else:
        _knock(address)
        options = {"address": address}
    try:
        ray.init(**options, log_to_driver=False, logging_level="error")
    except Exception as error:  # ConnectionError, RuntimeError, ValueError, TimeoutError, gRPC's
        where = f"at {address!r}" if address else "on this machine"
        hint = "; if that Ray asks for a token, set RAY_AUTH_MODE=token here too" if address else ""
        raise SparselandError(f"cannot use Ray {where}: {type(error).__name__}: {error}{hint}") from error


def _knock(address: str) -> None:
    """Say at once that nobody is there; Ray itself tries for half a minute or more."""
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE).close()
    except (OSError, ValueError, OverflowError) as error:
        raise SparselandError(
            f"nothing answers at {address!r} ({error}); give the address of a running Ray, 'host:port' or "
            f"'ray://host:port' (port 10001 by default), or on='ray' for a local one"
        ) from error


def _watcher() -> Any:
    """The actor; a nested class, so that Ray sends it whole and its processes need not find this module first."""
    here = tuple(sys.path)

    class Watcher:
        def __init__(self) -> None:
            import sys

            sys.path.extend(folder for folder in here if folder not in sys.path)
            self.worker: Any = None

        def run(self, call: dict[str, Any]) -> dict[str, Any]:
            """An attempt, from its start to its end."""
            import time
            from dataclasses import asdict

            from sparseland.train.fan_out_process import Worker
            from sparseland.train.fan_out_worker import Call

            self.worker = Worker(Call(**call))
            while (outcome := self.worker.poll()) is None:
                time.sleep(0.05)
            return asdict(outcome)

        def end(self) -> None:
            """End the attempt."""
            from sparseland.train.fan_out_process import end

            if self.worker is not None:
                end([self.worker])

    return Watcher
