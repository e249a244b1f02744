"""Names of metrics, methods and data, and values of metrics, as papers print them, and what findings mean."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slotworks.reports.charts import finite_number
from slotworks.tables import metric

FINDINGS = {
    "healthy": "No check found anything wrong; the pictures below are the proof.",
    "too_early": "So few steps are done that masks cannot tell yet what will become of the slots.",
    "nan": "Numbers became infinite or undefined; nothing after that is of use.",
    "not_specialised": "All slots still see the same; many runs pass through this before objects appear.",
    "uniform_attention": "Every slot sees a little of every pixel, so none stands for an object.",
    "one_slot_takes_all": "One slot renders the whole picture and the others nothing.",
    "stripes": "Every picture is cut into the same pieces whatever it shows: slots stand for places, not for objects.",
    "background_split": "Several slots share the background; objects can be found all the same.",
    "dead_slots": "Some slots own no pixel.",
    "over_segmentation": "Objects are cut into pieces, a slot for each.",
    "merged_objects": "One slot holds several objects.",
    "loss_not_falling": "The loss does not show that anything is learned.",
}
"""What the detector's findings say about slots, by name."""

METHODS = {
    "Blocks": "Blocks",
    "CLIPpy": "CLIPpy",
    "Comus": "COMUS",
    "DatasetDiffusion": "Dataset Diffusion",
    "DeepSpectral": "Deep Spectral Methods",
    "DiffCut": "DiffCut",
    "Dinosaur": "DINOSAUR",
    "DinosaurStudent": "DINOSAUR",
    "DSPN": "DSPN",
    "DVAE": "Discrete VAE",
    "EmerDiff": "EmerDiff",
    "FeatureKMeans": "k-means on features",
    "Glass": "GLASS",
    "MAE": "MAE",
    "MaskCLIP": "MaskCLIP",
    "OVDiff": "OVDiff",
    "OVSegmentor": "OVSegmentor",
    "PaintedDiffusion": "Painted diffusion",
    "SAVi": "SAVi",
    "SegCLIP": "SegCLIP",
    "SetPrediction": "Slot Attention for sets",
    "Slate": "SLATE",
    "SlotAttention": "Slot Attention",
    "SlotDiffusion": "SlotDiffusion",
    "SlotMLP": "Slot MLP for sets",
    "SlotMLPAutoencoder": "Slot MLP",
    "Spot": "SPOT",
    "SpotStudent": "SPOT",
    "StableLSD": "StableLSD",
    "Steve": "STEVE",
    "TinyCLIP": "Tiny CLIP",
    "TinyDiffusion": "Tiny diffusion",
    "VideoSlotDiffusion": "SlotDiffusion",
    "VQVAE": "VQ-VAE",
}
"""The methods of the package by the names of their settings without `Config`."""

DATA = {
    "Bitmoji": "Bitmoji",
    "CaptionedScenes": "captioned drawn scenes",
    "CelebA": "CelebA",
    "CLEVR": "CLEVR",
    "CLEVRMirror": "CLEVR-Mirror",
    "CLEVRTex": "CLEVRTex",
    "CLEVRv1": "CLEVR with properties",
    "COCO": "COCO",
    "CollageScenes": "collages of cut-outs",
    "Generated": "generated images",
    "ImageText": "images with texts",
    "MOVi": "MOVi",
    "MultiDSprites": "Multi-dSprites",
    "PaintedScenes": "painted scenes",
    "PaintedVideos": "painted videos",
    "Pictures": "own pictures",
    "SetScenes": "drawn scenes",
    "ShapeScenes": "drawn scenes",
    "Shapes3D": "3D Shapes",
    "ShapeStacks": "ShapeStacks",
    "SpriteScenes": "drawn sprites",
    "Tetrominoes": "Tetrominoes",
    "TetrominoScenes": "drawn Tetrominoes",
    "VideoScenes": "drawn videos",
    "VOC": "VOC 2012",
}
"""The data sets of the recipes by the names of their settings."""


STORED = ("CachedFeatures", "CachedLatents")
"""Data that are made of images, whose name is theirs."""


def label(name: str) -> str:
    """A metric as papers print it, as its task says: `fg_ari` is FG-ARI, `mbo_i` is mBO_i."""
    return metric(name)["label"] or (name.upper() if len(name) <= 5 else name.replace("_", " "))


def score(name: str, mean: Any, sem: Any) -> str:
    """A value of a metric as papers print it, shares in percent, with its standard error; n/a where there is none."""
    if finite_number(mean) is None:
        return "n/a"
    scale, digits = (100, 1) if metric(name)["unit"] == "share" else (1, 3)
    spread = "" if finite_number(sem) is None else f" ± {scale * sem:.{digits}f}"
    return f"{scale * mean:.{digits}f}{spread}"


def method_name(method: Mapping[str, Any]) -> str:
    """A method, from its settings with their `kind`, as its paper calls it; a user's own by its class."""
    kind = str(method["kind"]).removesuffix("Config")
    return METHODS.get(kind, kind)


def data_name(data: Mapping[str, Any]) -> str:
    """Data, likewise; of stored features and latents those of the images behind them."""
    kind, images = str(data["kind"]), data.get("images")
    if kind in STORED and isinstance(images, Mapping) and "kind" in images:
        return data_name(images)
    return DATA.get(kind, kind)


def run_name(folder: str | Path) -> str:
    """What a run folder is called for people: its last part, or what `slotworks.hub.local_run` made it of.

    >>> [run_name(f"runs/{name}") for name in ("mine", "hub/zoo--glass-painted@cd764172df59", "hub/me--a@0123456789ab")]
    ['mine', 'zoo:glass-painted', 'hf://me/a']
    """
    path = Path(folder).resolve()
    found = re.fullmatch(r"(?:(?P<owner>[^@]+?)--)?(?P<name>[^@]+)@[0-9a-f]{12}", path.name)
    if found is None or path.parent.name != "hub":
        return path.name
    owner, name = found["owner"], found["name"]
    return name if owner is None else f"zoo:{name}" if owner == "zoo" else f"hf://{owner}/{name}"
