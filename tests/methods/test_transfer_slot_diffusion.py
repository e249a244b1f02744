"""SlotDiffusion against its original: outputs and gradients after weight transfer. See `tests/references/README.md`.

Weights and inputs are drawn from a seed that is the original's name of each array, so only what came out is stored.
"""

import re
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from slotworks.decoders import DenoiserConfig, LatentDiffusionDecoder
from slotworks.methods import SlotDiffusionConfig, VideoSlotDiffusionConfig
from slotworks.nn.vqvae import VQAutoencoder, VQConfig

pytest.importorskip("diffusers")

REFERENCE = np.load(Path(__file__).parents[1] / "references" / "slot_diffusion_model.npz")


def close(found, name):
    expected = torch.from_numpy(REFERENCE[name]).double()
    torch.testing.assert_close(found.detach().double(), expected, rtol=1e-6, atol=1e-6)


def noise(name, shape):
    return torch.from_numpy(np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape))


def weight(name, shape):
    """The original's array of this name: kernels by the root of their fan in, norms around one."""
    drawn = noise(name, shape)
    if name.endswith("embedding.weight") or name == "init_latents":
        return drawn
    if len(shape) > 1:
        return drawn / np.prod(shape[1:]) ** 0.5
    return float(name.endswith("weight")) + 0.2 * drawn


def fill(module, array):
    """Weights of the original under our names, in float64; `array` takes our name and shape."""
    module.double().eval()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(array(name, tuple(parameter.shape)))
    return module


