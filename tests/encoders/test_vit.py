"""The encoder against the modules of `transformers`, called one by one; networks are tiny, random and saved to folders.

Random weights are made large, or attention would be nearly uniform and norms nearly the identity.
"""

import copy
import json
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
import transformers
from transformers import Dinov2Config, Dinov2Model

from slotworks.encoders import ViTConfig, ViTEncoder, vit, weights_hash
from slotworks.encoders.vit import DINO_B16, DINOV2_S14, FEATURES, load_network
from slotworks.types import UserError

SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
VIT = SMALL | {"intermediate_size": 64, "image_size": 64, "patch_size": 16}
MAE_DECODER = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
DINOV2 = SMALL | {"mlp_ratio": 2, "image_size": 56, "patch_size": 14}
FAMILIES = {
    "dino": (transformers.ViTModel, transformers.ViTConfig(**VIT)),
    "deit": (transformers.DeiTModel, transformers.DeiTConfig(**VIT)),
    "mae": (
        transformers.ViTMAEForPreTraining,
        transformers.ViTMAEConfig(**VIT, **MAE_DECODER, decoder_intermediate_size=32),
    ),
    "dinov2": (transformers.Dinov2Model, transformers.Dinov2Config(**DINOV2)),
    "registers": (
        transformers.Dinov2WithRegistersModel,
        transformers.Dinov2WithRegistersConfig(**DINOV2, num_register_tokens=4),
    ),
    "dinov3": (transformers.DINOv3ViTModel, transformers.DINOv3ViTConfig(**VIT, num_register_tokens=4)),
}
OTHERS = {  # a user's own
    "clip": (
        transformers.CLIPModel,
        transformers.CLIPConfig(
            vision_config=VIT,
            text_config=SMALL | {"vocab_size": 9, "bos_token_id": 0, "eos_token_id": 1, "intermediate_size": 32},
        ),
    ),
    "siglip": (transformers.SiglipVisionModel, transformers.SiglipVisionConfig(**VIT)),
    "ijepa": (transformers.IJepaModel, transformers.IJepaConfig(**VIT)),
    "beit": (transformers.BeitModel, transformers.BeitConfig(**VIT, use_mean_pooling=False)),
    "classifier": (transformers.ViTForImageClassification, transformers.ViTConfig(**VIT)),
}


def save(folder, cls, config, seed=0, **options):
    torch.manual_seed(seed)
    model = cls(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder, **options)
    return model.eval()


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """By family: a config that names the saved network, and the network."""
    found = {}
    for name, (cls, config) in (FAMILIES | OTHERS).items():
        folder = tmp_path_factory.mktemp(name)
        model = save(folder, cls, config)
        sizes = config.vision_config if name == "clip" else config
        patch = sizes.patch_size
        found[name] = ViTConfig(str(folder), image_size=4 * patch, patch_size=patch, feature_dim=32), model
    return found


def images(config, height=None, width=None, seed=1):
    patch, grid = config.patch_size, config.grid
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, 3, patch * (height or grid[0]), patch * (width or grid[1]), generator=generator)


def normalised(image):
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (image - mean[:, None, None]) / std[:, None, None]


