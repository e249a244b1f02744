"""OCLF's DINOSAUR becomes a run whose features, slots and masks are those of the original's weights.

Decoders are compared with what the original gave (`tests/references`), the vision transformer and Slot Attention with a
computation of their own.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from published import drawn, four, oclf_shapes, pair, slot_attention, vit_tokens

from slotworks import api
from slotworks.convert import Options, convert
from slotworks.encoders import ViTConfig
from slotworks.slots import initializers
from slotworks.types import UserError

pytest.importorskip("transformers")

REFERENCES = Path(__file__).parents[1] / "references"
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
ATTENTION = "models.perceptual_grouping.slot_attention"
EMBEDDING = "models.perceptual_grouping.positional_embedding.layers.1"


def reference(name):
    with np.load(REFERENCES / f"{name}.npz", allow_pickle=False) as file:
        ref = {key: torch.from_numpy(file[key]) for key in file.files}
    weights = {key.removeprefix("weight/"): value for key, value in ref.items() if key.startswith("weight/")}
    return weights, ref


def checkpoint(decoder):
    """With the reference's weights in the decoder."""
    weights, ref = reference(f"dinosaur_{decoder}")
    features = ref["features"].shape[-1] if decoder == "transformer" else 12
    state = drawn(oclf_shapes(decoder, features=features))
    given = {f"models.object_decoder.{name}": value for name, value in weights.items()}
    if decoder == "transformer":  # causal, as the original stores it
        patches = state["models.object_decoder.mask"].shape
        state["models.object_decoder.mask"] = torch.full(patches, float("-inf")).triu(diagonal=1)
    assert {name for name in state if ".object_decoder." in name} - {"models.object_decoder.mask"} == set(given)
    return state | given, ref


class Trainer:
    """Stands for what Lightning keeps beside the weights."""


def save(state, file):
    """As Lightning does, with an object of a class that is not known when it is read."""
    contents = {"epoch": 20, "global_step": 500_000, "pytorch-lightning_version": "1.7", "state_dict": state}
    torch.save(contents | {"callbacks": {"ModelCheckpoint": Trainer()}, "optimizer_states": [{"state": {}}]}, file)
    return file


def options(tmp_path, **given):
    return Options(tmp_path / "run", encoder="own", **given)


def slots_of(state, features, start, iterations):
    """From features to slots by the original's weights."""
    x = F.layer_norm(features, features.shape[-1:], *pair(state, f"{EMBEDDING}.0"))
    x = F.linear(F.linear(x, *pair(state, f"{EMBEDDING}.1")).relu(), *pair(state, f"{EMBEDDING}.3"))
    w = {letter: state[f"{ATTENTION}.to_{letter}.weight"] for letter in "qkv"} | {
        "gru": four(state, f"{ATTENTION}.gru")
    }
    w |= {"norm_features": pair(state, f"{ATTENTION}.norm_input"), "norm_slots": pair(state, f"{ATTENTION}.norm_slots")}
    w |= {"norm_mlp": pair(state, f"{ATTENTION}.ff_mlp.module.0")}
    w |= {f"mlp_{k}": pair(state, f"{ATTENTION}.ff_mlp.module.{1 + 2 * k}") for k in (0, 1)}
    return slot_attention(x, start, w, iterations)


@pytest.mark.parametrize("decoder", ["mlp", "transformer"])
def test_outputs_are_those_of_the_originals_weights(tmp_path, decoder, monkeypatch):
    state, ref = checkpoint(decoder)
    given = {"num_heads": 4} if decoder == "transformer" else {}
    made = convert(save(state, tmp_path / "dinosaur.ckpt"), options(tmp_path, num_slots=5, **given))
    assert (made.family, made.parts) == ("dinosaur", (decoder,))
    assert made.foreign == (f"{__name__}.Trainer",)
    run, method = api.load(tmp_path / "run", device="cpu")
    config = run.method
    assert (config.num_slots, config.slot_dim, config.mlp_dim, config.num_iterations) == (5, 8, 32, 3)
    assert (config.image_size, config.encoder.patch_size, config.decoder) == (32, 8, decoder)
    assert run.data.image_size == 32
    noise = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(initializers, "batch_noise", lambda *_: noise)

    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    network = "models.feature_extractor.model."
    vit = {name.removeprefix(network): value for name, value in state.items() if name.startswith(network)}
    features = vit_tokens(vit, image)
    torch.testing.assert_close(method.encoder(image), features, **CLOSE)
    conditioning = "models.conditioning.slots"
    start = state[f"{conditioning}_mu"] + state[f"{conditioning}_logsigma"].exp() * noise
    slots, attn = slots_of(state, features, start, 3)
    out = method.encode(image)
    torch.testing.assert_close(out.slots, slots, **CLOSE)
    torch.testing.assert_close(out.attn, attn, **CLOSE)

    inputs = (ref["slots"],) if decoder == "mlp" else (ref["slots"], ref["features"])
    decoded = method.decoder(*inputs)
    torch.testing.assert_close(decoded.recon.flatten(2).mT, ref["out_recon"], **CLOSE)
    torch.testing.assert_close(decoded.masks.flatten(2), ref["out_masks"].flatten(2), **CLOSE)
    assert method.decode(*out.decoder_inputs).masks.shape == (2, 5, 4, 4)


