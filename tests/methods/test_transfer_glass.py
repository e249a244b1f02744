"""StableLSD and GLASS equal the released slot module and MLP decoder; a published folder becomes a run folder.

What the originals gave is in `tests/references`; weights are carried over by `slotworks.convert`.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import save_diffusion

from slotworks import api
from slotworks.cli import main
from slotworks.convert import convert_glass, export_unet, feature_decoder_weights, slot_weights
from slotworks.decoders import PatchMLPDecoder
from slotworks.methods import Glass, StableLSD
from slotworks.slots import LatentSlotAttention
from slotworks.types import UserError

REFERENCES = Path(__file__).parents[1] / "references"


def reference(name):
    with np.load(REFERENCES / f"{name}.npz", allow_pickle=False) as file:
        ref = {key: torch.from_numpy(file[key]) for key in file.files}
    return {key: value.double() if value.is_floating_point() else value for key, value in ref.items()}


def published(ref, dtype=torch.float64):
    return {key.removeprefix("weight/"): value.to(dtype) for key, value in ref.items() if key.startswith("weight/")}


def slot_module(ref, **options):
    module = LatentSlotAttention(12, 16, 20, num_slots=4, mlp_dim=24, **options).double()
    module.load_state_dict(slot_weights(published(ref)))
    return module


def close(actual, expected, tolerance=1e-6):
    torch.testing.assert_close(actual.detach(), expected, atol=tolerance, rtol=tolerance)


def test_slots_attention_context_and_gradients_equal_the_released_module():
    ref = reference("glass_slots")
    module = slot_module(ref)
    module.initializer.forward = lambda count, number: ref["slots"]
    features = ref["features"].requires_grad_()
    out = module(features, (5, 5))
    context = module.to_context(out.slots)
    close(out.slots, ref["out_slots"])
    close(out.attn, ref["out_attn"])
    close(context, ref["out_context"])
    (context * ref["probe"]).sum().backward()
    close(features.grad, ref["grad_features"])
    close(module.position.project.weight.grad, ref["grad_position"].flatten(1))
    assert len(out.attn_steps) == 5


def test_initial_slots_are_those_of_the_released_module():
    """Its Gaussian: mean plus the exponential of log sigma times noise."""
    ref = reference("glass_slots")
    module = slot_module(ref)
    torch.manual_seed(2)
    noise = torch.empty(2, 4, 16, dtype=torch.float64).normal_()
    torch.manual_seed(2)
    close(module.initializer(2), module.initializer.mu.detach() + module.initializer.log_sigma.detach().exp() * noise)


def test_slots_from_boxes_with_absent_slots_equal_the_released_module():
    """StableLSD-BBox and -Dynamic at once: two objects in the first image, four in the second."""
    ref = reference("glass_boxes")
    module = slot_module(ref, initializer="boxes")
    mask = torch.arange(4) < ref["num_objects"][:, None]
    out = module(ref["features"], (5, 5), boxes=ref["boxes"], slot_mask=mask)
    close(out.attn, ref["out_attn"])
    assert out.attn[0, 2:].abs().max() == 0
    close(module.to_context(out.slots), ref["out_context"])


def test_mlp_decoder_equals_the_released_one():
    ref = reference("glass_mlp")
    decoder = PatchMLPDecoder(20, 12, (5, 5), hidden_dims=(24, 24, 24)).double()
    decoder.load_state_dict(feature_decoder_weights(published(ref)))
    slots = ref["slots"].requires_grad_()
    out = decoder(slots)
    recon = out.recon.flatten(2).transpose(1, 2)
    close(recon, ref["out_recon"])
    close(out.masks.flatten(2), ref["out_masks"])
    (recon * ref["probe"]).sum().backward()
    close(slots.grad, ref["grad_slots"])


# ---- a folder as the released code writes it ------------------------------------------------------------------------

CONFIG = {
    "_class_name": "MultiHeadSTEVESA",
    "bi_level": False,
    "epsilon": 1e-06,
    "input_resolution": 4,
    "input_size": 12,
    "learnable_slot_init": False,
    "mlp_hidden_size": 24,
    "num_heads": 1,
    "num_iterations": 5,
    "num_slots": 4,
    "slot_size": 16,
    "out_size": 32,
}


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory):
    pytest.importorskip("diffusers")
    return save_diffusion(tmp_path_factory.mktemp("diffusion"), prediction="v_prediction")


def slot_state():
    """Weights under the released names: those of the reference, with a context of the tiny U-Net's width."""
    torch.manual_seed(0)
    weights = published(reference("glass_slots"), torch.float32)
    weights |= {
        "pos.pe": torch.rand(1, 4, 4, 4),
        "out_linear.weight": torch.randn(32, 16),
        "out_linear.bias": torch.ones(32),
    }
    return weights


