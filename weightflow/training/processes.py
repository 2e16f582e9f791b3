"""The processes that train one run together, as `torchrun` starts them.

Every process has the same weights and a part of each batch; gradients are averaged. They are summed as one vector and
not by `DistributedDataParallel`, which arranges its buckets again after the first step: a run that was resumed would
then add in another order, and could not be the same bit for bit.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor
from torch import distributed as dist

from canon.errors import InputError, WorkError
from weightflow.device import usable_device

TIMEOUT = timedelta(minutes=30)
"""How long a process waits for the others, which may be evaluating or reading a zoo."""


@dataclass(frozen=True)
class Processes:
    """`count` processes, this one of number `rank`; on its own where the program was not started by `torchrun`.

    The first one, of rank 0, writes the run's files and talks.
    """

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    @classmethod
    def join(cls) -> Processes:
        """The processes that `torchrun` started, once all are there; one alone elsewhere."""
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count == 1 or not dist.is_available():
            return cls()
        if not dist.is_initialized():
            try:
                dist.init_process_group(timeout=TIMEOUT)
            except (RuntimeError, ValueError) as error:
                raise WorkError(
                    f"the {count} processes of torchrun did not find each other: {str(error).splitlines()[0]}"
                ) from None
        return cls(dist.get_rank(), dist.get_world_size())

    def device(self, name: str) -> torch.device:
        """The device of this process: `cuda` and `auto` are the one of its place on its machine."""
        device = usable_device(name)
        if device.type == "cuda" and device.index is None and self.count > 1:
            device = usable_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
        if device.type == "cuda":
            torch.cuda.set_device(device)
        return device

    def share(self, name: str, whole: int) -> int:
        """How many of `whole` are a process's; `InputError` where they do not divide."""
        if whole % self.count:
            raise InputError(
                f"{name} is {whole}, which {self.count} processes cannot share evenly: make it a multiple of {self.count}"
            )
        return whole // self.count

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their mean over all processes."""
        if self.count == 1:
            return
        flat = torch.cat([tensor.detach().flatten() for tensor in tensors])
        self._together(lambda: dist.all_reduce(flat))
        flat /= self.count
        for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))

    def any(self, flag: bool) -> bool:
        """Whether any process says so."""
        if self.count == 1:
            return flag
        said = torch.tensor(float(flag))
        self._together(lambda: dist.all_reduce(said))
        return bool(said)

    def broadcast(self, number: float) -> float:
        """The first process's number."""
        if self.count == 1:
            return number
        said = torch.tensor(number, dtype=torch.float64)
        self._together(lambda: dist.broadcast(said, 0))
        return float(said)

    def first_alone(self, work: Callable[[], None]) -> None:
        """The first process does `work` and the others wait; where it fails, all stop."""
        failure: Exception | None = None
        if self.first:
            try:
                work()
            except Exception as error:
                failure = error
        failed = self.any(failure is not None)
        if failure is not None:
            raise failure
        if failed:
            raise InputError(f"process {self.rank} stops: process 0 did, and says why")

    def _together(self, work: Callable[[], object]) -> None:
        try:
            work()
        except RuntimeError as error:
            raise WorkError(
                f"process {self.rank} of {self.count} lost another ({str(error).splitlines()[0][:200]})"
            ) from None
