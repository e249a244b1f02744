"""DINOSAUR's and SPOT's decoders equal the originals: their weights, the same input, the same output and gradient.

Each original ran once in float64; `tests/references/README.md` names repository, commit, file and settings. Ours runs
in float64, too.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from slotworks.decoders import AutoregressiveDecoder, PatchMLPDecoder
from slotworks.encoders import ViTConfig
from slotworks.guidance import distillation_loss, match_labels
from slotworks.methods import SpotConfig, SpotStudentConfig
from slotworks.nn.orders import NUM_ORDERS, patch_orders

REFERENCES = Path(__file__).parents[1] / "references"
GRID = (4, 4)
ATTENTIONS = (("self_attention", "self_attn"), ("cross_attention", "multihead_attn"))


def reference(name: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The original's weights by its own names, and its inputs and outputs."""
    with np.load(REFERENCES / f"{name}.npz", allow_pickle=False) as file:
        stored = {key: torch.from_numpy(file[key]) for key in file.files}
    stored = {key: value.double() if value.is_floating_point() else value for key, value in stored.items()}
    weights = {key.removeprefix("weight/"): value for key, value in stored.items() if key.startswith("weight/")}
    return weights, {key: value for key, value in stored.items() if not key.startswith("weight/")}


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """What is stored was rounded to float32: values up to ten, 1e-6."""
    torch.testing.assert_close(ours, theirs.view_as(ours), rtol=1e-6, atol=1e-6)


def on_patches(recon: torch.Tensor) -> torch.Tensor:
    return recon.flatten(2).transpose(1, 2)  # b p c


def oclf_transformer_state(theirs: dict[str, torch.Tensor], blocks: int) -> dict[str, torch.Tensor]:
    """`torch.nn.MultiheadAttention` keeps queries, keys and values in one matrix."""
    state = {
        "begin": theirs["bos_token"][0],
        "embed.0.weight": theirs["inp_transform.0.weight"],
        "embed.1.weight": theirs["inp_transform.1.weight"],
        "embed.1.bias": theirs["inp_transform.1.bias"],
        "project_slots.0.weight": theirs["cond_transform.0.weight"],
        "project_slots.1.weight": theirs["cond_transform.1.weight"],
        "project_slots.1.bias": theirs["cond_transform.1.bias"],
    }
    plain = {"norm_self": "norm1", "norm_cross": "norm2", "norm_mlp": "norm3", "mlp.0": "linear1", "mlp.2": "linear2"}
    for i in range(blocks):
        ours, layer = f"transformer.blocks.{i}", f"decoder.layers.{i}"
        for kind in ("weight", "bias"):
            for name, their_name in ATTENTIONS:
                parts = theirs[f"{layer}.{their_name}.in_proj_{kind}"].chunk(3)
                for letter, value in zip("qkv", parts, strict=True):
                    state[f"{ours}.{name}.to_{letter}.{kind}"] = value
                state[f"{ours}.{name}.to_out.{kind}"] = theirs[f"{layer}.{their_name}.out_proj.{kind}"]
            for name, their_name in plain.items():
                state[f"{ours}.{name}.{kind}"] = theirs[f"{layer}.{their_name}.{kind}"]
    return state


def spot_decoder_state(theirs: dict[str, torch.Tensor], blocks: int) -> dict[str, torch.Tensor]:
    state = {"begin": theirs["bos_tokens"][:, 0, 0]}
    for ours, name in {
        "embed.0.weight": "input_proj.0.weight",
        "embed.1.weight": "input_proj.1.weight",
        "embed.1.bias": "input_proj.1.bias",
        "project_slots.0.weight": "slot_proj.0.weight",
        "project_slots.1.weight": "slot_proj.1.weight",
        "project_slots.1.bias": "slot_proj.1.bias",
        "transformer.final_norm.weight": "dec.layer_norm.weight",
        "transformer.final_norm.bias": "dec.layer_norm.bias",
    }.items():
        state[ours] = theirs[name]
    modules = {
        "norm_self": "self_attn_layer_norm",
        "norm_cross": "encoder_decoder_attn_layer_norm",
        "norm_mlp": "ffn_layer_norm",
        "mlp.0": "ffn.0",
        "mlp.2": "ffn.2",
    }
    for i in range(blocks):
        ours, block = f"transformer.blocks.{i}", f"dec.blocks.{i}"
        for name, their_name in modules.items():
            for kind in ("weight", "bias"):
                state[f"{ours}.{name}.{kind}"] = theirs[f"{block}.{their_name}.{kind}"]
        for name, their_name in (("self_attention", "self_attn"), ("cross_attention", "encoder_decoder_attn")):
            for part in ("q", "k", "v"):
                state[f"{ours}.{name}.to_{part}.weight"] = theirs[f"{block}.{their_name}.proj_{part}.weight"]
            state[f"{ours}.{name}.to_out.weight"] = theirs[f"{block}.{their_name}.proj_o.weight"]
    return state


def test_dinosaur_mlp():
    theirs, ref = reference("dinosaur_mlp")
    ours = PatchMLPDecoder(8, 12, GRID, hidden_dims=(24, 24, 24)).double()
    state = {"position": theirs["pos_embed"][0]}
    for i in range(3):
        for kind in ("weight", "bias"):
            state[f"hidden.{i}.{kind}"] = theirs[f"decoder.{2 * i}.{kind}"]
    for kind in ("weight", "bias"):  # features, then the mask
        last = theirs[f"decoder.6.{kind}"]
        state[f"to_features.{kind}"], state[f"to_mask.{kind}"] = last[:-1], last[-1:]
    ours.load_state_dict(state)
    slots = ref["slots"].requires_grad_()
    out = ours(slots)
    close(on_patches(out.recon), ref["out_recon"])
    close(out.masks, ref["out_masks"])
    (grad,) = torch.autograd.grad((on_patches(out.recon) * ref["probe"]).sum(), slots)
    close(grad, ref["grad_slots"])


