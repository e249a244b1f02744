"""SlotDiffusion: slots from images or videos, rendered by a diffusion model of a VQ-VAE's latents.

Wu et al. 2023, "SlotDiffusion: Object-Centric Generative Modeling with Diffusion Models", arXiv 2305.11281 (first as
"Unsupervised Object-Centric Learning with Diffusion Models"). The defaults are the released code's for CLEVRTex, which
are the paper's but for two learning rates and longer training, see `configs/slot_diffusion.py`. The VQ-VAE is trained
before, `methods/vqvae.py`.

Differences from the released code: Slot Attention starts with the weights of Slot Attention's own code, the sampler's
times are whole timesteps, and bfloat16 takes the place of float16.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from slotworks.decoders import DenoiserConfig, LatentDiffusionDecoder
from slotworks.encoders import ResNetEncoder, ViTConfig, ViTEncoder
from slotworks.nn.diffusion import unet_blocks
from slotworks.nn.position import PositionEmbedding
from slotworks.nn.resize import resize
from slotworks.nn.vqvae import VQConfig
from slotworks.slots import INITIALIZERS, LearnedInit, SlotAttention, TransformerPredictor, VideoSlotAttention
from slotworks.types import (
    Batch,
    Method,
    MethodConfig,
    ShortClips,
    SlotOutput,
    TrainsOnClips,
    UserError,
    VideoMethod,
    cut_clips,
)


@dataclass(frozen=True)
class SlotDiffusionConfig(MethodConfig):
    """Hyperparameters of the second stage on images."""

    image_size: int = 128  # pixels, square
    encoder: ViTConfig | None = None  # a frozen ViT, as for VOC and COCO; None: the modified ResNet-18, trained along
    resnet_width: int = 64  # channels of the ResNet's first stage; the later ones have twice and four times as many
    resnet_strides: tuple[int, ...] = (1, 2, 2)  # of its stages
    resnet_norm_groups: int = 32  # of every GroupNorm in it
    num_slots: int = 11  # N
    slot_dim: int = 192  # D_slot
    num_iterations: int = 3  # of Slot Attention in training
    test_iterations: int | None = None  # outside of training; None: as in training
    mlp_dim: int = 384  # hidden width of the residual MLP inside Slot Attention
    attention_scale: float | None = None  # factor on Slot Attention's logits; None: slot_dim ** -0.5
    initializer: Literal["gaussian", "per_slot", "learned"] = "learned"  # learned ones are drawn from N(0, 1)
    gradient: Literal["unrolled", "implicit", "bilevel"] = "unrolled"  # through all iterations, or the last only
    position_gain: float = 1.0  # factor on the initial weights of the position embedding (not in the paper)
    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)  # the diffusion model that decodes the slots
    autoencoder: VQConfig | None = field(default_factory=VQConfig)  # None: diffusion of the image itself
    autoencoder_run: str = "runs/vqvae.clevrtex"  # run folder of the first stage; read when training starts

    def build(self) -> "SlotDiffusion":
        """Make the method with fresh weights; the VQ-VAE's are read by `prepare`, or come with a checkpoint."""
        return SlotDiffusion(self)


@dataclass(frozen=True)
class VideoSlotDiffusionConfig(TrainsOnClips, SlotDiffusionConfig):
    """Hyperparameters of the second stage on videos: SAVi's loop over time, torch's Transformer between frames."""

    num_slots: int = 15  # K: objects and background
    num_iterations: int = 2  # T at every frame
    autoencoder_run: str = "runs/vqvae.movi_d"  # run folder of the VQ-VAE; read when training starts
    predictor_blocks: int = 2  # Transformer blocks of the predictor
    predictor_heads: int = 4  # attention heads of the predictor
    predictor_dim: int = 768  # hidden width of its two-layer networks
    predictor_dropout: float = 0.1  # torch's default, which the released code keeps
    predictor_hidden_dropout: bool = False  # also inside the two-layer networks, as torch's own Transformer has it
    shared_noise: bool = True  # sampling: the same starting noise for all frames
    short_clips: ShortClips = ()  # training on pieces of clips at first: (until step, frames), ... (not in the paper)
    start_from: str | None = None  # run folder of SlotDiffusion on images whose weights training starts from; likewise

    def build(self) -> "VideoSlotDiffusion":  # pyright: ignore[reportIncompatibleMethodOverride]
        """Make the method with fresh weights; the VQ-VAE's are read by `prepare`, or come with a checkpoint."""
        return VideoSlotDiffusion(self)

    @property
    def starts_trained(self) -> bool:
        """Whether `start_from` names a run."""
        return self.start_from is not None


