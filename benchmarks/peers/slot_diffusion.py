"""SlotDiffusion, and the SAVi and Slot Attention of its tables (Wu et al. 2023): Wuziyi616/SlotDiffusion.

Its base classes are those of Wuziyi616/nerv, which has to lie beside it.
"""

import copy
import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.peers import Job, carried_over, drop_nothing, their_modules, training_step
from slotworks.convert import parts
from slotworks.convert.names import table
from slotworks.convert.slot_diffusion import BROADCAST, convert_diffusion, convert_slots
from slotworks.decoders import SpatialBroadcastDecoder
from slotworks.methods import SlotAttentionConfig
from slotworks.training import Adam, Run
from slotworks.training.optimizer import build_optimizer
from slotworks.types import DataConfig

REPOSITORY, COMMIT = "Wuziyi616/SlotDiffusion", "eacfc9a83a3e1b20b31aa2213597a86fb067de39"
STAND_INS = (
    "wandb",
    "cv2",
    "torchmetrics",
    "torchvision",
    "skimage",
    "lpips",
    "plotly",
    "open3d",
    "moviepy",
    "requests",
    "six",
)
STAND_INS += ("slotdiffusion.img_based.models.dino", "slotdiffusion.video_based.models.dino")


def jobs(folder: Path) -> Iterator[Job]:
    """Steps of Slot Attention, SAVi and SlotDiffusion, and SlotDiffusion's sampling."""
    with their_modules(folder, folder.parent / "nerv", stand_ins=STAND_INS):
        images, videos = "slotdiffusion.img_based", "slotdiffusion.video_based"
        slots = importlib.import_module(f"{images}.configs.sa.sa_clevrtex_params-res128").SlotAttentionParams
        savi = importlib.import_module(f"{videos}.configs.savi.savi_movid_params-res128").SlotAttentionParams
        diffusion = importlib.import_module(f"{images}.configs.sa_ldm.sa_ldm_clevrtex_params-res128")
        of_images = importlib.import_module(f"{images}.models").build_model
        of_videos = importlib.import_module(f"{videos}.models").build_model
        yield _slot_attention(slots, of_images)
        yield _savi(savi, of_videos)
        yield from _diffusion(diffusion.SlotAttentionParams, of_images)


def _slot_attention(params: Any, build: Callable[[Any], Any]) -> Job:
    """With their convolutions, at the size of CLEVR6."""
    torch.manual_seed(0)
    dim, slots = 64, 7
    params = copy.deepcopy(params)
    params.slot_dict = {"num_slots": slots, "slot_size": dim, "slot_mlp_size": 128, "num_iterations": 3}
    params.enc_dict = {"enc_channels": (3, 64, 64, 64, 64), "enc_ks": 5, "enc_out_channels": dim, "enc_norm": ""}
    params.dec_dict = {"dec_channels": (dim, 64, 64, 64, 64), "dec_resolution": (8, 8), "dec_ks": 5, "dec_norm": ""}
    theirs = build(params).train()
    config = SlotAttentionConfig(
        image_size=(128, 128),
        num_slots=slots,
        channels=64,
        initializer="learned",
        encoder_strides=(2, 1, 1, 1),
        decoder_strides=(2, 2, 2, 2),
    )
    ours: Any = config.build()
    ours.decoder = SpatialBroadcastDecoder(
        dim, (128, 128), channels=64, strides=(2, 2, 2, 2), last_kernel_size=1, make="torch"
    )
    ours.slot_attention.eps = 1e-6
    state = parts.with_separate_rows(theirs.state_dict())
    names = table(parts.NESTED_ATTENTION, ours="slot_attention.", theirs="slot_attention.")
    names |= table(BROADCAST, count=4) | table("decoder.last.* decoder.4.*\n initializer.slots init_latents")
    weights = {own: state[its] for own, its in names.items()}
    ours.load_state_dict({own: value.reshape(ours.state_dict()[own].shape) for own, value in weights.items()}, False)
    image = torch.rand(4, 3, 128, 128)
    with torch.no_grad():
        features, start = torch.randn(4, 64 * 64, dim), theirs.init_latents.repeat(4, 1, 1)
        grouped = theirs.slot_attention(features, start)
        difference = (ours.slot_attention(features, start).slots - grouped).abs().max().item()
        recon, _, masks, _ = theirs.decode(grouped)
        out = ours.decoder(grouped)
        difference = max(difference, (out.recon - recon).abs().max().item())
        difference = max(difference, (out.masks - masks[:, :, 0]).abs().max().item())
    return Job(
        "Slot Attention step, CLEVR6, 128 px, 7 slots, their CNN, batch 4",
        training_step(lambda: ours.loss({"image": image}, 0)["recon"], _optimizer(ours, config)),
        training_step(lambda: _loss(theirs, 2 * image - 1), torch.optim.Adam(theirs.parameters(), lr=4e-4)),
        "Slot Attention and decoder; the encoders crop another pixel",
        difference,
        target=1.2,
    )


