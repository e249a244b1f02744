"""Runs that come with the package: what they weigh, what they say of themselves, and that it is true."""

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import slotworks
from slotworks import tables, zoo
from slotworks.cli import main
from slotworks.configs import dinosaur
from slotworks.encoders import ViTEncoder
from slotworks.encoders.known import compare
from slotworks.errors import UserError
from slotworks.hub import from_pretrained, local_run, save_pretrained
from slotworks.reports.card import files_of
from slotworks.training.checkpoint import LAST, load_checkpoint, load_weights

SHIPPED = [member for member in zoo.MEMBERS if (zoo.SHIPPED / member.name / "config.json").is_file()]
ON_AN_ENCODER = {"dinosaur-photos": "gpl-2.0"}
"""Members whose encoder and pictures do not come with the package, so that nothing is scored here; their licence."""

LIMIT = 25 * 2**20
"""Bytes of all members together."""

IMAGES = 24
TOLERANCE = 0.01
"""Of a mean over so many images, as a share: weights are the same, kernels of other processors round differently, and a
pixel between two slots may change its owner. Rounding weights to float16 is in the record already."""


def test_members_have_recipes_and_names_of_their_own():
    assert len({member.name for member in zoo.MEMBERS}) == len(zoo.MEMBERS)
    for member in zoo.MEMBERS:
        assert tables.row(member.recipe), member
    folders = {path.parent.name for path in zoo.SHIPPED.glob("*/config.json")}
    assert folders == {member.name for member in SHIPPED}


def test_all_together_are_small():
    size = sum(path.stat().st_size for path in zoo.SHIPPED.rglob("*") if path.is_file())
    assert size < LIMIT
    for member in SHIPPED:
        files = {
            path.relative_to(zoo.SHIPPED / member.name).parts[0] for path in (zoo.SHIPPED / member.name).rglob("*")
        }
        about = {"encoder.json"} if member.name in ON_AN_ENCODER else files & {"encoder.json"}
        assert about | {"README.md", "config.json", "model.safetensors", "env.json", "eval", "masks.png"} == files


@pytest.mark.parametrize(
    "member", [one for one in SHIPPED if one.name not in ON_AN_ENCODER], ids=lambda member: member.name
)
def test_a_member_scores_what_its_record_says(member, tmp_path, monkeypatch):
    """The first images anew, against the values of each image in the record."""
    monkeypatch.chdir(tmp_path)  # where the run folder is made
    records = [json.loads(path.read_text()) for path in sorted((zoo.SHIPPED / member.name / "eval").glob("*.json"))]
    (found,) = slotworks.evaluate(f"zoo:{member.name}", task=member.task, num_images=IMAGES, out="own", device="cpu")
    (known,) = [record for record in records if record["protocol"] == found["protocol"]]
    assert found["data"] == known["data"]
    assert found["settings"]["data"] == known["settings"]["data"]
    assert found["settings"]["step"] == known["settings"]["step"]
    assert found["per_image"].keys() == known["per_image"].keys() != set()
    for name, values in found["per_image"].items():
        before = np.array(known["per_image"][name][:IMAGES], dtype=float)
        assert np.nanmean(values) == pytest.approx(np.nanmean(before), abs=TOLERANCE), name


@pytest.mark.parametrize("member", SHIPPED, ids=lambda member: member.name)
def test_a_card_says_what_the_record_says(member):
    folder = zoo.SHIPPED / member.name
    card, (row,) = (folder / "README.md").read_text(), [r for r in zoo.rows() if r["name"] == f"zoo:{member.name}"]
    number = row["number"].partition(" (")[0]
    assert number in card
    assert f'slotworks.from_pretrained("zoo:{member.name}")' in card
    license = ON_AN_ENCODER.get(member.name, "apache-2.0")
    assert f"license: {license}" in card
    assert row["license"] == license
    for path in folder.rglob("*.json"):
        assert not re.search(r'"/|/(root|tmp|home|work)/', path.read_text()), path


def test_a_card_says_how_a_method_for_videos_is_asked():
    """A clip instead of a picture, and the boxes that it starts from."""
    card = (zoo.SHIPPED / "savi-scenes" / "README.md").read_text()
    assert "Takes a video apart" in card
    assert "method.encode(videos, boxes=boxes).slots  # videos: batch, frames, 3, height, width" in card
    assert "slotworks segment zoo:savi-scenes clip.mp4 --boxes 0.1,0.2,0.4,0.5 0.6,0.6,0.9,0.8" in card
    assert files_of({"short_clips": [], "initializer": "learned"}) == "clip.mp4"
    assert files_of({"initializer": "boxes"}) == "photo.jpg"


def test_the_member_for_photographs_on_its_encoder(tmp_path, capsys):
    """Without a run `slotworks segment` takes it; on the encoder it was trained on there is no warning."""
    folder = os.environ.get("SLOTWORKS_DINOV2", "")
    if not (Path(folder) / "config.json").is_file():
        pytest.skip("the environment variable SLOTWORKS_DINOV2 names no folder with DINOv2 ViT-S/14")
    known = json.loads((zoo.SHIPPED / "dinosaur-photos" / "encoder.json").read_text())
    encoder = ViTEncoder(replace(dinosaur.photos_mlp().method.encoder, model=folder))
    assert compare(encoder, known) < 1e-2
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)).save(tmp_path / "photo.png")
    assert main(["segment", str(tmp_path / "photo.png"), "--out", str(tmp_path / "out"), "--device", "cpu"]) == 0
    assert "another encoder" not in capsys.readouterr().err
    assert Image.open(tmp_path / "out" / "photo_mask.png").size == (120, 90)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (60, 40), "red").save("photo.png")
    return tmp_path


