"""StableLSD of its authors (Jiang et al. 2023): JindongJiang/latent-slot-diffusion.

The step is that of its `train_lsd.py` with a frozen U-Net: the VAE and the ViT run at every step. Their ViT comes from
torch.hub, which needs a network; here it is that of `transformers`, the same on both sides. All frozen networks are
random and narrower than the published ones, as in `benchmarks/glass.py`, so that a step takes a second.
"""

import importlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from torch import Tensor, nn

from benchmarks.glass import CONTEXT, LATENT_SIDE, SIDE, VIT_WIDTH, make
from benchmarks.peers import Job, their_modules, training_step
from slotworks.convert.glass import slot_weights
from slotworks.encoders.vit import IMAGENET_MEAN, IMAGENET_STD
from slotworks.methods import StableLSDConfig
from slotworks.nn.resize import resize
from slotworks.training import Adam, Run
from slotworks.training.optimizer import build_optimizer
from slotworks.types import DataConfig

REPOSITORY, COMMIT = "JindongJiang/latent-slot-diffusion", "b04e74bc8464103775da36c6e5d99dccdde31d44"
STAND_INS = ("distinctipy", "torchvision")
BATCH = 2
GRID = SIDE // 14


def jobs(folder: Path) -> Iterator[Job]:
    """StableLSD with and without the cache, and GLASS with it, against a step of theirs."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name, their_modules(folder, stand_ins=STAND_INS):
        glass = make(Path(name))
        config = StableLSDConfig(
            encoder=glass.encoder, diffusion=glass.diffusion, slot_dim=VIT_WIDTH, mlp_dim=VIT_WIDTH
        )
        ours: Any = config.build()
        image = torch.rand(BATCH, 3, SIDE, SIDE)
        small = resize(image, LATENT_SIDE)
        mask = torch.randint(0, 80, (BATCH, 4, 4)).repeat_interleave(LATENT_SIDE // 4, 1)
        mask = mask.repeat_interleave(LATENT_SIDE // 4, 2)
        cached = {"features": ours.features({"image": image}), "latents": ours.decoder.moments(image), "mask": mask}
        slots, theirs = _theirs(Path(name), image, small)
        own = {f"slots.{name}": value for name, value in slot_weights(slots.state_dict()).items()}
        ours.load_state_dict(own)
        with torch.no_grad():
            torch.manual_seed(1)
            grid = cached["features"].mT.unflatten(2, (GRID, GRID))
            context = slots(grid[:, None])[0][:, 0]
            torch.manual_seed(1)
            difference = (ours.encode(image).slots - context).abs().max().item()
        guided: Any = glass.build()
        for title, method, batch, target in (
            ("StableLSD step, features and latents cached, batch 2", ours, cached, 3.0),
            ("StableLSD step, ViT and VAE run, batch 2", ours, {"image": image}, 1.2),
            ("GLASS phase 1 step, cached, against StableLSD's, batch 2", guided, cached, 2.0),
        ):
            run = Run(method=method.config, data=DataConfig(), optimizer=Adam(lr=2e-5), steps=1, batch_size=BATCH)
            yield Job(
                title,
                training_step(
                    lambda method=method, batch=batch: torch.stack(list(method.loss(batch, 0).values())).sum(),
                    build_optimizer(method, run),
                    clip=1.0,
                ),
                training_step(theirs, torch.optim.AdamW(slots.parameters(), lr=2e-5), clip=1.0),
                "slots as the U-Net sees them; each side draws its own noise",
                difference,
                target=target,
            )


def _theirs(networks: Path, image: Tensor, small: Tensor) -> tuple[nn.Module, Callable[[], Tensor]]:
    """Their slot module, and what its loss is in their training program."""
    module = importlib.import_module("src.models.slot_attn").MultiHeadSTEVESA
    slots = module(
        num_iterations=5,
        num_slots=7,
        num_heads=1,
        input_size=VIT_WIDTH,
        out_size=CONTEXT,
        slot_size=VIT_WIDTH,
        mlp_hidden_size=VIT_WIDTH,
        input_resolution=GRID,
        epsilon=1e-6,
    )
    folder = networks / "sd"
    vae = diffusers.AutoencoderKL.from_pretrained(folder, subfolder="vae").requires_grad_(False)
    unet = diffusers.UNet2DConditionModel.from_pretrained(folder, subfolder="unet").requires_grad_(False)
    schedule = diffusers.DDPMScheduler.from_config(diffusers.DDIMScheduler.load_config(folder, subfolder="scheduler"))
    vit = transformers.Dinov2Model.from_pretrained(networks / "vit").eval()
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))

    def loss() -> Tensor:
        latents = vae.encode(2 * small - 1).latent_dist.sample() * vae.config.scaling_factor
        noise, times = torch.randn_like(latents), torch.randint(0, 1000, (BATCH,))
        with torch.no_grad():
            features = vit((image - mean) / std).last_hidden_state[:, 1:]
        context = slots(features.mT.unflatten(2, (GRID, GRID))[:, None])[0][:, 0]
        said = unet(schedule.add_noise(latents, noise, times), times, context).sample
        return nn.functional.mse_loss(said, schedule.get_velocity(latents, noise, times))

    return slots, loss
