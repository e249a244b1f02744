"""Whole jobs in Python: evaluation on other data, without training, without masks."""

import json
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import get_type_hints

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from slotworks import api
from slotworks.cli.sources import find_run
from slotworks.configs import recipes, slot_attention
from slotworks.data.readers.movi import MOVi
from slotworks.data.scenes import ShapeScenes, TetrominoScenes
from slotworks.data.stores.features import CachedFeatures
from slotworks.data.stores.generated import Generated
from slotworks.encoders import ViTConfig
from slotworks.evaluation import properties
from slotworks.evaluation.resized import Resized, images_for
from slotworks.evaluation.validation import announced
from slotworks.reports import write_report
from slotworks.training import Run
from slotworks.training.serialize import save_run, to_yaml
from slotworks.types import DataConfig, Method, MethodConfig, SlotOutput, UserError

SCENES = ShapeScenes(image_size=32, sizes=(0.25, 0.3), num_train=12, num_val=4, num_test=6)


@dataclass(frozen=True)
class QuartersConfig(MethodConfig):
    image_size: int = 32

    def build(self):
        return Quarters(self)


class Quarters(Method):
    """Every image in four quarters; a slot is the mean colour of its own and a random number."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.noise = nn.Linear(3, 4)

    def encode(self, image):
        assert image.shape[-2:] == (self.config.image_size,) * 2
        attn = torch.eye(4).expand(len(image), 4, 4)
        color = nn.functional.adaptive_avg_pool2d(image, 2).flatten(2).mT
        return SlotOutput(torch.cat([color, self.noise(color)], -1), attn)


QUARTERS = Run(method=QuartersConfig(), data=SCENES, steps=0, batch_size=2, protocol="oclf")


@dataclass(frozen=True)
class Photos(DataConfig):
    """Pictures of noise, in which nobody marked an object. Without `image_size`: they have the size they have."""

    height: int = 20
    width: int = 30

    @property
    def name(self):
        return "photos"

    @property
    def size(self):
        return self.height, self.width

    def open(self, split="train"):
        return Noise(self)


class Noise:
    def __init__(self, config, *, masks=False):
        self.config, self.masks = config, masks

    def __len__(self):
        return 4

    def __getitems__(self, indices):
        rng = np.random.default_rng(list(indices))
        shape = (len(indices), *self.config.size)
        batch = {"image": rng.integers(0, 256, (*shape, 3), dtype=np.uint8)}
        return batch | ({"mask": rng.integers(0, 3, shape, dtype=np.uint8)} if self.masks else {})


@dataclass(frozen=True)
class Marked(Photos):
    def open(self, split="train"):
        return Noise(self, masks=True)

    @property
    def name(self):
        return "marked photos"


@pytest.fixture
def folder(tmp_path):
    return api.untrained(QUARTERS, tmp_path / "quarters")


def test_a_method_that_needs_no_training(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["env.json", "run.yaml"]
    run, method = api.load(folder)
    assert run == QUARTERS
    torch.rand(3)
    again = api.load(folder)[1]
    assert torch.equal(method.noise.weight, again.noise.weight)  # the run's seed, whatever was drawn before
    [record] = api.evaluate(folder, batch_size=2)
    assert (record["protocol"], record["data"]) == ("oclf[attention]", "shape_scenes_plain")
    assert record["num_images"] == 6
    assert record["checkpoint"] == "none: nothing was trained"
    stored = json.loads((folder / "eval" / "shape_scenes_plain-test-oclf[attention].json").read_text())
    assert stored["metrics"]["mbo_i"]["mean"] == record["metrics"]["mbo_i"]["mean"]
    assert {"corloc", "recovery"} <= set(stored["metrics"])
    assert (folder / "samples" / "index.json").is_file()
    assert api.untrained(QUARTERS, folder) == folder
    with pytest.raises(UserError, match="holds a different run: seed was 0 and is now 1"):
        api.untrained(replace(QUARTERS, seed=1), folder)
    with pytest.raises(UserError, match="takes 5 steps of training; train it first"):
        api.untrained(replace(QUARTERS, steps=5), folder)
    assert api.examine(folder)[0].severity in ("ok", "note", "problem")


def test_a_second_evaluation_keeps_the_record_of_the_first(folder):
    """Fewer images, another seed, other images of the same name: each has a file, and the report shows them all."""
    api.evaluate(folder, batch_size=2)
    path = folder / "eval" / "shape_scenes_plain-test-oclf[attention].json"
    before = path.read_bytes()
    api.evaluate(folder, batch_size=2, num_images=3)
    api.evaluate(folder, batch_size=2, num_images=3, seed=4)
    api.evaluate(folder, batch_size=3)
    api.evaluate(folder, batch_size=2, data=replace(SCENES, num_test=6, sizes=(0.2, 0.3)))
    assert path.read_bytes() == before
    names = {one.stem.removeprefix(path.stem) for one in path.parent.glob("shape*.json")}
    assert len(names) == 5
    assert {"", "-3-images", "-3-images-seed-4", "-batch-size-3"} < names
    api.evaluate(folder, batch_size=2, num_images=3)  # the same again
    assert len(list(path.parent.glob("shape*.json"))) == 5
    page = write_report(folder).read_text(encoding="utf-8")
    for name in names:
        assert f">oclf[attention]{name}<" in page
    first = page[: page.index("All scores")]
    assert "test split, 6 images" in first  # the number of most images comes first
    assert json.loads(before)["settings"]["step"] == 0
    assert json.loads(before)["settings"]["data"]["sizes"] == [0.25, 0.3]


def test_several_data_sets(folder):
    textured = replace(SCENES, background="textured", num_test=3)
    records = api.evaluate(folder, data=[SCENES, textured], protocols=["oclf", "so-po-go"])
    pairs = [(record["data"], record["protocol"]) for record in records]
    assert pairs == [
        (f"shape_scenes_{name}", f"{rules}[attention]")
        for name in ("plain", "textured")
        for rules in ("oclf", "so-po-go")
    ]
    assert [record["num_images"] for record in records] == [6, 6, 3, 3]
    assert all(record["run"] == str(folder) for record in records)
    assert len(list((folder / "eval").glob("*.json"))) == 4
    shares = [records[1]["metrics"][kind]["mean"] for kind in ("so", "po", "go", "bg")]
    assert sum(shares) == pytest.approx(1, abs=1e-12)
    assert "by our own definition" in records[1]["rules"]


def test_other_sizes(folder):
    """Drawn at the method's size where that is possible, otherwise resized, and the record says so."""
    [drawn] = api.evaluate(folder, data=replace(SCENES, image_size=48))
    [same] = api.evaluate(folder, data=SCENES)
    assert drawn["metrics"] == same["metrics"]
    assert drawn["rules"] == same["rules"]
    [resized] = api.evaluate(folder, data=Marked())
    assert resized["rules"].endswith("; images resized from 20 x 30 to 32 x 32 pixels")
    assert resized["metrics"]["mbo_i"]["n"] == 4
    [small] = api.evaluate(folder, data=TetrominoScenes(num_test=2))
    assert small["rules"].endswith("; images resized from 35 x 35 to 32 x 32 pixels")


