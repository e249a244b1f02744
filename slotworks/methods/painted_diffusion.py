"""A diffusion model of painted scenes that puts objects where it is told: attributes or captions to pictures.

Latent diffusion (Rombach et al. 2022, arXiv 2112.10752) of a few megabytes, of the classes that Stable Diffusion is
made of, with the velocity as target (Salimans & Ho 2022) and no signal left at the last timestep (Lin et al. 2023,
arXiv 2305.08891). Its context are objects, one token for each (`slotworks.encoders.object_tokens`). It trains no slots:
what it leaves behind is `pipeline/`, a folder in the format of `diffusers`, with the tokens of objects beside it.

Phase 1 trains U-Net and tokens on the latents of a VAE whose encoder are the principal components of patches. Two
things make that possible within some 70 minutes. The text encoder does not take part: words bind to objects far too
slowly. And `attention`, a loss beside the denoising, asks the U-Net's attention at the latents' own size to look at the
object that a place shows; Stable Diffusion learns as much by itself, from billions of pictures. Phase 2 leaves both as
they are and trains what is around them: the VAE's decoder, on latents with noise in them, and the text encoder, which
learns to say the token of an object at the word that names it.
"""

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from slotworks.encoders.object_tokens import Objects, ObjectTokens
from slotworks.encoders.object_words import ObjectWords, Vocabulary
from slotworks.encoders.patch_vae import STRIDE, patch_vae, set_components
from slotworks.encoders.pretrained import save_pipeline
from slotworks.errors import needs_extra
from slotworks.nn.diffusion import add_noise, fixed_context, noisier_timesteps, run_solver, target_of
from slotworks.nn.init import unlike
from slotworks.nn.noise import batch_noise, batch_uniform, shared_choice
from slotworks.nn.principal import PrincipalComponents
from slotworks.nn.resize import resize, stretched
from slotworks.types import Batch, Method, MethodConfig, UserError

NULLS = (1, 8, 24, 56)
"""How many tokens beside those of objects say nothing: a caption has dozens, and guidance only such."""

FIT_BATCHES = 16
"""Batches from which the principal components are taken."""


@dataclass(frozen=True)
class PaintedDiffusionConfig(MethodConfig):
    """Hyperparameters of the networks, of what is left out in training, and which phase this is."""

    loss_weights: dict[str, float] = field(default_factory=lambda: {"attention": 0.1})
    """by term; a term not named here weighs 1"""
    vocabulary: Vocabulary = field(default_factory=Vocabulary)  # names of shapes, colours, sizes and backgrounds
    image_size: int = 64  # pixels, square
    max_objects: int = 5  # in a picture
    latent_dim: int = 12  # channels of a latent, one for 4 x 4 pixels
    vae_dims: tuple[int, ...] = (16, 32, 48)  # channels of the VAE's levels
    vae_batch: int = 6  # pictures of a batch that the VAE's decoder is trained on
    vae_noise: float = 0.5  # most noise in the latents that it sees, of a deviation of 1
    unet_dims: tuple[int, ...] = (32, 64, 96)  # channels of the U-Net's levels
    head_dim: int = 16  # channels of a head of the U-Net's attention
    context_dim: int = 64  # width of a token
    text_layers: int = 3  # Transformer layers of the text encoder
    text_heads: int = 4  # attention heads of the text encoder
    max_tokens: int = 64  # of a prompt, with those of its beginning and end
    time_power: float = 1.5  # t = 1 - (1 - u) ** power: above 1, more of the training is spent on noise
    empty_share: float = 0.08  # share of the pictures that nothing is said about, for guidance
    classes_share: float = 0.1  # of which only the classes are said, one token for each
    placeless_share: float = 0.1  # of which no place is said
    drop_share: float = 0.05  # share of the properties left out of the others
    copy_share: float = 0.12  # of the pictures whose objects are said twice, once without place
    phase_1: str | None = None  # run folder whose U-Net and tokens are kept: phase 2

    @property
    def finds_slots(self) -> bool:
        """No: methods build on it."""
        return False

    def build(self) -> "PaintedDiffusion":
        """Make the method with fresh weights."""
        return PaintedDiffusion(self)

    @property
    def starts_trained(self) -> bool:
        """Whether `phase_1` names a run."""
        return self.phase_1 is not None


