"""OVSegmentor: DINO's transformer with group tokens and BERT, trained on captioned images in two stages.

    slotworks train ov_segmentor.stage_1
    slotworks train ov_segmentor.voc
    slotworks evaluate runs/ov_segmentor.voc --task semantic

The published weights need no training: `slotworks convert FILE --out RUN`.
"""

from slotworks.configs.recipe import Published, changed, recipe
from slotworks.configs.shared import glass_table
from slotworks.configs.tiny_clip import CAPTIONED, PAINTED_WORDS
from slotworks.data import COCO, VOC
from slotworks.data.readers.image_text import ImageText
from slotworks.encoders.text import TextConfig
from slotworks.encoders.trained_vit import TrainedViTConfig
from slotworks.methods import OVSegmentorConfig
from slotworks.training import Adam, Run
from slotworks.vocabulary import COCO_CLASSES, as_words

PAIRS = 4_300_000  # of CC12M that name one of its hundred nouns: the paper's CC4M
FIRST, SECOND = PAIRS // 2_048, PAIRS // 1_024  # steps of an epoch of either stage
MASK = {"mask": 0.1}  # of the second stage alone
SEEN = VOC(image_size=448, mask_size=320, crop="whole")


@recipe(
    Published("configs/ovsegmentor/ovsegmentor_pretrain_vit_bert_stage1.yml", note="the first stage"),
    options="--task semantic",
)
def stage_1() -> Run:
    """The first stage on CC12M: 30 epochs of contrast and of masked nouns, ViT-B/16 from DINO, BERT, eight groups."""
    return Run(
        method=OVSegmentorConfig(),
        data=ImageText(
            root="data/cc12m",
            crop="window",
            areas=(0.08, 1.0),
            interpolation="bilinear",
            flip=True,
            changes=True,
            erased_share=0.25,
            real=SEEN,
        ),
        optimizer=Adam(
            lr=6.4e-4,
            weight_decay=0.05,
            warmup_steps=2 * FIRST,
            warmup_scale=0.025,
            decay="cosine",
            decay_after_warmup=True,
            final_lr_scale=0.25,
            max_grad_norm=5.0,
        ),
        steps=30 * FIRST,
        batch_size=2_048,
        num_workers=8,
        eval_every=10_000,
        save_every=1_000,
        protocol="oclf",
    )


voc = stage_1.but(
    "The second stage: ten epochs that also ask two images to agree on a noun, scored on VOC 2012 with the background.",
    glass_table("table 9", {"mIoU over classes": "53.8"}, "as OVSeg; its own paper's"),
    method={"stage_1": "runs/ov_segmentor.stage_1", "loss_weights": MASK},
    data={"areas": (0.4, 1.0), "changes": False, "erased_share": 0.0},
    optimizer={"lr": 1e-5, "warmup_steps": 0, "final_lr_scale": 0.1},
    steps=10 * SECOND,
    batch_size=1_024,
)

coco = voc.but(
    "The second stage, scored on COCO 2017 with 80 classes and the background.",
    glass_table("table 9", {"mIoU over classes": "25.1"}, "as OVSeg; its own paper's"),
    method={"class_names": as_words(COCO_CLASSES), "threshold": 0.9},
    data={"real": COCO(image_size=448, mask_size=320, crop="whole")},
)


@recipe(takes="not measured here", options="--task semantic")
def painted_mini() -> Run:
    """Painted scenes and their captions, the first stage from fresh weights: 16 group tokens, six groups.

    Not a row of a table. Patches are of 8 x 8 pixels, an eighth of the picture's side.
    """
    return Run(
        method=OVSegmentorConfig(
            vit=TrainedViTConfig("", image_size=64, patch_size=8, hidden_dim=96, num_layers=4, num_heads=4),
            text=TextConfig("bert", "", PAINTED_WORDS, 0, 96, 2, 4, 384, embed_dim=96, max_tokens=48),
            first_layers=3,
            num_tokens=16,
            num_groups=6,
            project_dim=256,
            embed_dim=64,
            entities=CAPTIONED.class_names[:4],
            mask_word="nothing",
            class_names=CAPTIONED.class_names[:4],
            template="{}",
            threshold=0.5,
            map_size=64,
        ),
        data=CAPTIONED,
        optimizer=Adam(lr=1e-3, weight_decay=0.05, warmup_steps=50, decay="cosine", max_grad_norm=1.0),
        steps=400,
        batch_size=64,
        precision="auto",
        channels_last="auto",
        eval_every=400,
        save_every=100,
        protocol="oclf",
    )


@recipe(takes="not measured here", options="--task semantic")
def painted_stage_2_mini() -> Run:
    """Painted scenes, the second stage after ov_segmentor.painted_mini.

    Not a row of a table.
    """
    return changed(
        painted_mini(),
        method={"stage_1": "runs/ov_segmentor.painted_mini", "loss_weights": MASK},
        optimizer={"lr": 2e-4, "warmup_steps": 0},
        steps=100,
    )
