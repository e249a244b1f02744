"""BatchNorm over the images of all processes, so that a training does not depend on how many there are."""

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Shaped
from torch import Tensor, nn


class SharedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm whose mean and variance in training are those of the batches of all processes together.

    Batches must have the same size. As `torch.nn.SyncBatchNorm`, but on a CPU, too.
    """

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Every process has to ask, in training."""
        if not self.training or processes() == 1:
            return super().forward(input)
        x = input.float()
        mean = mean_of_processes(x.mean((0, 2, 3)))
        centred = x - mean[:, None, None]
        variance = mean_of_processes(centred.square().mean((0, 2, 3)))
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            self.num_batches_tracked += 1
            count = x.numel() // x.shape[1] * processes()
            rate = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean.detach().to(self.running_mean.dtype), rate)
            unbiased = variance.detach() * (count / (count - 1))
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), rate)
        scale = (variance + self.eps).rsqrt()
        scale = scale if self.weight is None else scale * self.weight
        out = centred * scale[:, None, None]
        return (out if self.bias is None else out + self.bias[:, None, None]).to(input.dtype)


def share_batch_norm(module: nn.Module) -> None:
    """Let every `BatchNorm2d` inside a module be a `SharedBatchNorm2d` of the same weights."""
    for one in module.modules():
        if type(one) is nn.BatchNorm2d:
            one.__class__ = SharedBatchNorm2d


def processes() -> int:
    """How many train together; 1 outside `torchrun`."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def mean_of_processes(value: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """The mean over all processes, through which gradients go back to each; every process has to ask."""
    return value if processes() == 1 else sum_of_processes(value) / processes()


def sum_of_processes(value: Shaped[Tensor, "*s"]) -> Shaped[Tensor, "*s"]:
    """The sum over all processes, through which gradients go back to each; every process has to ask."""
    return value if processes() == 1 else _Sum.apply(value)  # type: ignore[return-value]


def deviation_of_processes(value: Float[Tensor, "*s"]) -> Float[Tensor, ""]:
    """The standard deviation of the numbers of all processes; every process has to ask."""
    if processes() == 1:
        return value.std()
    count = value.numel() * processes()
    centred = value - mean_of_processes(value.mean())
    return (mean_of_processes(centred.square().mean()) * (count / (count - 1))).sqrt()


class _Sum(torch.autograd.Function):
    """Over all processes."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _Sum.apply(gradients[0])  # type: ignore[return-value]
