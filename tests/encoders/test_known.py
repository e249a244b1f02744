"""The encoder that a run was trained on, and another one in its place; `slotworks segment` without a run."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import save_narrow_vit

from slotworks import api
from slotworks.cli import main
from slotworks.configs import feature_kmeans
from slotworks.data.scenes import ShapeScenes
from slotworks.encoders import ViTConfig, ViTEncoder, weights_hash
from slotworks.encoders.known import FILE, compare, describe, features_of_picture, picture


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Two networks of one kind with different weights."""
    folder = tmp_path_factory.mktemp("networks")
    return [str(save_narrow_vit(folder / str(seed), seed=seed)) for seed in (0, 1)]


@pytest.fixture
def folder(networks, tmp_path, monkeypatch):
    """A run on the first network that says what it was trained on, and stands for that of the zoo."""
    recipe = feature_kmeans.photos()
    vit = ViTConfig(networks[0], image_size=32, patch_size=8, feature_dim=12)
    method = replace(recipe.method, encoder=vit, num_slots=2)
    run = api.untrained(
        replace(recipe, method=method, data=ShapeScenes(image_size=32, sizes=(0.25, 0.3))), tmp_path / "run"
    )
    (run / FILE).write_text(json.dumps(describe(vit)))
    monkeypatch.setattr("slotworks.cli.segment.DEFAULT", str(run))
    monkeypatch.delenv("SLOTWORKS_DINOV2", raising=False)
    (tmp_path / "photos").mkdir()
    for k in range(2):
        Image.fromarray(np.full((40, 30, 3), 90 * k, np.uint8)).save(tmp_path / "photos" / f"{k}.png")
    return tmp_path


def test_the_picture_is_the_same_everywhere():
    drawn = picture(28)
    assert (drawn.min() >= 0).all()
    assert (drawn.max() <= 1).all()
    torch.testing.assert_close(
        drawn[0, :, 0, 7], torch.tensor([np.sin(np.pi * (4 - k) / 4) / 2 + 0.5 for k in (1, 2, 3)]).float()
    )


def test_what_is_known_of_an_encoder(networks):
    vit = ViTConfig(networks[0], image_size=32, patch_size=8, feature_dim=12)
    known = describe(vit)
    assert known["sha256"] == weights_hash(vit)
    assert known["model"] == "0"  # no folder of this machine
    torch.testing.assert_close(torch.tensor(known["values"]), features_of_picture(ViTEncoder(vit)), rtol=0, atol=6e-5)
    assert compare(ViTEncoder(vit), known) < 1e-4
    assert compare(ViTEncoder(replace(vit, model=networks[1])), known) > 0.1
    assert compare(ViTEncoder(vit), known | {"values": [[0.0]]}) is None


def test_segment_without_a_run_takes_an_encoder_from_elsewhere(folder, networks, capsys, monkeypatch):
    out = folder / "out"
    assert main(["segment", str(folder / "photos"), "--encoder", networks[0], "--out", str(out), "--json"]) == 0
    said = capsys.readouterr()
    assert len(json.loads(said.out)) == 2
    assert "another encoder" not in said.err
    settings = folder / "run" / "run.yaml"
    settings.write_text(settings.read_text().replace(networks[0], "facebook/dinov2-small"))
    monkeypatch.setenv("SLOTWORKS_DINOV2", networks[1])
    small = ViTConfig("dinov2-small", image_size=32, patch_size=8, feature_dim=12)  # by whoever asks for it
    assert weights_hash(small) == weights_hash(replace(small, model=networks[1]))
    assert main(["segment", str(folder / "photos" / "0.png"), "--out", str(out), "--json"]) == 0
    said = capsys.readouterr()
    told = "facebook/dinov2-small is another encoder than this run was trained on (0, sha256 "
    assert told in said.err.replace("\n", "")
    assert (out / "0_mask.png").is_file()
    (folder / "run" / FILE).write_text("[")
    assert main(["segment", str(folder / "photos"), "--out", str(out)]) == 2
    assert "encoder.json cannot be read" in capsys.readouterr().err.replace("\n", " ")


def test_nothing_is_downloaded_without_an_answer(folder, capsys, monkeypatch):
    run = folder / "run" / "run.yaml"
    text = run.read_text()
    model = next(line.split(": ")[1] for line in text.splitlines() if "model:" in line)
    run.write_text(text.replace(model, "nobody/no-network"))
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))  # no terminal: nobody can have said it
    assert main(["segment", str(folder / "photos")]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "needs the network nobody/no-network, which is not on this machine; give --encoder FOLDER" in said
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdin.readline", lambda: "n\n", raising=False)
    assert main(["segment", str(folder / "photos")]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "Download it? [y/N]" in said
    assert "Nothing was downloaded" in said


def test_a_method_without_an_encoder_has_none_elsewhere(folder, capsys):
    from slotworks.configs import blocks

    run = api.untrained(blocks.scenes_mini(), folder / "blocks")
    command = ["segment", str(run), str(folder / "photos"), "--encoder", "somewhere", "--out", str(folder / "out")]
    assert main(command) == 2
    assert "has no encoder that could lie elsewhere" in " ".join(capsys.readouterr().err.split())
