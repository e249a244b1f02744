"""Slot Attention, its encoders and the whole autoencoder equal the original in TensorFlow: same weights, same output.

Locatello et al.'s code ran once, narrow and on small images; `tests/references/README.md` says how. Keras packs a GRU's
gates as update, reset, candidate (torch: reset, update, candidate), stores kernels `in out`, `h w in out`, transposed
convolutions `h w out in`, and its LayerNorm has epsilon 1e-3.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from slotworks.configs import set_prediction, slot_attention, slot_mlp
from slotworks.encoders import CNNEncoder
from slotworks.methods import SlotAttentionConfig
from slotworks.slots import GaussianInit, SlotAttention

REFERENCES = Path(__file__).parents[1] / "references"


def reference(name: str) -> dict[str, torch.Tensor]:
    with np.load(REFERENCES / f"{name}.npz", allow_pickle=False) as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def weights(ref: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key.removeprefix("weight/"): value for key, value in ref.items() if key.startswith("weight/")}


def attention_state(w: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Keras packs a GRU's gates as update, reset, candidate; torch reset, update, candidate. Kernels are transposed."""

    def gates(x):
        z, r, n = x.chunk(3, dim=-1)
        return torch.cat([r, z, n], dim=-1)

    state = {
        "gru.weight_ih": gates(w["gru/kernel"]).T,
        "gru.weight_hh": gates(w["gru/recurrent_kernel"]).T,
        "gru.bias_ih": gates(w["gru/bias"][0]),
        "gru.bias_hh": gates(w["gru/bias"][1]),
    }
    for ours, theirs in {"norm_features": "norm_inputs", "norm_slots": "norm_slots", "norm_mlp": "norm_mlp"}.items():
        state |= {f"{ours}.weight": w[f"{theirs}/gamma"], f"{ours}.bias": w[f"{theirs}/beta"]}
    for ours, theirs in {"to_q": "project_q", "to_k": "project_k", "to_v": "project_v"}.items():
        state[f"{ours}.weight"] = w[f"{theirs}/kernel"].T
    for ours, theirs in {"mlp.0": "mlp/0", "mlp.2": "mlp/1"}.items():
        state |= {f"{ours}.weight": w[f"{theirs}/kernel"].T, f"{ours}.bias": w[f"{theirs}/bias"]}
    return state