def test_images_of_another_size_than_the_trained_one(folder, monkeypatch):
    """Quarters are quarters at any size; the record says the size, and does not replace that of the other."""
    [own] = api.evaluate(folder)
    with pytest.raises(UserError, match="Quarters does not take images of 48 x 48 pixels"):
        api.evaluate(folder, image_size=48)

    def encode(self, image):
        color = nn.functional.adaptive_avg_pool2d(image, 2).flatten(2).mT
        return SlotOutput(color, torch.eye(4).expand(len(image), 4, 4))

    monkeypatch.setattr(Quarters, "encode", encode)
    [large] = api.evaluate(folder, image_size=48)
    assert large["rules"].endswith("; images of 48 x 48 pixels")
    assert large["settings"]["options"] == {"image_size": 48}
    assert len(list((folder / "eval").glob("*.json"))) == 2
    assert own["rules"] + "; images of 48 x 48 pixels" == large["rules"]
    with pytest.raises(UserError, match="image_size is 0"):
        api.evaluate(folder, image_size=0)


def test_resized_as_pillow_does():
    dataset = Resized(Noise(Marked(), masks=True), (7, 12))
    batch = dataset.__getitems__([2, 3])
    assert batch["image"].shape == (2, 7, 12, 3)
    assert batch["image"].dtype == np.uint8
    assert batch["mask"].shape == (2, 20, 30)
    source = Noise(Marked(), masks=True).__getitems__([2, 3])["image"]
    for ours, original in zip(batch["image"], source, strict=True):
        theirs = np.asarray(Image.fromarray(original).resize((12, 7), Image.Resampling.BILINEAR))
        assert np.abs(ours.astype(int) - theirs).max() <= 1
    same = Resized(Noise(Marked()), (20, 30)).__getitems__([2, 3])["image"]
    assert np.array_equal(same, source)