def mlp_state():
    torch.manual_seed(1)
    sizes = ((24, 32), (24, 24), (24, 24), (13, 24))
    state = {"pos_embed": torch.randn(1, 16, 32)}
    for k, size in enumerate(sizes):
        state |= {f"decoder.{2 * k}.weight": torch.randn(size), f"decoder.{2 * k}.bias": torch.randn(size[0])}
    return state


def checkpoint(folder, *, binary=False, unet=None, mlp=None, **changed):
    slots = folder / "multiheadstevesa"
    slots.mkdir(parents=True)
    (slots / "config.json").write_text(json.dumps(CONFIG | changed))
    if binary:
        torch.save(slot_state(), slots / "diffusion_pytorch_model.bin")
    else:
        save_file(slot_state(), slots / "diffusion_pytorch_model.safetensors")
    if unet is not None:
        unet.save_pretrained(folder / "unet2dconditionmodel")
    if mlp is not None:
        (folder / "mlpdecoder").mkdir()
        torch.save(mlp, folder / "mlpdecoder" / "pytorch_model.bin")
    (folder / "optimizer.bin").write_bytes(b"\x80\x04 a pickle that nobody opens")
    return folder


def convert(source, out, encoder, diffusion):
    return convert_glass(source, out, encoder=encoder, diffusion=str(diffusion), image_size=32)


@pytest.mark.parametrize("binary", [False, True])
def test_a_first_stage_without_mlp_decoder_becomes_stable_lsd(tmp_path, tiny_vit, diffusion, binary):
    source = checkpoint(tmp_path / "released", binary=binary)
    made = convert(source, tmp_path / "run", replace(tiny_vit, features="normed"), diffusion)
    assert made.parts == ("slots",)
    run, method = api.load(tmp_path / "run", device="cpu")
    assert type(method) is StableLSD
    assert (run.protocol, run.data.name) == ("glass-release", "coco2017")
    close(method.slots.to_context[1].weight, slot_state()["out_linear.weight"], 0)
    close(method.slots.slot_attention.to_k.weight, slot_state()["project_k.weight"], 0)
    out = method.encode(torch.rand(2, 3, 32, 32))
    assert out.slots.shape == (2, 4, 32)
    assert out.attn_maps.shape == (2, 4, 4, 4)


def test_a_second_stage_brings_its_own_unet(tmp_path, tiny_vit, diffusion):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(7)
    unet = diffusers.UNet2DConditionModel.from_config(diffusers.UNet2DConditionModel.load_config(diffusion / "unet"))
    source = checkpoint(tmp_path / "released", unet=unet, mlp=mlp_state())
    made = convert(source, tmp_path / "run", replace(tiny_vit, features="normed"), diffusion)
    assert made.parts == ("slots", "feature_decoder", "unet")
    _, method = api.load(tmp_path / "run", device="cpu")
    assert isinstance(method, Glass)
    assert method.config.decoder_dims == (24, 24, 24)
    assert method.config.decoder_input == "context"
    for name, value in unet.state_dict().items():
        assert torch.equal(method.decoder.unet.state_dict()[name], value)
    close(method.feature_decoder.to_mask.weight, mlp_state()["decoder.6.weight"][-1:], 0)
    folder = export_unet(tmp_path / "run", tmp_path / "again")
    again = diffusers.UNet2DConditionModel.from_pretrained(folder)
    assert all(torch.equal(again.state_dict()[name], value) for name, value in unet.state_dict().items())


