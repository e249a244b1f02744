"""CLIPpy: an image tower from DINO and a text tower from Sentence-T5, trained on image and caption pairs from the web.

    slotworks train clippy.voc
    slotworks evaluate runs/clippy.voc --task semantic

The published weights of the authors' own repetition need no training: `slotworks convert clippy_5k.pt --out RUN`.
"""

from slotworks.configs.recipe import Published, recipe
from slotworks.configs.shared import glass_table
from slotworks.configs.tiny_clip import CAPTIONED, PAINTED_WORDS
from slotworks.data import COCO, VOC
from slotworks.data.readers.image_text import ImageText
from slotworks.encoders.text import TextConfig
from slotworks.encoders.trained_vit import TrainedViTConfig
from slotworks.methods import CLIPpyConfig
from slotworks.training import Adam, Run
from slotworks.vocabulary import COCO_CLASSES, as_words

PAIRS = ImageText(
    root="data/cc12m", crop="window", areas=(0.9, 1.0), real=VOC(image_size=224, mask_size=320, crop="whole")
)
QUOTED = "taken to be of its own paper, which trains on 134 million pairs"


@recipe(
    glass_table("table 9", {"mIoU over classes": "52.2"}, QUOTED),
    Published("README of kahnchana/clippy", {"mIoU over classes": "50.8"}, "this training, of CC12M"),
    options="--task semantic",
)
def voc() -> Run:
    """CC12M, 5,000 steps, scored on VOC 2012 with the background: ViT-B/16 from DINO, Sentence-T5.

    All steps lie within the warm-up of 10,000, which the released code has; its learning rate ends at half of 5e-4.
    """
    return Run(
        method=CLIPpyConfig(),
        data=PAIRS,
        optimizer=Adam(lr=5e-4, weight_decay=0.2, warmup_steps=10_000),
        steps=5_000,
        batch_size=8_192,
        num_workers=8,
        eval_every=1_000,
        save_every=500,
        protocol="oclf",
    )


coco = voc.but(
    "CC12M, scored on COCO 2017 with 80 classes and the background.",
    glass_table("table 9", {"mIoU over classes": "32.0"}, QUOTED),
    method={"class_names": as_words(COCO_CLASSES)},
    data={"real": COCO(image_size=224, mask_size=320, crop="whole")},
)

TOWER = TrainedViTConfig("", image_size=64, patch_size=8, hidden_dim=96, num_layers=4, num_heads=4)
GROUNDS = ("on black", "on grey", "on white", "on navy", "on beige")


@recipe(takes="not measured here", options="--task semantic")
def painted_mini() -> Run:
    """Painted scenes and their captions, fresh towers of four and two blocks.

    Not a row of a table. Patches are of 8 x 8 pixels, an eighth of the picture's side.
    """
    text = TextConfig("t5", "", PAINTED_WORDS, 0, 64, 2, 4, 256, embed_dim=96, max_tokens=48)
    return Run(
        method=CLIPpyConfig(
            vit=TOWER,
            text=text,
            pool_cls=False,
            class_names=CAPTIONED.scenes.class_names[:4],
            background_names=GROUNDS,
            template="{}",
            map_size=64,
        ),
        data=CAPTIONED,
        optimizer=Adam(lr=1e-3, weight_decay=0.05, warmup_steps=50, decay="cosine", max_grad_norm=1.0),
        steps=600,
        batch_size=64,
        precision="auto",
        channels_last="auto",
        ema_decay=0.98,
        eval_every=600,
        save_every=100,
        protocol="oclf",
    )
