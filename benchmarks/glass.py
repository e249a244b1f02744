"""GLASS, phase 1: a step on cached features and latents against one that runs the ViT and the VAE, and its matching.

On a GPU all networks have their published sizes (DINOv2 ViT-B/14 at 448 pixels, Stable Diffusion 2.1 at 256) with
random weights, which take as long as trained ones; batch 32. On a CPU they are narrower, at half the side, and the
batch is 2, so that a step takes seconds. A step ends with the gradients. The last row shows what matching slots with
segments (overlaps on the device, the Hungarian method on the CPU) takes beside the whole step.

On a CPU also a step of `glass.scenes_mini` in bfloat16, with and without `speed_up_attention`.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import diffusers
import torch
import transformers
from diffusers.models.attention_processor import AttnProcessor2_0

from slotworks.configs.glass import scenes_mini
from slotworks.decoders import StableDiffusionConfig
from slotworks.encoders import ViTConfig
from slotworks.guidance import match_segments, segment_overlap
from slotworks.methods.glass import GlassConfig

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
BATCH, SIDE, LATENT_SIDE = (32, 448, 256) if GPU else (2, 224, 128)
VIT_WIDTH, UNET_WIDTHS, VAE_WIDTHS, CONTEXT = (
    (768, (320, 640, 1280, 1280), (128, 256, 512, 512), 1024)
    if GPU
    else (192, (64, 128, 256, 256), (32, 64, 128, 128), 256)
)
STEPS = 2


def run() -> list[dict]:
    """Seconds of one step, the best of two after one to warm up."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        method = make(Path(name)).build().to(DEVICE)
        mask = torch.randint(0, 80, (BATCH, 4, 4), device=DEVICE).repeat_interleave(LATENT_SIDE // 4, 1)
        mask = mask.repeat_interleave(LATENT_SIDE // 4, 2)
        images = {"image": torch.rand(BATCH, 3, SIDE, SIDE, device=DEVICE), "mask": mask}
        cached = {"mask": mask, "features": method.features(images), "latents": method.decoder.moments(images["image"])}
        attn = torch.rand(BATCH, 7, LATENT_SIDE**2, device=DEVICE).softmax(dim=1)
        ours, plain = (best(lambda batch=batch: step(method, batch)) for batch in (cached, images))
        matching = best(lambda: match_segments(segment_overlap(attn, mask.flatten(1))))
    return [
        {
            "name": f"GLASS step, batch {BATCH}: cached / ViT and VAE run",
            "ours_s": ours,
            "naive_s": plain,
            "ratio": plain / ours,
        },
        {
            "name": f"GLASS, batch {BATCH}: matching / the cached step",
            "ours_s": matching,
            "naive_s": ours,
            "ratio": ours / matching,
        },
        *([] if GPU else [attention()]),
    ]


def attention() -> dict:
    """In turns, since the difference is a quarter."""
    method = scenes_mini().method.build()
    places = method.config.encoder.grid
    batch = {
        "features": torch.randn(16, places[0] * places[1], method.config.encoder.feature_dim),
        "latents": torch.randn(16, 8, 16, 16),  # means and log variances
        "mask": torch.randint(0, 4, (16, 64, 64)),
    }
    unet = method.decoder.parts(batch["latents"]).unet
    fused, ours = AttnProcessor2_0(), dict(unet.attn_processors)
    seconds = {"fused": [], "ours": []}
    for _ in range(4):
        for name, processors in (("fused", fused), ("ours", dict(ours))):
            unet.set_attn_processor(processors)
            seconds[name].append(best(lambda: step(method, batch, bf16=True)))
    times = {name: min(values) for name, values in seconds.items()}
    return {
        "name": "glass.scenes_mini step, bfloat16: attention as here / fused",
        "ours_s": times["ours"],
        "naive_s": times["fused"],
        "ratio": times["fused"] / times["ours"],
    }


def make(folder: Path) -> GlassConfig:
    """Random networks as folders, and a GLASS on them."""
    vit = transformers.Dinov2Config(
        image_size=518, patch_size=14, hidden_size=VIT_WIDTH, num_attention_heads=VIT_WIDTH // 64
    )
    transformers.Dinov2Model(vit).save_pretrained(folder / "vit")
    levels = len(UNET_WIDTHS)
    diffusers.UNet2DConditionModel(
        block_out_channels=UNET_WIDTHS,
        attention_head_dim=tuple(width // 64 for width in UNET_WIDTHS),
        cross_attention_dim=CONTEXT,
        use_linear_projection=True,
    ).save_pretrained(folder / "sd" / "unet")
    diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=VAE_WIDTHS,
        layers_per_block=2,
        latent_channels=4,
    ).save_pretrained(folder / "sd" / "vae")
    diffusers.DDIMScheduler(prediction_type="v_prediction").save_pretrained(folder / "sd" / "scheduler")
    words = {"a</w>": 0, "<|startoftext|>": 1, "<|endoftext|>": 2}
    (folder / "words.json").write_text(str(words).replace("'", '"'))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(str(folder / "words.json"), str(folder / "merges.txt"), model_max_length=77)
    tokenizer.save_pretrained(folder / "sd" / "tokenizer")
    text = transformers.CLIPTextConfig(
        vocab_size=3, bos_token_id=1, eos_token_id=2, hidden_size=CONTEXT, num_hidden_layers=1, num_attention_heads=4
    )
    transformers.CLIPTextModel(text).save_pretrained(folder / "sd" / "text_encoder")
    return GlassConfig(
        encoder=ViTConfig(
            str(folder / "vit"), image_size=SIDE, patch_size=14, feature_dim=VIT_WIDTH, features="normed"
        ),
        diffusion=StableDiffusionConfig(str(folder / "sd"), image_size=LATENT_SIDE, context_dim=CONTEXT),
        slot_dim=VIT_WIDTH,
        mlp_dim=VIT_WIDTH,
        decoder_dims=(2 * VIT_WIDTH,) * 3,
    )


def step(method: torch.nn.Module, batch: dict[str, torch.Tensor], *, bf16: bool = GPU) -> None:
    with torch.autocast(DEVICE.type, torch.bfloat16, enabled=bf16):
        terms = method.loss(batch, 0)  # type: ignore[operator]
    torch.stack(list(terms.values())).sum().backward()
    method.zero_grad()


def best(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(1 + STEPS):
        start = time.perf_counter()
        work()
        if GPU:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])