def test_properties(folder):
    options = {"epochs": 2, "probe_batch_size": 4, "val_share": 0.25}
    [record] = api.evaluate(folder, task="properties", **options)
    assert record["protocol"] == "properties"
    assert "25% of 12 training images" in record["rules"]
    assert {"top1", "top1_constant", "position_mse", "unmatched"} <= set(record["metrics"])
    assert (folder / "eval" / "shape_scenes_plain-test-properties.json").is_file()
    [color] = api.evaluate(folder, task="properties", label="color", **options)
    objects = SCENES.open("test").__getitems__(range(6))
    assert color["metrics"]["top1"]["n"] == (objects["color"] > 0).sum()
    with pytest.raises(UserError, match="protocols is no option of the task properties; nearest: "):
        api.evaluate(folder, task="properties", protocols=["oclf"])


def test_rows_of_properties_start_where_the_data_set_starts_them(folder, monkeypatch):
    """Official files have a row for the background, drawn scenes do not."""
    seen = []

    def probe(method, train, test, *, background_row, **options):
        seen.append(background_row)
        raise UserError("enough")

    class Rows(Noise):
        def __getitems__(self, indices):
            return super().__getitems__(indices) | {"shape": np.zeros((len(indices), 4), np.uint8)}

    monkeypatch.setattr(properties, "evaluate_properties", probe)
    for objects in (3, 4, None):
        data = type("Counted", (Marked,), {"max_objects": objects, "open": lambda self, split: Rows(self, masks=True)})
        with pytest.raises(UserError, match="enough"):
            api.evaluate(folder, task="properties", data=data(), label="shape")
    assert seen == [True, False, False]


def test_semantic_scores_need_names_of_classes(folder):
    with pytest.raises(UserError, match="photos does not name classes; semantic scores need data that do"):
        api.evaluate(folder, data=Photos(), task="semantic")
    [record] = api.evaluate(folder, data=SCENES, task="semantic", rule="per_image")
    assert record["protocol"] == "semantic-per_image"
    assert 0 < record["metrics"]["semantic_miou"]["mean"] < 1
    assert "iou_triangle" in record["metrics"]


def test_what_is_evaluated_are_images(folder):
    """The images behind cached features, real ones besides generated ones, frames of videos for a method of images."""
    cached = CachedFeatures(SCENES, ViTConfig(image_size=32, patch_size=16))
    [record], [plain] = (api.evaluate(folder, data=data) for data in (cached, SCENES))
    assert record["metrics"] == plain["metrics"]
    run, videos = api.load(folder)[0], MOVi(image_size=32)
    assert images_for(run.data, videos, "test").name == "movi_a_frames"
    assert images_for(videos, videos, "test").name == "movi_a"
    generated = Generated(real=SCENES)
    assert images_for(run.data, generated, "test") is SCENES
    assert images_for(run.data, generated, "train") is generated


def test_evaluation_needs_masks(folder):
    with pytest.raises(UserError, match="no masks, only image"):
        api.evaluate(folder, data=Photos())


