"""DINOSAUR. That its decoders are the original's: `tests/decoders/test_transfer_dinosaur.py`."""

from dataclasses import replace

import pytest
import torch

from slotworks.configs import dinosaur
from slotworks.encoders import ViTConfig
from slotworks.evaluation.masks import decode
from slotworks.methods import DinosaurConfig
from slotworks.nn.position import sine_grid, wave_coordinates
from slotworks.training import schedule
from slotworks.types import Decodes

SMALL = DinosaurConfig(
    encoder=ViTConfig(image_size=32, patch_size=8, feature_dim=12),
    num_slots=3,
    slot_dim=8,
    mlp_dim=16,
    decoder_dims=(16, 16),
    decoder_blocks=2,
    decoder_heads=3,
)
DECODERS = ["mlp", "transformer"]


def build(**changed):
    torch.manual_seed(0)
    return replace(SMALL, **changed).build()


def features(batch=2):
    torch.manual_seed(1)
    return torch.randn(batch, 16, 12)


@pytest.mark.parametrize("decoder", DECODERS)
def test_parameters_on_coco(decoder):
    """By hand: the MLP on features, Slot Attention, initial slots; the decoders are counted in tests/decoders."""
    method = DinosaurConfig(decoder=decoder).build()
    feature_mlp = 2 * 768 + 768 * 768 + 768 + 768 * 256 + 256
    norms = 3 * 2 * 256
    attention = norms + 3 * 256**2 + 2 * (3 * 256**2 + 3 * 256) + 256 * 1024 + 1024 + 1024 * 256 + 256
    rest = sum(p.numel() for p in method.decoder.parameters())
    assert sum(p.numel() for p in method.parameters()) - rest == feature_mlp + attention + 2 * 256
    transformer_block = 8 * (768**2 + 768) + 2 * 4 * 768**2 + 5 * 768 + 3 * 2 * 768
    if decoder == "transformer":
        assert rest == 768 + 768**2 + 256 * 768 + 2 * 2 * 768 + 4 * transformer_block


@pytest.mark.parametrize("decoder", DECODERS)
def test_images_to_slots_and_masks(decoder, tiny_vit):
    method = build(encoder=tiny_vit, decoder=decoder)
    out = method.encode(torch.rand(2, 3, 32, 32))
    assert out.slots.shape == (2, 3, 8)
    assert out.attn_maps.shape == (2, 3, 4, 4)
    assert (out.features is None) == (decoder == "mlp")
    assert isinstance(method, Decodes)
    decoded = decode(method, out)
    assert decoded.recon.shape == (2, 12, 4, 4)
    torch.testing.assert_close(decoded.masks.sum(dim=1), torch.ones(2, 4, 4))


@pytest.mark.parametrize("decoder", DECODERS)
def test_cached_features_give_the_loss_of_their_images(decoder, tiny_vit):
    method, image = build(encoder=tiny_vit, decoder=decoder), torch.rand(2, 3, 32, 32)
    losses = []
    for batch in ({"image": image}, {"features": method.encoder(image)}):
        torch.manual_seed(2)
        losses.append(method.loss(batch, 0)["recon"])
    assert losses[0].item() == losses[1].item()


@pytest.mark.parametrize("decoder", DECODERS)
def test_cached_features_need_no_encoder(decoder):
    """facebook/dino-vitb16 is not on this machine: asking for it would fail."""
    method = build(decoder=decoder)
    method.loss({"features": features().half()}, 0)["recon"].backward()
    assert not any("encoder" in name for name in method.state_dict())


@pytest.mark.parametrize("decoder", DECODERS)
def test_loss_is_the_mean_over_images_patches_and_channels(decoder):
    method, x = build(decoder=decoder), features()
    last = method.decoder.to_features if decoder == "mlp" else method.decoder.transformer.blocks[-1].mlp[2]
    with torch.no_grad():  # the prediction is 2 everywhere
        if decoder == "mlp":
            last.weight.zero_()
            last.bias.fill_(2.0)
        else:
            method.decoder.transformer.final_norm = torch.nn.LayerNorm(12)
            method.decoder.transformer.final_norm.weight.zero_()
            method.decoder.transformer.final_norm.bias.fill_(2.0)
    loss = method.loss({"features": x}, 0)
    assert list(loss) == ["recon"]
    torch.testing.assert_close(loss["recon"], ((x - 2) ** 2).sum() / (2 * 16 * 12))