class PaintedDiffusion(Method):
    """VAE, U-Net, tokens of objects, text encoder; batches are those of `PaintedScenes`."""

    config: PaintedDiffusionConfig
    vae: Any
    unet: Any
    text_encoder: Any
    alphas: Tensor
    spread: Tensor

    def __init__(self, config: PaintedDiffusionConfig):
        super().__init__()
        with needs_extra("diffusion"):
            from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
            from diffusers.schedulers.scheduling_ddim import DDIMScheduler
            from transformers import CLIPTextConfig, CLIPTextModel
        self.config, levels, names = config, len(config.unet_dims), config.vocabulary
        self.components = PrincipalComponents(3 * STRIDE**2, config.latent_dim)
        self.register_buffer("spread", torch.ones(config.latent_dim))  # root of the deviation of each component
        self.vae = patch_vae(config.vae_dims, config.latent_dim, config.image_size)
        self.tokens = ObjectTokens(
            config.context_dim,
            num_shapes=len(names.shapes),
            num_colors=len(names.colors),
            num_backgrounds=len(names.backgrounds),
            max_objects=config.max_objects,
        )
        self.words = ObjectWords(names, config.max_tokens)
        tokenizer = self.words.tokenizer
        heads: Any = tuple(dim // config.head_dim for dim in config.unet_dims)
        self.unet = UNet2DConditionModel(
            sample_size=config.image_size // STRIDE,
            in_channels=config.latent_dim,
            out_channels=config.latent_dim,
            down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * (levels - 1),
            up_block_types=("CrossAttnUpBlock2D",) * levels,
            block_out_channels=config.unet_dims,
            layers_per_block=1,
            cross_attention_dim=config.context_dim,
            attention_head_dim=heads,  # diffusers takes the number of heads here
            norm_num_groups=16,
            use_linear_projection=True,
        )
        self.text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=config.context_dim,
                intermediate_size=4 * config.context_dim,
                num_hidden_layers=config.text_layers,
                num_attention_heads=config.text_heads,
                max_position_embeddings=config.max_tokens,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        self.scheduler = DDIMScheduler(  # Stable Diffusion 2.1's betas, down to no signal
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=True,
            steps_offset=1,
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            timestep_spacing="trailing",
        )
        self.register_buffer("alphas", self.scheduler.alphas_cumprod.float(), persistent=False)
        first = config.phase_1 is None
        for part, trained in ((self.unet, first), (self.tokens, first), (self.text_encoder, not first)):
            part.requires_grad_(trained)
        self.vae.requires_grad_(False)
        self.vae.decoder.requires_grad_(not first)

    def fit(self, batches: Iterable[Batch]) -> None:
        """Take the principal components of patches, which phase 2 has from phase 1.

        A component is divided by the root of its deviation: smaller ones, which make outlines sharp, get more weight
        than they have, and less than a tenth of the picture's error would be worth.
        """
        if self.config.phase_1 is not None:
            return
        found = [_patches(batch["image"]) for batch in islice(batches, FIT_BATCHES)]
        self.components.fit(found)
        plain = (torch.cat(found).flatten(0, -2) - self.components.mean) @ self.components.basis
        root = plain.std(0).sqrt()
        self.spread.copy_(root * (plain / root).std())
        set_components(self.vae, self.components.mean, (self.components.basis / self.spread).T)

    def prepare(self, load: Callable[[str], Method]) -> None:
        """Take over the weights of phase 1 from its run folder, if the config names one.

        Raises:
            UserError: if that run is of another method or has other sizes.
        """
        folder = self.config.phase_1
        if folder is None:
            return
        first = load(folder)
        if not isinstance(first, PaintedDiffusion):
            raise UserError(
                f"method.phase_1 is {folder}, a run of {type(first).__name__}; give one of painted_diffusion.scenes."
            )
        if wrong := unlike(self.state_dict(), first.state_dict()):
            raise UserError(f"The run in {folder} and this one differ in {wrong[0]}; both phases need the same sizes.")
        self.load_state_dict(first.state_dict())

    def latents(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b l y x"]:
        """What the VAE's encoder makes of images in [0, 1], computed as one product."""
        plain = (_patches(image) - self.components.mean) @ (self.components.basis / self.spread)
        return plain.movedim(-1, 1)

    def loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Of phase 1 `denoise`, the mean squared error of the velocity, and `attention`, see `_attention_loss`.

        Of phase 2 `recon`, the error of the decoded picture in [-1, 1], squared and a tenth of the absolute one, and
        `words`, the mean squared error of the text encoder's tokens, five times for those that name something. What
        does not count is 0.
        """
        terms = dict.fromkeys(("denoise", "attention", "recon", "words"), batch["image"].new_zeros(()))
        if self.config.phase_1 is not None:
            return {**terms, "recon": self._recon(batch["image"]), "words": self._say(batch)}
        latents = self.latents(batch["image"])
        context, stands_for = self._context(batch)
        grid = (latents.shape[-2], latents.shape[-1])
        noise = batch_noise(tuple(latents.shape), latents.device, latents.dtype)
        uniform = batch_uniform((len(latents),), latents.device)
        timestep = noisier_timesteps(uniform, len(self.alphas), self.config.time_power)
        alpha = self.alphas[timestep][:, None, None, None]
        mixed, target = add_noise(latents, noise, alpha), target_of(latents, noise, alpha, "v_prediction")
        with _attention(self.unet, grid[0] * grid[1]) as maps:
            said = self.unet(mixed, timestep, context).sample
        attention = [_attention_loss(one, stands_for, batch["mask"], grid) for one in maps["cross"]]
        return {**terms, "denoise": F.mse_loss(said.float(), target), "attention": torch.stack(attention).mean()}

    def _context(self, batch: Batch) -> tuple[Float[Tensor, "b s c"], Bool[Tensor, "b s m1"]]:
        """Tokens as training shows them, and which of the background (0) and the objects each stands for."""
        config, objects, background = self.config, Objects.of(batch), batch["background"].long()
        b, m = objects.present.shape
        form = batch_uniform((b,), objects.present.device)
        edges = torch.tensor((0, config.empty_share, config.classes_share, config.placeless_share)).cumsum(0).tolist()
        empty, classes, placeless = ((form >= low) & (form < high) for low, high in pairwise(edges))
        drop = batch_uniform((b, m, 4), form.device) < config.drop_share
        drop[..., 0] |= placeless[:, None]
        drop[..., 1] |= placeless[:, None] & (batch_uniform((b, m), form.device) < 0.5)
        drop[classes, :, :3] = True
        drop[classes, :, 3] = False
        same = (objects.shape[:, :, None] == objects.shape[:, None]) & objects.present[:, :, None]
        same &= objects.present[:, None]
        first = ~(same & torch.ones(m, m, dtype=torch.bool, device=form.device).tril(-1)).any(2)
        twice = batch_uniform((b,), form.device) < config.copy_share
        shown = objects.present & ~empty[:, None] & (first | ~classes[:, None])
        known = replace(
            objects,
            present=shown,
            x=objects.x.masked_fill(drop[..., 0], torch.nan),
            y=objects.y.masked_fill(drop[..., 0], torch.nan),
            size=objects.size.masked_fill(drop[..., 1], torch.nan),
            color=objects.color.masked_fill(drop[..., 2], 0),
            shape=objects.shape.masked_fill(drop[..., 3], 0),
            order=objects.order.masked_fill(classes[:, None], 0),
        )
        again = shown & (twice & ~classes)[:, None]
        nowhere = torch.full_like(known.x, torch.nan)
        copies = replace(known, present=again, x=nowhere, y=nowhere)
        seen = ~empty & ~classes & (batch_uniform((b,), form.device) >= config.drop_share)
        nulls = self.tokens.nulls(b, NULLS[shared_choice(len(NULLS))])
        tokens = [self.tokens.background_token(background * seen), self.tokens(known), self.tokens(copies), nulls]
        own = torch.eye(m, dtype=torch.bool, device=form.device).expand(b, m, m)
        own = torch.where(classes[:, None, None], same, own)
        stands = torch.cat([own & shown[..., None], own & again[..., None]], 1)
        rest = ~stands.any(2, keepdim=True)  # the null, too, stands for what is no object
        stands = F.pad(torch.cat([rest, stands], 2), (0, 0, 1, nulls.shape[1]))
        stands[:, 0, 0] = stands[:, 1 + 2 * m :, 0] = True
        return torch.cat(tokens, 1), stands

    def _recon(self, image: Tensor) -> Tensor:
        image = image[: self.config.vae_batch]
        latents = self.latents(image)
        spread = self.config.vae_noise * batch_uniform((len(latents), 1, 1, 1), latents.device)
        noisy = latents + spread * batch_noise(tuple(latents.shape), latents.device, latents.dtype)
        recon, image = self.vae.decode(noisy).sample.float(), 2 * image - 1
        return F.mse_loss(recon, image) + 0.1 * F.l1_loss(recon, image)

    def _say(self, batch: Batch) -> Tensor:
        said = self.words.write(batch, batch_uniform((len(batch["image"]), self.words.choices)))
        ids = said.ids.to(batch["image"].device)
        with torch.no_grad():
            named = self.tokens(said.objects)
            grounds = self.tokens.background_token(said.background[:, 0])
            target = self.tokens.nulls(*ids.shape).clone()
            for tokens, places in ((named, said.object_at), (grounds, said.background_at)):
                row, which = (places >= 0).nonzero(as_tuple=True)
                target[row, places[row, which]] = tokens[row, which]
            weight = torch.where((target == self.tokens.nulls(1, 1)).all(2), 1.0, 5.0)
        error = (self.text_encoder(ids).last_hidden_state.float() - target).square().mean(2)
        return (weight * error).sum() / weight.sum()

    @torch.no_grad()
    def draw(
        self, batch: Batch, *, captions: bool = False, steps: int = 25, cfg_scale: float = 1.5, seed: int = 0
    ) -> Float[Tensor, "b 3 h w"]:
        """Pictures in [0, 1] of the objects of a batch, or of captions of them with all that is known.

        In phase 1 latents become pixels by the principal components alone.
        """
        b, device = len(batch["shape"]), self.alphas.device
        if captions:
            ids = self.words.describe(batch).ids.to(device)
            context = self.text_encoder(ids).last_hidden_state
            empty = self.text_encoder(self.words.read([""]).to(device)).last_hidden_state.expand(b, -1, -1)
        else:
            context = self.tokens.context(Objects.of(batch), batch["background"].long())
            empty = self.tokens.nulls(b, context.shape[1])
        both = context if cfg_scale == 1 else torch.cat([empty, context])

        def predict(latents: Tensor, timestep: Tensor) -> Tensor:
            said = self.unet(latents.repeat(len(both) // b, 1, 1, 1), timestep, both).sample
            if cfg_scale == 1:
                return said
            without, told = said.chunk(2)
            return without + cfg_scale * (told - without)

        side = self.config.image_size // STRIDE
        noise = torch.randn(b, self.config.latent_dim, side, side, generator=torch.Generator().manual_seed(seed))
        with fixed_context(self.unet, both):
            latents = run_solver(copy.deepcopy(self.scheduler), noise.to(device), predict, steps=steps)
        return self.pixels(latents).clamp(0, 1)

    def pixels(self, latents: Float[Tensor, "b l y x"]) -> Float[Tensor, "b 3 h w"]:
        """Latents to pictures in about [0, 1]: by the VAE, in phase 1 by the principal components alone."""
        if self.config.phase_1 is not None:
            return (self.vae.decode(latents).sample + 1) / 2
        plain = latents.movedim(1, -1) @ (self.components.basis * self.spread).T + self.components.mean
        return (F.pixel_shuffle(plain.movedim(-1, 1), STRIDE) + 1) / 2

    @torch.no_grad()
    def object_masks(
        self, batch: Batch, *, power: int = 0, seed: int = 0, timestep: int = 350
    ) -> Int64[Tensor, "b h w"]:
        """Whose token each pixel attends to most while the images of a batch are denoised; 0 is the background.

        The attention is that of the layers at the latents' own size. As in GLASS's data engine each map is stretched to
        [0, 1] over its image; where none is above one half is background.

        Args:
            batch: images, and what is known of their objects.
            power: how often maps are spread along the attention among positions.
            seed: of the noise.
            timestep: how much noise there is, of 1,000.
        """
        latents = self.latents(batch["image"])
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed)).to(latents)
        mixed = add_noise(latents, noise, self.alphas[timestep])
        context = self.tokens.context(Objects.of(batch), batch["background"].long())
        with _attention(self.unet, latents[0, 0].numel(), among=True) as maps:
            self.unet(mixed, timestep, context)
        cross, among = torch.stack(maps["cross"]).mean(0).mT, torch.stack(maps["self"]).mean(0)  # b s p, b p p
        for _ in range(power):
            cross = cross @ among.mT
        nobody = (batch["shape"] == 0)[..., None, None]
        own = stretched(cross[:, 1:].unflatten(2, latents.shape[-2:])).masked_fill(nobody, -1.0)
        score, best = resize(own, batch["mask"].shape[-1]).max(1)
        return (best + 1) * (score > 0.5)

    def export(self, folder: Path) -> None:
        """After phase 2 write `pipeline/`, the folder that `diffusers` reads, in float16, with `objects/` in it."""
        if self.config.phase_1 is not None:
            self.save_pipeline(folder / "pipeline")

    def save_pipeline(self, folder: Path | str) -> Path:
        """Write all parts as a Stable Diffusion pipeline in float16; returns the folder.

        Raises:
            UserError: if the disk refuses.
        """
        networks = {name: getattr(self, name) for name in ("vae", "unet", "text_encoder")}
        return save_pipeline(
            folder, networks, self.words.tokenizer, self.scheduler, lambda beside: self.tokens.save(beside / "objects")
        )


def _patches(image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b y x c"]:
    """Patches of images in [0, 1], as numbers in [-1, 1]."""
    return F.pixel_unshuffle(2 * image - 1, STRIDE).movedim(1, -1)


@contextmanager
def _attention(unet: Any, positions: int, *, among: bool = False) -> Iterator[dict[str, list[Tensor]]]:
    """Inside, calls of the U-Net leave the attention of its layers with so many positions, a mean over heads.

    Args:
        unet: of `diffusers`.
        positions: of its layers that are looked at.
        among: look at the attention among positions, too.

    Returns:
        `cross`, maps `b p s` to the context; `self`, maps `b p p`; filled when the U-Net is called.
    """
    maps: dict[str, list[Tensor]] = {"cross": [], "self": []}

    def look(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        context = kwargs.get("encoder_hidden_states")
        if hidden.shape[1] == positions:
            heads = layer.heads
            query = layer.to_q(hidden).unflatten(-1, (heads, -1)).transpose(1, 2)
            key = layer.to_k(hidden if context is None else context).unflatten(-1, (heads, -1)).transpose(1, 2)
            seen = (layer.scale * query @ key.mT).softmax(-1).mean(1)
            maps["self" if context is None else "cross"].append(seen)

    kinds = (".attn1", ".attn2") if among else (".attn2",)
    layers = [layer for name, layer in unet.named_modules() if name.endswith(kinds)]
    handles = [layer.register_forward_pre_hook(look, with_kwargs=True) for layer in layers]
    try:
        yield maps
    finally:
        for handle in handles:
            handle.remove()


def _attention_loss(
    attention: Float[Tensor, "b p s"],
    stands_for: Bool[Tensor, "b s m1"],
    mask: Int64[Tensor, "b h w"],
    grid: tuple[int, int],
) -> Float[Tensor, ""]:
    """Cross-entropy of the attention to what tokens stand for with the share of each position that it covers.

    What no token stands for does not count.
    """
    ids = stands_for.shape[2]
    covered = F.one_hot(mask.long(), ids).float().movedim(-1, 1)  # b m1 h w
    covered = F.adaptive_avg_pool2d(covered, grid).flatten(2)  # b m1 p
    said = attention.float() @ stands_for.float()  # b p m1
    counts = stands_for.any(1)[:, :, None]  # b m1 1
    entropy = -(covered * (said.mT + 1e-6).log() * counts).sum(1)
    return entropy.mean()