def test_built_listed_segmented_evaluated_and_loaded(tiny_trained, place, capsys):
    words = ["slot-attention-tetrominoes", "--run", str(tiny_trained), "--license", "mit", "--json"]
    assert main(["zoo", "build", *words]) == 0
    built = json.loads(capsys.readouterr().out)
    assert built["folder"] == "runs/zoo/slot-attention-tetrominoes"
    assert main(["zoo", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)[0]
    assert (row["name"], row["folder"], row["license"]) == ("zoo:slot-attention-tetrominoes", built["folder"], "mit")
    assert f"FG-ARI {100 * built['metrics']['fg_ari']['mean']:.1f}" in row["number"]
    name = "zoo:slot-attention-tetrominoes"
    assert main(["evaluate", name, "--device", "cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["metrics"] == built["metrics"]
    assert main(["segment", name, "photo.png", "--out", "masks"]) == 0
    assert main(["report", name]) == 0
    assert (local_run(name) / "report.html").is_file()
    assert main(["publish", name, "mine"]) == 0
    _, method = from_pretrained(name, device="cpu")
    for key, value in load_weights(tiny_trained)[1].items():
        own = method.state_dict()[key]
        assert own.dtype == torch.float32
        assert torch.equal(own, value.half().float())
    assert load_checkpoint(local_run(name) / LAST).seconds == pytest.approx(
        load_checkpoint(tiny_trained / LAST).seconds, abs=0.1
    )
    environment = json.loads(Path("runs/zoo/slot-attention-tetrominoes/env.json").read_text())
    assert "command" not in environment
    assert environment["torch"] == torch.__version__


def test_a_member_that_is_not_there_says_how_it_is_built(place, capsys, monkeypatch):
    monkeypatch.setattr(zoo, "SHIPPED", place)
    assert main(["segment", "zoo:savi-scenes", "photo.png"]) == 2
    said = capsys.readouterr().err
    assert "`slotworks zoo build savi-scenes` trains it here" in said
    assert main(["segment", "zoo:savy", "photo.png"]) == 2
    assert "The zoo has no 'savy'. Nearest: savi-scenes" in capsys.readouterr().err
    with pytest.raises(UserError, match="The zoo has no"):
        from_pretrained("zoo:nothing")
    assert main(["zoo"]) == 0
    printed = capsys.readouterr().out
    assert "slotworks zoo build savi-scenes" in printed
    assert f"0 of {len(zoo.MEMBERS)} are here" in printed


def test_building_anew_keeps_the_records_of_other_weights(tiny_trained, place, capsys):
    """They are moved, so that no card names them; those of the same weights stay where they are."""
    words = ["zoo", "build", "slot-attention-tetrominoes", "--run", str(tiny_trained), "--out", "mine", "--json"]
    assert main(words) == 0
    mine = place / "mine"
    (mine / "eval" / "own.json").write_text('{"metrics": {"fg_ari": {"mean": 0.123}}, "protocol": "own"}')
    capsys.readouterr()
    assert main(words) == 0
    assert (mine / "eval" / "own.json").is_file()
    config = json.loads((mine / "config.json").read_text())
    (mine / "config.json").write_text(json.dumps({**config, "sha256": "0123456789abcdef"}))
    assert main(words) == 0
    assert (mine / "eval" / "before-0123456789ab" / "own.json").is_file()
    assert not (mine / "eval" / "own.json").exists()
    assert "12.3" not in (mine / "README.md").read_text()


def test_building_runs_the_commands_of_the_recipe(tiny_trained, place, capsys, monkeypatch):
    """Those that it builds on first; the last one's run folder becomes the member."""
    from slotworks import cli

    done = []

    def command(words):
        done.append(words)
        if words[1] == "savi.scenes_mini":
            shutil.copytree(tiny_trained, "runs/savi.scenes_mini")
        return 0

    monkeypatch.setattr(cli, "main", command)
    assert main(["zoo", "build", "savi-scenes"]) == 0
    assert done == [["train", "savi.frames_mini"], ["train", "savi.scenes_mini"]]
    assert zoo.folder_of("zoo:savi-scenes") == Path("runs/zoo/savi-scenes")


def test_a_command_that_fails_ends_the_building(place, monkeypatch):
    from slotworks import cli

    monkeypatch.setattr(cli, "main", lambda words: 143)
    assert main(["zoo", "build", "savi-scenes"]) == 143
    assert not Path("runs").exists()


def test_weights_too_large_for_float16_are_refused(tiny_trained, tmp_path):
    from dataclasses import replace

    from slotworks.training.checkpoint import save_checkpoint

    whole = load_checkpoint(tiny_trained / LAST)
    name = next(iter(whole.ema))
    large = replace(whole, ema=whole.ema | {name: torch.full_like(whole.ema[name], 1e5)})
    shutil.copytree(tiny_trained, tmp_path / "run")
    save_checkpoint(large, tmp_path / "run" / LAST)
    assert save_pretrained(tmp_path / "run", tmp_path / "whole")
    with pytest.raises(UserError, match=f"holds a weight in {name} that float16 cannot"):
        save_pretrained(tmp_path / "run", tmp_path / "half", half=True)
    assert not (tmp_path / "half").exists()
