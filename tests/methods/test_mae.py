"""The masked autoencoder, and the encoder trained with it that comes with the package."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from slotworks.configs import mae
from slotworks.data.scenes import ShapeScenes
from slotworks.encoders import ViTConfig, ViTEncoder
from slotworks.encoders.vit import ASSETS
from slotworks.methods.mae import MAEConfig
from slotworks.nn.noise import shared_noise
from slotworks.types import to_batch

SMALL = MAEConfig(
    image_size=16,
    patch_size=4,
    hidden_dim=16,
    num_layers=2,
    num_heads=2,
    decoder_dim=8,
    decoder_layers=1,
    decoder_heads=2,
    mask_ratio=0.75,
)
SMALL_VIT = ViTConfig(image_size=16, patch_size=4, feature_dim=16)
SHIPPED = ViTConfig("package:scenes_vit", image_size=64, patch_size=4, feature_dim=128)


def build(**changed):
    torch.manual_seed(0)
    return replace(SMALL, **changed).build()


def blind(method):
    """The same method, whose decoder predicts zeros."""
    with torch.no_grad():
        method.mae.decoder.decoder_pred.weight.zero_()
        method.mae.decoder.decoder_pred.bias.zero_()
    return method


def losses(method, image, *, parts=1, seed=5):
    """The loss of each of the equal parts of a batch, as that many processes would see it."""
    rows = len(image) // parts
    found = []
    for part in range(parts):
        with shared_noise(seed, part=part, parts=parts):
            found.append(method.loss({"image": image[part * rows :][:rows]}, 0)["recon"])
    return torch.stack(found).detach()


def test_a_blind_decoder_pays_the_normalised_image():
    """Of one colour, every patch costs the same, so which ones are masked does not matter."""
    colour = torch.tensor([0.2, 0.5, 0.9])
    image = colour[None, :, None, None].expand(3, 3, 16, 16)
    expected = ((colour - torch.tensor(SMALL.mean)) / torch.tensor(SMALL.std)).square().mean()
    torch.testing.assert_close(blind(build()).loss({"image": image}, 0)["recon"], expected)


def test_only_patches_left_out_count():
    """Patch `i` is all `i` after normalisation; a blind decoder pays the mean of `i^2` over the 12 masked of 16."""
    method = blind(build(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)))
    image = torch.arange(16.0).view(1, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3).expand(1, 3, 16, 16)
    with shared_noise(3, part=0, parts=1):
        order = torch.rand(1, 16, generator=torch.Generator().manual_seed(3)).argsort()[0]
        loss = method.loss({"image": image}, 0)["recon"]
    torch.testing.assert_close(loss, order[4:].float().square().mean())


def test_masks_do_not_depend_on_the_number_of_processes():
    method, image = build(), torch.rand(8, 3, 16, 16)
    whole = losses(method, image)
    torch.testing.assert_close(losses(method, image, parts=4).mean(), whole[0])
    assert losses(method, image, seed=6)[0] != whole[0]


def test_masks_differ_between_images():
    method, image = blind(build()), torch.rand(1, 3, 16, 16)
    alone = losses(method, image.expand(6, -1, -1, -1), parts=6)
    assert len(set(alone.tolist())) == 6


def test_targets_of_mean_zero_and_variance_one():
    """What a blind decoder pays for each patch: 47 / 48, for torch's variance divides by one less."""
    method = blind(build(norm_targets=True))
    loss = method.loss({"image": torch.rand(2, 3, 16, 16)}, 0)["recon"]
    torch.testing.assert_close(loss, torch.tensor(47 / 48), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["mean", "std"])
def test_normalisation_is_not_a_weight(name):
    assert name not in build().state_dict()


