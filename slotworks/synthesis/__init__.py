"""GLASS's data engine: captions to prompts to images to pseudo-masks.

nouns.py             which classes a caption names
captions.py          BLIP-2, or another captioner of the hub
kept.py              how much of what is in pictures their captions name
prompts.py           "caption; classes" within the text encoder's limit; where classes stand among its tokens
sources.py           where prompts come from: captions, labels, statistics, drawn scenes
stable_diffusion.py  prompts to images, each from a seed of its own
capture.py           attention maps read in passing
adaptive.py          maps to labels as DiffuMask has them: a threshold for each image
refine.py            maps to labels: self-attention, thresholds
shards.py            Parquet files and the contact sheet
engine.py            synthesize: shard after shard, shared by processes, safe against being killed
workers.py           the same by several workers at once: processes, or a Ray cluster
remask.py            other masks for pictures that are there
"""

from slotworks.synthesis.engine import Synthesis, synthesize
from slotworks.synthesis.remask import remask
from slotworks.synthesis.sources import (
    CaptionedImages,
    ClassPrompts,
    LabelPrompts,
    SceneCaptions,
    TemplatePrompts,
    WrittenCaptions,
)
from slotworks.synthesis.workers import synthesize_with

__all__ = [
    "CaptionedImages",
    "ClassPrompts",
    "LabelPrompts",
    "SceneCaptions",
    "Synthesis",
    "TemplatePrompts",
    "WrittenCaptions",
    "remask",
    "synthesize",
    "synthesize_with",
]
