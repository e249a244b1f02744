"""What a training run is: a method, data, an optimiser and how long. Frozen, written to the run folder as it is."""

import math
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from slotworks.html_text import folded, table
from slotworks.machine import Precision
from slotworks.ranges import NOT_NEGATIVE, RANGES, check_number, check_numbers
from slotworks.types import DataConfig, MethodConfig, UserError


def _check(ok: bool, message: str) -> None:
    if not ok:
        raise ValueError(message)


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma & Ba 2015) with warmup, exponential and final decay, and gradient clipping.

    With `weight_decay` above 0 it is AdamW (Loshchilov & Hutter 2019): decay is decoupled from the gradient.
    """

    lr: float = 4e-4  # learning rate per update at the stated batch size
    betas: tuple[float, float] = (0.9, 0.999)  # decay of the running first and second moments
    eps: float = 1e-8  # added to the root of the second moment
    weight_decay: float = 0.0  # decoupled (AdamW) if above 0; each update shrinks weights by lr * weight_decay
    warmup_steps: int = 0  # updates over which lr rises linearly from warmup_scale * lr
    warmup_scale: float = 0.0  # factor on lr of the first update of the warmup
    half_life_steps: int | None = None  # updates after which lr is halved; None: never
    half_life_after_warmup: bool = False  # count them from the end of the warmup (DINOSAUR), not from step 0
    decay: Literal["none", "linear", "cosine"] = "none"  # shape of the final decay
    decay_start: float = 0.0  # where the final decay begins, as a fraction of all steps in [0, 1)
    decay_after_warmup: bool = False  # or where the warmup ends (SAVi, SlotDiffusion), to the very step
    decay_power: float = 1.0  # power of the shape of the final decay; 0.9 with linear: poly of mmsegmentation
    final_lr_scale: float = 0.0  # factor on lr that the final decay reaches at the last step
    max_grad_norm: float | None = None  # gradients are scaled down to this norm; None: not clipped
    grad_norm_type: Literal["l2", "inf"] = "l2"  # l2: root of summed squares; inf: largest entry (SLATE, STEVE)
    lr_scales: dict[str, float] = field(default_factory=dict)  # factor on lr by the method's parameter group
    constant_groups: tuple[str, ...] = ()  # groups without warmup, half-life and decay (the dVAE of SLATE and STEVE)

    def __post_init__(self) -> None:
        _check(self.lr > 0, f"optimizer.lr is {self.lr}; it must be above 0.")
        _check(
            len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas),
            f"optimizer.betas is {self.betas}; it takes two numbers in [0, 1).",
        )
        _check(self.eps > 0, f"optimizer.eps is {self.eps}; it must be above 0.")
        _check(self.weight_decay >= 0, f"optimizer.weight_decay is {self.weight_decay}; it cannot be negative.")
        _check(self.warmup_steps >= 0, f"optimizer.warmup_steps is {self.warmup_steps}; it cannot be negative.")
        _check(0 <= self.warmup_scale <= 1, f"optimizer.warmup_scale is {self.warmup_scale}; it is a factor in [0, 1].")
        _check(
            self.half_life_steps is None or self.half_life_steps > 0,
            f"optimizer.half_life_steps is {self.half_life_steps}; give a number of steps above 0, or None for never.",
        )
        _check(
            self.decay in ("none", "linear", "cosine"),
            f"optimizer.decay is {self.decay!r}; choose none, linear or cosine.",
        )
        _check(
            0 <= self.decay_start < 1,
            f"optimizer.decay_start is {self.decay_start}; it is a fraction of all steps in [0, 1).",
        )
        _check(
            not (self.decay_after_warmup and self.decay_start),
            f"optimizer.decay_start is {self.decay_start}, but decay_after_warmup is set; the final decay has one "
            "beginning, so give one of the two.",
        )
        _check(self.decay_power > 0, f"optimizer.decay_power is {self.decay_power}; it must be above 0.")
        _check(self.final_lr_scale >= 0, f"optimizer.final_lr_scale is {self.final_lr_scale}; it cannot be negative.")
        _check(
            self.max_grad_norm is None or self.max_grad_norm > 0,
            f"optimizer.max_grad_norm is {self.max_grad_norm}; give a norm above 0, or None for no clipping.",
        )
        _check(
            self.grad_norm_type in ("l2", "inf"),
            f"optimizer.grad_norm_type is {self.grad_norm_type!r}; choose l2 or inf.",
        )
        for group, scale in self.lr_scales.items():
            _check(scale >= 0, f"optimizer.lr_scales[{group!r}] is {scale}; it cannot be negative.")
        check_numbers(self, "optimizer", {"warmup_steps": NOT_NEGATIVE})  # what is left: too large, not finite


def schedule(optimizer: Adam, step: int, total_steps: int) -> float:
    """Learning rate of the update that follows `step` finished updates.

    `lr * warm * 0.5^(step / half_life) * decay`, where `warm` rises from `warmup_scale` to 1. The warmup multiplies a
    factor that already decays from step 0, as in the released Slot Attention code: with lr 4e-4, warmup 10k and
    half-life 100k the largest value is 3.73e-4, at step 10k. With `half_life_after_warmup` the factor is
    `0.5^(max(step - warmup, 0) / half_life)`, as in DINOSAUR's code, and the largest value is 4e-4. The decay goes from
    1 at `decay_start * total_steps`, or at the end of the warmup with `decay_after_warmup`, to `final_lr_scale` at
    `total_steps`, along a line or half a cosine to the power `decay_power`.
    """
    lr = optimizer.lr
    if step < optimizer.warmup_steps:
        lr *= optimizer.warmup_scale + (1 - optimizer.warmup_scale) * (step / optimizer.warmup_steps)
    if optimizer.half_life_steps is not None:
        warmup = optimizer.warmup_steps if optimizer.half_life_after_warmup else 0
        lr *= 0.5 ** (max(step - warmup, 0) / optimizer.half_life_steps)
    if optimizer.decay != "none":
        start = optimizer.warmup_steps if optimizer.decay_after_warmup else optimizer.decay_start * total_steps
        progress = min(max((step - start) / max(total_steps - start, 1), 0.0), 1.0)
        left = 1 - progress if optimizer.decay == "linear" else (1 + math.cos(math.pi * progress)) / 2
        lr *= optimizer.final_lr_scale + (1 - optimizer.final_lr_scale) * left**optimizer.decay_power
    return lr


@dataclass(frozen=True)
class Run:
    """Everything a training run depends on. `train(run, folder)` carries it out."""

    method: MethodConfig  # what is trained
    data: DataConfig  # what it is trained on
    steps: int  # optimiser updates; 0 for a method that needs no training, which is evaluated as it is
    batch_size: int  # samples per update over all processes and micro-batches
    optimizer: Adam = field(default_factory=Adam)  # learning rates and clipping
    seed: int = 0  # of weights, data order and noise
    precision: Precision = "32"  # 32: float32; bf16, 16: mixed, weights stay float32; auto: what is fast here
    channels_last: bool | Literal["auto"] = False  # memory layout b h w c for convolutions; auto: what is fast here
    compile: bool = False  # torch.compile the loss; changes speed and rounding only
    shard: bool = False  # processes share one copy of weights and moments (FSDP): less memory, same result to rounding
    ema_decay: float | None = None  # evaluate an exponential moving average of the weights, e.g. 0.999; None: off
    accumulate: int = 1  # micro-batches per update: less memory, same result to rounding
    num_workers: int = 0  # processes that read data, per training process; 0: read in the training process
    log_every: int = 50  # steps between lines in metrics.jsonl
    eval_every: int = 1000  # steps between evaluations
    save_every: int = 1000  # steps between checkpoints (the last one replaces the one before)
    keep_every: int | None = None  # steps between checkpoints that are kept for good; None: only the last
    eval_images: int = 320  # images per evaluation, from the first on
    last_eval_all: bool = False  # the last evaluation takes all images of its split; recipes of published numbers do
    eval_split: Literal["test", "val"] = "test"  # split of the last evaluation: val where the published number is from
    protocol: str = "slot-attention"  # name of the evaluation protocol
    tensorboard: bool = True  # also write TensorBoard events
    wandb: bool = False  # also log to Weights & Biases (needs the extra `wandb`)
    expected: str = ""  # what its source prints, and where

    def __post_init__(self) -> None:
        _check(self.steps >= 0, f"steps is {self.steps}; it cannot be negative.")
        for name in ("batch_size", "accumulate", "log_every", "eval_every", "save_every", "eval_images"):
            value = getattr(self, name)
            _check(value >= 1, f"{name} is {value}; it must be 1 or more.")
        _check(
            self.keep_every is None or self.keep_every >= 1,
            f"keep_every is {self.keep_every}; give a number of steps, or None to keep only the last checkpoint.",
        )
        _check(self.num_workers >= 0, f"num_workers is {self.num_workers}; it cannot be negative.")
        _check(self.seed >= 0, f"seed is {self.seed}; it cannot be negative.")
        _check(
            self.batch_size % self.accumulate == 0,
            f"batch_size is {self.batch_size} and accumulate is {self.accumulate}; the batch must divide into equal "
            "micro-batches.",
        )
        _check(self.eval_split in ("test", "val"), f"eval_split is {self.eval_split!r}; choose test or val.")
        _check(
            self.precision in get_args(Precision),
            f"precision is {self.precision!r}; choose auto, 32, bf16 or 16.",
        )
        _check(
            self.channels_last in (True, False, "auto"),
            f"channels_last is {self.channels_last!r}; choose True, False or auto.",
        )
        _check(
            self.ema_decay is None or 0 < self.ema_decay < 1,
            f"ema_decay is {self.ema_decay}; give a number between 0 and 1, or None for no average.",
        )
        for setting in fields(self):  # what is left: too large for a machine
            allowed = RANGES["seed"] if setting.name == "seed" else NOT_NEGATIVE
            check_number(setting.name, getattr(self, setting.name), allowed)
        wanted, stored = _method_size(self.method), _data_size(self.data)
        _check(
            wanted is None or stored is None or wanted == stored,
            f"method.image_size is {wanted} but the images of {type(self.data).__name__} are {stored} (height, width "
            "in pixels); set both to the same size.",
        )

    def _repr_html_(self) -> str:
        """A notebook shows the settings, those of the method and the data folded up."""
        parts = {name: getattr(self, name) for name in ("method", "data", "optimizer")}
        rows = [[name, folded(type(part).__name__, table(_settings(part)))] for name, part in parts.items()]
        return table([*rows, *(row for row in _settings(self) if row[0] not in parts)])


def check_objects(run: Run) -> None:
    """Predicted sets need as many slots as images hold objects.

    Raises:
        UserError: if the method predicts sets and has fewer.
    """
    slots, objects = getattr(run.method, "num_slots", None), run.data.max_objects
    if hasattr(run.method, "categories") and slots is not None and objects is not None and objects > slots:
        raise UserError(
            f"Images hold up to {objects} objects but the method predicts {slots}; set method.num_slots to {objects} "
            "or more, or lower data.max_objects."
        )


def _method_size(method: MethodConfig) -> tuple[int, int] | None:
    size = getattr(method, "image_size", None)
    return (size, size) if isinstance(size, int) else size if size is None else tuple(size)


def _data_size(data: DataConfig) -> tuple[int, int] | None:
    try:
        return data.size
    except NotImplementedError:  # not every source knows before it is opened
        return None


def _settings(part: Any) -> list[list[object]]:
    """Names and values of a part's settings."""
    return [[one.name, getattr(part, one.name)] for one in fields(part)]