@pytest.mark.parametrize("stage", ["lsd", "glass"])
def test_there_and_back_is_the_same_to_the_bit(tmp_path, tiny_vit, diffusion, stage):
    diffusers = pytest.importorskip("diffusers")
    unet = None
    if stage == "glass":
        torch.manual_seed(7)
        config = diffusers.UNet2DConditionModel.load_config(diffusion / "unet")
        unet = diffusers.UNet2DConditionModel.from_config(config)
    source = checkpoint(tmp_path / "released", unet=unet, mlp=mlp_state() if unet else None)
    weights = "diffusion_pytorch_model.safetensors"
    grid = (torch.arange(4) + 0.5) / 4  # the original's: rows, columns and their distances to the other side
    rows, columns = torch.meshgrid(grid, grid, indexing="ij")
    given = load_file(source / "multiheadstevesa" / weights)
    given["pos.pe"] = torch.stack((rows, columns, 1 - rows, 1 - columns))[None]
    save_file(given, source / "multiheadstevesa" / weights)
    convert(source, tmp_path / "run", replace(tiny_vit, features="normed"), diffusion)
    assert main(["convert", str(tmp_path / "run"), "--to", stage, "--out", str(tmp_path / "back")]) == 0
    found = load_file(tmp_path / "back" / "multiheadstevesa" / weights)
    torch.testing.assert_close(found, given, rtol=0, atol=0)
    settings = json.loads((tmp_path / "back" / "multiheadstevesa" / "config.json").read_text())
    assert settings == CONFIG | {"init_mlp": False}
    assert (tmp_path / "back" / "mlpdecoder").exists() == (unet is not None)
    if unet:
        torch.testing.assert_close(load_file(tmp_path / "back" / "mlpdecoder" / weights), mlp_state(), rtol=0, atol=0)
        again = diffusers.UNet2DConditionModel.from_pretrained(tmp_path / "back" / "unet2dconditionmodel")
        torch.testing.assert_close(again.state_dict(), unet.state_dict(), rtol=0, atol=0)
    other = "glass" if stage == "lsd" else "lsd"
    assert main(["convert", str(tmp_path / "run"), "--to", other, "--out", str(tmp_path / "other")]) == 2


def test_on_the_command_line(tmp_path, tiny_vit, diffusion, capsys):
    source = checkpoint(tmp_path / "released")
    options = ["--encoder", tiny_vit.model, "--patch-size", "8", "--feature-dim", "12", "--diffusion", str(diffusion)]
    arguments = ["convert", "glass", str(source), "--out", str(tmp_path / "run"), *options, "--image-size", "32"]
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {"folder": str(tmp_path / "run"), "method": "StableLSD", "parts": ["slots"]}
    ]
    assert main(arguments) == 2  # a run is there already
    assert main(["convert", "unet", str(tmp_path / "run"), "--out", str(tmp_path / "x")]) == 2
    assert "trained no U-Net" in capsys.readouterr().err


def test_what_a_kill_left_unfinished_is_finished(tmp_path, tiny_vit, diffusion):
    """Of the same conversion; a run of other settings that has no checkpoint yet stays."""
    source, out = checkpoint(tmp_path / "released"), tmp_path / "run"
    vit = replace(tiny_vit, features="normed")
    convert(source, out, vit, diffusion)
    last = out / "checkpoints/last.safetensors"
    whole = load_file(last)
    with pytest.raises(UserError, match="holds a run already"):
        convert(source, out, vit, diffusion)
    last.unlink()
    convert(source, out, vit, diffusion)
    torch.testing.assert_close(load_file(last), whole, atol=0, rtol=0)
    last.unlink()
    settings = (out / "run.yaml").read_bytes()
    other = checkpoint(tmp_path / "other", num_slots=5)
    with pytest.raises(UserError, match=r"holds a different run: method\.num_slots"):
        convert(other, out, vit, diffusion)
    assert (out / "run.yaml").read_bytes() == settings
    assert not last.exists()


class Evil:
    def __reduce__(self):
        return (print, ("opened",))


def test_what_cannot_be_read_is_said(tmp_path, tiny_vit, diffusion, capsys):
    vit = replace(tiny_vit, features="normed")
    with pytest.raises(UserError, match="There is no folder"):
        convert(tmp_path / "nowhere", tmp_path / "run", vit, diffusion)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no slot module, not multiheadstevesa/config\.json"):
        convert(tmp_path / "empty", tmp_path / "run", vit, diffusion)
    source = checkpoint(tmp_path / "evil")
    weights = source / "multiheadstevesa" / "diffusion_pytorch_model.safetensors"
    weights.unlink()
    torch.save({"slot_mu": Evil()}, weights.with_suffix(".bin"))
    with pytest.raises(UserError, match="cannot be read as plain tensors"):
        convert(source, tmp_path / "run", vit, diffusion)
    assert "opened" not in capsys.readouterr().out
    source = checkpoint(tmp_path / "wide", slot_size=24)
    with pytest.raises(UserError, match=r"holds slots\.\S+ with shape"):
        convert(source, tmp_path / "run", vit, diffusion)
    source = checkpoint(tmp_path / "other", input_size=768)
    with pytest.raises(UserError, match="name the encoder they were trained with"):
        convert(source, tmp_path / "run", vit, diffusion)
    (source / "unetencoder").mkdir()
    with pytest.raises(UserError, match="holds an encoder of its own"):
        convert(source, tmp_path / "run", vit, diffusion)
    assert not (tmp_path / "run").exists()


