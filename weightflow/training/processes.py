"""The processes that train one run together, as `torchrun` starts them.

Every process has a part of each batch; gradients are averaged. Without `sharded` each has all weights, and gradients are
summed as one vector and not by `DistributedDataParallel`, which arranges its buckets again after the first step: a run
that was resumed would then add in another order, and could not be the same bit for bit.

With `sharded` each process keeps one part of every weight, gradient and moment (`fully_shard`, FSDP2; Rajbhandari et al.
2020, arXiv:1910.02054), and has the whole weights of one layer while it computes with them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, nn
from torch import distributed as dist

from canon.errors import InputError, WorkError
from weightflow.device import usable_device
from weightflow.models.transformer import Layer
from weightflow.training.state_dicts import whole

TRANSPORTS = ("gloo", "nccl", "connection closed", "connection reset")
"""What errors of torch say that are about other processes, and have no class of their own."""
TIMEOUT = timedelta(minutes=30)
"""How long a process waits for the others, which may be evaluating or reading a zoo."""


@dataclass(frozen=True)
class Processes:
    """`count` processes, this one of number `rank`; on its own where the program was not started by `torchrun`.

    The first one, of rank 0, writes the run's files and talks. `sharded` says that each keeps a part of the generator.
    """

    rank: int = 0
    count: int = 1
    sharded: bool = False

    @property
    def first(self) -> bool:
        return self.rank == 0

    @classmethod
    def join(cls, sharded: bool = False) -> Processes:
        """The processes that `torchrun` started, once all are there; one alone elsewhere.

        `InputError` for `sharded` without several processes.
        """
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count == 1 or not dist.is_available():
            if sharded:
                raise InputError(
                    "--shard splits a generator over several processes, and this is one: start it with "
                    "torchrun --nproc-per-node N -m weightflow train"
                )
            return cls()
        if not dist.is_initialized():
            try:
                dist.init_process_group(timeout=TIMEOUT)
            except (RuntimeError, ValueError) as error:
                raise WorkError(
                    f"the {count} processes of torchrun did not find each other: {str(error).splitlines()[0]}"
                ) from None
        return cls(dist.get_rank(), dist.get_world_size(), sharded)

    def device(self, name: str) -> torch.device:
        """The device of this process: `cuda` and `auto` are the one of its place on its machine."""
        device = usable_device(name)
        if device.type == "cuda" and device.index is None and self.count > 1:
            device = usable_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
        if device.type == "cuda":
            torch.cuda.set_device(device)
        if self.sharded and device.type == "cpu" and not hasattr(torch.cpu.Stream, "record_event"):
            raise InputError(
                f"--shard on a processor needs a newer torch than {torch.__version__}; install one, or use --device cuda"
            )
        return device

    def share(self, name: str, whole: int) -> int:
        """How many of `whole` are a process's; `InputError` where they do not divide."""
        if whole % self.count:
            raise InputError(
                f"{name} is {whole}, which {self.count} processes cannot share evenly: make it a multiple of {self.count}"
            )
        return whole // self.count

    def place(self, model: nn.Module, device: torch.device) -> nn.Module:
        """Move a model to the device of this process; its part of the model alone where the processes are `sharded`."""
        if self.sharded:
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard

            mesh = init_device_mesh(device.type, (self.count,))
            for layer in [module for module in model.modules() if isinstance(module, Layer)]:
                fully_shard(layer, mesh=mesh)
            fully_shard(model, mesh=mesh)
        return model.to(device)

    def collect(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Whole tensors on the processor, in the first process; none elsewhere."""
        found = {}
        for name, tensor in tensors.items():
            one = whole(tensor).detach().cpu()  # all processes give their parts
            if self.first:
                found[name] = one
        return found

    def average(self, tensors: Sequence[Tensor]) -> None:
        """All-reduce tensors to their mean over all processes."""
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
        """Run `work` in the first process while the others wait; if it fails, all stop."""
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

    @contextmanager
    def losing_others(self) -> Iterator[None]:
        """`WorkError` instead of what torch raises where another process is lost during a sharded computation."""
        try:
            yield
        except RuntimeError as error:
            said = str(error).lower()
            of_processes = isinstance(error, dist.DistError) or any(word in said for word in TRANSPORTS)
            if not (self.sharded and of_processes):
                raise
            raise self._lost(error) from None

    def _together(self, work: Callable[[], object]) -> None:
        try:
            work()
        except RuntimeError as error:
            raise self._lost(error) from None

    def _lost(self, error: RuntimeError) -> WorkError:
        return WorkError(
            f"process {self.rank} of {self.count} lost another ({str(error).splitlines()[0][:200]})"
        )
