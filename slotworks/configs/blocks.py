"""Blocks, beside the recipes whose scores they put in place: same images, as many regions. No training."""

from slotworks.configs import savi
from slotworks.configs.recipe import recipe
from slotworks.configs.shared import PAINTED, PAINTED_VIDEOS, SCENES, VIDEO_SCENES, untrained
from slotworks.data import COCO, VOC
from slotworks.methods import BlocksConfig
from slotworks.training import Run

NOTHING = "nothing is trained; how long scoring takes is not measured"


@recipe(takes=NOTHING)
def scenes_mini() -> Run:
    """Quadrants on the drawn scenes of slate.scenes_mini and slot_diffusion.scenes_mini."""
    return untrained(BlocksConfig(), SCENES)


@recipe(takes=NOTHING)
def painted_mini() -> Run:
    """Two rows of three on painted scenes, as many regions as slots in slot_diffusion.painted_mini."""
    return untrained(BlocksConfig(rows=2, columns=3, image_size=64), PAINTED.images)


@recipe(takes=NOTHING)
def videos_mini() -> Run:
    """Quadrants on the drawn videos of steve.scenes_mini and slot_diffusion.video_scenes_mini."""
    return untrained(BlocksConfig(), VIDEO_SCENES)


@recipe(takes=NOTHING)
def painted_videos_mini() -> Run:
    """Quadrants on painted videos, beside savi.painted_mini, steve.painted_mini, slot_diffusion.video_painted_mini."""
    return untrained(BlocksConfig(image_size=64), PAINTED_VIDEOS, savi.painted_mini().protocol)


@recipe(takes=NOTHING)
def savi_mini() -> Run:
    """Quadrants on the drawn videos of savi.scenes_mini."""
    run = savi.scenes_mini()
    return untrained(BlocksConfig(), run.data, run.protocol)


@recipe(takes=NOTHING)
def voc() -> Run:
    """VOC 2012, two rows of three: as many regions as slots in the recipes of DINOSAUR."""
    return untrained(BlocksConfig(rows=2, columns=3, image_size=224), VOC(image_size=224, mask_size=320))


@recipe(takes=NOTHING)
def coco() -> Run:
    """COCO 2017, two rows of four: one region more than slots in the recipes of DINOSAUR."""
    return untrained(BlocksConfig(rows=2, columns=4, image_size=224), COCO(image_size=224, mask_size=320))
