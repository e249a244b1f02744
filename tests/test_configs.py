"""Every recipe builds, its numbers are the paper's, and it learns from two steps."""

from dataclasses import replace

import pytest
import torch

from slotworks import tables
from slotworks.configs import recipes
from slotworks.configs.synthesis import RECIPES
from slotworks.encoders import ViTConfig
from slotworks.training import Run, schedule

PARAMETERS = {  # counted by hand from tables 3 to 6 of the supplement
    "slot_attention.tetrominoes": 235_812,
    "slot_attention.multi_dsprites": 235_812,
    "slot_attention.clevr6": 890_308,
}
PUBLISHED = {"tetrominoes": "99.5", "multi_dsprites": "91.3", "clevr6": "98.8"}


EARLIER = ("glass.", "stable_lsd.", "slot_diffusion.", "dataset_diffusion.", "diffu_mask.", "comus.")
LEARNS = [  # the others start from an earlier run, load weights, or are as large as their papers say
    name
    for name in recipes()
    if name.startswith("slot_attention.")
    or (name.endswith("_mini") and "stage2" not in name and not name.startswith(EARLIER))
]


def noise(run: Run) -> dict[str, torch.Tensor]:
    """One random sample: an image, or the features of a frozen encoder, as they would come from the cache."""
    encoder = getattr(run.method, "encoder", None)
    if isinstance(encoder, ViTConfig):
        features = torch.randn(1, encoder.grid[0] * encoder.grid[1], encoder.feature_dim)
        kept = {"image": torch.rand(1, 3, *run.data.size)} if getattr(run.data, "keep_images", False) else {}
        return {"features": features, **kept}
    if getattr(run.data, "frames", "") == "video":
        corner = torch.rand(1, 3, 2, 2) / 2  # two boxes
        return {"video": torch.rand(1, 3, 3, *run.data.size), "boxes": torch.cat([corner, corner + 0.4], dim=-1)}
    sample = {"image": torch.rand(1, 3, *run.data.size)}
    if categories := getattr(run.method, "categories", ()):  # set prediction: two objects
        sample["objects"] = torch.rand(1, 2, 3 + sum(categories) + 1)
    return sample


LARGE = ("clevrtex", "coco", "voc", "celeba")  # of slot_attention.*: ten seconds each; clevr6 stays among the quick


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in [f"slot_attention.{data}" for data in LARGE] else ())
        for name in LEARNS
        if recipes()[name]().steps
        and not getattr(recipes()[name]().method, "reads_captions", False)  # of several images: tests/methods
    ],
)
def test_two_steps_lower_the_loss_of_one_sample(name):
    run = recipes()[name]()
    torch.manual_seed(0)
    method = run.method.build()
    sample = noise(run)
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-4)
    losses = []
    for step in range(3):
        torch.manual_seed(1)
        loss = torch.stack(list(method.loss(sample, run.steps - 3 + step).values())).sum()  # clips, not single frames
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[2] < losses[0]
    used = {name: p.grad is not None for name, p in method.named_parameters() if p.requires_grad}
    unused = [name for name, has in used.items() if not has]
    if not getattr(run.method, "carry", True):  # frame by frame, the predictor waits for the run that starts from here
        unused = [name for name in unused if not name.startswith("video_slots.predictor.")]
    assert not unused


@pytest.mark.parametrize("name", PARAMETERS)
def test_published_recipes_are_the_papers(name):
    run = recipes()[name]()
    assert sum(p.numel() for p in run.method.build().parameters()) == PARAMETERS[name]
    assert (run.steps, run.batch_size) == (500_000, 64)
    assert schedule(run.optimizer, 10_000, run.steps) == pytest.approx(3.732e-4, rel=1e-3)
    assert PUBLISHED[name.split(".")[1]] in run.expected


def test_each_published_recipe_has_a_mini_that_needs_no_file():
    names = recipes()
    for name in (*PARAMETERS, "slot_attention.clevrtex"):
        data = names[f"{name}_mini"]().data
        data = replace(data, num_train=2)
        assert data.open("train").__getitems__([1])["image"].shape == (1, *data.size, 3)