def by_hand(model, image, features, layer):
    """The same features from the parts of a network, one after the other, with special tokens in front."""
    x, options = normalised(image), {}
    if isinstance(model, transformers.ViTMAEForPreTraining):
        model = model.vit
        embedding = model.embeddings
        positions = embedding.interpolate_pos_encoding(torch.zeros(1, 1, 32), *image.shape[-2:])
        patches = embedding.patch_embeddings(x) + positions[:, 1:]
        x = torch.cat([(embedding.cls_token + positions[:, :1]).expand(len(x), -1, -1), patches], 1)
    elif isinstance(model, transformers.DINOv3ViTModel):
        options = {"position_embeddings": model.rope_embeddings(x)}
        x = model.embeddings(x)
    elif isinstance(model, transformers.ViTModel | transformers.DeiTModel):
        x = model.embeddings(x, interpolate_pos_encoding=True)
    else:
        x = model.embeddings(x)
    blocks = {"ViTModel": "layers", "DeiTModel": "layers", "ViTMAEModel": "layers", "DINOv3ViTModel": "model.layer"}
    blocks = model.get_submodule(blocks.get(type(model).__name__, "encoder.layer"))
    for block in blocks[: layer % 3]:
        x = block(x, **options)
    block = blocks[layer]
    before = block.norm1 if hasattr(block, "norm1") else block.layernorm_before
    if features in ("queries", "keys", "values"):
        return getattr(block.attention, f"{features[0]}_proj")(before(x))
    x = block(x, **options)
    return x if features == "tokens" else (model.norm if hasattr(model, "norm") else model.layernorm)(x)


@pytest.mark.parametrize("layer", [-1, 1])
@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("name", FAMILIES)
def test_features_are_those_of_the_network(networks, name, features, layer):
    """At the native size and at a wider one; what stands before the patches is dropped."""
    config, model = networks[name]
    encoder = ViTEncoder(replace(config, features=features, layer=layer))
    for image in (images(config), images(config, 3, 6)):
        patches = encoder.grid(*image.shape[-2:])
        found = encoder(image)
        assert found.shape == (2, patches[0] * patches[1], 32)
        with torch.no_grad():
            wanted = by_hand(model, image, features, layer)
        special = {"deit": 2, "registers": 5, "dinov3": 5}.get(name, 1)
        assert wanted.shape[1] - special == found.shape[1]
        torch.testing.assert_close(found, wanted[:, special:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["dino", "dinov2", "registers", "dinov3", "ijepa", "beit"])
def test_last_hidden_state_is_normed_and_tokens_are_not(networks, name):
    """What a user would write with `transformers`, for those whose output is after the final norm."""
    config, model = networks[name]
    image = images(config)
    with torch.no_grad():
        output = model(normalised(image), output_hidden_states=True)
    count = 16
    normed = ViTEncoder(replace(config, features="normed"))(image)
    torch.testing.assert_close(normed, output.last_hidden_state[:, -count:], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ViTEncoder(config)(image), output.hidden_states[-1][:, -count:], rtol=1e-5, atol=1e-5)
    assert (normed - output.hidden_states[-1][:, -count:]).abs().max() > 0.1


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_the_image_half_of_contrastive_models(networks, name):
    """Its norm applies to single vectors there; here to each token of the last block."""
    config, model = networks[name]
    model, image = getattr(model, "vision_model", model), images(config)
    with torch.no_grad():
        tokens = model(normalised(image), output_hidden_states=True).hidden_states[-1][:, -16:]
        normed = model.post_layernorm(tokens)
    torch.testing.assert_close(ViTEncoder(config)(image), tokens, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ViTEncoder(replace(config, features="normed"))(image), normed, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [*FAMILIES, *OTHERS])
def test_patches_are_row_major(networks, name):
    """Values of the first block know one patch each: changing a patch changes its own row and no other."""
    config = replace(networks[name][0], features="values", layer=0)
    encoder, image, patch = ViTEncoder(config), images(config, 3, 5), config.patch_size
    before = encoder(image)
    image[:, :, 1 * patch : 2 * patch, 3 * patch : 4 * patch] += 0.5
    changed = (encoder(image) - before).abs().amax(dim=(0, 2)) > 1e-6
    assert changed.nonzero().flatten().tolist() == [1 * 5 + 3]


@pytest.mark.parametrize("name", ["dino", "mae"])
def test_interpolation_at_the_native_size_is_the_identity(networks, name):
    """Position embeddings as stored, which the network uses itself when it is not asked to interpolate."""
    config, model = networks[name]
    image = images(config)
    with torch.no_grad():
        if name == "mae":
            vit_mae = copy.deepcopy(model.vit)
            vit_mae.config.mask_ratio = vit_mae.embeddings.config.mask_ratio = 0.0
            output = vit_mae(normalised(image), noise=torch.arange(16.0).expand(2, -1))
        else:
            output = model(normalised(image))
    found = ViTEncoder(replace(config, features="normed"))(image)
    torch.testing.assert_close(found, output.last_hidden_state[:, 1:], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "antialias"), [("dino", False), ("mae", False), ("dinov2", False), ("registers", True)]
)
def test_interpolated_positions(networks, name, antialias):
    """Bicubic to the number of patches: seen through the queries of the first block, by linear algebra."""
    config, model = networks[name]
    encoder = ViTEncoder(replace(config, features="queries", layer=0))
    image = images(config, 2, 6)
    model = getattr(model, "vit", model)
    stored = model.embeddings.position_embeddings[:, 1:].detach().unflatten(1, (4, 4)).permute(0, 3, 1, 2)
    positions = F.interpolate(stored, size=(2, 6), mode="bicubic", antialias=antialias).flatten(2).transpose(1, 2)
    projection = model.embeddings.patch_embeddings.projection
    block = (model.layers if hasattr(model, "layers") else model.encoder.layer)[0]
    norm = block.norm1 if hasattr(block, "norm1") else block.layernorm_before
    with torch.no_grad():
        tokens = projection(normalised(image)).flatten(2).transpose(1, 2) + positions
        wanted = block.attention.q_proj(norm(tokens))
    torch.testing.assert_close(encoder(image), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["dino", "dinov2"])
