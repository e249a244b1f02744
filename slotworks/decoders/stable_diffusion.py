"""Stable Diffusion as a decoder: its U-Net sees slots where it would see the tokens of a prompt.

    training   image --VAE--> z,  z_t = sqrt(a_t) z + sqrt(1 - a_t) noise,  U-Net(z_t, t, slots) -> noise or velocity
    sampling   noise --DPM-Solver++ with the same U-Net--> z --VAE--> image

StableLSD and GLASS; Rombach et al. 2022 (arXiv 2112.10752). What is predicted is the checkpoint's choice: Stable
Diffusion 2.1 predicts the velocity sqrt(a) noise - sqrt(1 - a) z, 1.x and 2.1-base the noise.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from slotworks.errors import needs_extra
from slotworks.files import replacing_tree
from slotworks.nn.diffusion import (
    add_noise,
    denoising_loss,
    fixed_context,
    run_solver,
    speed_up_attention,
    starting_noise,
    target_of,
)
from slotworks.nn.noise import batch_noise
from slotworks.nn.precision import without_autocast
from slotworks.nn.resize import resize
from slotworks.types import Batch, UserError

LOG_VARIANCE = (-30.0, 20.0)
"""Limits of the log variance of latents, as in `diffusers`."""

SAMPLING: dict[str, dict[str, Any]] = {"package:painted_diffusion": {"steps": 20, "cfg_scale": 1.5}}
"""How small models of the package are sampled where nobody says: as their rows of results were."""


@dataclass(frozen=True)
class StableDiffusionConfig:
    """Which diffusion model, at which size, and whether it is trained. Nothing is loaded or imported by this."""

    model: str = "stabilityai/stable-diffusion-2-1"  # hub id, a folder as diffusers writes it, or `package:NAME`
    image_size: int = 256  # pixels, square: what the VAE sees and what is sampled
    context_dim: int = 1024  # width of the U-Net's context: of what it is shown of a slot
    trained: bool = False  # train the whole U-Net, which then is a part of the checkpoint
    checkpointing: bool = False  # compute activations of the U-Net twice: less memory, a third more time
    time_power: float = 1.0  # of training: t = 1 - (1 - u) ** power, so that above 1 more of it is spent on noise

    def __post_init__(self):
        if self.time_power < 1:
            raise ValueError(
                f"diffusion.time_power is {self.time_power:g}; give 1, which is uniform over all timesteps, or more."
            )


class StableDiffusionDecoder(nn.Module):
    """A latent diffusion model whose context are slots.

    A frozen U-Net, the VAE and the embedding of the empty prompt are loaded when they are first used; they follow the
    slots to their device, are no parameters and are not saved. A trained U-Net is loaded at once and is `unet`. Its
    weights are float32; under autocast (`Run.precision`) it computes in bfloat16, the VAE always in float32.

    Args:
        config: which model.
        load: reads it: `slotworks.encoders.diffusion.load_diffusion`.

    Raises:
        UserError: the model cannot be found or read, or its context has another width.
    """

    def __init__(self, config: StableDiffusionConfig, load: Callable[..., Any]):
        super().__init__()
        self.config, self._load = config, load
        self._parts: tuple[Any, ...] = ()  # what was read; in a tuple, it is no submodule: not saved, not trained
        self.unet: Any = None
        if config.trained:
            self.unet = self.parts(torch.empty(0)).unet.requires_grad_()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_parts": ()}

    def parts(self, like: Tensor) -> Any:
        """The networks (`DiffusionParts` of `slotworks.encoders.diffusion`), on the device of `like`.

        Raises:
            UserError: they cannot be found or read, or the U-Net's context has another width than the config says.
        """
        if not self._parts:
            parts, config = self._load(self.config.model, like.device), self.config
            width, stride = parts.unet.config.cross_attention_dim, _stride(parts)
            if width != config.context_dim:
                raise UserError(
                    f"context_dim is {config.context_dim}, but the U-Net of {config.model} has a context {width} wide; "
                    "set it to that."
                )
            if config.image_size % stride:
                raise UserError(
                    f"image_size is {config.image_size}, but the VAE of {config.model} needs a multiple of {stride}."
                )
            speed_up_attention(parts.unet)
            if config.checkpointing:
                parts.unet.enable_gradient_checkpointing()
            self._parts = (parts if self.unet is None else replace(parts, unet=self.unet),)
        elif self._parts[0].alphas.device != like.device:
            parts, device = self._parts[0], like.device
            moved = {name: getattr(parts, name).to(device) for name in ("vae", "unet", "alphas", "empty_prompt")}
            self._parts = (replace(parts, **moved),)
        return self._parts[0]

    def moments(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b l2 y x"]:
        """Images in [0, 1] of any size to means and log variances of their latents, unscaled: what may be cached."""
        with torch.no_grad(), without_autocast(image.device):
            image = resize(image.float(), self.config.image_size)
            return self.parts(image).vae.encode(2 * image - 1).latent_dist.parameters

    def latents(self, moments: Float[Tensor, "b l2 y x"]) -> Float[Tensor, "b l y x"]:
        """One draw of the latents, scaled as the U-Net wants them."""
        mean, log_variance = moments.float().chunk(2, dim=1)
        spread = (0.5 * log_variance.clamp(*LOG_VARIANCE)).exp()
        drawn = mean + spread * batch_noise(tuple(mean.shape), mean.device, mean.dtype)
        return drawn * self.parts(drawn).vae.config.scaling_factor

    def latents_of(self, batch: Batch) -> Float[Tensor, "b l y x"]:
        """One draw of the latents of a batch: of its cached moments, `latents`, if it has them, or of its images."""
        return self.latents(batch["latents"] if "latents" in batch else self.moments(batch["image"]))

    def noisy(
        self, latents: Float[Tensor, "b l y x"], noise: Float[Tensor, "b l y x"], timestep: Int64[Tensor, " b"]
    ) -> tuple[Float[Tensor, "b l y x"], Float[Tensor, "b l y x"]]:
        """Latents at a timestep (0: almost clean), and what the U-Net should say to them: noise or velocity."""
        parts = self.parts(latents)
        alpha = parts.alphas[timestep].to(latents.dtype)[:, None, None, None]
        return add_noise(latents, noise, alpha), target_of(latents, noise, alpha, parts.prediction)

    def predict(
        self,
        latents: Float[Tensor, "b l y x"],
        timestep: Int64[Tensor, "*b"],
        context: Float[Tensor, "b n e"],
        *,
        slot_mask: Bool[Tensor, "b n"] | None = None,
    ) -> Float[Tensor, "b l y x"]:
        """What the U-Net says to noisy latents and a context; slots where `slot_mask` is False are not looked at."""
        unet = self.parts(latents).unet
        return unet(latents, timestep, encoder_hidden_states=context, encoder_attention_mask=slot_mask).sample

    def loss(
        self,
        latents: Float[Tensor, "b l y x"],
        context: Float[Tensor, "b n e"],
        *,
        slot_mask: Bool[Tensor, "b n"] | None = None,
    ) -> Float[Tensor, ""]:
        """Mean squared error of the prediction at a random timestep for each image, see `time_power`.

        Gradients reach the context through a frozen U-Net, too.
        """

        def predict(mixed: Tensor, timestep: Tensor) -> Tensor:
            return self.predict(mixed, timestep, context, slot_mask=slot_mask)

        total, power = len(self.parts(latents).alphas), self.config.time_power
        return denoising_loss(latents, total, self.noisy, predict, time_power=power)

    @property
    def sampling(self) -> dict[str, Any] | None:
        """Steps and guidance where nobody says, if the model has some of its own."""
        return SAMPLING.get(self.config.model)

    @torch.no_grad()
    def sample(
        self,
        context: Float[Tensor, "b n e"],
        *,
        steps: int = 50,
        cfg_scale: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "b 3 h w"]:
        """Images in [0, 1] from a context, by DPM-Solver++ (Lu et al. 2022, order 2), as LSD and GLASS sample.

        Classifier-free guidance: `empty + cfg_scale * (with context - empty)`, where empty is the text "" at the same
        length as the context, as the pipeline of `diffusers` does; 1 leaves it out. The same generator state gives the
        same starting noise, whatever the context.

        Raises:
            ValueError: for a context longer than the longest prompt, if it is guided, or no steps.
        """
        with needs_extra("diffusion"):
            from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
        parts, count, length = self.parts(context), len(context), context.shape[1]
        if cfg_scale != 1:
            if length > parts.empty_prompt.shape[1]:
                raise ValueError(
                    f"{length} slots are more than the {parts.empty_prompt.shape[1]} tokens of a prompt; sample with "
                    "cfg_scale 1."
                )
            # The text encoder is causal: the first tokens of a longer empty text are those of a shorter one.
            context = torch.cat([parts.empty_prompt[:, :length].expand(count, -1, -1).to(context.dtype), context])
        scheduler: Any = DPMSolverMultistepScheduler.from_config(parts.scheduler.config)
        side = self.config.image_size // _stride(parts)
        shape = (count, parts.unet.config.in_channels, side, side)

        def predict(latents: Tensor, timestep: Tensor) -> Tensor:
            said = self.predict(torch.cat([latents] * (len(context) // count)), timestep, context).float()
            if cfg_scale == 1:
                return said
            empty, full = said.chunk(2)
            return empty + cfg_scale * (full - empty)

        with fixed_context(parts.unet, context):  # keys and values of the slots, once for all steps
            noise = starting_noise(shape, context.device, generator)
            latents = run_solver(scheduler, noise, predict, steps=steps, generator=generator)
        with without_autocast(latents.device):
            return (parts.vae.decode(latents / parts.vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)

    def export(self, folder: str | os.PathLike[str]) -> Path:
        """Write the U-Net to `unet/` in a folder, as `diffusers` reads it; returns that."""
        path = Path(folder) / "unet"
        parts = self.parts(torch.empty(0) if self.unet is None else next(self.unet.parameters()))
        with replacing_tree(path) as beside:
            parts.unet.save_pretrained(beside)
        return path


def _stride(parts: Any) -> int:
    """Pixels for each latent."""
    return 2 ** (len(parts.vae.config.block_out_channels) - 1)