@pytest.mark.parametrize("name", recipes())
def test_recipes_say_their_command_and_have_a_slot_for_each_object(name):
    function = recipes()[name]
    run = function()
    verb = "train" if run.steps else "evaluate"
    assert (tables.row(name) or {})["command"].split(" && ")[-1].startswith(f"slotworks {verb} {name}")
    fewer = ("movi_e_mlp_11", "movi_e_mlp_b8_11")  # published with 11 slots for up to 23 objects
    fewer += tuple(f"steve.movi_{kind}" for kind in ("d", "e", "d_stage2", "e_stage2"))  # 15, as released
    fewer += tuple(f"slot_diffusion.movi_{kind}" for kind in ("d", "d_t100", "e", "e_t100"))
    fewer += tuple(f"savi.movi_{kind}_unconditional" for kind in ("d", "e"))  # 15, as in SlotDiffusion
    if run.data.max_objects is not None and not name.endswith(fewer) and hasattr(run.method, "num_slots"):
        assert run.method.num_slots >= run.data.max_objects


def test_set_prediction_is_trained_as_the_supplement_says():
    """Tables 7, 8 and 10: parameters, steps, and the largest learning rate, reached at the end of the warmup."""
    published = {"set_prediction.clevr10": (380_755, "94.3 86.7 56.0 10.8 0.9")}
    encoder_and_head = 380_755 - 54_336
    published["slot_mlp.clevr10"] = (8_980_096 + encoder_and_head, "19.8 1.4 0.3 0.0 0.0")
    for name, (parameters, precision) in published.items():
        run = recipes()[name]()
        with torch.device("meta"):
            assert sum(p.numel() for p in run.method.build().parameters()) == parameters
        assert (run.steps, run.batch_size) == (150_000, 512)
        assert schedule(run.optimizer, 1_000, run.steps) == pytest.approx(3.945e-4, rel=1e-3)
        assert schedule(run.optimizer, 150_000, run.steps) == pytest.approx(5e-5, rel=1e-3)
        numbers = recipes()[name].published[0].numbers.values()
        assert [value.split(" +- ")[0] for value in numbers] == precision.split()
    for name, steps in (("dspn.clevr10", None), ("dspn.clevr10_t30", 30)):
        run = recipes()[name]()
        assert (run.optimizer.lr, run.batch_size, run.method.inner_lr) == (3e-4, 32, 25)
        assert (run.method.num_iterations, run.method.test_iterations) == (10, steps)
        assert run.steps == 100 * (70_000 // 32)


def test_rows_of_glass_say_how_they_are_measured():
    """Section 4: masks are compared at their own size. Supplement B.1: probes. Release: 512 images, seed 42."""
    everything = recipes()
    for name in ("coco", "voc", "coco_dagger", "voc_dagger", "coco_sem", "coco_phase2"):
        images = everything[f"glass.{name}"]().data.images
        assert (images.image_size, images.mask_size) == (448, 512)
    assert everything["glass.scenes_mini"]().data.images.mask_size == 64  # what its own model draws
    for name, how in (("coco", "--epochs 10"), ("voc", "--train-target class")):
        for method in ("glass", "stable_lsd"):
            assert f"by --task properties {how}, supplement B.1" in everything[f"{method}.{name}"]().expected
    for name in ("glass.coco_phase2", "glass.coco_dagger_phase2", "stable_lsd.coco"):
        assert "--task reconstruction --perceptual --images 512 --seed 42" in everything[name]().expected


def test_rows_of_glass_train_on_images_of_their_own_words():
    """A dagger: true classes. Another caption, another reading of captions, masks of SAM 2: images of their own."""
    everything = recipes()
    images = {"coco": "coco", "voc": "voc", "coco_dagger": "coco_labels", "voc_dagger": "voc_labels"}
    images |= {f"{name}_phase2": made for name, made in images.items()}
    images |= {name: name for name in ("coco_names", "voc_names", "coco_templates", "coco_sharegpt", "coco_sam2")}
    images |= {"coco_pseudo": "coco", "scenes_mini": "scenes", "scenes_repeated_mini": "scenes_repeated"}
    for name, made in images.items():
        data = everything[f"glass.{name}"]().data.images
        assert data.root == f"data/generated/glass.{made}"
        assert data.real.name.startswith(name.partition("_")[0].replace("scenes", "shape_scenes"))
        assert made == "coco_sam2" or f"glass.{made}" in RECIPES  # those are coco's with other masks
    runs = [everything[f"glass.{name}"]().method for name in ("coco_sam2", "coco_pseudo")]
    assert [run.loss_weights for run in runs] == [{"semantic": 1.0, "instance": 0.0}] * 2  # table 6c
    assert everything["glass.coco"]().method.loss_weights == {"semantic": 0.7, "instance": 0.9}
    segmenter = everything["dataset_diffusion.coco_dinov2_100k"]()
    assert segmenter.data.root == "data/generated/glass.coco"  # supplement F: GLASS's images, and DINOv2
    assert segmenter.method.vit.model == everything["glass.coco"]().method.encoder.model


GLASS_TABLES = {  # tables 3 (SO, PO, GO on its own data), 4 (mIoU_i, mBO_i) and 8 (top-1, position MSE)
    "table 3": {
        ("stable_lsd", "coco", "voc"): "10.2 87.3 1.6, 6.7 91.6 0.40",
        ("dinosaur", "coco_mlp", "voc_mlp"): "22.1 71.2 2.1, 22.4 70.2 0.07",
        ("spot", "coco_stage2", "voc_stage2"): "24.7 69.7 0.01, 26.2 65.0 0.00",
        ("glass", "coco_dagger", "voc_dagger"): "27.3 49.6 0.01, 30.4 26.2 0.67",
        ("glass", "coco", "voc"): "25.2 45.9 0.00, 26.7 42.3 0.01",
    },
    "table 4": {
        ("stable_lsd", "coco"): "24.0 27.6, 14.8 16.9",
        ("dinosaur", "coco_mlp"): "30.2 35.1, 16.2 18.9",
        ("spot", "coco_stage2"): "39.5 43.7, 18.0 20.7",
        ("glass", "coco_dagger"): "47.2 52.3, 19.6 22.4",
        ("glass", "coco"): "46.1 50.1, 18.6 21.4",
    },
    "table 8": {
        ("stable_lsd", "coco", "voc"): "16.4 0.062, 55.1 0.039",
        ("glass", "coco", "voc"): "20.8 0.059, 58.1 0.037",
    },
}


@pytest.mark.parametrize("table", GLASS_TABLES)
def test_rows_of_glass_print_its_numbers(table):
    """Of table 4 a recipe has two rows: CLEVRTex, then Objects365."""
    for (method, *names), printed in GLASS_TABLES[table].items():
        found = [one for name in names for one in recipes()[f"{method}.{name}"].published]
        rows = [one for one in found if one.source == f"GLASS, {table}"]
        assert ", ".join(" ".join(row.numbers.values()) for row in rows) == printed
        if table == "table 4":
            assert [row.note.split(", ")[0] for row in rows] == ["on CLEVRTex", "on Objects365"]


def test_slot_diffusion_on_photographs_reads_the_last_hidden_state():
    """`video_based/models/dino.py` of its repository: behind the last norm, images normalised by 0.5."""
    for name in ("voc", "coco"):
        encoder = recipes()[f"slot_diffusion.{name}"]().method.encoder
        assert (encoder.features, encoder.mean, encoder.std) == ("normed", (0.5,) * 3, (0.5,) * 3)


def test_methods_without_training_are_scored_as_printed():
    """MaskCLIP's README: foreground pixels alone. DiffCut's `eval_diffcut.py`: PAMR, 128 pixels."""
    everything = recipes()
    assert everything["mask_clip.voc_foreground"].options == "--task semantic --count-background False"
    for name in ("voc", "voc_sd14", "coco"):
        run = everything[f"diff_cut.{name}"]()
        assert (run.method.refinement, run.method.map_size, run.data.mask_size) == (10, 128, 128)
    assert everything["diff_cut.voc_unrefined"]().method.refinement == 0
