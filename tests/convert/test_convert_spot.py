"""SPOT's checkpoints become runs that give what the original gave, and are written back bit by bit.

What it gave is in `tests/references`; the vision transformer is compared with a computation of its own.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from published import spot_networks, vit_tokens
from safetensors.torch import load_file

from slotworks import api
from slotworks.cli import main
from slotworks.convert import Options, convert, write_back
from slotworks.methods import Spot, SpotStudent
from slotworks.types import UserError

pytest.importorskip("transformers")

REFERENCES = Path(__file__).parents[1] / "references"
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def reference():
    with np.load(REFERENCES / "spot_model.npz", allow_pickle=False) as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def checkpoint(stage):
    """Weights of the reference, masks of the decoder and the vision transformers, as `torch.save` gets them."""
    state = {name.removeprefix("weight/"): v for name, v in reference().items() if name.startswith("weight/")}
    state = {name: value for name, value in state.items() if not name.startswith(("encoder.", "second_encoder."))}
    for i in range(3):
        state[f"dec.blocks.{i}.self_attn_mask"] = torch.ones(16, 16, dtype=torch.bool).triu(diagonal=1)
    frozen, student = spot_networks()
    if stage == 2:
        state |= {f"encoder.{name}": value for name, value in student.items()}
        return state | {f"second_encoder.{name}": value for name, value in frozen.items()}
    return state | {f"encoder.{name}": value for name, value in frozen.items()}


def save(state, file, **others):
    torch.save(
        {"epoch": 50, "best_val_loss": 0.5, "model": state, "optimizer": {"state": {0: {"step": 3}}}} | others, file
    )
    return file


@pytest.mark.parametrize("stage", [1, 2])
def test_outputs_are_the_originals(tmp_path, stage):
    ref = reference()
    made = convert(save(checkpoint(stage), tmp_path / "best_model.pt"), Options(tmp_path / "run", encoder="own"))
    assert made.family == "spot"
    run, method = api.load(tmp_path / "run", device="cpu")
    assert type(method) is (SpotStudent if stage == 2 else Spot)
    config = run.method
    assert (config.num_slots, config.slot_dim, config.mlp_dim, config.decoder_blocks) == (4, 8, 16, 3)
    assert (config.initializer, config.gradient, config.train_orders) == ("learned", "bilevel", "random")
    assert (config.image_size, run.data.image_size, config.encoder.trained_blocks) == (32, 32, stage - 1)
    assert run.protocol == "spot"

    out = method.group(ref["features"], ref["features"])
    torch.testing.assert_close(out.slots, ref["out_slots"], **CLOSE)
    torch.testing.assert_close(out.attn.view_as(ref["out_attn"]), ref["out_attn"], **CLOSE)
    masks = method.decode(out.slots, ref["features"], orders="all").masks
    torch.testing.assert_close(masks.view_as(ref["out_masks"]), ref["out_masks"], **CLOSE)

    frozen, student = spot_networks()
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(method.encoder(image), vit_tokens(student if stage == 2 else frozen, image), **CLOSE)
    if stage == 2:
        torch.testing.assert_close(method.target_encoder(image), vit_tokens(frozen, image), **CLOSE)


def test_commands_take_a_converted_run(tmp_path, monkeypatch, capsys):
    """On data that an option names, at the size of the run; on its recipe's data a sentence says what to get."""
    monkeypatch.chdir(tmp_path)
    convert(save(checkpoint(2), tmp_path / "best_model.pt"), Options(tmp_path / "run", encoder="own"))
    assert main(["evaluate", "run"]) == 2
    assert "instances_val2017.json is missing; get annotations_trainval2017.zip" in capsys.readouterr().err
    assert main(["evaluate", "run", "--data", "scenes", "--images", "3", "--json"]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert (record["num_images"], record["protocol"]) == (3, "spot")
    assert "images resized from 64 x 64 to 32 x 32 pixels" in record["rules"]
    Image.new("RGB", (40, 30), "red").save("photo.png")
    assert main(["segment", "run", "photo.png", "--out", "masks"]) == 0
    assert Image.open("masks/photo_mask.png").size == (40, 30)
    assert main(["report", "run"]) == 0
    assert "shape_scenes_plain" in Path("run/report.html").read_text()


@pytest.mark.parametrize("stage", [1, 2])
def test_there_and_back_is_the_same_to_the_bit(tmp_path, stage):
    state = checkpoint(stage)
    convert(save(state, tmp_path / "best_model.pt"), Options(tmp_path / "run", encoder="own"))
    written = torch.load(write_back(tmp_path / "run", tmp_path / "back.pt.tar", "spot"), weights_only=True)["model"]
    assert written.keys() == state.keys()
    assert all(
        torch.equal(written[name], value) and written[name].dtype == value.dtype for name, value in state.items()
    )


def test_slots_of_one_gaussian_and_older_names(tmp_path):
    """A first stage of the released kind: their number is the recipe's, or given."""
    state = {name.replace("dec.", "tf_dec.", 1): value for name, value in checkpoint(1).items()}
    del state["slot_attn.slots_init.weight"]
    state |= {"slot_attn.slot_mu": torch.randn(1, 1, 8), "slot_attn.slot_log_sigma": torch.randn(1, 1, 8)}
    file = save(state, tmp_path / "teacher.pt")
    for number, given in ((7, {}), (11, {"num_slots": 11}), (6, {"recipe": "spot.voc"})):
        convert(file, Options(tmp_path / f"run{number}", encoder="own", **given))
        run, method = api.load(tmp_path / f"run{number}", device="cpu")
        assert (run.method.num_slots, run.method.gradient) == (number, "unrolled")
        assert torch.equal(method.initializer.log_sigma, state["slot_attn.slot_log_sigma"])
        assert run.data.name.startswith({7: "coco", 11: "movi", 6: "voc"}[number])


def test_one_order(tmp_path):
    state = checkpoint(1)
    state["bos_tokens"] = state["bos_tokens"][:1]
    convert(save(state, tmp_path / "baseline.pt"), Options(tmp_path / "run", encoder="own"))
    assert api.load(tmp_path / "run", device="cpu")[0].method.train_orders == "standard"


def test_other_decoders_are_refused(tmp_path):
    state = {name: value for name, value in checkpoint(1).items() if not name.startswith("dec.")}
    with pytest.raises(UserError, match="has no Transformer decoder"):
        convert(save(state, tmp_path / "mlp.pt"), Options(tmp_path / "run", encoder="own"))
    state = checkpoint(1) | {"mask_token": torch.zeros(1, 1, 12), "pos_embed": torch.zeros(1, 16, 12)}
    with pytest.raises(UserError, match=r"has the tensor mask_token and 1 more tensors, which SPOT"):
        convert(save(state, tmp_path / "parallel.pt"), Options(tmp_path / "run", encoder="own"))


def test_what_cannot_be_written_back(tmp_path):
    convert(save(checkpoint(1), tmp_path / "best_model.pt"), Options(tmp_path / "run", encoder="own"))
    with pytest.raises(UserError, match=r"is a run of Spot, which cannot be written for glass"):
        write_back(tmp_path / "run", tmp_path / "back", "glass")


def test_on_the_command_line(tmp_path, capsys):
    """Recognised by itself, masks of a picture, and back."""
    source, run = save(checkpoint(2), tmp_path / "best_model.pt"), tmp_path / "run"
    assert main(["convert", str(source), "--out", str(run), "--encoder", "own", "--json"]) == 0
    (said,) = json.loads(capsys.readouterr().out)
    assert said == {
        "folder": str(run),
        "method": "SpotStudent",
        "parts": ["second stage"],
        "family": "spot",
        "not_opened": [],
    }
    Image.fromarray(np.random.RandomState(0).randint(0, 255, (40, 48, 3), "uint8")).save(tmp_path / "picture.png")
    assert main(["segment", str(run), str(tmp_path / "picture.png"), "--out", str(tmp_path / "masks")]) == 0
    assert (tmp_path / "masks" / "picture_mask.png").is_file()
    assert main(["convert", str(run), "--to", "spot", "--out", str(tmp_path / "back.pt")]) == 0
    assert main(["convert", str(tmp_path / "back.pt"), "--out", str(tmp_path / "again"), "--encoder", "own"]) == 0
    first, second = (load_file(folder / "checkpoints/last.safetensors") for folder in (run, tmp_path / "again"))
    torch.testing.assert_close(second, first, rtol=0, atol=0)
    assert main(["convert", str(source), "--out", str(run)]) == 2
    assert main(["convert", "clevr", str(source), "--out", str(tmp_path / "x")]) == 2
    said = capsys.readouterr().err
    assert "holds a run already" in said
    assert "is not understood; give one checkpoint, or glass or unet before it" in said
