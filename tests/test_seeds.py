"""A folder of several seeds in the place of a run: `train --seeds` makes it, the other verbs take it."""

import json
from pathlib import Path

import pytest

from slotworks.cli import main
from slotworks.data.scenes import TetrominoScenes
from slotworks.methods import SlotAttentionConfig
from slotworks.training import Run
from slotworks.training.serialize import save_run

METHOD = SlotAttentionConfig(channels=4, slot_dim=8, mlp_dim=16, initializer="learned", encoder_strides=(2, 1))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Two seeds of one step."""
    folder = tmp_path_factory.mktemp("seeds")
    data = TetrominoScenes(num_train=8, num_val=4, num_test=6)
    run = Run(method=METHOD, data=data, steps=1, batch_size=2, eval_images=4, tensorboard=False)
    save_run(run, folder / "mine.yaml")
    words = ["--seeds", "2", "--out", str(folder / "mine"), "--device", "cpu"]
    assert main(["train", str(folder / "mine.yaml"), *words]) == 0
    return folder / "mine"


def test_each_seed_is_scored_and_their_mean_is_printed(base, capsys):
    assert main(["evaluate", str(base), "--device", "cpu", "--json"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert [Path(record["run"]).name for record in records] == ["seed0", "seed1"]
    first, second = (100 * record["metrics"]["fg_ari"]["mean"] for record in records)
    assert main(["evaluate", str(base), "--device", "cpu"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    protocol = records[0]["protocol"]
    said = f"{base}, mean ± standard deviation of 2 seeds on tetromino_scenes, {protocol}: FG-ARI "
    assert f"{said}{(first + second) / 2:.1f} ± {abs(first - second) / 2**0.5:.1f}" in printed


def test_records_elsewhere_lie_below_the_name_of_the_folder(base, tmp_path):
    assert main(["evaluate", str(base), "--device", "cpu", "--images", "2", "--out", str(tmp_path)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == ["seed0", "seed1"]
    assert all(list((tmp_path / "mine" / seed / "eval").glob("*.json")) for seed in ("seed0", "seed1"))


def test_seeds_are_one_entry_of_a_comparison(base, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["compare", str(base), str(base / "seed0"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)[0]
    assert [entry["num_seeds"] for entry in found["entries"]] == [2, 1]
    both, one = (entry["metrics"]["fg_ari"] for entry in found["entries"])
    assert both["seeds"][0] == one["mean"]
    assert found["num_images"] == 6
    assert found["differences"][0]["metrics"]["fg_ari"]["images"] == 6
