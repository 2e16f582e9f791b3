"""A Ray cluster (https://ray.io): the one in RAY_ADDRESS, or one started here.

weightflow of the same version, the data set and the folders that are read must be there on every machine. Ray gives
the item of a worker that is killed to another one.
"""

from __future__ import annotations

import os
import pickle
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from canon.errors import InputError, WorkError
from weightflow.executors.base import RETRIES, Item, RemoteExecutor, Result, Submit
from weightflow.registry import PLUGINS

ADDRESS = "RAY_ADDRESS"
TIMEOUT = 10.0
"""Seconds that the cluster's address has to answer in."""


class RayCluster(RemoteExecutor):
    """Workers of a Ray cluster, each with one core, or one accelerator where `device` is one."""

    def __init__(self, workers: int = 1, device: str = "cpu") -> None:
        super().__init__(workers, device)
        if find_spec("ray") is None:
            raise InputError("the executor 'ray' needs Ray; install it: pip install 'weightflow[ray]'")

    @property
    def ahead(self) -> int:
        # a cluster of one's own has no more cores than workers; another one would compute all that it is given
        return self.workers if ADDRESS in os.environ else 2 * self.workers

    @contextmanager
    def session(self, function: Callable[[Item], Result]) -> Iterator[Submit]:
        import ray

        _connect(ray, self.workers)
        accelerators = int(self.device != "cpu")
        call: Any = ray.remote(max_retries=RETRIES, num_cpus=1, num_gpus=accelerators)(_call)
        pack: Callable[[Any], bytes] = (
            ray.cloudpickle.dumps
        )  # unpacked where the version is known to be the same
        shared, running = ray.put(pack(function)), list[Any]()

        def submit(item: Any) -> Callable[[], Any]:
            waiting = call.remote(shared, pack(item), self.device, _version())
            running.append(waiting)
            return lambda: _received(ray, running, waiting)

        try:
            yield submit
        finally:
            for waiting in running:
                ray.cancel(waiting, force=True)


def _connect(ray: Any, workers: int) -> None:
    """Connect to the cluster that there is, or start one of `workers` processes that ends with this process."""
    if ray.is_initialized():
        return
    address = os.environ.get(ADDRESS)
    own: dict[str, Any] = {} if address else {"num_cpus": workers, "include_dashboard": False}
    if PLUGINS in os.environ:
        own["runtime_env"] = {"env_vars": {PLUGINS: os.environ[PLUGINS]}}
    _require_answer(address or "")
    try:
        ray.init(log_to_driver=False, logging_level="error", **own)
    except (ConnectionError, RuntimeError, ray.exceptions.AuthenticationError) as error:
        reason = next((line for line in str(error).splitlines() if line), type(error).__name__)
        raise InputError(
            f"the Ray cluster at {ADDRESS}={address} cannot be joined: {reason}; is it a cluster of Ray "
            f"{ray.__version__}, and, where it asks for a token (RAY_AUTH_MODE=token), is that set here too?"
        ) from error


def _require_answer(address: str) -> None:
    """`InputError` where HOST:PORT does not answer: Ray itself would try for minutes."""
    if found := re.fullmatch(r"(?:ray://)?\[?([^/\]]+)\]?:(\d+)", address):
        try:
            socket.create_connection((found[1], int(found[2])), TIMEOUT).close()
        except (OSError, OverflowError) as error:
            raise InputError(
                f"no Ray cluster answers at {ADDRESS}={address} ({error}); start it, or unset {ADDRESS} to compute on "
                "this machine alone"
            ) from None


def _received(ray: Any, running: list[Any], waiting: Any) -> Any:
    try:
        result = ray.get(waiting)
        running.remove(waiting)
        return result
    except ray.exceptions.RayTaskError as error:
        # what cannot be imported before the work begins is told as text
        if lacking := re.search(r"No module named '([\w.]+)'", str(error)):
            raise InputError(
                f"a worker of the Ray cluster lacks the package '{lacking[1]}'; install weightflow=={_version()} "
                "and the same plug-ins on every machine"
            ) from error
        raise error.cause if isinstance(error.cause, (InputError, WorkError)) else error from None
    except ray.exceptions.RayError as error:
        first = str(error).splitlines()[0]
        raise WorkError(
            f"a worker of the Ray cluster died {RETRIES + 1} times at the same part: {first}; make shards smaller"
        ) from error


def _version() -> str:
    import weightflow

    return weightflow.__version__


def _call(function: bytes, item: bytes, device: str, version: str) -> Any:
    if version != _version():
        raise InputError(
            f"a worker of the Ray cluster has weightflow {_version()} and this process {version}; install the same "
            "version on every machine"
        )
    from weightflow.device import computing_on

    with computing_on(device):
        return pickle.loads(function)(pickle.loads(item))
