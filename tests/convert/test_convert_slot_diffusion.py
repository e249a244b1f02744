"""Checkpoints of SlotDiffusion's repository become runs that give what its modules gave.

Each original ran once in float32 with weights drawn from a seed that is the name of each array; names, shapes and what
came out are in `tests/references/slot_diffusion_checkpoints.npz`, whose settings are in the README there.
"""

from functools import cache

import pytest
import torch
from published import drawn_by_name, names_and_outputs, noise_of

from slotworks import api
from slotworks.convert import Options, convert
from slotworks.types import UserError

pytest.importorskip("diffusers")

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
KINDS = {
    "sa_diffusion": ("slot-diffusion", "SlotDiffusion", ("U-Net", "VQ-VAE", "average of the U-Net")),
    "savi_diffusion": ("slot-diffusion", "VideoSlotDiffusion", ("U-Net", "VQ-VAE")),
    "sa": ("slot-diffusion-savi", "SlotAttentionAutoencoder", ("decoder",)),
    "savi": ("slot-diffusion-savi", "SAVi", ("decoder",)),
    "slate": ("slot-diffusion-steve", "Slate", ("dVAE",)),
    "steve": ("slot-diffusion-steve", "Steve", ("dVAE",)),
    "dvae": ("slot-diffusion-dvae", "DVAE", ("dVAE",)),
    "vqvae": ("slot-diffusion-vqvae", "VQVAE", ("VQ-VAE",)),
}


@cache
def checkpoint(key):
    """The state dict that the original would save; buffers of which only the shape is read are zeros."""
    shapes, _ = names_and_outputs("slot_diffusion_checkpoints", key)
    state = {}
    for name, shape in shapes.items():
        if name == "dm_decoder.betas":
            state[name] = torch.linspace(0.0015**0.5, 0.0195**0.5, *shape, dtype=torch.float64).square().float()
        elif name.endswith("self_attn_mask"):
            state[name] = torch.ones(shape, dtype=torch.bool).triu(diagonal=1)
        elif name.endswith(".grid") or (name.startswith("dm_decoder.") and name.count(".") == 1) or not shape:
            state[name] = torch.zeros(shape)
        else:
            state[name] = drawn_by_name(name, shape).float()
    return state


def image():
    return noise_of("image", (2, 3, 16, 16)).tanh().float()


def video():
    return noise_of("video", (2, 3, 3, 16, 16)).tanh().float()


def converted(tmp_path, state, **given):
    torch.save(state, tmp_path / "model.pth")
    made = convert(tmp_path / "model.pth", Options(tmp_path / "run", **given))
    return made, *api.load(tmp_path / "run", device="cpu")


@pytest.mark.parametrize("key", KINDS)
@torch.no_grad()
def test_outputs_are_the_originals(tmp_path, key):
    _, expected = names_and_outputs("slot_diffusion_checkpoints", key)
    state = checkpoint(key)
    given = {"num_heads": 2} if key in ("slate", "steve") else {"image_size": 16} if key in ("dvae", "vqvae") else {}
    made, run, method = converted(tmp_path, {"state_dict": state, "it": 3} if key == "savi" else state, **given)
    assert (made.family, type(method).__name__, made.parts) == KINDS[key]
    assert run.data.image_size == 16
    found = {}
    if "slots" in expected:
        of_video = expected["slots"].ndim == 4
        out = method.encode((video() if of_video else image()) / 2 + 0.5)
        found["slots"] = out.slots
        assert method.config.num_slots == 4
    if "recon" in expected:
        decoded = method.decode(out.slots)
        found |= {"recon": 2 * decoded.recon - 1, "masks": decoded.masks}
    if "unet" in expected:
        slots = out.slots if out.slots.ndim == 3 else out.slots[:, 0]
        times = torch.tensor([0, 730])
        found["unet"] = method.decoder.predict(noise_of("unet_latents", (2, 3, 8, 8)).float(), times, slots)
        latents = method.decoder.autoencoder.encode(image() / 2 + 0.5)
        found |= {"latents": latents, "decoded": 2 * method.decoder.autoencoder.decode(latents) - 1}
        assert method.config.denoiser.dims == (32, 64)
        assert method.config.denoiser.num_timesteps == 1_000
        assert method.sample(slots, steps=2).shape == (2, 3, 16, 16)
        assert out.attn_maps.shape[-3:] == (4, 4, 4)
    if key == "dvae":
        found["tokens"] = method.dvae.tokenize(image() / 2 + 0.5)
    if key == "vqvae":
        codes = method.autoencoder.encode(image() / 2 + 0.5)
        found |= {"codes": codes, "decoded": 2 * method.autoencoder.decode(codes, quantize=False) - 1}
    if key in ("slate", "steve"):
        assert method.sample(out.slots).shape[-3:] == (3, 16, 16)
    assert found
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name].view(value.shape), **CLOSE, msg=lambda m, n=name: f"{n}: {m}")


