"""Published networks by their shape alone: built without weights and without a download, for what only counts.

Inside `without_weights()` the networks that recipes name are built from the settings below, which are those of their
published `config.json`, on the current default device. On torch's meta device that costs no memory: a training can be
planned before anything of it is on this machine.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch

from slotworks.errors import needs_extra
from slotworks.types import UserError

_wanted: ContextVar[bool] = ContextVar("without_weights", default=False)


def _vit(width: int, patch: int, model_type: str = "vit") -> dict[str, Any]:
    sizes = {"hidden_size": width, "num_attention_heads": width // 64, "intermediate_size": 4 * width}
    return {"model_type": model_type, "num_hidden_layers": 12, "image_size": 224, "patch_size": patch, **sizes}


def _dinov2(width: int, layers: int, registers: int = 0) -> dict[str, Any]:
    sizes = {"hidden_size": width, "num_attention_heads": width // 64, "num_hidden_layers": layers, "mlp_ratio": 4}
    kind = {"model_type": "dinov2_with_registers", "num_register_tokens": registers} if registers else {}
    return {"model_type": "dinov2", **kind, "image_size": 518, "patch_size": 14, **sizes}


TRANSFORMERS: dict[str, dict[str, Any]] = {
    "facebook/dino-vitb16": _vit(768, 16),
    "facebook/dino-vitb8": _vit(768, 8),
    "facebook/dino-vits16": _vit(384, 16),
    "facebook/dino-vits8": _vit(384, 8),
    "facebook/vit-mae-base": _vit(768, 16, "vit_mae"),
    "facebook/dinov2-small": _dinov2(384, 12),
    "facebook/dinov2-base": _dinov2(768, 12),
    "facebook/dinov2-large": _dinov2(1024, 24),
    "facebook/dinov2-with-registers-small": _dinov2(384, 12, 4),
    "facebook/dinov2-with-registers-base": _dinov2(768, 12, 4),
    "facebook/dinov2-with-registers-large": _dinov2(1024, 24, 4),
}
"""What `transformers.AutoConfig` makes the network of; what is not named is its default."""

_SD_WIDTHS = (320, 640, 1280, 1280)
_SD_UNET = {"sample_size": 64, "in_channels": 4, "out_channels": 4, "block_out_channels": _SD_WIDTHS}
_SD1 = {**_SD_UNET, "attention_head_dim": 8, "cross_attention_dim": 768}
_SD2_HEADS = {"attention_head_dim": (5, 10, 20, 20), "cross_attention_dim": 1024, "use_linear_projection": True}
_NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
_VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
DIFFUSION: dict[str, dict[str, dict[str, Any]]] = {
    "stabilityai/stable-diffusion-2-1": {
        "unet": {**_SD_UNET, "sample_size": 96, **_SD2_HEADS},
        "vae": _VAE,
        "scheduler": {**_NOISE, "prediction_type": "v_prediction"},
    },
    "stabilityai/stable-diffusion-2-1-base": {"unet": {**_SD_UNET, **_SD2_HEADS}, "vae": _VAE, "scheduler": _NOISE},
    "runwayml/stable-diffusion-v1-5": {"unet": _SD1, "vae": _VAE, "scheduler": _NOISE},
    "CompVis/stable-diffusion-v1-4": {"unet": _SD1, "vae": _VAE, "scheduler": _NOISE},
}
"""What `diffusers` makes U-Net, VAE and scheduler of; their weights count, the text encoder of a training does not."""


@contextmanager
def without_weights() -> Iterator[None]:
    """Inside, published networks are built by their shape and never read or downloaded.

    A network that is not in the tables above is a UserError; `package:` networks and folders are read as always.
    """
    token = _wanted.set(True)
    try:
        yield
    finally:
        _wanted.reset(token)


def wanted(model: str) -> bool:
    """Whether this network is to be built by its shape alone."""
    return _wanted.get() and not model.startswith(("package:", ".", "/", "~"))


def blank_transformer(model: str) -> Any:
    """A vision transformer with random weights.

    Raises:
        UserError: its shape is not known here.
    """
    with needs_extra("vision"):
        from transformers import AutoConfig, AutoModel
    settings = dict(_known(TRANSFORMERS, model))
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    if hasattr(config, "mask_ratio"):
        config.mask_ratio = 0.0  # MAE sees the whole image
    return AutoModel.from_config(config)


def blank_diffusion(model: str) -> tuple[Any, Any, Any]:
    """VAE, U-Net and scheduler of a latent diffusion model with random weights.

    Raises:
        UserError: its shape is not known here.
    """
    with needs_extra("diffusion"):
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler
    parts = _known(DIFFUSION, model)
    vae, unet = AutoencoderKL(**parts["vae"]), UNet2DConditionModel(**parts["unet"])
    for network in (vae, unet):
        network.eval().requires_grad_(False)
    return vae, unet, DDIMScheduler(**parts["scheduler"])


def vae_settings(model: str) -> dict[str, Any]:
    """The config.json of a VAE.

    Raises:
        UserError: its shape is not known here.
    """
    return _known(DIFFUSION, model)["vae"]


def _known(table: dict[str, Any], model: str) -> Any:
    if model not in table:
        raise UserError(f"The shape of {model} is not known without its files; known are {', '.join(table)}.")
    return table[model]


def as_planned(network: Any) -> Any:
    """A network that was read, on the CPU, since no file can be read to torch's meta device; where that is the default,
    as in a plan, the network on it."""
    return network.to("meta") if torch.get_default_device().type == "meta" else network