def test_learned_slots_tell_their_number(tmp_path):
    state, _ = checkpoint("mlp")
    del state["models.conditioning.slots_mu"], state["models.conditioning.slots_logsigma"]
    state["models.conditioning.slots"] = torch.randn(1, 9, 8)
    convert(save(state, tmp_path / "dinosaur.ckpt"), options(tmp_path))
    _, method = api.load(tmp_path / "run", device="cpu")
    assert torch.equal(method.initializer.slots, state["models.conditioning.slots"][0])
    assert method.config.num_slots == 9


def test_the_network_that_is_named_is_compared(tmp_path, tiny_folder):
    state, _ = checkpoint("mlp")
    file = save(state, tmp_path / "dinosaur.ckpt")
    with pytest.raises(UserError, match=r"The vision transformer in \S+ is not \S+: they differ in block 0"):
        convert(file, Options(tmp_path / "run", encoder=tiny_folder))
    assert not (tmp_path / "run").exists()
    convert(file, Options(tmp_path / "first", encoder="own"))
    convert(file, Options(tmp_path / "second", encoder=str(tmp_path / "first" / "encoder")))
    config = api.load(tmp_path / "second", device="cpu")[0].method.encoder
    assert config == ViTConfig(str(tmp_path / "first" / "encoder"), 32, 8, 12)


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory):
    from tiny_models import save_narrow_vit

    return str(save_narrow_vit(tmp_path_factory.mktemp("vit")))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({f"{ATTENTION}.to_k.weight": None}, r"lacks the tensor perceptual_grouping.slot_attention.to_k.weight, so"),
        (
            {f"{ATTENTION}.to_k.weight": torch.full((8, 8), float("nan"))},
            r"NaN or infinity in the tensor \S+to_k.weight",
        ),
        ({"models.extra.weight": torch.ones(2)}, r"has the tensor extra.weight, which OCLF's DINOSAUR .* does not"),
        ({f"{ATTENTION}.to_k.weight": torch.ones(8, 9)}, r"slot_attention.to_k.weight with shape \(8, 9\)"),
        (
            {"models.object_decoder.pos_embed": torch.ones(1, 15, 8)},
            r"the decoder says 15 patches, which are no square",
        ),
        ({"models.conditioning.slots_mu": torch.ones(8)}, r"slots_mu has the shape \(8,\); it should have 3 axes"),
        ({"models.conditioning.slots_mu": None}, r"conditioning.slots_mu is missing"),
        ({f"{ATTENTION}.norm_input.weight": None}, r"holds tensors such as .* which are of none of these: DINOSAUR"),
        ({"models.feature_extractor.model.pos_embed": torch.ones(1, 18, 12)}, r"vision transformer of other measures"),
    ],
)
def test_what_does_not_fit_is_said(tmp_path, change, sentence):
    state, _ = checkpoint("mlp")
    state = {name: value for name, value in (state | change).items() if value is not None}
    with pytest.raises(UserError, match=sentence):
        convert(save(state, tmp_path / "dinosaur.ckpt"), options(tmp_path))
    assert not (tmp_path / "run").exists()


def test_a_recipe_of_another_method_is_refused(tmp_path):
    state, _ = checkpoint("mlp")
    with pytest.raises(UserError, match=r"spot.coco is one of SpotConfig, but .* DinosaurConfig.*dinosaur.movi_c_mlp"):
        convert(save(state, tmp_path / "dinosaur.ckpt"), options(tmp_path, recipe="spot.coco"))
