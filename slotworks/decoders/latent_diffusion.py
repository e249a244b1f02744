"""SlotDiffusion's decoder: a U-Net trained from scratch that removes noise from the latents of a VQ-VAE, told by slots.

    training   image --VQ-VAE, frozen--> z,  z_t = sqrt(a_t) z + sqrt(1 - a_t) e,  U-Net(z_t, t, slots) -> e
    sampling   noise --DPM-Solver++ with the same U-Net, every estimate of z quantised--> z --VQ-VAE--> image

Wu et al. 2023 (arXiv 2305.11281) on Rombach et al. 2022. Without a VQ-VAE the image itself, in [-1, 1], takes the place
of z (the paper's first attempt, good at 64 x 64). What is the same for Stable Diffusion is shared, `nn/diffusion.py`.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from slotworks.errors import needs_extra
from slotworks.nn.diffusion import (
    Prediction,
    Solver,
    add_noise,
    clean_of,
    denoising_loss,
    fixed_context,
    make_solver,
    run_solver,
    scaled_linear_alphas,
    starting_noise,
    target_of,
)
from slotworks.nn.position import wave_coordinates
from slotworks.nn.precision import without_autocast
from slotworks.nn.resize import resize
from slotworks.nn.vqvae import VQAutoencoder, VQConfig
from slotworks.ranges import check_numbers
from slotworks.types import Batch, UserError


@dataclass(frozen=True)
class DenoiserConfig:
    """The U-Net, its noise and its sampler; the defaults are those of SlotDiffusion's code for 128 x 128 images."""

    dims: tuple[int, ...] = (128, 256, 384, 512)  # channels of the levels; each after the first halves the side
    layers: int = 2  # residual blocks of a level; one more on the way up
    attention_from: int = 1  # first level with attention; 0: at every level, as the paper's text has it
    head_dim: int = 32  # channels of an attention head
    norm_groups: int = 32  # of every GroupNorm
    dropout: float = 0.1  # in the residual blocks
    prediction: Prediction = "epsilon"  # what is predicted: the noise, the data (sample) or the velocity
    num_timesteps: int = 1000  # T; fewer give better masks and worse images in the paper's figure 9
    beta_start: float = 0.0015  # of a schedule whose roots grow linearly
    beta_end: float = 0.0195  # noise variance of the last step
    solver: Solver = "singlestep"  # DPM-Solver++ of order 3, as in the code
    quantize_steps: bool = True  # quantise each estimate of the latents while sampling
    latent_scale: float = 1.0  # factor on latents, of about 1 over their standard deviation (not in the paper)
    coordinates: bool = False  # place beside the latents, which the U-Net else reads off its borders (likewise)
    time_power: float = 1.0  # of training: t = 1 - (1 - u) ** power, above 1 more of it is spent on noise (likewise)

    def __post_init__(self) -> None:
        check_numbers(self, "denoiser")
        if self.time_power < 1:
            raise ValueError(
                f"denoiser.time_power is {self.time_power:g}; give 1, which is uniform over all timesteps, or more."
            )
        for dim in self.dims:
            if dim % self.norm_groups or dim % self.head_dim:
                raise ValueError(
                    f"dims are {self.dims}; each must be a multiple of norm_groups {self.norm_groups} and of head_dim "
                    f"{self.head_dim}."
                )


