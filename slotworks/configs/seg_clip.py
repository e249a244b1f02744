"""SegCLIP: CLIP whose last blocks see groups of patches, trained on image and caption pairs of CC3M and COCO.

    slotworks train seg_clip.voc
    slotworks evaluate runs/seg_clip.voc --task semantic

The published weights need no training: `slotworks convert segclip.bin --out RUN`.
"""

from slotworks.configs.recipe import Published, recipe
from slotworks.configs.shared import glass_table
from slotworks.configs.tiny_clip import CAPTIONED
from slotworks.data import COCO, VOC
from slotworks.data.readers.image_text import ImageText
from slotworks.encoders.text import TextConfig
from slotworks.methods import SegCLIPConfig
from slotworks.training import Adam, Run
from slotworks.vocabulary import COCO_CLASSES, as_words

PAIRS = 2_800_000 + 414_113  # of CC3M about so many can still be had; the captions of COCO's training images of 2014
STEPS = 10 * (PAIRS // 768)


@recipe(
    glass_table("table 9", {"mIoU over classes": "52.6"}, "its own paper's"),
    Published(
        "README of ArrowLuo/SegCLIP", note="its command of the training; VOC with a background threshold of 0.80"
    ),
    options="--task semantic",
)
def voc() -> Run:
    """Ten epochs of CC3M and COCO's captions, scored on VOC 2012 with the background: CLIP ViT-B/16, eight centres.

    Put CC3M's shards, and COCO's captions (`captions_train2014.json`) with their images (`train2014`), below
    `data/cc3m_coco`. New parts learn a thousand times faster than CLIP's.
    """
    return Run(
        method=SegCLIPConfig(),
        data=ImageText(
            root="data/cc3m_coco",
            crop="window",
            areas=(0.5, 1.0),
            superpixels=16,
            real=VOC(image_size=224, mask_size=320, crop="whole"),
        ),
        optimizer=Adam(
            lr=4e-3,
            betas=(0.9, 0.98),
            eps=1e-6,
            weight_decay=0.05,
            warmup_steps=STEPS * 3 // 20,
            decay="cosine",
            max_grad_norm=1.0,
            lr_scales={"clip": 1e-3},
        ),
        steps=STEPS,
        batch_size=768,
        precision="bf16",
        num_workers=10,
        eval_every=5_000,
        save_every=1_000,
        protocol="oclf",
    )


coco = voc.but(
    "Ten epochs of CC3M and COCO's captions, scored on COCO 2017 with 80 classes and the background.",
    glass_table("table 9", {"mIoU over classes": "26.5"}, "its own paper's"),
    method={"class_names": as_words(COCO_CLASSES), "threshold": 0.65},
    data={"real": COCO(image_size=224, mask_size=320, crop="whole")},
)


@recipe(takes="not measured here", options="--task semantic")
def painted_mini() -> Run:
    """Painted scenes and their captions, from the package's small CLIP on, eight centres.

    Not a row of a table. Patches are of 8 x 8 pixels, an eighth of the picture's side.
    """
    return Run(
        method=SegCLIPConfig(
            model="package:tiny_clip",
            text=TextConfig("clip", "package:tiny_clip", (), 223, 64, 2, 4, 256, embed_dim=64, max_tokens=48),
            image_size=64,
            patch_size=8,
            hidden_dim=96,
            num_layers=4,
            num_heads=4,
            first_layers=3,
            decoder_heads=4,
            decoder_layers=1,
            superpixel_scale=64,
            class_names=CAPTIONED.class_names[:4],
            template="{}",
            threshold=0.5,
            map_size=64,
        ),
        data=CAPTIONED,
        optimizer=Adam(
            lr=1e-3, weight_decay=0.05, warmup_steps=30, decay="cosine", max_grad_norm=1.0, lr_scales={"clip": 0.1}
        ),
        steps=300,
        batch_size=48,
        precision="auto",
        channels_last="auto",
        eval_every=300,
        save_every=100,
        protocol="oclf",
    )
