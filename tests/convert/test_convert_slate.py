"""SLATE's and STEVE's checkpoints become runs that give what the originals gave (`tests/references`)."""

from pathlib import Path

import numpy as np
import pytest
import torch

from slotworks import api
from slotworks.convert import Options, convert
from slotworks.slots import initializers
from slotworks.types import UserError

REFERENCES = Path(__file__).parents[1] / "references"
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
GIVEN = {
    "slate": {"num_slots": 3, "num_iterations": 3, "num_heads": 2, "changes": {"slot_heads": 2}},
    "steve": {"num_slots": 3, "num_heads": 2, "changes": {"predictor_heads": 2}},
}


def reference(name):
    with np.load(REFERENCES / f"{name}_model.npz", allow_pickle=False) as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def checkpoint(name):
    """Weights of the reference, and the masks and positions that the original also saves."""
    state = {key.removeprefix("weight/"): v for key, v in reference(name).items() if key.startswith("weight/")}
    decoder = "tf_dec" if name == "slate" else "steve_decoder.tf"
    for i in range(2):
        mask = torch.ones(16, 16, dtype=torch.bool).triu(diagonal=1)
        state[f"{decoder}.blocks.{i}.self_attn_mask"] = mask
    if name == "steve":
        state["steve_encoder.pos.pe"] = torch.zeros(1, 4, 8, 8)
    return state


def converted(tmp_path, name, state, **given):
    torch.save({"epoch": 4, "model": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "model.pt")
    made = convert(tmp_path / "model.pt", Options(tmp_path / "run", **GIVEN[name] | given))
    return made, *api.load(tmp_path / "run", device="cpu")


@pytest.mark.parametrize("name", ["slate", "steve"])
@torch.no_grad()
def test_outputs_are_the_originals(tmp_path, name, monkeypatch):
    ref = reference(name)
    made, run, method = converted(tmp_path, name, checkpoint(name))
    config = run.method
    assert (made.family, made.parts) == (name, ("dVAE",))
    assert (config.image_size, config.vocab_size, config.model_dim, config.decoder_blocks) == (16, 12, 8, 2)
    assert (config.dvae_channels, config.dvae_block) == (6, "norm" if name == "slate" else "bias")
    assert run.data.image_size == 16
    monkeypatch.setattr(initializers, "batch_noise", lambda shape, device, dtype: ref["noise_slots"].view(shape))
    out = method.encode(ref["in_image"])
    if name == "steve":
        torch.testing.assert_close(out.slots, ref["out_slots"].view(out.slots.shape), **CLOSE)
    generated = method.sample(out.slots).flatten(0, -4)
    torch.testing.assert_close(generated, ref["out_generated"].view(generated.shape), **CLOSE)


@pytest.mark.parametrize(
    ("name", "change", "given", "sentence"),
    [
        ("slate", {"out.weight": None}, {}, r"lacks the tensor out.weight, so it is no complete checkpoint of SLATE"),
        ("slate", {"more": torch.ones(1)}, {}, r"has the tensor more, which SLATE as it is known here"),
        ("slate", {"dictionary.dictionary.weight": torch.ones(3)}, {}, r"has the shape \(3,\); expected two axes"),
        ("slate", {}, {"changes": {"slot_head": 2}}, "SlateConfig has no setting slot_head; look at its fields"),
        ("slate", {}, {"changes": {"slot_heads": 0}}, r"method.slot_heads is 0"),
        (
            "slate",
            {},
            {"recipe": "slate.shapes3d"},
            r"The recipe does not fit .* with --recipe",
        ),
        ("slate", {}, {"image_size": 64}, "image_size is 64, which means nothing for this checkpoint"),
        ("steve", {"steve_decoder.pos.pe": torch.ones(1, 12, 8)}, {}, "says 11 patches, which are no square"),
        (
            "steve",
            {"steve_encoder.pos.projection.weight": torch.ones(3)},
            {},
            r"has the shape \(3,\)",
        ),
    ],
)
def test_what_does_not_fit_is_said(tmp_path, name, change, given, sentence):
    state = {key: value for key, value in (checkpoint(name) | change).items() if value is not None}
    with pytest.raises(UserError, match=sentence):
        converted(tmp_path, name, state, **given)
    assert not (tmp_path / "run").exists()