def test_a_frozen_dino(tmp_path):
    """Of the configurations for VOC and COCO: the ResNet is not there, features are those behind the last norm."""
    state = checkpoint("savi_diffusion")
    state = {name: value for name, value in state.items() if not name.startswith(("encoder", "predictor"))}
    state |= {
        "encoder.dino.embeddings.patch_embeddings.projection.weight": torch.zeros(384, 3, 8, 8),
        "encoder_pos_embedding.grid": torch.zeros(1, 2, 2, 4),
        "encoder_pos_embedding.dense.weight": torch.ones(384, 4),
        "encoder_pos_embedding.dense.bias": torch.ones(384),
        "encoder_out_layer.0.weight": torch.ones(384),
        "encoder_out_layer.0.bias": torch.ones(384),
        "encoder_out_layer.1.weight": torch.ones(24, 384),
        "encoder_out_layer.1.bias": torch.ones(24),
        "encoder_out_layer.3.weight": torch.ones(24, 24),
        "encoder_out_layer.3.bias": torch.ones(24),
    }
    _, run, method = converted(tmp_path, state)
    encoder = run.method.encoder
    assert (encoder.model, encoder.features, encoder.image_size) == ("facebook/dino-vits8", "normed", 16)
    assert (encoder.mean, encoder.position_offset) == ((0.5, 0.5, 0.5), 0.0)
    assert torch.equal(method.front.position.project.weight, torch.ones(384, 4))


@pytest.mark.parametrize(
    ("key", "change", "given", "sentence"),
    [
        ("sa", {"init_latents": None}, {}, "are of none of these"),
        ("sa", {"encoder.layer2.0.conv1.weight": None}, {}, r"lacks the tensor encoder.layer2.0.conv1.weight, so"),
        ("sa", {"encoder.layer4.0.conv1.weight": torch.ones(1)}, {}, r"lacks the tensor encoder.layer4.0.conv2"),
        ("sa", {"rest.weight": torch.ones(1)}, {}, r"has the tensor rest.weight, which the SlotDiffusion repository"),
        ("sa", {}, {"num_slots": 5}, r"num_slots is 5, but the checkpoint has 4 slots of its own"),
        ("sa", {}, {"encoder": "own"}, r"encoder is own, which means nothing for this checkpoint"),
        ("savi", {"predictor.rnn.weight": torch.ones(1)}, {}, "another predictor than the Transformer"),
        ("steve", {"trans_decoder.tok_emb.weight": torch.ones(3)}, {}, r"tok_emb.weight has the shape \(3,\)"),
        ("dvae", {}, {"num_slots": 3}, r"num_slots means nothing for an autoencoder"),
        ("sa_diffusion", {"dm_decoder.betas": torch.linspace(1e-4, 2e-2, 1_000)}, {}, "another schedule of noise"),
        ("sa_diffusion", {"dm_decoder.model_ema.diffusion_modelout0bias": None}, {}, "has no average of"),
        ("sa_diffusion", {}, {"recipe": "vqvae.coco"}, "vqvae.coco is one of VQVAEConfig"),
    ],
)
def test_what_does_not_fit_is_said(tmp_path, key, change, given, sentence):
    state = {name: value for name, value in (checkpoint(key) | change).items() if value is not None}
    with pytest.raises(UserError, match=sentence):
        converted(tmp_path, state, **given)
    assert not (tmp_path / "run").exists()