def test_the_saved_encoder_sees_every_patch_in_its_order(tmp_path):
    """`ViTEncoder` on the folder gives what embedding, blocks and norm give when put together by hand."""
    method = build()
    method.export(tmp_path)  # as a training does at its end
    folder = tmp_path / "encoder"
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.safetensors"]
    image = torch.rand(3, 3, 16, 16)
    vit = method.mae.vit.half().float()  # rounded as on disk
    with torch.no_grad():
        x = vit.embeddings.patch_embeddings((image - method.mean) / method.std)
        x = x + vit.embeddings.position_embeddings[:, 1:]
        x = torch.cat([vit.embeddings.cls_token.expand(3, -1, -1), x], dim=1)
        for block in vit.layers:
            x = block(x)
    tokens = ViTEncoder(replace(SMALL_VIT, model=str(folder)))(image)
    torch.testing.assert_close(tokens, x[:, 1:], atol=2e-6, rtol=1e-5)
    normed = ViTEncoder(replace(SMALL_VIT, model=str(folder), features="normed"))(image)
    torch.testing.assert_close(normed, vit.layernorm(x)[:, 1:].detach(), atol=2e-6, rtol=1e-5)


def test_saving_leaves_the_method_as_it_was(tmp_path):
    method, image = build(), torch.rand(2, 3, 16, 16)
    before = losses(method, image)
    method.save_encoder(tmp_path / "encoder")
    assert torch.equal(losses(method, image), before)
    assert {p.dtype for p in method.parameters()} == {torch.float32}


def test_it_learns_where_things_are():
    """Halves of two colours: 150 steps bring the error far below that of the best single colour per image."""
    torch.manual_seed(0)
    colours = torch.rand(256, 2, 3, 1, 1)
    image = colours.repeat_interleave(8, 4).expand(-1, -1, -1, 16, 8).transpose(1, 2).transpose(2, 3).flatten(3)
    method = build(hidden_dim=32, decoder_dim=32)
    optimizer = torch.optim.Adam(method.parameters(), lr=3e-3)
    for step in range(150):
        loss = method.loss({"image": image[step % 4 * 64 :][:64]}, step)["recon"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    normal = (image - method.mean) / method.std
    one_colour = (normal - normal.mean(dim=(2, 3), keepdim=True)).square().mean()
    assert loss < 0.5 * one_colour


def test_the_shipped_encoder_is_the_recipes():
    """Sizes of the network in the package are those of the recipe that says how it was made."""
    config = mae.scenes_mini().method
    image = torch.rand(1, 3, config.image_size, config.image_size)
    vit = replace(SHIPPED, image_size=config.image_size, patch_size=config.patch_size, feature_dim=config.hidden_dim)
    assert ViTEncoder(vit)(image).shape == (1, (config.image_size // config.patch_size) ** 2, config.hidden_dim)


def within_and_between(background):
    """Mean cosine of two patches inside one object, and of two objects of the same colour, less the mean feature."""
    scenes = ShapeScenes(background=background, min_objects=2, max_objects=4, sizes=(0.3, 0.36, 0.42), colors=("red",))
    batch = to_batch(scenes.open("test").__getitems__(range(64)))
    features = ViTEncoder(SHIPPED)(batch["image"])
    features = F.normalize(features - features.mean(dim=(0, 1)), dim=2)
    patches = batch["mask"].unfold(1, 4, 4).unfold(2, 4, 4).flatten(3).flatten(1, 2)  # b p 16
    ids = patches[..., 0]
    inside = (patches == patches[..., :1]).all(dim=2) & (ids > 0)
    pairs = (inside[:, :, None] & inside[:, None]) & ~torch.eye(256, dtype=torch.bool)
    same = ids[:, :, None] == ids[:, None]
    cosine = features @ features.mT
    return cosine[pairs & same].mean().item(), cosine[pairs & ~same].mean().item()


@pytest.mark.parametrize("background", ["plain", "gradient", "textured"])
def test_the_shipped_encoder_tells_objects_of_one_colour_apart(background):
    """Pixels cannot: 1.00 within and between. Measured: 0.73 to 0.74 within, 0.28 to 0.29 between."""
    within, between = within_and_between(background)
    assert within > 0.65
    assert between < 0.40


def test_the_shipped_encoder_is_small():
    folder = ASSETS / "scenes_vit"
    assert sorted(file.name for file in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert (folder / "model.safetensors").stat().st_size < 2**21
