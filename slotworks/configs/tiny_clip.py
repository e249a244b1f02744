"""A CLIP in miniature: the recipe of the network that comes with the package as `package:tiny_clip`.

Where CLIP cannot be downloaded, MaskCLIP, OVDiff and SegCLIP have it by that name.
"""

from slotworks.configs.recipe import recipe
from slotworks.configs.tiny_diffusion import WORDS
from slotworks.data.scenes import CaptionedScenes, PaintedScenes
from slotworks.methods import TinyCLIPConfig
from slotworks.training import Adam, Run

PAINTED_WORDS = (*WORDS, "small", "medium", "large")

# One to three objects; more are harder to tell apart by a sentence, and nothing new.
CAPTIONED = CaptionedScenes(PaintedScenes(num_train=1_000_000, max_objects=3), both_share=0.3, classes_share=0.3)


@recipe(
    takes="some 6 minutes of one core without bfloat16",
    no_record="92.5 % of captions among 64, 91.8 % of patches' colours and 26.8 % of their shapes, see its README",
)
def painted() -> Run:
    """Painted scenes and their captions: the CLIP in `slotworks/assets/tiny_clip` is this run's, seed 0."""
    return Run(
        method=TinyCLIPConfig(words=PAINTED_WORDS),
        data=CAPTIONED,
        optimizer=Adam(
            lr=2e-3,
            betas=(0.9, 0.98),
            weight_decay=0.05,
            warmup_steps=50,
            decay="cosine",
            max_grad_norm=1.0,
        ),
        steps=600,
        batch_size=64,
        ema_decay=0.98,
        eval_every=10_000,
        save_every=100,
    )
