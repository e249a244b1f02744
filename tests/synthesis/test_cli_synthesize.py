import json

import pytest

from slotworks.cli import main
from slotworks.cli.synthesize import build
from slotworks.configs.synthesis import RECIPES
from slotworks.training.serialize import from_yaml, to_yaml
from slotworks.vocabulary import COCO_CLASSES


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_say_their_command_and_survive_yaml(name):
    config = RECIPES[name]()
    assert f"slotworks synthesize {name}" in (RECIPES[name].__doc__ or "")
    assert from_yaml(type(config), to_yaml(config), source="test") == config


def test_recipes_are_the_papers():
    for name in ("glass.coco", "glass.voc"):
        config = RECIPES[name]()
        assert (config.low, config.high, config.power, config.steps, config.cfg_scale) == (0.4, 0.6, 4, 100, 7.5)
        assert (config.image_size, config.self_size) == (512, 32)
        assert "blip2" in config.source.captioner.model
        assert config.source.class_names == COCO_CLASSES  # section 4: of COCO's labels, whatever the images
    for name in RECIPES:
        config = RECIPES[name]()
        if name.startswith("dataset_diffusion."):  # its `gen_data.py`: one prompt for all classes, one resolution
            assert (config.class_prompts, config.cross_sizes, config.low) == ("joint", (16,), 0.5)
        elif name.startswith("glass.") and not name.startswith(("glass.scenes", "glass.painted")):
            # section 4: one prompt for each class, resolutions averaged
            assert (config.class_prompts, config.cross_sizes) == ("per_class", (8, 16, 32))
    changed = build("glass.coco", ["--class-prompts", "joint", "--source.captioner.num-beams", "5", "--low", "0.5"])
    assert (changed.class_prompts, changed.source.captioner.num_beams, changed.low) == ("joint", 5, 0.5)


def test_scenes_of_repeated_classes_are_refined():
    """Objects of one class share a mask: only there can the instance loss show. The plain miniature refines nothing."""
    plain, repeated = (RECIPES[f"glass.{name}"]() for name in ("scenes", "scenes_repeated"))
    assert (plain.power, repeated.power) == (0, 1)
    shares = []
    for config in (plain, repeated):
        rows = config.source.scenes.open("train").__getitems__(range(200))["classes"]
        shares.append(sum(len(set(row[row > 0])) < (row > 0).sum() for row in rows) / len(rows))
    assert shares[0] < 0.3
    assert shares[1] > 0.6


def test_the_verb_makes_a_folder(model, tmp_path, capsys, monkeypatch):
    small = "--num-images 2 --steps 1 --self-size 8 --cross-sizes 8 --batch-size 2 --negative-prompt x".split()
    command = ["synthesize", "glass.scenes", "--model", str(model), *small, "--out", str(tmp_path), "--device", "cpu"]
    assert main([*command, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["images"], answer["made"]) == (2, 2)
    assert answer["images_per_second"] > 0
    assert {file.name for file in tmp_path.iterdir() if file.name[0] != "."} == {
        *("shard-00000.parquet", "sheet.png", "synthesis.yaml"),
    }
    assert main(command) == 0
    assert "2 images in 1 shards" in capsys.readouterr().err.replace("\n", " ")
    assert main([*command, "--power", "1"]) == 2
    assert "power was 0 and is now 1" in capsys.readouterr().err
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    given = {}
    monkeypatch.setattr("slotworks.api.synthesize", lambda config, folder, **how: given.update(how) or STOPPED)
    assert main([*command, "--json"]) == 0
    assert (given["rank"], given["world_size"]) == (1, 2)  # torchrun's second process begins with the second half


STOPPED = {"images": 0, "shards": 0, "made": 0}


def test_pictures_get_other_masks(tmp_path, capsys):
    words = ["synthesize", "glass.scenes", "--num-images", "2", "--steps", "2", "--batch-size", "1", "--json"]
    assert main([*words, "--out", str(tmp_path / "pictures")]) == 0
    assert (
        main([*words, "--out", str(tmp_path / "low"), "--pictures-of", str(tmp_path / "pictures"), "--low", "0"]) == 0
    )
    assert '"made": 2' in capsys.readouterr().out
    assert (tmp_path / "low" / "shard-00000.parquet").exists()


def test_stopping_says_that_nothing_is_lost(tmp_path, capsys, monkeypatch):
    def stop(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("slotworks.api.synthesize", stop)
    assert main(["synthesize", "glass.scenes", "--out", str(tmp_path)]) == 130
    assert "Finished shards are kept" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["glass.coca"], "Nearest: glass.coco"),
        (["--out", "x"], "expected one of glass.coco"),
        (["glass.scenes", "--rank", "1"], "--rank and --world-size belong together"),
        (["glass.scenes", "--rank", "2", "--world-size", "2"], "counted from 0"),
        (["glass.scenes", "--workers", "0"], "--workers is 0; expected a number of processes"),
        (["glass.scenes", "--workers", "2", "--rank", "0", "--world-size", "2"], "leave --rank and --pictures-of out"),
        (["glass.scenes", "--pictures-of", "x"], "--pictures-of needs --out"),
        (["glass.scenes", "--gpus", "1"], "--gpus is 1, which Ray places parts by; add --engine ray"),
        (["glass.scenes", "--engine", "ray", "--cpus", "many"], "--cpus is many; expected how many a part needs"),
        (["glass.scenes", "--engine", "ray", "--address", "head"], "--address is head; expected HOST:PORT"),
    ],
)
def test_mistakes_get_a_sentence(words, message, capsys):
    assert main(["synthesize", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_wrong_option_is_named(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["synthesize", "glass.scenes", "--power", "-1"])
    assert stopped.value.code == 2
    assert "power is -1; it cannot be negative" in capsys.readouterr().err


def test_a_name_of_nothing_to_synthesize(capsys):
    for name, near in (("glass.scene", "glass.scenes"), ("glass.vok", "glass.voc")):
        assert main(["synthesize", name]) == 2
        assert f"There is nothing to synthesize under '{name}'. Nearest: {near}" in capsys.readouterr().err
