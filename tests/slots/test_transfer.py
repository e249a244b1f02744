"""Slot Attention equals the originals in torch and JAX: their weights, the same input, the same output.

Each original ran once; its weights, inputs, outputs and, for some, gradients are stored in `tests/references`. The
README there names repository, commit, file and settings. Ours runs in float64: this machine's rounding does not count.
The original in TensorFlow is in `tests/methods/test_keras_transfer.py`.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from slotworks.slots import BoxInit, SlotAttention

REFERENCES = Path(__file__).parents[1] / "references"

# Our module -> theirs, for the originals that are written in torch.
SLATE = {
    "norm_features": "norm_inputs",
    "norm_slots": "norm_slots",
    "norm_mlp": "norm_mlp",
    "to_q": "project_q",
    "to_k": "project_k",
    "to_v": "project_v",
    "gru": "gru",
    "mlp.0": "mlp.0",
    "mlp.2": "mlp.2",
}
LUCIDRAINS = {
    **SLATE,
    "norm_features": "norm_input",
    "norm_mlp": "norm_pre_ff",
    "to_q": "to_q",
    "to_k": "to_k",
    "to_v": "to_v",
    "to_out": "combine_heads",
}
VIDEOSAUR = {
    **LUCIDRAINS,
    "norm_features": "norm_features",
    "norm_mlp": "mlp.layers.0",
    "mlp.0": "mlp.layers.1",
    "mlp.2": "mlp.layers.3",
}
OCLF = {**LUCIDRAINS, "norm_mlp": "ff_mlp.norm", "mlp.0": "ff_mlp.a", "mlp.2": "ff_mlp.b"}
BO_QSA = {**SLATE, "norm_features": "norm_feature"}
SLOT_DIFFUSION = {
    **SLATE,
    "norm_slots": "project_q.0",
    "to_q": "project_q.1",
    "norm_mlp": "mlp.0",
    "mlp.0": "mlp.1",
    "mlp.2": "mlp.3",
}

# file: (modules, feature_dim, slot_dim, our arguments, which are those of the table in slots/attention.py)
TORCH = {
    "lucidrains": (LUCIDRAINS, 16, 16, {"qkv_bias": True}),
    "lucidrains_multi_head": (
        LUCIDRAINS,
        16,
        16,
        {"qkv_bias": True, "num_heads": 2, "qkv_dim": 12, "heads": "separate", "scale": 16**-0.5},
    ),
    "slate": (SLATE, 12, 16, {"num_heads": 2}),
    "spot": (SLATE, 12, 16, {"num_heads": 2, "gradient": "bilevel"}),
    "steve": (SLATE, 12, 16, {"mlp_in_last_iteration": False}),
    "lsd": (SLATE, 12, 16, {"num_heads": 2, "scale": 16**-0.5}),
    "glass": (SLATE, 12, 16, {"num_heads": 2, "scale": 16**-0.5}),
    "videosaur": (VIDEOSAUR, 12, 16, {"gru_state": "normalized", "qkv_dim": 10}),
    "oclf": (OCLF, 12, 16, {"num_heads": 2, "qkv_dim": 20, "qkv_bias": True}),
    "oclf_implicit": (OCLF, 12, 16, {"num_heads": 2, "qkv_dim": 20, "qkv_bias": True, "gradient": "implicit"}),
    "bo_qsa": (BO_QSA, 16, 16, {"gradient": "bilevel", "eps": 1.0, "eps_in": "denominator"}),
    "slot_diffusion": (SLOT_DIFFUSION, 12, 16, {"eps": 1e-6}),
}


def reference(name: str) -> dict[str, torch.Tensor]:
    with np.load(REFERENCES / f"{name}.npz", allow_pickle=False) as file:
        ref = {key: torch.from_numpy(file[key]) for key in file.files}
    return {key: value.double() if value.is_floating_point() else value for key, value in ref.items()}


def weights(ref: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key.removeprefix("weight/"): value for key, value in ref.items() if key.startswith("weight/")}


def from_torch(name: str, **changed) -> tuple[SlotAttention, dict[str, torch.Tensor]]:
    """Our module with the weights of the original `name`, and what is stored of that original."""
    names, feature_dim, slot_dim, options = TORCH[name]
    ref = reference(name)
    module = SlotAttention(feature_dim, slot_dim, 3, mlp_dim=24, **(options | changed))
    theirs = weights(ref)
    state = {key: theirs[f"{names[key.rsplit('.', 1)[0]]}.{key.rsplit('.', 1)[1]}"] for key in module.state_dict()}
    module.double().load_state_dict(state)
    return module, ref


def flax_state(ref: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """flax keeps the gates apart; only the candidate's recurrent kernel has a bias."""
    w = weights(ref)
    gru = "GRU_0/GRUCell_0"
    zeros = torch.zeros_like(w[f"{gru}/hn/bias"])
    state = {
        "gru.weight_ih": torch.cat([w[f"{gru}/i{gate}/kernel"].T for gate in "rzn"]),
        "gru.weight_hh": torch.cat([w[f"{gru}/h{gate}/kernel"].T for gate in "rzn"]),
        "gru.bias_ih": torch.cat([w[f"{gru}/i{gate}/bias"] for gate in "rzn"]),
        "gru.bias_hh": torch.cat([zeros, zeros, w[f"{gru}/hn/bias"]]),
    }
    for ours, theirs in {
        "norm_slots": "LayerNorm_0",
        "norm_features": "LayerNorm_1",
        "norm_mlp": "MLP_0/LayerNorm_0",
    }.items():
        if f"{theirs}/scale" in w:
            state |= {f"{ours}.weight": w[f"{theirs}/scale"], f"{ours}.bias": w[f"{theirs}/bias"]}
    for letter in "qkv":
        state[f"to_{letter}.weight"] = w[f"general_dense_{letter}_0/kernel"].flatten(1).T
    for ours, theirs in {"mlp.0": "MLP_0/dense_mlp_0", "mlp.2": "MLP_0/dense_mlp_1"}.items():
        if f"{theirs}/kernel" in w:
            state |= {f"{ours}.weight": w[f"{theirs}/kernel"].T, f"{ours}.bias": w[f"{theirs}/bias"]}
    return state