class LatentDiffusionDecoder(nn.Module):
    """A diffusion model of latents, or of images, whose context are slots.

    The VQ-VAE is frozen but saved with the rest, so that a run folder is enough to sample. `load_autoencoder` gives it
    trained weights; until then training and sampling are refused.

    Args:
        context_dim: width of a slot.
        image_size: pixels, square.
        config: of the U-Net.
        autoencoder: networks of the VQ-VAE; None diffuses the image itself.
    """

    alphas: Tensor
    ready: Tensor
    place: Tensor | None

    def __init__(self, context_dim: int, image_size: int, config: DenoiserConfig, autoencoder: VQConfig | None):
        super().__init__()
        with needs_extra("diffusion"):
            from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
        self.config, self.image_size, levels = config, image_size, len(config.dims)
        stride, channels = (autoencoder.stride, autoencoder.latent_dim) if autoencoder else (1, 3)
        multiple = stride * 2 ** (levels - 1)
        if image_size % multiple:
            raise ValueError(f"image_size is {image_size}; autoencoder and U-Net need a multiple of {multiple}.")
        self.shape = (channels, image_size // stride, image_size // stride)
        self.autoencoder = VQAutoencoder(autoencoder).requires_grad_(False) if autoencoder else None
        heads: Any = tuple(dim // config.head_dim for dim in config.dims)
        attended = [level >= config.attention_from for level in range(levels)]
        self.unet: Any = UNet2DConditionModel(
            sample_size=self.shape[-1],
            in_channels=channels + 10 * config.coordinates,
            out_channels=channels,
            down_block_types=tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attended),
            up_block_types=tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attended)),
            block_out_channels=config.dims,
            layers_per_block=config.layers,
            cross_attention_dim=context_dim,
            attention_head_dim=heads,  # diffusers' name for their number
            norm_num_groups=config.norm_groups,
            dropout=config.dropout,
        )
        for name, module in self.unet.named_modules():  # each block starts as the identity, the whole as zero
            if name == "conv_out" or (name.endswith(("conv2", "proj_out")) and isinstance(module, nn.Conv2d)):
                nn.init.zeros_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        alphas = scaled_linear_alphas(config.num_timesteps, config.beta_start, config.beta_end)
        self.register_buffer("alphas", alphas, persistent=False)
        place = wave_coordinates(*self.shape[1:]).T.unflatten(1, self.shape[1:]) if config.coordinates else None
        self.register_buffer("place", place, persistent=False)
        self.register_buffer("ready", torch.tensor(autoencoder is None))
        self._known_ready = False  # so that the device is asked once

    @property
    def sample_steps(self) -> int:
        """Evaluations of the U-Net for one image in the released code: 20, and a fiftieth of T where that is more."""
        return max(20, self.config.num_timesteps // 50)

    def load_autoencoder(self, trained: VQAutoencoder) -> None:
        """Take the weights of a trained VQ-VAE with the same networks."""
        if self.autoencoder is None:
            raise ValueError("This decoder works on images and has no autoencoder.")
        self.autoencoder.load_state_dict(trained.state_dict())
        self.ready.fill_(True)

    def latents(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b l y x"]:
        """Images in [0, 1] of any size to what is denoised; computed in float32, without gradients.

        Raises:
            UserError: if the VQ-VAE has not been trained or loaded.
        """
        image = resize(image.float(), self.image_size)
        if self.autoencoder is None:
            return 2 * image - 1
        self._check()
        with torch.no_grad(), without_autocast(image.device):
            return self.config.latent_scale * self.autoencoder.encode(image)

    def latents_of(self, batch: Batch) -> Float[Tensor, "b l y x"]:
        """Of a batch: its `latents` if it has them, or those of its images."""
        return batch["latents"].float() if "latents" in batch else self.latents(batch["image"])

    def images(self, latents: Float[Tensor, "b l y x"]) -> Float[Tensor, "b 3 h w"]:
        """Latents to images in [0, 1]."""
        if self.autoencoder is None:
            return (latents / 2 + 0.5).clamp(0, 1)
        with without_autocast(latents.device):
            return self.autoencoder.decode(latents.float() / self.config.latent_scale).clamp(0, 1)

    def noisy(
        self, latents: Float[Tensor, "b l y x"], noise: Float[Tensor, "b l y x"], timestep: Int64[Tensor, " b"]
    ) -> tuple[Float[Tensor, "b l y x"], Float[Tensor, "b l y x"]]:
        """Latents at a timestep (0: almost clean), and what the U-Net should say to them."""
        alpha = self.alphas[timestep][:, None, None, None]
        return add_noise(latents, noise, alpha), target_of(latents, noise, alpha, self.config.prediction)

    def predict(
        self, latents: Float[Tensor, "b l y x"], timestep: Int64[Tensor, "*b"], context: Float[Tensor, "b n d"]
    ) -> Float[Tensor, "b l y x"]:
        """What the U-Net says to noisy latents and slots."""
        if self.place is not None:
            latents = torch.cat([latents, self.place.to(latents.dtype).expand(len(latents), -1, -1, -1)], 1)
        return self.unet(latents, timestep, encoder_hidden_states=context).sample

    def loss(self, latents: Float[Tensor, "b l y x"], context: Float[Tensor, "b n d"]) -> Float[Tensor, ""]:
        """Mean squared error of the prediction at a random timestep for each image (equation 5), see `time_power`."""
        power = self.config.time_power
        return denoising_loss(
            latents, len(self.alphas), self.noisy, lambda z, t: self.predict(z, t, context), time_power=power
        )

    @torch.no_grad()
    def sample(
        self,
        context: Float[Tensor, "b n d"],
        *,
        steps: int | None = None,
        generator: torch.Generator | None = None,
        shared_noise: bool = False,
        fixed: bool = True,
    ) -> Float[Tensor, "b 3 h w"]:
        """Images in [0, 1] from slots.

        Args:
            context: slots, any number of them.
            steps: evaluations of the U-Net; `sample_steps` by default.
            generator: of the starting noise; the same state gives the same noise, whatever the slots.
            shared_noise: the same starting noise for all: for the frames of a video.
            fixed: compute keys and values of the slots once and not at every step; changes speed only.

        Raises:
            UserError: if the VQ-VAE has not been trained or loaded.
            ValueError: for less than one step.
        """
        self._check()
        config = self.config
        scheduler = make_solver(config.solver, config.num_timesteps, config.beta_start, config.beta_end)
        noise = starting_noise((len(context), *self.shape), context.device, generator, shared=shared_noise)

        def estimate(latents: Tensor, timestep: Tensor) -> Tensor:
            """The clean latents, as the scheduler is told to expect."""
            said = self.predict(latents, timestep, context).float()
            clean = clean_of(said, latents, self.alphas[timestep.to(self.alphas.device)], config.prediction)
            if self.autoencoder is None:
                return clean.clamp(-1, 1)
            if not config.quantize_steps:
                return clean
            return self.autoencoder.quantize(clean / config.latent_scale).codes * config.latent_scale

        with fixed_context(self.unet, context if fixed else None):
            steps = self.sample_steps if steps is None else steps
            return self.images(run_solver(scheduler, noise, estimate, steps=steps, generator=generator))

    def _check(self) -> None:
        self._known_ready = self._known_ready or bool(self.ready)
        if not self._known_ready:
            raise UserError(
                "The VQ-VAE of this SlotDiffusion has no trained weights; train one (`slotworks train vqvae.NAME`) and "
                "give its run folder as method.autoencoder_run."
            )