def test_training_without_masks_shows_and_judges_but_scores_nothing(tmp_path, capsys):
    recipe = slot_attention.tetrominoes_mini()
    run = replace(recipe, data=Photos(35, 35), steps=2, batch_size=2, eval_every=1, save_every=2, tensorboard=False)
    seen = []
    answer = api.train(run, tmp_path / "run", on_eval=lambda *args: seen.append(args))
    assert answer["metrics"] == {}
    assert answer["protocol"] == (
        "photos has no true masks in its split test: nothing is scored, see the pictures and the detector."
    )
    assert [(step, values) for step, values, _ in seen] == [(1, {}), (2, {})]
    assert all(verdict for *_, verdict in seen)
    assert answer["verdict"]
    rows = json.loads((tmp_path / "run" / "samples" / "index.json").read_text())["rows"]
    assert [row["index"] for row in rows] == [0, 1, 2, 3]
    assert all("truth" not in row for row in rows)
    assert [path.name for path in (tmp_path / "run" / "eval").iterdir()] == ["doctor.json"]
    assert "photos has no true masks in its split val" in capsys.readouterr().err


def test_a_recipe_says_on_which_split_it_is_measured(tmp_path):
    """Numbers of a table that is of the validation split are compared with numbers of the validation split."""
    run = replace(QUARTERS, eval_split="val")
    folder = api.untrained(run, tmp_path / "run")
    assert [(r["split"], r["num_images"]) for r in api.evaluate(folder)] == [("val", 4)]
    assert [(r["split"], r["num_images"]) for r in api.evaluate(folder, split="test")] == [("test", 6)]
    assert api.evaluate(folder, data=replace(TetrominoScenes(), num_test=2))[0]["split"] == "test"
    assert len(list((folder / "eval").glob("shape_scenes_plain-val-*.json"))) == 1
    trained = slot_attention.tetrominoes_mini()
    small = replace(trained.method, channels=4, slot_dim=4, mlp_dim=4)
    data = replace(trained.data, num_train=4, num_val=3, num_test=2)
    trained = replace(trained, method=small, data=data, steps=1, batch_size=2, eval_split="val", tensorboard=False)
    answer = api.train(trained, tmp_path / "trained")
    assert answer["split"] == "val"
    assert len(list((tmp_path / "trained" / "eval").glob("*-val-*.json"))) == 2
    object.__setattr__(trained, "eval_split", "train")
    with pytest.raises(ValueError, match="eval_split is 'train'; choose test or val"):
        trained.__post_init__()


def test_a_part_is_scored_on_the_way_and_all_at_the_end(tmp_path, capsys):
    run = slot_attention.tetrominoes_mini()
    small = replace(run.method, channels=4, slot_dim=4, mlp_dim=4)
    data = replace(run.data, num_train=4, num_val=5, num_test=7)
    options = {"steps": 2, "batch_size": 2, "eval_every": 1, "eval_images": 3, "tensorboard": False}
    run = replace(run, method=small, data=data, last_eval_all=True, **options)
    answer = api.train(run, tmp_path / "run")
    said = "While training, the first 3 of 5 images of the split val are scored; at the end all images of test."
    assert said in capsys.readouterr().err
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["eval/images"] for row in rows if "eval/fg_ari" in row] == [3, 3]
    records = [json.loads(path.read_text()) for path in (tmp_path / "run" / "eval").glob("tetromino*.json")]
    assert [record["num_images"] for record in records] == [7, 7]
    assert answer["images"] == "all 7 images"
    assert (answer["metrics"]["fg_ari"]["n"], len(records[0]["per_image"]["fg_ari"])) == (7, 7)
    looked = json.loads((tmp_path / "run" / "eval" / "doctor.json").read_text())["stats"]
    assert looked["num_images"] == 3  # the detector keeps all masks in memory
    api.train(replace(run, last_eval_all=False, eval_images=6, steps=3), tmp_path / "run")
    assert "While training" not in capsys.readouterr().err  # the validation images are all seen
    (few,) = {path.name for path in (tmp_path / "run" / "eval").glob("*-6-images*")} & {
        "tetromino_scenes-test-oclf-6-images-step-3.json"
    }
    assert json.loads((tmp_path / "run" / "eval" / few).read_text())["num_images"] == 6