@pytest.mark.parametrize("decoder", DECODERS)
def test_the_error_is_taken_patch_by_patch(decoder):
    """A transposed grid would give another number."""
    method, x = build(decoder=decoder), features()
    torch.manual_seed(2)
    loss = method.loss({"features": x}, 0)["recon"]
    torch.manual_seed(2)
    out = method.slot_attention(method.feature_mlp(x), method.initializer(2))
    recon = method.decode(out.slots, x).recon
    expected = sum((recon[:, :, i, j] - x[:, 4 * i + j]).square().sum() for i in range(4) for j in range(4))
    torch.testing.assert_close(loss, expected / (2 * 16 * 12))


@pytest.mark.parametrize("decoder", DECODERS)
def test_every_parameter_is_trained_and_the_encoder_is_not(decoder, tiny_vit):
    method = build(encoder=tiny_vit, decoder=decoder)
    method.loss({"image": torch.rand(2, 3, 32, 32)}, 0)["recon"].backward()
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    assert sum(len(group) for group in method.param_groups().values()) == len(list(method.parameters()))


def test_permuted_initial_slots_permute_slots_attention_and_masks():
    method, x = build().double(), features().double()
    slots, order = torch.randn(2, 3, 8).double(), torch.tensor([2, 0, 1])
    outs = []
    for initial in (slots, slots[:, order]):
        out = method.slot_attention(method.feature_mlp(x), initial)
        outs.append((out.slots, out.attn, method.decode(out.slots).masks))
    for one, other in zip(*outs, strict=True):
        torch.testing.assert_close(other, one[:, order], rtol=1e-10, atol=1e-10)


def test_iterations_and_slots_outside_of_training(tiny_vit):
    method, image = build(encoder=tiny_vit, test_iterations=5), torch.rand(1, 3, 32, 32)
    assert len(method.encode(image).attn_steps) == 3
    assert len(method.eval().encode(image).attn_steps) == 5
    assert method.encode(image, num_slots=6, num_iterations=2).slots.shape == (1, 6, 8)
    assert len(method.encode(image, num_iterations=2).attn_steps) == 2


def test_images_of_another_size_have_another_grid(tiny_vit):
    """Four times the patches; places are shares of the image, so the corners have the coordinates they had."""
    torch.manual_seed(0)
    sizes = {"num_slots": 3, "slot_dim": 8, "mlp_dim": 16, "decoder": "flat", "decoder_dims": (16,)}
    method = DinosaurConfig(encoder=tiny_vit, value_coordinates=True, initializer="kmeans", **sizes).build().eval()
    side, rows = tiny_vit.image_size, tiny_vit.grid[0]
    small, large = (method.encode(torch.rand(1, 3, pixels, pixels)) for pixels in (side, 2 * side))
    assert (small.grid, large.grid) == ((rows, rows), (2 * rows, 2 * rows))
    assert large.attn_maps.shape == (1, 3, 2 * rows, 2 * rows)
    assert method.decode(large.slots).masks.shape == (1, 3, rows, rows)
    known = wave_coordinates(2 * rows, 2 * rows)[[0, 2 * rows - 1, -2 * rows, -1]]
    torch.testing.assert_close(known, method.waves[[0, rows - 1, -rows, -1]])


def test_noise_on_learned_slots_fades():
    method = build(initializer="learned", gradient="bilevel", init_noise_steps=10)
    for step, scale in ((0, 1.0), (5, 0.5), (10, 0.0), (99, 0.0)):
        method.loss({"features": features()}, step)
        assert method.initializer.noise_scale == pytest.approx(scale)


def test_positions_of_the_mlp_decoder():
    """As in the paper by default; sines and cosines when asked for."""
    assert 0.01 < build().decoder.position.std() < 0.03
    assert torch.equal(build(decoder_positions="sine").decoder.position, sine_grid(4, 4, 8))


def test_refuses():
    with pytest.raises(ValueError, match=r"trained_blocks is 2; DINOSAUR predicts its own input"):
        replace(SMALL, encoder=ViTConfig(trained_blocks=2))
    with pytest.raises(ValueError, match=r"call decode\(slots, out.features\)"):
        build(decoder="transformer").decode(torch.randn(1, 3, 8))