def test_positions_with_the_offset_of_the_original(networks, name):
    """facebookresearch/dino and dinov2 hand `interpolate` the factor (patches + 0.1) / stored, not the size."""
    config, model = networks[name]
    config = replace(config, features="queries", layer=0)
    encoder = ViTEncoder(replace(config, position_offset=0.1))
    image = images(config, 2, 6)
    stored = model.embeddings.position_embeddings[:, 1:].detach().unflatten(1, (4, 4)).permute(0, 3, 1, 2)
    positions = F.interpolate(stored, scale_factor=(2.1 / 4, 6.1 / 4), mode="bicubic").flatten(2).transpose(1, 2)
    block = (model.layers if hasattr(model, "layers") else model.encoder.layer)[0]
    norm = block.norm1 if hasattr(block, "norm1") else block.layernorm_before
    with torch.no_grad():
        tokens = model.embeddings.patch_embeddings.projection(normalised(image)).flatten(2).transpose(1, 2) + positions
        wanted = block.attention.q_proj(norm(tokens))
    torch.testing.assert_close(encoder(image), wanted, rtol=1e-5, atol=1e-5)
    assert (encoder(image) - ViTEncoder(config)(image)).abs().max() > 1e-3
    own = images(config, 4, 4)
    torch.testing.assert_close(encoder(own), ViTEncoder(config)(own), rtol=0, atol=0)


def test_mean_and_std(networks):
    config, _ = networks["dino"]
    image = images(config)
    half = ViTEncoder(replace(config, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)))
    plain = ViTEncoder(replace(config, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)))
    torch.testing.assert_close(half(image), plain(2 * image - 1), rtol=1e-5, atol=1e-5)


def test_blocks_after_the_layer_are_gone(networks):
    network, blocks = load_network(replace(networks["dinov2"][0], layer=0))
    assert len(blocks) == 1
    assert network.encoder.layer is blocks


# ---- what is frozen and what is trained ----------------------------------------------------------------------------


def test_a_frozen_network_is_no_part_of_the_module(networks):
    config, _ = networks["dino"]
    encoder = ViTEncoder(config).train()
    image = images(config).requires_grad_()
    assert not encoder(image).requires_grad
    assert list(encoder.parameters()) == list(encoder.modules())[2:] == list(encoder.state_dict()) == []


