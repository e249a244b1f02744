"""The sixteen rows of GLASS's table 9: which recipe is a method's on which data, and the commands that make its run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Where = Literal["voc", "coco", "painted"]


@dataclass(frozen=True)
class Row:
    """A method of the table."""

    method: str  # as the table prints it
    printed: Mapping[Where, str]  # mIoU over classes, as printed
    commands: Mapping[Where, tuple[str, ...]]  # what comes before `slotworks evaluate`; the last names the run
    note: str = ""  # what the score rests on, where it is not that of others

    def recipe(self, where: Where) -> str | None:
        """The recipe whose run is scored; None: there is none on these data."""
        found = self.commands.get(where)
        return found[-1].split()[-1] if found else None


def _row(method: str, of_coco: str, of_voc: str, note: str = "", **commands: str | tuple[str, ...]) -> Row:
    """Commands by data; one word alone is a recipe that is not trained, several are trained one after the other."""
    made: dict[Where, tuple[str, ...]] = {}
    for where in ("voc", "coco", "painted"):
        if where in commands:
            given = commands[where]
            made[where] = (given,) if isinstance(given, str) else given
    return Row(method, {"coco": of_coco, "voc": of_voc}, made, note)


def _train(*names: str) -> tuple[str, ...]:
    return tuple(f"slotworks train {name}" for name in names)


SHAPES = "trained on drawn shapes"

ROWS: tuple[Row, ...] = (
    _row("MaskCLIP", "20.6", "38.8", voc="mask_clip.voc", coco="mask_clip.coco", painted="mask_clip.painted_mini"),
    _row(
        "SegCLIP",
        "26.5",
        "52.6",
        voc=_train("seg_clip.voc"),
        coco=_train("seg_clip.coco"),
        painted=_train("seg_clip.painted_mini"),
    ),
    _row(
        "CLIPpy",
        "32.0",
        "52.2",
        voc=_train("clippy.voc"),
        coco=_train("clippy.coco"),
        painted=_train("clippy.painted_mini"),
    ),
    _row(
        "OVSegmentor (OVSeg)",
        "25.1",
        "53.8",
        voc=_train("ov_segmentor.stage_1", "ov_segmentor.voc"),
        coco=_train("ov_segmentor.stage_1", "ov_segmentor.coco"),
        painted=_train("ov_segmentor.painted_mini"),
    ),
    _row(
        "DeepSpectral",
        "-",
        "37.2",
        voc=("slotworks label deep_spectral.voc", *_train("deep_spectral.voc_stage2")),
        coco="deep_spectral.coco",
        painted="deep_spectral.scenes_mini",
    ),
    _row(
        "COMUS",
        "-",
        "50.0",
        voc=(
            "slotworks convert basnet_unsupervised.pth --out runs/comus.voc",
            "slotworks label runs/comus.voc",
            *_train("comus.voc_segmenter", "comus.voc_self_trained"),
        ),
        painted="comus.scenes_mini",
    ),
    _row(
        "DiffuMask",
        "-",
        "57.4",
        voc=("slotworks synthesize diffu_mask.voc", *_train("diffu_mask.voc")),
        painted=("slotworks synthesize diffu_mask.painted", *_train("diffu_mask.scenes_mini")),
    ),
    _row(
        "Dataset Diffusion",
        "34.2",
        "64.8",
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
    _row("DiffCut", "34.1", "65.2", voc="diff_cut.voc", coco="diff_cut.coco", painted="diff_cut.painted_mini"),
    _row(
        "OVDiff",
        "34.6",
        "66.3",
        voc=("slotworks synthesize ov_diff.voc", "ov_diff.voc"),
        coco=("slotworks synthesize ov_diff.coco", "ov_diff.coco"),
        painted=("slotworks synthesize ov_diff.painted", "ov_diff.scenes_mini"),
    ),
    _row("EmerDiff", "33.1", "40.3", voc="emer_diff.voc", coco="emer_diff.coco", painted="emer_diff.painted_mini"),
    _row(
        "DINOSAUR-MLP",
        "31.7",
        "41.0",
        SHAPES,
        voc=_train("dinosaur.voc_mlp"),
        coco=_train("dinosaur.coco_mlp"),
        painted=_train("dinosaur.scenes_mini"),
    ),
    _row(
        "DINOSAUR-Transformer",
        "40.6",
        "47.5",
        SHAPES,
        voc=_train("dinosaur.voc_transformer"),
        coco=_train("dinosaur.coco_transformer"),
        painted=_train("dinosaur.scenes_transformer_mini"),
    ),
    _row(
        "SPOT",
        "44.6",
        "55.3",
        SHAPES,
        voc=_train("spot.voc", "spot.voc_stage2"),
        coco=_train("spot.coco", "spot.coco_stage2"),
        painted=_train("spot.scenes_mini", "spot.scenes_stage2_mini"),
    ),
    _row(
        "StableLSD",
        "29.5",
        "32.9",
        voc=_train("stable_lsd.voc"),
        coco=_train("stable_lsd.coco"),
        painted=_train("stable_lsd.painted_mini"),
    ),
    _row(
        "GLASS",
        "46.7",
        "68.9",
        voc=("slotworks synthesize glass.voc", *_train("glass.voc_sem")),
        coco=("slotworks synthesize glass.coco", *_train("glass.coco_sem")),
        painted=("slotworks synthesize glass.painted", *_train("glass.painted_mini")),
    ),
)

BESIDE: tuple[Row, ...] = (
    _row(
        "k-means",
        "",
        "",
        "no row of the table",
        voc="feature_kmeans.voc",
        coco="feature_kmeans.coco",
        painted="feature_kmeans.painted_mini",
    ),
    _row("blocks", "", "", "no row of the table", voc="blocks.voc", coco="blocks.coco", painted="blocks.painted_mini"),
)
"""What any method has to beat."""

PER_IMAGE = ("DINOSAUR-MLP", "DINOSAUR-Transformer", "SPOT", "StableLSD", "GLASS", "k-means", "blocks")
"""Methods whose slots have no class: they are matched to classes in each image, as DiffCut's are."""
