"""One copy of a method over all processes: each keeps a part of every weight, its gradient and its moments.

Fully sharded data parallelism (Rajbhandari et al. 2020, ZeRO, stage 3; Zhao et al. 2023) as torch's `fully_shard` does
it, on GPUs and on CPUs. Weights come together while they compute: those of `Method.large_parts` one part after another,
all others for the whole step. Checkpoints hold whole tensors, which one process gathers and any number may go on from.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from slotworks.types import Method, UserError

if TYPE_CHECKING:  # it takes seconds to import
    from lightning.fabric.strategies.model_parallel import ModelParallelStrategy


def sharded(processes: int) -> "ModelParallelStrategy":
    """The strategy of a Fabric whose processes share one copy of the module that calls a method's loss."""
    from lightning.fabric.strategies.model_parallel import ModelParallelStrategy
    from torch.distributed.fsdp import fully_shard

    def share(step: Any, mesh: Any) -> nn.Module:
        for part in (*step.method.large_parts(), step):
            fully_shard(part, mesh=mesh["data_parallel"])
        return step

    return ModelParallelStrategy(share, data_parallel_size=processes, tensor_parallel_size=1)


def check_shard(method: Method, precision: str) -> None:
    """Refuse what cannot be shared.

    Raises:
        UserError: the method has nothing large, or its loss is scaled by each process for itself.
    """
    if not method.large_parts():
        raise UserError(
            f"shard is set, but {type(method).__name__} trains no large network that processes could share; leave it "
            "out: every process then holds a copy."
        )
    if precision == "16":
        raise UserError("shard is set with precision 16, whose loss scale processes do not share; take bf16 or 32.")


def whole(value: Tensor) -> Tensor:
    """All of a tensor: of a shared one a copy on the CPU, for which every process has to ask."""
    return value.full_tensor().cpu() if _is_shared(value) else value  # type: ignore[attr-defined]


def gather(values: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """`whole` of each; every process has to ask, and those that do not keep the answers get none."""
    found = {}
    for name, value in values.items():
        one = whole(value)
        if keep:
            found[name] = one
    return found


def copy_into(place: Tensor, value: Tensor) -> None:
    """Let a tensor, whose parts may be shared, hold the numbers of a whole one that every process has."""
    if _is_shared(place):
        from torch.distributed.tensor import distribute_tensor

        value = distribute_tensor(value.to(place.device), place.device_mesh, place.placements)  # type: ignore[attr-defined]
    place.copy_(value)


def _is_shared(value: Tensor) -> bool:
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(value, DTensor)