def dense(w: dict[str, torch.Tensor], **names: str) -> dict[str, torch.Tensor]:
    """Layers with a kernel `in out` or (convolutions) `h w in out`, and a bias. Two underscores stand for a dot."""
    state = {}
    for ours, theirs in names.items():
        ours, kernel = ours.replace("__", "."), w[f"{theirs}/kernel"]
        state[f"{ours}.weight"] = kernel.permute(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T
        state[f"{ours}.bias"] = w[f"{theirs}/bias"]
    return state


def encoder_state(w: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    state = {"norm.weight": w["layer_norm/gamma"], "norm.bias": w["layer_norm/beta"]}
    state |= dense(w, mlp__0="mlp/0", mlp__2="mlp/1", position__project="encoder_pos/dense")
    return state | dense(w, **{f"convs__{i}": f"encoder_cnn/{i}" for i in range(4)})


def decoder_state(w: dict[str, torch.Tensor], strides: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """All layers of the original are transposed; with stride 1 that is a convolution with the kernel turned round."""
    state = dense(w, position__project="decoder_pos/dense")
    for i, stride in enumerate((*strides, 1)):
        ours = f"layers.{i}" if i < len(strides) else "last"
        kernel = w[f"decoder_cnn/{i}/kernel"]  # h w out in
        state[f"{ours}.weight"] = kernel.permute(3, 2, 0, 1) if stride == 2 else kernel.flip(0, 1).permute(2, 3, 0, 1)
        state[f"{ours}.bias"] = w[f"decoder_cnn/{i}/bias"]
    return state


def images(ref: dict[str, torch.Tensor]) -> torch.Tensor:
    """Stored integers in [0, 1] as the original saw them: `2 * image / 256 - 1`."""
    return ref["image"].movedim(-1, 1).float() / 256


def assert_equal(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-6):
    torch.testing.assert_close(actual.detach(), expected, atol=tolerance, rtol=tolerance)


def test_slot_attention_with_gradients(monkeypatch):
    ref = {key: value.double() for key, value in reference("slot_attention").items()}  # no rounding of this machine
    module = SlotAttention(12, 16, 3, mlp_dim=24, norm_eps=1e-3)
    module.double().load_state_dict(attention_state(weights(ref)))
    initializer = GaussianInit(4, 16).double()
    initializer.load_state_dict({"mu": ref["weight/slots_mu"], "log_sigma": ref["weight/slots_log_sigma"]})
    monkeypatch.setattr("slotworks.slots.initializers.batch_noise", lambda *args, **kwargs: ref["noise"])
    features = ref["features"].requires_grad_()
    slots = module(features, initializer(2)).slots
    assert_equal(slots, ref["out_slots"])
    (slots * ref["probe"]).sum().backward()
    assert_equal(features.grad, ref["grad_features"], 1e-5)
    assert_equal(initializer.mu.grad, ref["grad_mu"], 1e-5)
    assert_equal(initializer.log_sigma.grad, ref["grad_log_sigma"], 1e-5)
    assert_equal(module.to_k.weight.grad.T, ref["grad_k"], 1e-5)


def test_strided_encoder_of_set_prediction():
    ref = reference("encoder_strided")
    encoder = CNNEncoder(6, strides=(1, 2, 2, 1), norm_eps=1e-3)
    encoder.load_state_dict(encoder_state(weights(ref)))
    image = images(ref)
    assert encoder.grid(*image.shape[-2:]) == (6, 5)
    assert_equal(encoder(2 * image - 1), ref["features"], 1e-5)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        (
            "autoencoder_clevr",
            SlotAttentionConfig(
                image_size=(32, 32),
                num_slots=2,
                slot_dim=4,
                channels=4,
                mlp_dim=8,
                decoder_strides=(2, 2, 2, 2, 1),
                norm_eps=1e-3,
            ),
        ),
        (
            "autoencoder_tetrominoes",
            SlotAttentionConfig(image_size=(9, 12), num_slots=3, slot_dim=8, channels=5, mlp_dim=10, norm_eps=1e-3),
        ),
    ],
)
def test_autoencoder(name, config, monkeypatch):
    ref = reference(name)
    w = weights(ref)
    method = config.build()
    attention = {key.removeprefix("slot_attention/"): value for key, value in w.items()}
    state = {"initializer.mu": attention["slots_mu"], "initializer.log_sigma": attention["slots_log_sigma"]}
    state |= {f"encoder.{key}": value for key, value in encoder_state(w).items()}
    state |= {f"slot_attention.{key}": value for key, value in attention_state(attention).items()}
    state |= {f"decoder.{key}": value for key, value in decoder_state(w, config.decoder_strides).items()}
    method.load_state_dict(state)
    monkeypatch.setattr("slotworks.slots.initializers.batch_noise", lambda *args, **kwargs: ref["noise"])
    slots = method.encode(images(ref)).slots
    assert_equal(slots, ref["slots"], 1e-5)
    out = method.decode(slots)
    assert_equal(2 * out.recon - 1, ref["recon"].movedim(-1, 1), 1e-5)
    assert_equal(out.masks, ref["masks"], 1e-5)
    if "parts" in ref:
        assert_equal(2 * out.parts - 1, ref["parts"].movedim(-1, 2), 1e-5)


@pytest.mark.parametrize(
    "recipe",
    [
        *(slot_attention.tetrominoes, slot_attention.multi_dsprites, slot_attention.clevr6),
        *(set_prediction.clevr10, set_prediction.clevr10_stepwise, set_prediction.clevr6),
        *(slot_mlp.tetrominoes, slot_mlp.multi_dsprites, slot_mlp.clevr6, slot_mlp.clevr10),
    ],
)
def test_norms_of_the_paper_are_those_of_keras(recipe):
    with torch.device("meta"):
        method = recipe().method.build()
    assert {module.eps for module in method.modules() if isinstance(module, nn.LayerNorm)} == {1e-3}


@pytest.mark.parametrize("recipe", [slot_attention.tetrominoes_mini, set_prediction.scenes_mini])
def test_norms_of_the_miniatures_are_torchs(recipe):
    method = recipe().method.build()
    assert {module.eps for module in method.modules() if isinstance(module, nn.LayerNorm)} == {1e-5}