def assert_equal(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-6):
    torch.testing.assert_close(actual.detach(), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("name", TORCH)
def test_slots_and_attention_equal_the_torch_original(name):
    module, ref = from_torch(name)
    slot_mask = ~ref["absent"] if "absent" in ref else None
    out = module(ref["features"], ref["slots"], slot_mask=slot_mask)
    assert_equal(out.slots, ref["out_slots"])
    if "out_attn" in ref:  # OCLF gives the mean over heads
        assert_equal(out.attn, ref["out_attn"] * (module.num_heads if name.startswith("oclf") else 1))


@pytest.mark.parametrize("name", ["slate", "spot", "bo_qsa", "oclf_implicit"])
def test_gradients_equal_the_torch_original(name):
    module, ref = from_torch(name)
    features = ref["features"].requires_grad_()
    slots = ref["slots"].requires_grad_()
    (module(features, slots).slots * ref["probe"]).sum().backward()
    assert_equal(features.grad, ref["grad_features"])
    assert_equal(module.to_k.weight.grad, ref["grad_to_k"])
    assert_equal(module.gru.weight_hh.grad, ref["grad_weight_hh"])
    if "grad_slots" in ref:
        assert_equal(slots.grad, ref["grad_slots"])
    if "grad_queries" in ref:  # one set of queries for the whole batch
        assert_equal(slots.grad.sum(dim=0), ref["grad_queries"])


@pytest.mark.parametrize(
    ("name", "paper"),
    [
        ("slate", {"num_heads": 1}),
        ("steve", {"mlp_in_last_iteration": True}),
        ("lsd", {"scale": None}),
        ("videosaur", {"gru_state": "slots"}),
        ("lucidrains_multi_head", {"scale": None}),
        ("bo_qsa", {"eps": 1e-8}),
        ("bo_qsa", {"eps_in": "attention"}),
    ],
)
def test_each_departure_from_the_paper_is_needed(name, paper):
    module, ref = from_torch(name, **paper)
    assert (module(ref["features"], ref["slots"]).slots - ref["out_slots"]).abs().max() > 0.05


@pytest.mark.parametrize(
    ("name", "options"),
    [("savi", {"num_iterations": 1, "mlp_dim": None}), ("savi_mlp", {"num_iterations": 3, "mlp_dim": 24})],
)
def test_equals_the_jax_original(name, options):
    ref = reference(name)
    module = SlotAttention(12, 16, qkv_dim=20, eps_in="denominator", norm_eps=1e-6, **options)
    module.double().load_state_dict(flax_state(ref))
    out = module(ref["features"], ref["slots"])
    assert_equal(out.slots, ref["out_slots"])
    assert_equal(out.attn, ref["out_attn"][:, 0])


def test_heads_of_the_jax_original():
    """Its projection joins the heads to the width of one head, with a bias: equal to ours where that is slot_dim."""
    ref = reference("savi_heads")
    module = SlotAttention(
        12,
        16,
        2,
        mlp_dim=24,
        qkv_dim=32,
        num_heads=2,
        heads="separate",
        eps_in="denominator",
        norm_eps=1e-6,
        qkv_bias=True,
    )
    state = flax_state(ref) | {f"to_{letter}.bias": torch.zeros(32) for letter in "qkv"}
    joined = "weight/InvertedDotProductAttention_0/DenseGeneral_0"
    state |= {"to_out.weight": ref[f"{joined}/kernel"].flatten(0, 1).T, "to_out.bias": ref[f"{joined}/bias"]}
    module.double().load_state_dict(state)
    out = module(ref["features"], ref["slots"])
    assert_equal(out.slots, ref["out_slots"], 1e-5)  # the original ran in float32
    assert_equal(out.attn, ref["out_attn"].mean(dim=1))


@pytest.mark.parametrize(("name", "order"), [("savi_boxes", [1, 0, 3, 2]), ("savi_centres", [1, 0])])
def test_box_slots_equal_the_jax_original(name, order):
    """SAVi's boxes are `y0 x0 y1 x1`, its padding is a box of zeros."""
    ref = reference(name)
    boxes = ref["boxes"]
    if name == "savi_centres":
        boxes = torch.stack([boxes[..., [0, 2]].mean(-1), boxes[..., [1, 3]].mean(-1)], dim=-1)
    module = BoxInit(16, hidden_dim=24, input_dim=len(order))
    w = weights(ref)
    module.double().load_state_dict(
        {
            "mlp.0.weight": w["MLP_0/dense_mlp_0/kernel"][order].T,
            "mlp.0.bias": w["MLP_0/dense_mlp_0/bias"],
            "mlp.2.weight": w["MLP_0/dense_mlp_1/kernel"].T,
            "mlp.2.bias": w["MLP_0/dense_mlp_1/bias"],
        }
    )
    slots = module(boxes[..., order])
    assert_equal(slots, ref["out_slots"])
    torch.testing.assert_close(slots[1, 0], slots[1, 2])  # a box of zeros is the background's slot
