"""Predictors: SAVi's block and STEVE's loop with the originals' weights, symmetries, closed forms."""

from pathlib import Path

import numpy as np
import pytest
import torch

from slotworks.slots import PREDICTORS, MLPPredictor, SlotAttention, TransformerPredictor, VideoSlotAttention
from slotworks.slots.predictors import PredictorBlock

REFERENCES = Path(__file__).parents[1] / "references"


def stored(name):
    with np.load(REFERENCES / f"{name}.npz", allow_pickle=False) as file:
        return {key: torch.from_numpy(file[key]).double() for key in file.files}


def flax_block(ref, prefix="weight/"):
    """State of a `PredictorBlock` from the names of flax."""
    state = {}
    attention = f"{prefix}MultiHeadDotProductAttention_0"
    for ours, theirs in (("to_q", "query"), ("to_k", "key"), ("to_v", "value")):
        state[f"attention.{ours}.weight"] = ref[f"{attention}/{theirs}/kernel"].flatten(1).T
        state[f"attention.{ours}.bias"] = ref[f"{attention}/{theirs}/bias"].flatten()
    state["attention.to_out.weight"] = ref[f"{attention}/out/kernel"].flatten(0, 1).T
    state["attention.to_out.bias"] = ref[f"{attention}/out/bias"]
    for ours, theirs in (("norm_attention", "LayerNorm_0"), ("norm_mlp", "LayerNorm_1")):
        state |= {f"{ours}.weight": ref[f"{prefix}{theirs}/scale"], f"{ours}.bias": ref[f"{prefix}{theirs}/bias"]}
    for ours, theirs in (("mlp.0", "dense_mlp_0"), ("mlp.2", "dense_mlp_1")):
        state[f"{ours}.weight"] = ref[f"{prefix}MLP_0/{theirs}/kernel"].T
        state[f"{ours}.bias"] = ref[f"{prefix}MLP_0/{theirs}/bias"]
    return state


@pytest.mark.parametrize(("name", "norm"), [("savi_predictor", "post"), ("savi_predictor_pre", "pre")])
def test_matches_savi(name, norm):
    ref = stored(name)
    block = PredictorBlock(16, 4, qkv_dim=24, mlp_dim=20, norm=norm).double()
    block.load_state_dict(flax_block(ref))
    torch.testing.assert_close(block(ref["slots"]), ref["out"], rtol=1e-5, atol=1e-5)  # theirs ran in float32


def test_matches_steve():
    """The whole recurrence of STEVE: two iterations a frame, its Transformer between frames."""
    ref = stored("steve_video")
    attention = SlotAttention(10, 16, 2, mlp_dim=20, mlp_in_last_iteration=False)
    ours = VideoSlotAttention(attention, TransformerPredictor.steve(16, num_blocks=2)).double()
    state = {}
    corrector = {
        "norm_features": "norm_inputs",
        "norm_slots": "norm_slots",
        "norm_mlp": "norm_mlp",
        "to_q": "project_q",
        "to_k": "project_k",
        "to_v": "project_v",
        "mlp.0": "mlp.0",
        "mlp.2": "mlp.2",
    }
    for kind in ("weight", "bias"):
        for own, theirs in corrector.items():
            if f"weight/{theirs}.{kind}" in ref:
                state[f"corrector.{own}.{kind}"] = ref[f"weight/{theirs}.{kind}"]
    for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        state[f"corrector.gru.{kind}"] = ref[f"weight/gru.{kind}"]
    names = {
        "norm_attention": "attn_layer_norm",
        "attention.to_q": "attn.proj_q",
        "attention.to_k": "attn.proj_k",
        "attention.to_v": "attn.proj_v",
        "attention.to_out": "attn.proj_o",
        "norm_mlp": "ffn_layer_norm",
        "mlp.0": "ffn.0",
        "mlp.2": "ffn.2",
    }
    for i in range(2):
        for own, theirs in names.items():
            for kind in ("weight", "bias"):
                if (key := f"weight/predictor.blocks.{i}.{theirs}.{kind}") in ref:
                    state[f"predictor.blocks.{i}.{own}.{kind}"] = ref[key]
    for kind in ("weight", "bias"):
        state[f"predictor.final_norm.{kind}"] = ref[f"weight/predictor.layer_norm.{kind}"]
    ours.load_state_dict(state)
    out = ours(ref["features"], ref["initial"])
    torch.testing.assert_close(out.slots, ref["out_slots"], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(out.attn, ref["out_attn"].transpose(-1, -2), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", PREDICTORS)
def test_slots_are_exchangeable(name):
    torch.manual_seed(0)
    predictor, slots = PREDICTORS[name](16).double(), torch.randn(2, 5, 16).double()
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(predictor(slots[:, order]), predictor(slots)[:, order])


def test_post_norm_fixes_the_length_of_a_slot():
    """Its last step is a LayerNorm: zero mean and unit variance, whatever comes in."""
    out = TransformerPredictor(16)(7 + 5 * torch.randn(3, 4, 16))
    torch.testing.assert_close(out.mean(-1), torch.zeros(3, 4), rtol=0, atol=1e-5)
    torch.testing.assert_close(out.var(-1, correction=0), torch.ones(3, 4), rtol=0, atol=1e-4)


def test_an_mlp_predictor_looks_at_one_slot():
    slots = torch.randn(1, 4, 16)
    predictor = MLPPredictor(16)
    alone = torch.cat([predictor(slots[:, k : k + 1]) for k in range(4)], dim=1)
    torch.testing.assert_close(predictor(slots), alone)


def test_steve_initial_gain():
    """Output projections are Glorot times (2 blocks)^-1/2: narrower than plain Glorot by that factor."""
    block = TransformerPredictor.steve(64, num_blocks=2).blocks[0]
    limit = 0.5 * (6 / 128) ** 0.5
    weight = block.attention.to_out.weight
    assert 0.98 * limit < weight.abs().max() <= limit
    assert block.attention.to_out.bias is None


def test_no_block():
    with pytest.raises(ValueError, match="num_blocks is 0"):
        TransformerPredictor(16, num_blocks=0)


@pytest.mark.parametrize(("hidden_dropout", "kept"), [(False, 0.9), (True, 0.81)])
def test_dropout_inside_the_network_is_that_of_torchs_layer(hidden_dropout, kept):
    """Attention says nothing and the network passes ones on: what is left was divided by what each dropout keeps."""
    predictor = TransformerPredictor.slot_diffusion(64, num_blocks=1, mlp_dim=64, hidden_dropout=hidden_dropout)
    block = predictor.blocks[0]
    with torch.no_grad():
        for parameter in block.attention.to_out.parameters():
            parameter.zero_()
        block.mlp[0].weight.zero_()
        block.mlp[0].bias.fill_(1.0)
        block.mlp[2].weight.copy_(torch.eye(64))
        block.mlp[2].bias.zero_()
    slots = torch.zeros(4, 100, 64)
    torch.manual_seed(0)
    added = predictor.train()(slots)
    assert added.unique().tolist() == pytest.approx([0.0, 1 / kept])
    assert (added > 0).float().mean().item() == pytest.approx(kept, abs=0.01)
    assert torch.equal(predictor.eval()(slots), torch.ones_like(slots))
