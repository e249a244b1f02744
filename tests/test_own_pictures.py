"""A folder of one's own pictures through the commands: train, evaluate, and what they say."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from slotworks.cli import main
from slotworks.cli.evaluate import main as evaluate
from slotworks.cli.pictures import own_pictures
from slotworks.cli.train import build
from slotworks.configs import dinosaur, savi, slot_attention
from slotworks.data import CachedFeatures, Pictures
from slotworks.errors import UserError

SMALL = "--method.channels 4 --method.slot-dim 4 --method.mlp-dim 4 --steps 1 --batch-size 2".split()


def fill(folder, count=6, people=2):
    rng = np.random.default_rng(0)
    for i in range(count):
        (folder / "images").mkdir(parents=True, exist_ok=True)
        (folder / "masks").mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), np.uint8)).save(folder / f"images/{i}.png")
        for person in range(people):
            mask = rng.integers(1, 3 + person, (4, 5)).repeat(10, 0).repeat(10, 1).astype(np.uint8)
            Image.fromarray(mask).save(folder / f"masks/{i}_{person}.png")
    return folder


def test_a_recipe_on_own_pictures_keeps_size_and_features():
    run = build("dinosaur.scenes_mini", ["--pictures", "."])
    assert isinstance(run.data, CachedFeatures)
    assert run.data.encoder == dinosaur.scenes_mini().data.encoder
    assert run.data.images == Pictures(root=".", image_size=64, flip=False)
    plain = build("slot_attention.tetrominoes_mini", ["--pictures", ".", "--data.val-fraction", "0.3"]).data
    assert plain == Pictures(root=".", image_size=35, val_fraction=0.3)


def test_trained_and_scored_by_two_commands(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "mine")
    words = ["train", "slot_attention.tetrominoes_mini", "--pictures", "mine", "--out", "run", "--no-tensorboard"]
    assert main([*words, *SMALL]) == 0
    assert main(["evaluate", "run", "--pictures", "mine", "--json"]) == 0
    of_run = json.loads(capsys.readouterr().out)
    assert (of_run[0]["num_images"], of_run[0]["split"], of_run[0]["data"]) == (1, "test", "pictures")
    fill(tmp_path / "others", count=5)
    assert main(["evaluate", "run", "--pictures", "others", "--protocol", "oclf", "spot"]) == 0
    told = capsys.readouterr()
    assert "others: 5 pictures; masks of 5 by 2.0 people on average." in " ".join(told.err.split())
    text = " ".join(told.out.split())
    assert "pictures, test split, 5 images" in text
    assert "several people's masks: mean over people, then images" in text
    record = json.loads(next((tmp_path / "run/eval").glob("pictures-test-spot*.json")).read_text())
    assert {"mbo_i", "mbo_i_fewest"} <= record["metrics"].keys()
    assert record["metrics"]["mbo_i"]["n"] == 5
    assert {"mbo_i_person0", "mbo_i_person1"} <= record["per_image"].keys()


def test_pictures_without_masks_have_nothing_to_score(tmp_path):
    data = own_pictures(slot_attention.tetrominoes_mini().data, fill(tmp_path / "mine", people=0), score=True)
    assert "mask" not in data.open("test")[0]
    assert len(data.open("test")) == 6


def test_the_folder_of_the_run_is_scored_on_its_own_split(tmp_path):
    folder = fill(tmp_path / "mine")
    trained = own_pictures(slot_attention.tetrominoes_mini().data, folder)
    assert own_pictures(trained, folder, score=True) == replace(trained, root=str(folder))
    assert own_pictures(trained, fill(tmp_path / "other"), score=True).test_fraction == 1


def test_mistakes(tmp_path):
    with pytest.raises(UserError, match="nowhere is not a folder; give one with pictures"):
        build("slot_attention.tetrominoes_mini", ["--pictures", "nowhere"])
    with pytest.raises(UserError, match="are videos; --pictures gives a folder of pictures to recipes of images"):
        own_pictures(savi.scenes_mini().data, tmp_path)
    with pytest.raises(UserError, match=r"--pictures names the data; leave --data and --root out\."):
        evaluate(["run", "--pictures", str(tmp_path), "--data", "scenes"])


def test_another_encoder_is_one_option(tmp_path):
    """Its patch and width follow, and cached features are those of the same encoder."""
    words = "--method.encoder.image-size 224 --data.images.image-size 224 --method.encoder.model".split()
    run = build("dinosaur.scenes_mini", [*words, "dinov2-small"])
    encoder = run.method.encoder
    assert (encoder.model, encoder.patch_size, encoder.feature_dim) == ("facebook/dinov2-small", 14, 384)
    assert run.data.encoder == encoder
    folder = tmp_path / "net"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "vit", "patch_size": 16, "hidden_size": 40}))
    run = build("dinosaur.scenes_mini", [*words, str(folder), "--method.encoder.feature-dim", "48"])
    assert (run.method.encoder.patch_size, run.data.encoder.feature_dim) == (16, 48)
    with pytest.raises(UserError, match="image_size is 64 and patch_size 14; the image must be a positive multiple"):
        build("dinosaur.scenes_mini", ["--method.encoder.model", "dinov2-small"])