def test_nothing_is_loaded_before_the_first_image():
    encoder = ViTEncoder(ViTConfig("./nowhere"))
    with pytest.raises(UserError, match=r"There is no folder './nowhere'"):
        encoder(torch.zeros(1, 3, 224, 224))
    with pytest.raises(UserError, match=r"There is no folder './nowhere'"):
        ViTEncoder(ViTConfig("./nowhere", trained_blocks=1))


@pytest.mark.parametrize("features", ["tokens", "normed"])
@pytest.mark.parametrize("name", FAMILIES)
def test_trained_blocks_and_only_they_get_gradients(networks, name, features):
    config, model = networks[name]
    config = replace(config, features=features, trained_blocks=2)
    encoder = ViTEncoder(config)
    out = encoder(image := images(config))
    torch.testing.assert_close(out, ViTEncoder(replace(config, trained_blocks=0))(image))
    out.square().sum().backward()
    parameters = dict(encoder.named_parameters())
    assert set(parameters) == set(encoder.state_dict())
    assert {key.split(".")[1] for key in parameters} == {"0", "1"}
    assert len(parameters) * 3 == 2 * sum("layer." in key or "layers." in key for key in _encoder_weights(model))
    zero = {key for key, p in parameters.items() if p.grad is None or not p.grad.any()}
    assert all("k_proj.bias" in key for key in zero)  # a constant on all keys cancels in the softmax
    hidden = [p for p in encoder._network[0].parameters() if not any(p is own for own in parameters.values())]
    assert len(hidden) > 10
    assert all(p.grad is None and not p.requires_grad for p in hidden)


def _encoder_weights(model):
    return [key for key, _ in getattr(model, "vit", model).named_parameters()]


def test_nothing_is_recorded_below_the_trained_blocks(networks):
    """Memory: the graph holds what one trained block needs, although three run."""
    config, _ = networks["dino"]
    kept = {}
    for trained in (1, 2, 3):
        encoder = ViTEncoder(replace(config, trained_blocks=trained))
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, saved=saved: saved.append(x.numel()), lambda x: x):
            encoder(images(config))
        kept[trained] = sum(saved)
    assert kept[2] - kept[1] == kept[3] - kept[2] > 0.9 * kept[1]


def test_dropout_stays_off_in_training(tmp_path):
    config = transformers.ViTConfig(**VIT, hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5)
    save(tmp_path, transformers.ViTModel, config)
    encoder = ViTEncoder(ViTConfig(str(tmp_path), 64, 16, 32, trained_blocks=1))
    parent = torch.nn.Sequential(encoder).train()
    image = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(parent(image), parent(image), rtol=0, atol=0)
    assert not encoder.blocks[0].training


def test_weights_of_trained_blocks_load_into_another_encoder(networks):
    config = replace(networks["dinov2"][0], trained_blocks=1)
    image, first, second = images(config), ViTEncoder(config), ViTEncoder(config)
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.mul_(1.5)
    assert (first(image) - second(image)).abs().max() > 0.1
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(first(image), second(image), rtol=0, atol=0)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda encoder: pickle.loads(pickle.dumps(encoder))])
@pytest.mark.parametrize("trained", [0, 2])
def test_copies(networks, trained, copied):
    """A copy has its own trained weights and reads the frozen ones again."""
    config = replace(networks["dino"][0], trained_blocks=trained)
    image, encoder = images(config), ViTEncoder(config)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.mul_(1.5)
    before = encoder(image)
    other = copied(encoder)
    torch.testing.assert_close(other(image), before, rtol=0, atol=0)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.zero_()
    torch.testing.assert_close(other(image), before, rtol=0, atol=0)
    if not trained:
        assert len(pickle.dumps(encoder)) < 2000


@pytest.mark.parametrize("trained", [0, 1])
def test_precision_follows(networks, trained):
    config = replace(networks["dino"][0], trained_blocks=trained)
    image, encoder = images(config), ViTEncoder(config)
    single = encoder(image)
    double = encoder.double()(image.double())
    assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = encoder.float()(image)
    assert mixed.dtype == torch.float32
    error = (mixed - single).abs().max() / single.abs().max()
    assert 1e-4 < error < 0.05  # it did run in bfloat16