def _optimizer(ours: Any, config: Any) -> torch.optim.Optimizer:
    return build_optimizer(ours, Run(method=config, data=DataConfig(), optimizer=Adam(lr=4e-4), steps=1, batch_size=1))


def _loss(theirs: Any, image: Tensor) -> Tensor:
    """As their `method.py` sums it up."""
    given = {"img": image}
    return sum(theirs.calc_train_loss(given, theirs(given)).values(), torch.zeros(()))


def _savi(params: Any, build: Callable[[Any], Any]) -> Job:
    torch.manual_seed(0)
    theirs = build(params)
    drop_nothing(theirs)
    ours, run = carried_over(theirs.train(), convert_slots, changes={"predictor_dropout": 0.0})
    video = torch.rand(1, 3, 3, 128, 128)
    with torch.no_grad():
        difference = abs(ours.loss({"video": video}, 0)["rgb"].item() - _loss(theirs, 2 * video - 1).item())
    return Job(
        "SAVi step, 3 frames, 128 px, ResNet-18, 15 slots, batch 1",
        training_step(lambda: ours.loss({"video": video}, 0)["rgb"], build_optimizer(ours, run), clip=0.05),
        training_step(lambda: _loss(theirs, 2 * video - 1), torch.optim.Adam(theirs.parameters(), lr=1e-4), clip=0.05),
        "the loss, without dropout",
        difference,
        target=1.4,
    )


def _diffusion(params: Any, build: Callable[[Any], Any]) -> Iterator[Job]:
    torch.manual_seed(0)
    params = copy.deepcopy(params)
    params.dec_dict["vae_dict"]["vqvae_ckp_path"] = "none"
    params.dec_dict["unet_dict"]["dropout"] = 0.0
    theirs = build(params).train()
    for weight in theirs.parameters():  # zeros of fresh U-Nets would hide differences
        if not weight.abs().max():
            nn.init.normal_(weight, std=0.02)
    ours, run = carried_over(theirs, convert_diffusion)
    drop_nothing(ours)
    ours.train()
    image = torch.rand(2, 3, 128, 128)
    noise, times = torch.randn(2, 3, 32, 32), torch.tensor([10, 700])
    with torch.no_grad():
        slots = theirs.encode(2 * image - 1)[0]
        difference = (ours.encode(image).slots - slots).abs().max().item()
        said = theirs.dm_decoder(noise, times, context=slots)
        difference = max(difference, (ours.decoder.predict(noise, times, slots) - said).abs().max().item())
        codes = theirs.dm_decoder.vae.encode(2 * image - 1)
        difference = max(difference, (ours.decoder.latents(image) - codes).abs().max().item())
    yield Job(
        "SlotDiffusion step, 128 px, batch 2",
        training_step(lambda: ours.loss({"image": image}, 0)["denoise"], build_optimizer(ours, run), clip=1.0),
        training_step(
            lambda: _loss(theirs, 2 * image - 1),
            torch.optim.Adam((p for p in theirs.parameters() if p.requires_grad), lr=1e-4),
            clip=1.0,
        ),
        "slots, latents and the U-Net; each side draws its own noise",
        difference,
        target=1.6,
    )

    @torch.no_grad()
    def sample() -> Tensor:
        return ours.sample(slots[:1])

    @torch.no_grad()
    def sample_theirs() -> Tensor:
        decoder = theirs.dm_decoder
        found = decoder.generate_imgs(slots[:1], batch_size=1, use_dpm=True, verbose=False)
        return decoder.vae.decode(found[0] if isinstance(found, tuple) else found)

    ours.eval()
    theirs.eval()
    yield Job(
        "SlotDiffusion samples an image of 128 px in 20 steps",
        sample,
        sample_theirs,
        "as above; our sampler's times are whole timesteps",
        None,
        target=2.0,
    )
