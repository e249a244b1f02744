"""The sixteen rows of GLASS's table 9: which recipe is a method's on which data, and the commands that make its run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from slotworks.configs import find
from slotworks.configs.recipe import Recipe

Where = Literal["voc", "coco", "painted"]

SOURCE = "GLASS, table 9"  # of a `Published`


@dataclass(frozen=True)
class Row:
    """A method of the table."""

    method: str  # as the table prints it
    commands: Mapping[Where, tuple[str, ...]]  # what comes before `slotworks evaluate`; the last names the run
    note: str = ""  # what the score rests on, where it is not that of others

    def recipe(self, where: Where) -> str | None:
        """The recipe whose run is scored; None: there is none on these data."""
        found = self.commands.get(where)
        return found[-1].split()[-1] if found else None

    def printed(self, where: Where) -> str:
        """mIoU over classes as the table prints it, which the recipe knows; empty: it prints none."""
        name = self.recipe(where)
        recipe = find(name) if name else None
        published = recipe.published if isinstance(recipe, Recipe) else ()
        return next((number for one in published if one.source == SOURCE for number in one.numbers.values()), "")


def _row(method: str, note: str = "", **commands: str | tuple[str, ...]) -> Row:
    """Commands by data; one word alone is a recipe that is not trained, several are trained one after the other."""
    made: dict[Where, tuple[str, ...]] = {}
    for where in ("voc", "coco", "painted"):
        if where in commands:
            given = commands[where]
            made[where] = (given,) if isinstance(given, str) else given
    return Row(method, made, note)


def _train(*names: str) -> tuple[str, ...]:
    return tuple(f"slotworks train {name}" for name in names)


SHAPES = "trained on drawn shapes"

ROWS: tuple[Row, ...] = (
    _row("MaskCLIP", voc="mask_clip.voc", coco="mask_clip.coco", painted="mask_clip.painted_mini"),
    _row(
        "SegCLIP",
        voc=_train("seg_clip.voc"),
        coco=_train("seg_clip.coco"),
        painted=_train("seg_clip.painted_mini"),
    ),
    _row(
        "CLIPpy",
        voc=_train("clippy.voc"),
        coco=_train("clippy.coco"),
        painted=_train("clippy.painted_mini"),
    ),
    _row(
        "OVSegmentor (OVSeg)",
        voc=_train("ov_segmentor.stage_1", "ov_segmentor.voc"),
        coco=_train("ov_segmentor.stage_1", "ov_segmentor.coco"),
        painted=_train("ov_segmentor.painted_mini"),
    ),
    _row(
        "DeepSpectral",
        voc=("slotworks label deep_spectral.voc", *_train("deep_spectral.voc_stage2")),
        coco="deep_spectral.coco",
        painted="deep_spectral.scenes_mini",
    ),
    _row(
        "COMUS",
        voc=(
            "slotworks convert basnet_unsupervised.pth --out runs/comus.voc",
            "slotworks label runs/comus.voc",
            *_train("comus.voc_segmenter", "comus.voc_self_trained"),
        ),
        painted="comus.scenes_mini",
    ),
    _row(
        "DiffuMask",
        voc=("slotworks synthesize diffu_mask.voc", *_train("diffu_mask.voc")),
        painted=("slotworks synthesize diffu_mask.painted", *_train("diffu_mask.scenes_mini")),
    ),
    _row(
        "Dataset Diffusion",
        voc=(
            "slotworks synthesize dataset_diffusion.voc",
            *_train("dataset_diffusion.voc", "dataset_diffusion.voc_stage2"),
        ),
        coco=(
            "slotworks synthesize dataset_diffusion.coco",
            *_train("dataset_diffusion.coco", "dataset_diffusion.coco_stage2"),
        ),
        painted=("slotworks synthesize glass.painted", *_train("dataset_diffusion.painted_mini")),
    ),
    _row("DiffCut", voc="diff_cut.voc", coco="diff_cut.coco", painted="diff_cut.painted_mini"),
    _row(
        "OVDiff",
        voc=("slotworks synthesize ov_diff.voc", "ov_diff.voc"),
        coco=("slotworks synthesize ov_diff.coco", "ov_diff.coco"),
        painted=("slotworks synthesize ov_diff.painted", "ov_diff.scenes_mini"),
    ),
    _row("EmerDiff", voc="emer_diff.voc", coco="emer_diff.coco", painted="emer_diff.painted_mini"),
    _row(
        "DINOSAUR-MLP",
        SHAPES,
        voc=_train("dinosaur.voc_mlp"),
        coco=_train("dinosaur.coco_mlp"),
        painted=_train("dinosaur.scenes_mini"),
    ),
    _row(
        "DINOSAUR-Transformer",
        SHAPES,
        voc=_train("dinosaur.voc_transformer"),
        coco=_train("dinosaur.coco_transformer"),
        painted=_train("dinosaur.scenes_transformer_mini"),
    ),
    _row(
        "SPOT",
        SHAPES,
        voc=_train("spot.voc", "spot.voc_stage2"),
        coco=_train("spot.coco", "spot.coco_stage2"),
        painted=_train("spot.scenes_mini", "spot.scenes_stage2_mini"),
    ),
    _row(
        "StableLSD",
        voc=_train("stable_lsd.voc"),
        coco=_train("stable_lsd.coco"),
        painted=_train("stable_lsd.painted_mini"),
    ),
    _row(
        "GLASS",
        voc=("slotworks synthesize glass.voc", *_train("glass.voc_sem")),
        coco=("slotworks synthesize glass.coco", *_train("glass.coco_sem")),
        painted=("slotworks synthesize glass.painted", *_train("glass.painted_mini")),
    ),
)

BESIDE: tuple[Row, ...] = (
    _row(
        "k-means",
        "no row of the table",
        voc="feature_kmeans.voc",
        coco="feature_kmeans.coco",
        painted="feature_kmeans.painted_mini",
    ),
    _row("blocks", "no row of the table", voc="blocks.voc", coco="blocks.coco", painted="blocks.painted_mini"),
)
"""What any method has to beat."""

PER_IMAGE = ("DINOSAUR-MLP", "DINOSAUR-Transformer", "SPOT", "StableLSD", "GLASS", "k-means", "blocks")
"""Methods whose slots have no class: they are matched to classes in each image, as DiffCut's are."""