@pytest.mark.parametrize(("decoder", "steps"), [("mlp", 150), ("transformer", 60)])
def test_it_learns_four_feature_maps(decoder, steps):
    """Two regions with features of their own: less than a third of the variance is left; five seeds gave 0.03 to 0.1
    with the MLP, 0.14 to 0.19 with the Transformer."""
    torch.manual_seed(0)
    x = torch.randn(4, 1, 12).expand(4, 16, 12).clone()
    for i in range(4):
        x[i, i : i + 6] = torch.randn(12)
    method = build(decoder=decoder, slot_dim=16)
    optimizer = torch.optim.Adam(method.parameters(), lr=4e-3)
    for step in range(steps):
        loss = method.loss({"features": x}, step)["recon"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < x.var() / 3


@pytest.mark.parametrize(
    ("name", "model", "patches", "slots", "decoder", "scores"),
    [
        ("coco_mlp", "dino-vitb16", 196, 7, "mlp", "40.5 27.7"),
        ("coco_mlp_mae", "vit-mae-base", 196, 7, "mlp", "42.3 29.1"),
        ("coco_mlp_dinov2", "dinov2-base", 256, 7, "mlp", "45.6 29.6"),
        ("coco_transformer", "dino-vitb16", 196, 7, "transformer", "34.1 31.6"),
        ("coco_transformer_s16", "dino-vits16", 196, 7, "transformer", "36.9 29.7"),
        ("coco_transformer_s8", "dino-vits8", 784, 7, "transformer", "34.3 32.3"),
        ("voc_mlp", "dino-vitb16", 196, 6, "mlp", "24.6 39.5"),
        ("voc_transformer", "dino-vitb16", 196, 6, "transformer", "24.8 44.0"),
        ("movi_c_mlp", "dino-vits8", 784, 11, "mlp", "67.2 38.6"),
        ("movi_c_mlp_b8", "dino-vitb8", 784, 11, "mlp", "68.6 39.1"),
        ("movi_c_mlp_b16", "dino-vitb16", 196, 11, "mlp", "66.0 35.0"),
        ("movi_c_transformer", "dino-vitb16", 196, 11, "transformer", "55.7 42.4"),
        ("movi_e_mlp", "dino-vits8", 784, 24, "mlp", "64.7 34.1"),
        ("movi_e_mlp_b8", "dino-vitb8", 784, 24, "mlp", "65.1 35.5"),
        ("movi_e_mlp_11", "dino-vits8", 784, 11, "mlp", "76.7 29.7"),
        ("movi_e_mlp_b8_11", "dino-vitb8", 784, 11, "mlp", "79.3 32.7"),
    ],
)
def test_recipes_are_the_rows_of_the_authors_table(name, model, patches, slots, decoder, scores):
    run = getattr(dinosaur, name)()
    method = run.method
    assert method.encoder.model.split("/")[-1] == model
    assert method.encoder.grid[0] * method.encoder.grid[1] == patches
    assert (method.num_slots, method.decoder) == (slots, decoder)
    assert run.data.size == (224, 224)
    assert getattr(dinosaur, name).published[0].numbers == dict(zip(("FG-ARI", "mBO_i"), scores.split(), strict=True))
    movi = name.startswith("movi")
    assert method.slot_dim == (128 if movi else 256)
    assert method.mlp_dim == 4 * method.slot_dim
    assert method.decoder_dims == (1024 if movi else 2048,) * 3
    if decoder == "transformer":
        assert method.decoder_heads == (8 if name.startswith("coco") else 4)
    assert run.protocol == ("oclf[attention]" if name == "movi_c_transformer" else "oclf")
    assert (run.steps, run.batch_size) == (300_000 if name.startswith("voc") else 500_000, 64)
    assert schedule(run.optimizer, 10_000, run.steps) == 4e-4
    videosaur = name == "coco_mlp_dinov2"  # the warm-up counts in its half-life, and training crops at random
    assert schedule(run.optimizer, 100_000 if videosaur else 110_000, run.steps) == 2e-4
    if not movi:
        assert run.data.crop == ("random" if videosaur or name.startswith("voc") else "center")