class _Front(nn.Module):
    """What comes before Slot Attention, the same for images and videos: features with positions, where slots start."""

    def __init__(self, config: SlotDiffusionConfig):
        super().__init__()
        self.config = config
        if config.encoder is None:
            self.encoder = ResNetEncoder(
                width=config.resnet_width, strides=config.resnet_strides, norm_groups=config.resnet_norm_groups
            )
            width = self.encoder.feature_dim
        else:
            self.encoder = ViTEncoder(config.encoder)
            width = config.encoder.feature_dim
        self.position = PositionEmbedding(width)
        self.position.project.weight.data *= config.position_gain
        self.feature_mlp = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, config.slot_dim),
            nn.ReLU(),
            nn.Linear(config.slot_dim, config.slot_dim),
        )
        self.initializer = INITIALIZERS[config.initializer](config.num_slots, config.slot_dim)
        if isinstance(self.initializer, LearnedInit):
            nn.init.normal_(self.initializer.slots)

    @property
    def frozen(self) -> bool:
        """Whether the encoder is a frozen one, whose features may be cached."""
        return self.config.encoder is not None and not self.config.encoder.trained_blocks

    def features(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b p c"]:
        """Of images in [0, 1] of any size, without positions."""
        if self.config.encoder is None:
            return self.encoder(2 * image - 1)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return self.encoder(resize(image, self.config.encoder.image_size))

    def placed(self, features: Float[Tensor, "b p c"], grid: tuple[int, int]) -> Float[Tensor, "b p d"]:
        """Features with positions, through the MLP: what slots attend to."""
        return self.feature_mlp(features + self.position(*grid).flatten(2).transpose(1, 2))

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the features of an image of this size in pixels."""
        return self.encoder.grid(height, width) if self.config.encoder is None else self.config.encoder.grid

    def iterations(self, wanted: int | None) -> int | None:
        """Those asked for; outside of training those of the config."""
        return self.config.test_iterations if wanted is None and not self.training else wanted


def _slot_attention(config: SlotDiffusionConfig) -> SlotAttention:
    return SlotAttention(
        config.slot_dim,
        config.slot_dim,
        config.num_iterations,
        mlp_dim=config.mlp_dim,
        scale=config.attention_scale,
        eps=1e-6,
        gradient=config.gradient,
    )


class SlotDiffusion(Method):
    """Slots trained to remove noise from an image's latents. Masks are slot attention; the decoder has none."""

    config: SlotDiffusionConfig

    def __init__(self, config: SlotDiffusionConfig):
        super().__init__()
        self.config = config
        self.front, self.slot_attention = _Front(config), _slot_attention(config)
        self.decoder = LatentDiffusionDecoder(config.slot_dim, config.image_size, config.denoiser, config.autoencoder)

    @property
    def sampling(self) -> dict[str, Any]:
        """How images are sampled where nobody says: the paper's 20 steps, without guidance."""
        return {"steps": self.decoder.sample_steps, "cfg_scale": 1.0}

    def prepare(self, load: Callable[[str], Method]) -> None:
        """Read the VQ-VAE from its run folder.

        Raises:
            UserError: if that run is no VQ-VAE, or has other networks.
        """
        _read_autoencoder(self.config, self.decoder, load)

    def encode(
        self, image: Float[Tensor, "b 3 h w"], *, num_slots: int | None = None, num_iterations: int | None = None
    ) -> SlotOutput:
        """Images in [0, 1] to slots. `num_slots` may differ from training where the initialiser is shared."""
        grid = self.front.grid(image.shape[-2], image.shape[-1])
        return self.group(self.front.features(image), grid, num_slots=num_slots, num_iterations=num_iterations)

    def group(
        self,
        features: Float[Tensor, "b p c"],
        grid: tuple[int, int],
        *,
        num_slots: int | None = None,
        num_iterations: int | None = None,
    ) -> SlotOutput:
        """Features of the encoder to slots."""
        start = self.front.initializer(features.shape[0], num_slots)
        count = self.front.iterations(num_iterations)
        out = self.slot_attention(self.front.placed(features, grid), start, num_iterations=count)
        return replace(out, grid=grid)

    def loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """`denoise`: mean squared error of the U-Net (equation 5). Cached `features` and `latents` replace images."""
        if self.front.frozen and "features" in batch:
            assert self.config.encoder is not None
            slots = self.group(batch["features"].float(), self.config.encoder.grid).slots
        else:
            slots = self.encode(batch["image"]).slots
        return {"denoise": self.decoder.loss(self.decoder.latents_of(batch), slots)}

    def sample(
        self,
        slots: Float[Tensor, "b n d"],
        *,
        steps: int = 20,
        cfg_scale: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "b 3 h w"]:
        """Images in [0, 1] from slots, any number of them; each image has starting noise of its own.

        Raises:
            UserError: for a guidance scale other than 1: nothing was learned without slots.
        """
        _refuse_guidance(cfg_scale)
        return self.decoder.sample(slots, steps=steps, generator=generator)

    def large_parts(self) -> list[nn.Module]:
        """The blocks of the U-Net."""
        return unet_blocks(self.decoder.unet)

    def param_groups(self) -> dict[str, list[nn.Parameter]]:
        """`slots` (encoder, too) and `unet`."""
        return _groups(self)


class VideoSlotDiffusion(VideoMethod):
    """SlotDiffusion on videos: slots are carried from frame to frame, every frame is denoised for itself."""

    config: VideoSlotDiffusionConfig

    def __init__(self, config: VideoSlotDiffusionConfig):
        super().__init__()
        self.config = config
        self.front = _Front(config)
        predictor = TransformerPredictor.slot_diffusion(
            config.slot_dim,
            config.predictor_heads,
            num_blocks=config.predictor_blocks,
            mlp_dim=config.predictor_dim,
            dropout=config.predictor_dropout,
            hidden_dropout=config.predictor_hidden_dropout,
        )
        self.video_slots = VideoSlotAttention(_slot_attention(config), predictor)
        self.decoder = LatentDiffusionDecoder(config.slot_dim, config.image_size, config.denoiser, config.autoencoder)

    @property
    def sampling(self) -> dict[str, Any]:
        """How frames are sampled where nobody says: the paper's 20 steps, without guidance."""
        return {"steps": self.decoder.sample_steps, "cfg_scale": 1.0}

    def prepare(self, load: Callable[[str], Method]) -> None:
        """Read the VQ-VAE from its run folder, or all but the predictor from a run on images.

        Raises:
            UserError: as for `SlotDiffusion`; or if that run is none on images, or has other settings.
        """
        folder = self.config.start_from
        if folder is None:
            _read_autoencoder(self.config, self.decoder, load)
            return
        first = load(folder)
        if not isinstance(first, SlotDiffusion):
            raise UserError(
                f"method.start_from is {folder}, a run of {type(first).__name__}; give one of SlotDiffusion on images."
            )
        for name in (part.name for part in fields(SlotDiffusionConfig) if part.name != "autoencoder_run"):
            given, own = getattr(first.config, name), getattr(self.config, name)
            if given != own and name not in ("num_iterations", "test_iterations", "gradient"):
                raise UserError(f"method.{name} is {own}, and {given} in the run in {folder}; make both the same.")
        weights = {
            name.replace("slot_attention.", "video_slots.corrector."): w for name, w in first.state_dict().items()
        }
        self.load_state_dict(weights, strict=False)  # there is no predictor

    def encode(
        self, video: Float[Tensor, "b t 3 h w"], *, state: Float[Tensor, "b n d"] | None = None, ends: bool = False
    ) -> SlotOutput:
        """Videos in [0, 1] to slots of every frame; with the `state` of an earlier call their continuation.

        `ends` says that nothing comes after, so that nobody asks for `state`.
        """
        grid = self.front.grid(video.shape[-2], video.shape[-1])
        features = self.front.placed(self.front.features(video.flatten(0, 1)), grid).unflatten(0, video.shape[:2])
        start = self.front.initializer(video.shape[0]) if state is None else state
        count = self.front.iterations(None)
        out = self.video_slots(features, start, first=state is None, num_iterations=count, ends=ends)
        return replace(out, grid=grid)

    def loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """`denoise`, a mean over all frames: each has its own timestep and noise."""
        batch = cut_clips(batch, self.config.short_clips, step)
        slots = self.encode(batch["video"], ends=True).slots.flatten(0, 1)
        return {"denoise": self.decoder.loss(self.decoder.latents(batch["video"].flatten(0, 1)), slots)}

    def sample(
        self,
        slots: Float[Tensor, "*b n d"],
        *,
        steps: int = 20,
        cfg_scale: float = 1.0,
        generator: torch.Generator | None = None,
        shared_noise: bool | None = None,
    ) -> Float[Tensor, "*b 3 h w"]:
        """Frames in [0, 1] from the slots of videos `b t n d`, or of single frames `b n d`.

        The same starting noise for all (`shared_noise`, by default the config's) lets neighbouring frames differ by
        their slots alone.

        Raises:
            UserError: for a guidance scale other than 1: nothing was learned without slots.
        """
        _refuse_guidance(cfg_scale)
        shared = self.config.shared_noise if shared_noise is None else shared_noise
        flat = slots.flatten(0, -3)
        image = self.decoder.sample(flat, steps=steps, generator=generator, shared_noise=shared)
        return image.unflatten(0, slots.shape[:-2])

    def large_parts(self) -> list[nn.Module]:
        """The blocks of the U-Net."""
        return unet_blocks(self.decoder.unet)

    def param_groups(self) -> dict[str, list[nn.Parameter]]:
        """`slots` (encoder and predictor, too) and `unet`."""
        return _groups(self)


def _groups(method: nn.Module) -> dict[str, list[nn.Parameter]]:
    groups: dict[str, list[nn.Parameter]] = {"slots": [], "unet": []}
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            groups["unet" if name.startswith("decoder.") else "slots"].append(parameter)
    return groups


def _read_autoencoder(
    config: SlotDiffusionConfig, decoder: LatentDiffusionDecoder, load: Callable[[str], Method]
) -> None:
    if config.autoencoder is None:
        return
    folder = config.autoencoder_run
    trained = load(folder)
    autoencoder = getattr(trained, "autoencoder", None)
    if autoencoder is None:
        raise UserError(
            f"method.autoencoder_run is {folder}, a run of {type(trained).__name__}; give a VQ-VAE (`vqvae.NAME`)."
        )
    if autoencoder.config != config.autoencoder:
        raise UserError(
            f"The VQ-VAE in {folder} is {autoencoder.config}, method.autoencoder is {config.autoencoder}; make both "
            "the same."
        )
    decoder.load_autoencoder(autoencoder)


def _refuse_guidance(cfg_scale: float) -> None:
    if cfg_scale != 1:
        raise UserError(
            f"cfg_scale is {cfg_scale:g}, but SlotDiffusion is trained with slots only and cannot be guided; give 1."
        )
