"""The optimiser of a run: Adam over the method's parameter groups."""

import torch

from slotworks.training.run import Run, schedule
from slotworks.types import Method, UserError


def build_optimizer(method: Method, run: Run) -> torch.optim.Optimizer:
    """Adam, or AdamW with weight decay, over the method's parameter groups, each with its factor `lr_scale`.

    Raises:
        UserError: if `lr_scales` names a group that the method does not have.
        ValueError: if the method's groups are not its trainable parameters, each once.
    """
    settings, groups = run.optimizer, method.param_groups()
    for field, names in (("lr_scales", settings.lr_scales.keys()), ("constant_groups", set(settings.constant_groups))):
        if unknown := names - groups.keys():
            raise UserError(
                f"optimizer.{field} names {min(unknown)}, but the parameter groups of {type(method).__name__} are "
                f"{', '.join(groups)}."
            )
    given = [id(p) for group in groups.values() for p in group]
    if sorted(given) != sorted(id(p) for p in method.parameters() if p.requires_grad):
        raise ValueError(f"{type(method).__name__}.param_groups must hold each trainable parameter once, and no other.")
    kind = torch.optim.AdamW if settings.weight_decay > 0 else torch.optim.Adam
    return kind(
        [
            {
                "params": ps,
                "lr_scale": settings.lr_scales.get(name, 1.0),
                "constant": name in settings.constant_groups,
            }
            for name, ps in groups.items()
        ],
        lr=settings.lr,
        betas=settings.betas,
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        fused=run.precision != "16",  # one kernel instead of ten; cannot be clipped together with a loss scale
    )


def set_learning_rates(optimizer: torch.optim.Optimizer, run: Run, step: int) -> float:
    """Set the learning rate of every group for the update after `step` finished ones; returns it without factors."""
    lr = schedule(run.optimizer, step, run.steps)
    for group in optimizer.param_groups:
        group["lr"] = (run.optimizer.lr if group["constant"] else lr) * group["lr_scale"]
    return lr
