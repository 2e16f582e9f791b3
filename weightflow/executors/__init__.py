"""Executors of maps over networks: this process, local worker processes, or a Ray cluster.

Results are the same whatever the executor, and come in the order of the items. Workers read files and compute; the
process that asked writes.
"""

from __future__ import annotations

from weightflow.executors.base import Executor, InProcess
from weightflow.executors.processes import LocalProcesses
from weightflow.executors.ray_cluster import RayCluster
from weightflow.registry import pick

__all__ = ["EXECUTORS", "Executor", "InProcess", "LocalProcesses", "RayCluster", "make_executor"]

EXECUTORS: dict[str, type[Executor]] = {"local": LocalProcesses, "ray": RayCluster}


def make_executor(name: str = "local", workers: int = 1, device: str = "cpu") -> Executor:
    """An executor by its name; one local worker is this process.

    `InputError` where there is no executor, or no worker.
    """
    kind = pick(EXECUTORS, name, "executor")
    return InProcess() if kind is LocalProcesses and workers == 1 else kind(workers, device)