@pytest.mark.parametrize("sets", [False, True])
def test_sets_are_scored_without_masks(sets):
    images = Photos().open("val")
    said = announced("photos", images, {"eval_images": 1, "eval_split": "val", "last_eval_all": True}, sets=sets)
    if sets:
        some = f"the first 1 of {len(images)} images of the split val are scored"
        assert said == f"While training, {some}; at the end all images of val."
    else:
        assert said.startswith("photos has no true masks in its split val: nothing is scored")


def test_nothing_is_said_of_scores_where_none_are_made():
    images = Photos().open("val")
    settings = {"eval_images": 1, "eval_split": "val", "last_eval_all": True}
    assert announced("photos", images, settings, sets=False, slots=False) == ""


def test_methods_without_slots_say_so():
    """Every kind of method of the recipes, as `finds_slots` of what it builds has it."""
    methods = {type(run.method): run.method for run in (recipe() for recipe in recipes().values())}
    without = {kind.__name__ for kind, method in methods.items() if not method.finds_slots}
    first = {"DVAEConfig", "VQVAEConfig", "MAEConfig", "TinyCLIPConfig", "TinyDiffusionConfig"}
    assert without == first | {"PaintedDiffusionConfig"}
    for kind, method in methods.items():
        built = get_type_hints(kind.build, vars(sys.modules[kind.__module__]))["return"]
        assert method.finds_slots == (built.encode is not Method.encode), kind


@pytest.mark.parametrize("name", recipes())
def test_a_published_number_stands_beside_all_images(name):
    recipe = recipes()[name]
    assert recipe().last_eval_all == bool(recipe.published)


@pytest.mark.parametrize("name", [name for name in recipes() if ".movi_" in name])
def test_movi_is_measured_where_its_tables_are(name):
    """SAVi's README, OCLF's `configs/dataset/movi_c.yaml` and SPOT's `eval_spot.py` say validation."""
    method, _, recipe = name.partition(".")
    own = method in ("savi", "dinosaur", "spot") and not recipe.endswith("unconditional")
    assert recipes()[name]().eval_split == ("val" if own else "test")


def test_settings_of_a_trained_method_can_change_for_an_evaluation(tmp_path):
    run = slot_attention.tetrominoes_mini()
    data = replace(run.data, num_train=8, num_val=4, num_test=4)
    run = replace(run, data=data, steps=1, batch_size=2, eval_images=4, tensorboard=False)
    api.train(run, tmp_path / "run", finish=False)
    (own,) = api.evaluate(tmp_path / "run")
    config = replace(run.method, test_iterations=1)
    (other,) = api.evaluate(tmp_path / "run", config=config)
    assert other["rules"] == own["rules"] + "; not as in training: test_iterations=1"
    assert other["per_image"] != own["per_image"]
    names = {file.stem for file in (tmp_path / "run/eval").glob("tetromino*.json")}
    assert {name.partition("slot-attention")[2] for name in names} == {"", "-test_iterations=1"}
    with pytest.raises(UserError, match="was trained with 4 slots"):
        api.evaluate(tmp_path / "run", config=replace(run.method, num_slots=5))


def test_only_the_method_of_a_trained_run_can_be_changed(tmp_path):
    save_run(slot_attention.tetrominoes_mini(), tmp_path / "run.yaml")
    folder, config = find_run(str(tmp_path), settings=["method.test-iterations=3"])
    assert (folder, config.test_iterations) == (tmp_path, 3)
    with pytest.raises(UserError, match="--set can change its method only"):
        find_run(str(tmp_path), settings=["batch-size=3"])


def test_every_recipe_is_known_to_a_fresh_process(tmp_path):
    """A run folder names the classes of its method and data; whoever opens it has imported nothing but `slotworks`.

    One recipe for each set of classes.
    """
    texts = {name: to_yaml(recipe()) for name, recipe in recipes().items()}
    chosen = {frozenset(re.findall(r"kind: (\w+)", text)): name for name, text in texts.items()}
    assert len(chosen) > 40
    for name in chosen.values():
        (tmp_path / f"{name}.yaml").write_text(texts[name])
    code = (
        "import sys, pathlib, slotworks.api\n"
        "from slotworks.training import load_run\n"
        "for path in sorted(pathlib.Path(sys.argv[1]).iterdir()): load_run(path)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]