def test_loading_leaves_the_random_state_alone(networks):
    """Of a checkpoint without a pooler, as DINO's, whose weights transformers draws at random."""
    config, _ = networks["classifier"]
    before = torch.get_rng_state()
    ViTEncoder(config)(images(config))
    assert torch.equal(torch.get_rng_state(), before)


def test_first_use_without_gradients_or_in_inference_mode(networks):
    config = networks["dino"][0]
    encoder = ViTEncoder(config)
    with torch.inference_mode():
        before = encoder(images(config))
    weight = torch.ones(32, requires_grad=True)
    (encoder(images(config)) * weight).sum().backward()
    torch.testing.assert_close(weight.grad, before.sum((0, 1)))


COMPILED = """
import pickle, sys, torch
from pathlib import Path
encoder, image, wanted = pickle.loads(Path(sys.argv[1]).read_bytes())
loss = torch.compile(lambda image: (2 * encoder(image)).square().sum(), backend="eager")
loss(image).backward()
torch.testing.assert_close(loss(image), wanted)
assert all(p.grad is not None for p in encoder.parameters())
"""


@pytest.mark.slow
def test_compiled_code_around_the_encoder(networks, tmp_path):
    """The network is loaded inside the first compiled call. In a process of its own, without run-time type checks."""
    config = replace(networks["mae"][0], trained_blocks=1)
    encoder, image = ViTEncoder(config), images(config)
    wanted = 4 * encoder(image).square().sum().detach()
    (tmp_path / "encoder").write_bytes(pickle.dumps((encoder, image, wanted)))
    ran = subprocess.run([sys.executable, "-c", COMPILED, str(tmp_path / "encoder")], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


# ---- where a network comes from ------------------------------------------------------------------------------------


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """The cache of the hub's client in a folder, and no network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_a_hub_id_from_the_cache(networks, offline):
    config, _ = networks["dino"]
    snapshot = offline / "models--some--vit" / "snapshots" / "0123abc"
    shutil.copytree(config.model, snapshot)
    (offline / "models--some--vit" / "refs").mkdir()
    (offline / "models--some--vit" / "refs" / "main").write_text("0123abc")
    found = replace(config, model="some/vit")
    torch.testing.assert_close(ViTEncoder(found)(images(config)), ViTEncoder(config)(images(config)), rtol=0, atol=0)
    assert weights_hash(found) == weights_hash(config)
    (snapshot / "model.safetensors").unlink()  # as after an interrupted download
    with pytest.raises(UserError, match="There are no complete weights of 'some/vit', neither on the hub"):
        ViTEncoder(found)(images(config))


def test_a_hub_id_that_cannot_be_had(offline):
    with pytest.raises(UserError) as raised:
        ViTEncoder(ViTConfig("facebook/dino-vitb16"))(torch.zeros(1, 3, 224, 224))
    message = str(raised.value)
    assert message.startswith(
        "The network 'facebook/dino-vitb16' is not on this machine and could not be downloaded (LocalEntryNotFoundError"
    )
    assert message.endswith(
        "give a folder with config.json and model.safetensors, to train as --method.encoder.model FOLDER, to segment "
        "as --encoder FOLDER."
    )
    assert "\n" not in message


def test_networks_of_the_package(networks, monkeypatch, tmp_path):
    config, _ = networks["dino"]
    monkeypatch.setattr(vit, "ASSETS", tmp_path)
    with pytest.raises(UserError, match="comes without a network 'package:small'; it has none"):
        weights_hash(replace(config, model="package:small"))
    shutil.copytree(config.model, tmp_path / "small")
    assert weights_hash(replace(config, model="package:small")) == weights_hash(config)
    with pytest.raises(UserError, match="comes without a network 'package:large'; it has small"):
        weights_hash(replace(config, model="package:large"))


def test_weights_in_several_files(networks, tmp_path):
    config, model = networks["dino"]
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    found = replace(config, model=str(tmp_path))
    torch.testing.assert_close(ViTEncoder(found)(images(config)), ViTEncoder(config)(images(config)), rtol=0, atol=0)
    before = weights_hash(found)
    last = sorted(tmp_path.glob("model-*.safetensors"))[-1]
    data = bytearray(last.read_bytes())
    data[-1] ^= 1
    last.write_bytes(data)
    assert weights_hash(found) != before
    last.unlink()
    with pytest.raises(UserError, match="is not a complete Hugging Face model"):
        weights_hash(found)
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(UserError, match=r"model.safetensors.index.json is damaged"):
        weights_hash(found)


def test_a_bin_file_is_read_without_running_code(networks, tmp_path):
    """The first DINO uploads came as pytorch_model.bin. A pickle that would run something is refused."""
    config, model = networks["dino"]
    shutil.copy(f"{config.model}/config.json", tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    found = replace(config, model=str(tmp_path))
    torch.testing.assert_close(ViTEncoder(found)(images(config)), ViTEncoder(config)(images(config)), rtol=0, atol=0)

    class Runs:
        def __reduce__(self):
            return open, (str(tmp_path / "it_ran"), "w")

    torch.save({"embeddings.cls_token": Runs()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="cannot be read"):
        ViTEncoder(found)(images(config))
    assert not (tmp_path / "it_ran").exists()


def test_code_beside_the_weights_is_not_run(networks, tmp_path):
    config, _ = networks["dino"]
    shutil.copytree(config.model, tmp_path / "own")
    settings = json.loads((tmp_path / "own/config.json").read_text())
    settings |= {"model_type": "my_vit", "auto_map": {"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}}
    (tmp_path / "own/config.json").write_text(json.dumps(settings))
    (tmp_path / "own/mine.py").write_text(f"open({str(tmp_path / 'it_ran')!r}, 'w')")
    with pytest.raises(UserError, match="cannot be read"):
        ViTEncoder(replace(config, model=str(tmp_path / "own")))(images(config))
    assert not (tmp_path / "it_ran").exists()


def test_weights_hash(networks, tmp_path):
    """Changes with one bit of the weights and with the settings of the network; moving the files changes nothing."""
    config, _ = networks["dino"]
    folder = tmp_path / "copy"
    shutil.copytree(config.model, folder)
    copied = replace(config, model=str(folder))
    assert weights_hash(copied) == weights_hash(config)
    (folder / "README.md").write_text("about it")
    assert weights_hash(copied) == weights_hash(config)
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-2] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    hashes = {weights_hash(config), weights_hash(copied)}
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"layer_norm_eps": 1e-3}))
    assert len(hashes | {weights_hash(copied)}) == 3


# ---- mistakes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size": 8}, r"patch_size is 8, but .* has patches of 16 pixels; set it to that"),
        ({"feature_dim": 768}, r"feature_dim is 768, but the tokens of .* are 32 wide; set it to that"),
        ({"layer": 3}, r"layer is 3, but .* has 3 blocks, counted from 0"),
        ({"layer": -4}, r"layer is -4, but .* has 3 blocks"),
        ({"layer": 1, "trained_blocks": 3}, r"trained_blocks is 3, but .* has 2 blocks up to `layer`"),
    ],
)
def test_settings_that_do_not_fit_the_network(networks, changes, message):
    config = replace(networks["dino"][0], **changes)
    with pytest.raises(UserError, match=message):
        ViTEncoder(config)(images(config))


def test_features_a_network_does_not_have(tmp_path):
    save(tmp_path, transformers.BeitModel, transformers.BeitConfig(**VIT, use_mean_pooling=True))
    with pytest.raises(UserError, match="has no normalisation after its blocks; choose tokens"):
        load_network(ViTConfig(str(tmp_path), 64, 16, 32, "normed"))


@pytest.mark.parametrize(
    ("cls", "settings", "message"),
    [
        (transformers.BertModel, transformers.BertConfig(**SMALL, vocab_size=9), "is a BertModel, not a vision transf"),
        (
            transformers.YolosModel,
            transformers.YolosConfig(**VIT | {"image_size": [64, 64]}, num_detection_tokens=10),
            r"gives an output of shape \(1, 27, 32\) for 16 patches, which is not understood here",
        ),
        (
            transformers.SwinModel,
            transformers.SwinConfig(image_size=64, patch_size=16, embed_dim=16, depths=[1, 1], num_heads=[2, 2]),
            "is a SwinModel, which has no plain list of transformer blocks",
        ),
    ],
)
def test_other_architectures(tmp_path, cls, settings, message):
    save(tmp_path, cls, settings)
    with pytest.raises(UserError, match=message):
        ViTEncoder(ViTConfig(str(tmp_path), 64, 16, 32))(torch.zeros(1, 3, 64, 64))


def test_files_that_do_not_belong_together(networks, tmp_path):
    config = replace(networks["dino"][0], model=str(tmp_path))
    with pytest.raises(UserError, match=r"is not a complete Hugging Face model: expected are config.json and"):
        load_network(config)
    shutil.copy(f"{networks['dino'][0].model}/config.json", tmp_path)
    with pytest.raises(UserError, match="is not a complete Hugging Face model"):
        load_network(config)
    shutil.copy(f"{networks['dinov2'][0].model}/model.safetensors", tmp_path)
    with pytest.raises(
        UserError, match=r"do not belong to its config.json: \d+ tensors are missing or have another shape, such"
    ):
        load_network(config)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:1000])
    with pytest.raises(UserError, match=r"cannot be read \(SafetensorError"):
        load_network(config)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        load_network(config)


def test_weights_of_another_width(networks, tmp_path):
    save(tmp_path, transformers.ViTModel, transformers.ViTConfig(**VIT | {"hidden_size": 16}))
    shutil.copy(f"{networks['dino'][0].model}/config.json", tmp_path)
    with pytest.raises(
        UserError, match=r"do not belong to its config.json: \d+ tensors are missing or have another sh"
    ):
        load_network(replace(networks["dino"][0], model=str(tmp_path)))


@pytest.mark.parametrize("size", [(64, 65), (60, 64), (64, 8)])
def test_images_that_do_not_divide_into_patches(networks, size):
    config, _ = networks["dino"]
    message = rf"The image has {size[0]}x{size[1]} pixels, but .* sees patches of 16x16; resize it to a multiple of 16"
    with pytest.raises(ValueError, match=message):
        ViTEncoder(config)(torch.zeros(1, 3, *size))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 225}, "image_size is 225 and patch_size 16; the image must be a positive multiple"),
        ({"patch_size": 0}, "patch_size 0"),
        ({"trained_blocks": -1}, "trained_blocks is -1; it cannot be negative"),
        ({"features": "keys", "trained_blocks": 1}, "train blocks with tokens or normed"),
        ({"std": (1.0, 0.0, 1.0)}, "std is .* must be above 0"),
    ],
)
def test_settings_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        ViTConfig(**changes)


def test_features_that_do_not_exist():
    config = ViTConfig()
    object.__setattr__(config, "features", "heads")  # the type checker of the tests would come first
    with pytest.raises(ValueError, match="features is 'heads'; choose tokens, normed, queries, keys, values"):
        config.__post_init__()


def test_known_encoders():
    """Width and tokens as published: S 384, B 768, L 1024; DINOSAUR's tables say 196 patches for /16, 784 for /8."""
    known = {name: value for name, value in vars(vit).items() if isinstance(value, ViTConfig)}
    assert {name: (c.feature_dim, c.grid[0] * c.grid[1], c.features) for name, c in known.items()} == {
        "DINO_S16": (384, 196, "tokens"),
        "DINO_S8": (384, 784, "tokens"),
        "DINO_B16": (768, 196, "tokens"),
        "DINO_B8": (768, 784, "tokens"),
        "DINOV2_S14": (384, 256, "tokens"),
        "DINOV2_B14": (768, 256, "tokens"),
        "DINOV2_L14": (1024, 256, "tokens"),
        "DINOV2_REG_S14": (384, 256, "tokens"),
        "DINOV2_REG_B14": (768, 256, "tokens"),
        "DINOV2_REG_L14": (1024, 256, "tokens"),
        "DINOV2_S14_NORMED": (384, 256, "normed"),
        "DINOV2_B14_NORMED_448": (768, 1024, "normed"),
        "MAE_B16": (768, 196, "tokens"),
    }
    assert len({(c.model, c.features) for c in known.values()}) == 13


def test_short_names(tmp_path, monkeypatch):
    assert ViTConfig("dinov2-small", patch_size=14, feature_dim=384, position_offset=0.1) == DINOV2_S14
    for name, known in vit.KNOWN.items():
        assert replace(known, model=name.removeprefix("facebook/")) == known
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dinov2-small").mkdir()
    assert ViTConfig("dinov2-small").model == "dinov2-small"


def test_settings_that_follow_from_the_name_of_a_network(networks, tmp_path):
    other = replace(DINO_B16, model="dinov2-small")
    assert vit.fitted(other) == DINOV2_S14
    assert vit.fitted(other, keep=["position_offset", "feature_dim"]) == replace(
        DINO_B16, model=other.model, patch_size=14
    )
    folder = tmp_path / "mine"
    settings = Dinov2Config(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=7)
    Dinov2Model(settings).save_pretrained(folder)
    found = vit.fitted(ViTConfig(str(folder), image_size=28, patch_size=14))
    assert (found.patch_size, found.feature_dim, found.position_offset) == (7, 24, 0.1)
    assert vit.fitted(ViTConfig("somebody/else")) == ViTConfig("somebody/else")
    with pytest.raises(UserError, match="facebook/dinov2-small does not fit: image_size is 64 and patch_size 14"):
        vit.fitted(ViTConfig("dinov2-small", image_size=64))


REAL = os.environ.get("SLOTWORKS_DINOV2", "")


@pytest.mark.skipif(not REAL, reason="set SLOTWORKS_DINOV2 to a folder with DINOv2 ViT-S/14 in the Hugging Face format")
def test_a_real_dinov2():
    """Size, normalisation and positions of DINOv2-S, against transformers' own model.

    Its processor gives ImageNet's mean and standard deviation; positions are interpolated to the number of patches, or
    with `position_offset` as the authors' code does, which at 518 pixels, the native size, is the same.
    """
    torch.manual_seed(0)
    theirs = Dinov2Model.from_pretrained(REAL).eval()
    image = torch.rand(2, 3, 224, 224)
    image = torch.nn.functional.avg_pool2d(image, 9, 1, 4)  # smooth, as photographs are
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    config = replace(DINOV2_S14, model=REAL, features="normed")
    with torch.no_grad():
        expected = theirs((image - mean) / std).last_hidden_state[:, 1:]
        plain = ViTEncoder(replace(config, position_offset=0.0))(image)
        shifted = ViTEncoder(config)(image)
        torch.testing.assert_close(plain, expected, rtol=1e-4, atol=1e-4)
        assert plain.shape == (2, 256, 384)
        similar = torch.nn.functional.cosine_similarity(shifted, expected, dim=-1)
        assert 0.9 < similar.mean() < 1 - 1e-6  # other positions, the same picture
        native = torch.nn.functional.interpolate(image[:1], (518, 518), mode="bilinear")
        expected = theirs((native - mean) / std).last_hidden_state[:, 1:]
        torch.testing.assert_close(ViTEncoder(replace(config, image_size=518))(native), expected, rtol=1e-4, atol=1e-4)
