"""What `slotworks synthesize` makes: the generated training sets of GLASS (Singh et al. 2025).

glass.coco    captions by BLIP-2 for COCO's training images, Stable Diffusion 2.1
glass.voc     the same for VOC's trainaug
glass.scenes  drawn scenes and the small diffusion model that comes with the package

Networks of Stable Diffusion and BLIP-2 compute in float16, as in the code of Dataset Diffusion, from which the masks
come; on drawn scenes in what the device computes fast.

The other rows of the paper have recipes of their own (`_labels` the dagger, `_templates` and `_sharegpt` Table 13) or
are fields: `--source.captioner.model`, `--masks sam2` (Table 6c).
"""

from collections.abc import Callable

from slotworks.configs.tiny_diffusion import TINY_SCENES
from slotworks.data import COCO, VOC
from slotworks.errors import nearest
from slotworks.parts import own_function
from slotworks.synthesis import (
    CaptionedImages,
    LabelPrompts,
    SceneCaptions,
    Synthesis,
    TemplatePrompts,
    WrittenCaptions,
)
from slotworks.synthesis.captions import CaptionerConfig
from slotworks.types import UserError
from slotworks.vocabulary import VOC_CLASSES


def coco() -> Synthesis:
    """118,287 captions of COCO train2017, of which about 100,000 name a class (supplement of GLASS).

    Command:   slotworks synthesize glass.coco
    Takes:     not measured; 100 U-Net calls for each image, so days on one GPU
    """
    return Synthesis(source=CaptionedImages(COCO(), CaptionerConfig(precision="16")), precision="16", batch_size=8)


def coco_labels() -> Synthesis:
    """GLASS with a dagger: the true classes of each image in place of a caption.

    Command:   slotworks synthesize glass.coco_labels
    """
    return Synthesis(source=LabelPrompts(COCO(train_masks=True)), precision="16", batch_size=8)


def coco_templates() -> Synthesis:
    """Prompts drawn from the statistics of COCO's labels: the last row of Table 13.

    Command:   slotworks synthesize glass.coco_templates
    """
    return Synthesis(source=TemplatePrompts(COCO(train_masks=True)), precision="16", batch_size=8)


def coco_sharegpt() -> Synthesis:
    """Captions by ShareGPT-4V from a text file, one in a line (Table 13); they are published as a file of their own.

    Command:   slotworks synthesize glass.coco_sharegpt --source.file FILE
    """
    return Synthesis(source=WrittenCaptions("data/sharegpt4v_coco.txt"), precision="16", batch_size=8)


def voc() -> Synthesis:
    """10,582 captions of VOC trainaug, of which almost all name one of VOC's classes.

    Command:   slotworks synthesize glass.voc
    Takes:     not measured; 100 U-Net calls for each image
    """
    source = CaptionedImages(VOC(), CaptionerConfig(precision="16"), class_names=VOC_CLASSES)
    return Synthesis(source=source, precision="16", batch_size=8)


def voc_labels() -> Synthesis:
    """GLASS with a dagger on VOC.

    Command:   slotworks synthesize glass.voc_labels
    """
    return Synthesis(source=LabelPrompts(VOC(train_masks=True)), precision="16", batch_size=8)


def scenes() -> Synthesis:
    """1,000 captions of drawn scenes for the package's own diffusion model of 64 pixels; classes are colours.

    Command:   slotworks synthesize glass.scenes --num-images 300
    """
    return Synthesis(
        source=SceneCaptions(TINY_SCENES),
        model="package:tiny_diffusion",
        num_images=1_000,
        precision="auto",
        image_size=64,
        steps=20,
        cfg_scale=3.0,
        negative_prompt="",
        self_size=16,
        power=0,  # 16 x 16 is all that this U-Net has: its self-attention blurs maps of that size, it sharpens none
        batch_size=32,
    )


RECIPES: dict[str, Callable[[], Synthesis]] = {
    f"glass.{function.__name__}": function
    for function in (coco, coco_labels, coco_templates, coco_sharegpt, voc, voc_labels, scenes)
}


def find_synthesis(name: str) -> Callable[[], Synthesis]:
    """The recipe of this name; `my_file.py:mine` takes the function `mine` from a file of your own.

    Raises:
        UserError: if there is none; names the nearest.
    """
    if ":" in name:
        return own_function("synthesis", name, "Synthesis")
    if name not in RECIPES:
        raise UserError(f"There is nothing to synthesize under {name!r}. Nearest: {nearest(name, RECIPES)}.")
    return RECIPES[name]
