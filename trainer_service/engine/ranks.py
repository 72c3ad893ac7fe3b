"""Data-parallel training over the devices of one machine: what the processes of one job tell each other.

Every rank holds the whole model, takes its share of each step's rows, and ends the step with the same weights: gradients are
summed once per step, after all passes, in one message (an adapter's are a few megabytes), and already carry the weight
of the whole window. Owns the process group, through accelerate; `replica` starts the processes.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


class Ranks:
    """This process's place among the processes of the job."""

    def __init__(self, state: Any = None) -> None:
        """Takes accelerate's `PartialState`, or None where the process is alone."""
        self._state = state
        self.rank: int = 0 if state is None else state.process_index
        self.count: int = 1 if state is None else state.num_processes

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replaces every gradient by its sum over the ranks; a rank without rows has none and adds nothing."""
        if self._state is None:
            return
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
        flat = self._summed(flat)
        for parameter, part in zip(parameters, torch.split(flat, [p.numel() for p in parameters]), strict=True):
            parameter.grad = part.view_as(parameter)

    def sum(self, *values: float) -> list[float]:
        """Returns the sums over the ranks, in double precision."""
        if self._state is None:
            return list(values)
        summed: list[float] = self._summed(
            torch.tensor(values, dtype=torch.float64, device=self._state.device)
        ).tolist()
        return summed

    def start_alike(self, parameters: Sequence[nn.Parameter]) -> None:
        """Gives every rank the first one's adapter."""
        if self._state is None:
            return
        from accelerate.utils import broadcast

        with torch.no_grad():
            for parameter in parameters:
                parameter.copy_(broadcast(parameter.detach().clone(), from_process=0))

    def _summed(self, tensor: torch.Tensor) -> torch.Tensor:
        from accelerate.utils import reduce

        summed: torch.Tensor = reduce(tensor, "sum")
        return summed


ALONE = Ranks()
"""One process."""


def join(device: torch.device) -> Ranks:
    """Meets the other processes; RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT say where (`replica`)."""
    from accelerate import PartialState

    on_cpu = device.type == "cpu"
    return Ranks(PartialState(cpu=on_cpu, backend="gloo" if on_cpu else "nccl"))


def leave() -> None:
    """Ends what `join` began, so that this process can meet others later; those of the last job are gone."""
    from accelerate import PartialState

    torch.distributed.destroy_process_group()
    PartialState._reset_state()
