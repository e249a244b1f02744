"""What `slotworks synthesize` makes: the training sets of GLASS (Singh et al. 2025) and of Dataset Diffusion.

glass.coco    captions by BLIP-2 for COCO's training images, Stable Diffusion 2.1
glass.voc     the same for VOC's trainaug
glass.scenes  drawn scenes and the small diffusion model that comes with the package; glass.scenes_repeated the same
              with several objects of one class
glass.painted the same with painted scenes and the diffusion model of these

What section 4 of the paper says is set here: nouns by NLTK's tagger, COCO's classes on VOC, too, a prompt of its own
for each class, and attention to it averaged over sizes of maps. Which sizes, and which words mean a class, it does not
say: `_names` are the recipes that take COCO's class names alone. docs/synthesis.md has the evidence.

Networks of Stable Diffusion and BLIP-2 compute in float16, as in the code of Dataset Diffusion, from which the masks
come; on drawn scenes in what the device computes fast.

dataset_diffusion.voc and .coco are the images of Dataset Diffusion's segmenter: one prompt for all classes of an image,
maps of one size, and 0.5 as the lower limit, as in its `gen_data.py`.

The other rows of the paper have recipes of their own (`_labels` the dagger, `_templates` and `_sharegpt` Table 13) or
are fields: `--source.captioner.model`, `--masks sam2` (Table 6c).
"""

from collections.abc import Callable
from dataclasses import replace

from slotworks.configs.tiny_diffusion import REPEATED_SCENES, TINY_SCENES
from slotworks.data import COCO, VOC
from slotworks.data.scenes import PaintedScenes
from slotworks.data.scenes.painted import SIZE_NAMES
from slotworks.data.scenes.shapes import BACKGROUNDS
from slotworks.errors import nearest
from slotworks.parts import own_function
from slotworks.synthesis import (
    CaptionedImages,
    ClassPrompts,
    LabelPrompts,
    SceneCaptions,
    Synthesis,
    TemplatePrompts,
    WrittenCaptions,
)
from slotworks.synthesis.captions import CaptionerConfig
from slotworks.synthesis.sources import PromptConfig
from slotworks.types import DataConfig, UserError
from slotworks.vocabulary import COCO_CLASSES


def _paper(source: PromptConfig) -> Synthesis:
    """Section 4: one prompt for each class, maps of several sizes; 64 x 64 would not fit beside Stable Diffusion."""
    return Synthesis(source=source, precision="16", batch_size=8, class_prompts="per_class", cross_sizes=(8, 16, 32))


def _captions(data: DataConfig) -> CaptionedImages:
    return CaptionedImages(data, CaptionerConfig(precision="16"), tagger="nltk")


def coco() -> Synthesis:
    """Captions of COCO train2017 by BLIP-2 with COCO's classes in them; the paper makes 100K images of 118,287.

    Command:   slotworks synthesize glass.coco
    Takes:     not measured; 100 U-Net calls for each image, so days on one GPU
    """
    return _paper(_captions(COCO()))


def coco_names() -> Synthesis:
    """The same with COCO's class names alone: a man is no person.

    Command:   slotworks synthesize glass.coco_names
    """
    return _paper(replace(_captions(COCO()), synonyms=False))


def coco_labels() -> Synthesis:
    """GLASS with a dagger: the true classes of each image in place of a caption.

    Command:   slotworks synthesize glass.coco_labels
    """
    return _paper(LabelPrompts(COCO(train_masks=True)))


def coco_templates() -> Synthesis:
    """Prompts drawn from the statistics of COCO's labels: the last row of Table 13.

    Command:   slotworks synthesize glass.coco_templates
    """
    return _paper(TemplatePrompts(COCO(train_masks=True)))


def coco_sharegpt() -> Synthesis:
    """Captions by ShareGPT-4V (Table 13) from the file that is published with it, those of COCO's training images.

    Command:   slotworks synthesize glass.coco_sharegpt --source.file FILE
    """
    file = "data/share-captioner_coco_lcs_sam_1246k_1107.json"
    return _paper(WrittenCaptions(file, images="coco/train2017", tagger="nltk"))


def voc() -> Synthesis:
    """Captions of VOC trainaug by BLIP-2 with COCO's classes in them; the paper makes about 10K images of 10,582.

    Command:   slotworks synthesize glass.voc
    Takes:     not measured; 100 U-Net calls for each image
    """
    return _paper(_captions(VOC()))


def voc_names() -> Synthesis:
    """The same with COCO's class names alone: a man is no person.

    Command:   slotworks synthesize glass.voc_names
    """
    return _paper(replace(_captions(VOC()), synonyms=False))


def voc_labels() -> Synthesis:
    """GLASS with a dagger on VOC: the true classes of each whole image.

    Command:   slotworks synthesize glass.voc_labels
    """
    return _paper(LabelPrompts(VOC(train_masks=True)))


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
        power=0,  # on 16 x 16, all that this U-Net has, it takes in background: docs/notes/glass.md
        batch_size=32,
    )