def damaged(source, kind):
    """The released folder with one thing wrong."""
    slots = source / "multiheadstevesa"
    config, weights = slots / "config.json", slots / "diffusion_pytorch_model.safetensors"
    state, binary = slot_state(), weights.with_suffix(".bin")
    if kind == "empty weights":
        weights.write_bytes(b"")
    elif kind == "cut weights":
        weights.write_bytes(weights.read_bytes()[:200])
    elif kind == "text for weights":
        weights.write_text("version https://git-lfs.github.com/spec/v1\n")
    elif kind == "a folder for weights":
        weights.unlink()
        weights.mkdir()
    elif kind == "no weights":
        weights.unlink()
    elif kind == "a deep config":
        config.write_text("[" * 100_000)
    elif kind == "a list for config":
        config.write_text("[]")
    elif kind == "another encoding":
        config.write_bytes(json.dumps(CONFIG).encode("utf-16"))
    elif kind.startswith("config "):
        name, value = kind.split()[1:]
        config.write_text(json.dumps(CONFIG | {name: json.loads(value)}))
    else:
        weights.unlink()
        changed = {
            "a list": [state["slot_mu"]],
            "a number": 3,
            "numbers for names": {1: state["slot_mu"]},
            "nested": {"state_dict": state},
            "a shape": state | {"slot_mu": torch.tensor(1.0)},
            "another shape": state | {"pos.projection.weight": torch.ones(3)},
            "another name": state | {"conv.weight": torch.ones(3)},
            "one missing": {name: value for name, value in state.items() if name != "project_k.weight"},
        }
        if kind == "a cut zip":
            torch.save(state, binary)
            binary.write_bytes(binary.read_bytes()[:-300])
        else:
            torch.save(changed[kind], binary)


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("empty weights", "cannot be read as plain tensors"),
        ("cut weights", "cannot be read as plain tensors"),
        ("text for weights", "cannot be read as plain tensors"),
        ("a folder for weights", "cannot be read as plain tensors"),
        ("a cut zip", "cannot be read as plain tensors"),
        ("no weights", "holds no weights"),
        ("a deep config", "config.json is damaged"),
        ("a list for config", "config.json is damaged"),
        ("another encoding", "config.json is damaged"),
        ("config num_slots 0", "has num_slots 0; expected a whole number, 1 or more."),
        ("config num_slots 257", "method.num_slots is 257; it must be from 1 to 256."),
        ("config slot_size true", "has slot_size True; expected a whole number, 1 or more."),
        ("config input_resolution [4]", r"has input_resolution \[4\]; expected a whole number"),
        ("a list", "cannot be read as plain tensors"),
        ("a number", "cannot be read as plain tensors"),
        ("numbers for names", "holds more than named tensors"),
        ("nested", "holds more than named tensors"),
        ("a shape", "slot_mu of the slot module has the shape of a single number"),
        ("another shape", "pos.projection.weight of the slot module has the shape 3,"),
        ("another name", "has a weight 'conv.weight', which MultiHeadSTEVESA does not have"),
        ("one missing", r"lacks the weight slots.slot_attention.to_k.weight"),
    ],
)
def test_a_damaged_checkpoint_is_said_in_a_sentence(tmp_path, tiny_vit, diffusion, kind, sentence):
    source = checkpoint(tmp_path / "released")
    damaged(source, kind)
    with pytest.raises(UserError, match=sentence):
        convert(source, tmp_path / "run", replace(tiny_vit, features="normed"), diffusion)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_names_of_a_wrapped_module_and_a_byte_order_mark(tmp_path, tiny_vit, diffusion, prefix):
    source = checkpoint(tmp_path / "released")
    slots = source / "multiheadstevesa"
    (slots / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8-sig")
    wrapped = {prefix + name: value for name, value in slot_state().items()}
    save_file(wrapped, slots / "diffusion_pytorch_model.safetensors")
    convert(source, tmp_path / "run", replace(tiny_vit, features="normed"), diffusion)
    _, method = api.load(tmp_path / "run", device="cpu")
    close(method.slots.slot_attention.to_k.weight, slot_state()["project_k.weight"], 0)