def substitute(name, *rules):
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def vqvae_name(name):
    """Of a VQ-VAE with two levels; the original counts those of the decoder from the finest."""
    return substitute(
        name.removeprefix("net."),
        (r"down_blocks\.(\d)\.resnets", r"down.\1.block"),
        (r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample"),
        (r"up_blocks\.(\d)\.resnets", lambda found: f"up.{1 - int(found[1])}.block"),
        (r"up_blocks\.(\d)\.upsamplers\.0", lambda found: f"up.{1 - int(found[1])}.upsample"),
        (r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}"),
        (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
        (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
        (r"mid_block\.attentions\.0\.to_", "mid.attn_1."),
        (r"conv_norm_out", "norm_out"),
        (r"conv_shortcut", "nin_shortcut"),
    )


def unet_name(name):
    """Of a U-Net with one block a level on the way down, two on the way up, attention on the second level."""

    def down(found):
        return f"input_blocks.{1 + 2 * int(found[1]) + int(found[3])}.{int(found[2] == 'attentions')}"

    def up(found):
        return f"output_blocks.{2 * int(found[1]) + int(found[3])}.{int(found[2] == 'attentions')}"

    residual = r"((?:input|output|middle)_blocks?[\d.]+)\."
    return substitute(
        name,
        (r"^time_embedding\.linear_1", "time_embed.0"),
        (r"^time_embedding\.linear_2", "time_embed.2"),
        (r"^conv_in", "input_blocks.0.0"),
        (r"^conv_norm_out", "out.0"),
        (r"^conv_out", "out.2"),
        (r"^down_blocks\.(\d)\.(resnets|attentions)\.(\d)", down),
        (r"^down_blocks\.(\d)\.downsamplers\.0\.conv", lambda found: f"input_blocks.{2 * int(found[1]) + 2}.0.op"),
        (r"^mid_block\.resnets\.(\d)", lambda found: f"middle_block.{2 * int(found[1])}"),
        (r"^mid_block\.attentions\.0", "middle_block.1"),
        (r"^up_blocks\.(\d)\.(resnets|attentions)\.(\d)", up),
        (r"^up_blocks\.(\d)\.upsamplers\.0", lambda found: f"output_blocks.{2 * int(found[1]) + 1}.2"),
        (residual + r"norm1", r"\1.in_layers.0"),
        (residual + r"conv1", r"\1.in_layers.2"),
        (residual + r"time_emb_proj", r"\1.emb_layers.1"),
        (residual + r"norm2", r"\1.out_layers.0"),
        (residual + r"conv2", r"\1.out_layers.3"),
        (residual + r"conv_shortcut", r"\1.skip_connection"),
    )


def slots_name(name):
    """Of encoder, positions, MLP, first slots, Slot Attention and predictor."""

    def block(found):
        return f"encoder.layer{1 + int(found[1]) // 2}.{int(found[1]) % 2}"

    return substitute(
        name,
        (r"^front\.encoder\.stem\.", "encoder.conv1."),
        (r"^front\.encoder\.stem_norm", "encoder.bn1"),
        (r"^front\.encoder\.blocks\.(\d)", block),
        (r"^(encoder\.layer\d\.\d)\.norm", r"\1.bn"),
        (r"^(encoder\.layer\d\.\d)\.shortcut", r"\1.downsample"),
        (r"^front\.position\.project", "encoder_pos_embedding.dense"),
        (r"^front\.feature_mlp", "encoder_out_layer"),
        (r"^front\.initializer\.slots", "init_latents"),
        (r"^video_slots\.corrector", "slot_attention"),
        (r"^slot_attention\.norm_features", "slot_attention.norm_inputs"),
        (r"^slot_attention\.norm_slots", "slot_attention.project_q.0"),
        (r"^slot_attention\.to_q", "slot_attention.project_q.1"),
        (r"^slot_attention\.to_([kv])", r"slot_attention.project_\1"),
        (r"^slot_attention\.mlp\.(\d)", lambda found: f"slot_attention.mlp.{int(found[1]) + 1}"),
        (r"^slot_attention\.norm_mlp", "slot_attention.mlp.0"),
        (r"^video_slots\.predictor\.blocks\.(\d)", r"predictor.transformer_encoder.layers.\1"),
        (r"attention\.to_out\.", "self_attn.out_proj."),
        (r"norm_attention", "norm1"),
        (r"^(predictor.*)norm_mlp", r"\1norm2"),
        (r"^(predictor.*)mlp\.0", r"\1linear1"),
        (r"^(predictor.*)mlp\.2", r"\1linear2"),
    )


def slots_array(name, shape):
    packed = re.match(r"video_slots\.predictor\.blocks\.(\d)\.attention\.to_([qkv])\.(\w+)", name)
    if packed:  # torch keeps queries, keys and values in one array
        whole = f"predictor.transformer_encoder.layers.{packed[1]}.self_attn.in_proj_{packed[3]}"
        return weight(whole, (3 * shape[0], *shape[1:])).chunk(3)["qkv".index(packed[2])]
    if name == "front.initializer.slots":
        return weight("init_latents", (1, *shape))[0]
    return weight(slots_name(name), shape)


def test_vqvae():
    ours = VQAutoencoder(VQConfig(dims=(32, 64), layers=1, num_codes=32))
    fill(ours, lambda name, shape: weight(vqvae_name(name), shape))
    image = noise("vq_image", (2, 3, 16, 16)).tanh().requires_grad_()
    latents = ours.encode(image / 2 + 0.5)
    found = ours.quantize(latents)
    recon = 2 * ours.decode(found.codes, quantize=False) - 1
    error = found.commit + 0.25 * found.codebook
    ((recon - image).abs().mean() + error).backward()
    close(latents, "vq_latents")
    assert torch.equal(found.index, torch.from_numpy(REFERENCE["vq_index"]))
    close(error, "vq_quant_loss")
    close(recon, "vq_recon")
    close(2 * ours.decode(latents) - 1, "vq_recon")
    close(image.grad, "vq_grad_image")
    close(ours.net.encoder.conv_in.weight.grad, "vq_grad_conv_in")
    close(ours.net.quantize.embedding.weight.grad, "vq_grad_codes")


def test_unet():
    config = DenoiserConfig(dims=(32, 64), layers=1, head_dim=16)
    decoder = LatentDiffusionDecoder(12, 16, config, VQConfig(dims=(32, 32)))
    fill(decoder.unet, lambda name, shape: weight(unet_name(name), shape))
    latents = noise("unet_latents", (2, 3, 8, 8)).requires_grad_()
    slots = noise("unet_slots", (2, 3, 12)).requires_grad_()
    said = decoder.predict(latents, torch.tensor([0, 730]), slots)
    (said * noise("unet_probe", said.shape)).sum().backward()
    close(said, "unet_out")
    close(latents.grad, "unet_grad_latents")
    close(slots.grad, "unet_grad_slots")


SMALL = {
    "image_size": 16,
    "slot_dim": 24,
    "mlp_dim": 48,
    "num_slots": 4,
    "num_iterations": 2,
    "autoencoder": None,
    "denoiser": DenoiserConfig(dims=(8, 8), layers=1, norm_groups=8, head_dim=8),  # not compared here
}


def test_slots_of_a_video():
    method = VideoSlotDiffusionConfig(**SMALL, predictor_dim=96).build()
    del method.decoder
    fill(method, slots_array)
    video = noise("side_video", (2, 3, 3, 16, 16)).tanh().requires_grad_()
    out = method.encode(video / 2 + 0.5)
    (out.slots * noise("side_probe", out.slots.shape)).sum().backward()
    close(out.slots, "side_slots")
    close(out.attn, "side_masks")
    close(video.grad, "side_grad_video")
    close(method.front.encoder.stem.weight.grad, "side_grad_stem")
    close(method.front.initializer.slots.grad[None], "side_grad_init")
    assert out.grid == (4, 4)
    rest = method.encode(video[:, 1:] / 2 + 0.5, state=method.encode(video[:, :1] / 2 + 0.5).state)
    torch.testing.assert_close(rest.slots, out.slots[:, 1:])


def test_slots_of_an_image():
    method = SlotDiffusionConfig(**SMALL).build()
    del method.decoder
    fill(method, slots_array)
    video = noise("side_video", (2, 3, 3, 16, 16)).tanh()
    out = method.encode(video[:, 0] / 2 + 0.5)
    expected = torch.from_numpy(REFERENCE["side_slots"])[:, 0]
    torch.testing.assert_close(out.slots.detach(), expected, rtol=1e-6, atol=1e-6)