def scenes_repeated() -> Synthesis:
    """160 drawn scenes that mostly hold several objects of one class, which share a mask; the refinement is on.

    Command:   slotworks synthesize glass.scenes_repeated
    """
    return replace(scenes(), source=SceneCaptions(REPEATED_SCENES), num_images=160, power=1)


def painted() -> Synthesis:
    """1,000 captions of painted scenes, which say places, for the model that puts objects there; classes are shapes.

    Command:   slotworks synthesize glass.painted
    """
    return replace(
        scenes(),
        source=SceneCaptions(PaintedScenes(), places=True),
        model="package:painted_diffusion",
        class_prompts="caption",  # of a class alone this model draws, but does not find it: docs/notes/glass.md
        steps=20,
        cfg_scale=1.5,
    )


def _dataset_diffusion(data: DataConfig) -> Synthesis:
    """Its `gen_data.py`; its scripts leave the checkpoint blank, which has to draw 512 pixels by default."""
    source = LabelPrompts(data)
    return Synthesis(source=source, model="stabilityai/stable-diffusion-2-1-base", precision="16", low=0.5)


def dataset_diffusion_voc() -> Synthesis:
    """VOC's classes for Dataset Diffusion's segmenter; its captions are another model's, here "a photo of cat dog".

    Command:   slotworks synthesize dataset_diffusion.voc
    Takes:     not measured; 100 U-Net calls for each image
    """
    return _dataset_diffusion(VOC(train_masks=True))


def dataset_diffusion_coco() -> Synthesis:
    """COCO's classes for Dataset Diffusion's segmenter; its captions are COCO's own, here "a photo of cat dog".

    Command:   slotworks synthesize dataset_diffusion.coco
    Takes:     not measured; 100 U-Net calls for each image
    """
    return _dataset_diffusion(COCO(train_masks=True))


def ov_diff_voc() -> Synthesis:
    """Support images of OVDiff for VOC: 32 of each class, "A good picture of a cat", with the masks of attention.

    Command:   slotworks synthesize ov_diff.voc
    Takes:     not measured; 640 images
    """
    return Synthesis(
        source=ClassPrompts(),
        model="runwayml/stable-diffusion-v1-5",
        precision="16",
        negative_prompt="",
        append_classes=False,
        seed=43,
    )


def ov_diff_coco() -> Synthesis:
    """Support images of OVDiff for COCO: 32 of each class.

    Command:   slotworks synthesize ov_diff.coco
    Takes:     not measured; 2,560 images
    """
    return replace(ov_diff_voc(), source=ClassPrompts(COCO_CLASSES))


def ov_diff_painted() -> Synthesis:
    """Support images of OVDiff in miniature: 32 painted scenes of each shape, with one object in a colour and place.

    Command:   slotworks synthesize ov_diff.painted
    """
    scenes, grounds = PaintedScenes(), list(BACKGROUNDS)
    captions = tuple(
        f"a {SIZE_NAMES[k % 3]} {scenes.colors[k % len(scenes.colors)]} {{class}} at {25 + 7 * k % 50} "
        f"{25 + 11 * k % 50} on {grounds[k % len(grounds)]}"
        for k in range(32)
    )
    source = ClassPrompts(scenes.shapes, captions=captions)
    return replace(painted(), source=source, num_images=None, append_classes=False)


def diffu_mask_voc() -> Synthesis:
    """DiffuMask's images for VOC, 8,000 of each class, with a threshold for each mask; CLIP leaves wrong ones out.

    Command:   slotworks synthesize diffu_mask.voc
    Takes:     not measured; 160,000 images, and a CRF for each of twenty thresholds
    """
    return Synthesis(
        source=ClassPrompts(per_class=8_000, captions=("Photo of a {class}", "a {class}", "{class}")),
        model="CompVis/stable-diffusion-v1-4",
        steps=50,
        cfg_scale=7.0,
        negative_prompt="",
        precision="16",
        append_classes=False,
        masks="adaptive",
        cross_sizes=(16, 32, 64),
        clip_filter="openai/clip-vit-base-patch16",
    )


def diffu_mask_painted() -> Synthesis:
    """DiffuMask's masks in miniature: the painted scenes of ov_diff.painted, without a CLIP.

    Command:   slotworks synthesize diffu_mask.painted
    """
    return replace(ov_diff_painted(), masks="adaptive")


RECIPES: dict[str, Callable[[], Synthesis]] = {
    f"glass.{function.__name__}": function
    for function in (
        *(
            coco,
            coco_names,
            coco_labels,
            coco_templates,
            coco_sharegpt,
            voc,
            voc_names,
            voc_labels,
            scenes,
            scenes_repeated,
            painted,
        ),
    )
} | {"dataset_diffusion.voc": dataset_diffusion_voc, "dataset_diffusion.coco": dataset_diffusion_coco}
RECIPES |= {"ov_diff.voc": ov_diff_voc, "ov_diff.coco": ov_diff_coco, "ov_diff.painted": ov_diff_painted}
RECIPES |= {"diffu_mask.voc": diffu_mask_voc, "diffu_mask.painted": diffu_mask_painted}


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