def test_dinosaur_transformer():
    theirs, ref = reference("dinosaur_transformer")
    ours = AutoregressiveDecoder(
        8, 16, GRID, num_blocks=3, num_heads=4, num_orders=1, bias=True, norm_stream=False, final_norm=False
    ).double()
    ours.load_state_dict(oclf_transformer_state(theirs, 3))
    slots = ref["slots"].requires_grad_()
    out = ours(slots, ref["features"])
    close(on_patches(out.recon), ref["out_recon"])
    close(out.masks, ref["out_masks"])
    (grad,) = torch.autograd.grad((on_patches(out.recon) * ref["probe"]).sum(), slots)
    close(grad, ref["grad_slots"])


def spot_decoder() -> tuple[AutoregressiveDecoder, dict[str, torch.Tensor]]:
    theirs, ref = reference("spot_decoder")
    ours = AutoregressiveDecoder(8, 12, GRID, num_blocks=3, num_heads=6).double()
    ours.load_state_dict(spot_decoder_state(theirs, 3))
    return ours, ref


def test_the_nine_orders_are_spots():
    _, ref = reference("spot_decoder")
    assert torch.equal(patch_orders(*GRID), ref["orders"])


@pytest.mark.parametrize("order", range(NUM_ORDERS))
def test_spot_decoder(order):
    ours, ref = spot_decoder()
    slots = ref["slots"].requires_grad_()
    out = ours(slots, ref["features"], order=order)
    close(on_patches(out.recon), ref["out_recon"][order])
    close(out.masks, ref["out_masks"][order])
    if order == 8:  # stored for this one
        (grad,) = torch.autograd.grad((on_patches(out.recon) * ref["probe"]).sum(), slots)
        close(grad, ref["grad_slots"])


def test_spot_ensemble():
    ours, ref = spot_decoder()
    out = ours.ensemble(ref["slots"], ref["features"])
    close(on_patches(out.recon), ref["out_recon_all"])
    close(out.masks, ref["out_masks_all"])


SMALL = {"encoder": ViTConfig(image_size=32, patch_size=8, feature_dim=12), "num_slots": 4, "slot_dim": 8}
SMALL |= {"mlp_dim": 16, "decoder_blocks": 3, "decoder_heads": 6}


def test_spot_from_features_to_both_losses():
    """Learned slots, bi-level: slots, attention, masks, errors in each order and of their mean, matching, gradients.

    The gradients are those of the ensemble's error plus 0.005 times the distillation loss.
    """
    theirs, ref = reference("spot_model")
    model = SpotConfig(**SMALL, initializer="learned", gradient="bilevel").build().double()
    state = {f"decoder.{name}": value for name, value in spot_decoder_state(theirs, 3).items()}
    state["initializer.slots"] = theirs["slot_attn.slots_init.weight"]
    modules = {"feature_mlp.0": "layer_norm", "feature_mlp.1": "mlp.0", "feature_mlp.3": "mlp.2"}
    modules |= {
        f"slot_attention.{ours}": f"slot_attention.{name}"
        for ours, name in {
            "norm_features": "norm_inputs",
            "norm_slots": "norm_slots",
            "norm_mlp": "norm_mlp",
            "to_q": "project_q",
            "to_k": "project_k",
            "to_v": "project_v",
            "gru": "gru",
            "mlp.0": "mlp.0",
            "mlp.2": "mlp.2",
        }.items()
    }
    for name in model.state_dict():
        module, _, kind = name.rpartition(".")
        if module in modules:
            state[name] = theirs[f"slot_attn.{modules[module]}.{kind}"]
    model.load_state_dict(state)

    features = ref["features"]
    out = model.group(features, features)
    close(out.slots, ref["out_slots"])
    close(out.attn, ref["out_attn"])
    for order in range(NUM_ORDERS):
        recon = model.decoder(out.slots, features, order=order).recon
        close((on_patches(recon) - features).square().mean(), ref["out_mse"][order])
    decoded = model.decode(out.slots, features, orders="all")
    close(decoded.masks, ref["out_masks"])

    teacher = ref["teacher_masks"].flatten(2)  # slot 2 of the first image is empty
    matched = match_labels(out.attn.argmax(1), teacher.argmax(1), num_slots=4, num_labels=4)
    assert torch.equal(matched, ref["out_matching"])
    recon, distill = (on_patches(decoded.recon) - features).square().mean(), distillation_loss(out.attn, teacher)
    close(recon, ref["out_mse_all"])
    close(distill, ref["out_ce"])
    (recon + SpotStudentConfig().loss_weights["distill"] * distill).backward()
    for ours, name in {
        model.initializer.slots: "slot_attn.slots_init.weight",
        model.feature_mlp[1].weight: "slot_attn.mlp.0.weight",
        model.slot_attention.to_k.weight: "slot_attn.slot_attention.project_k.weight",
        model.decoder.begin: "bos_tokens",
    }.items():
        assert ours.grad is not None
        close(ours.grad, ref[f"grad/{name}"])
