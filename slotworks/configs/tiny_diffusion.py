"""Text-to-image diffusion in miniature: the recipe of the pipeline that comes with the package.

Where Stable Diffusion cannot be had, GLASS's data engine, StableLSD and GLASS have it as `package:tiny_diffusion`.
"""

from dataclasses import replace

from slotworks.configs.recipe import recipe
from slotworks.data.scenes import CaptionedScenes, ShapeScenes
from slotworks.data.scenes.shapes import BACKGROUNDS, CLASSES, COLORS
from slotworks.methods import TinyDiffusionConfig
from slotworks.training import Adam, Run

WORDS = (
    *CLASSES,
    *(f"{name}s" for name in CLASSES if not name.endswith("s")),
    "crosses",
    *COLORS,
    *BACKGROUNDS,
    *("a", "an", "and", "on", "fading", "to", "patterned", "nothing", "one", "two", "three", "four"),
)

# Few and large objects; their colour is their class, because a small diffusion model learns colours long before shapes,
# and masks can be read only from words that it knows.
TINY_SCENES = ShapeScenes(max_objects=3, sizes=(0.28, 0.36, 0.44), classes="color")

# Two or three objects of two colours, so that most scenes hold several objects of one class.
REPEATED_SCENES = replace(TINY_SCENES, min_objects=2, colors=("red", "blue"))


@recipe(
    takes="about 75 minutes on one core of a recent CPU",
    no_record="91 % of a caption's colours in its image; VAE 29.0 dB",
)
def scenes() -> Run:
    """Drawn shapes from their captions: the pipeline in `slotworks/assets/tiny_diffusion` is this run's, seed 0."""
    return Run(
        method=TinyDiffusionConfig(
            words=WORDS, vae_steps=3_000, unet_dims=(48, 96), head_dim=24, loss_weights={"kl": 1e-5}
        ),
        data=CaptionedScenes(replace(TINY_SCENES, num_train=1_000_000)),
        optimizer=Adam(lr=1e-3, warmup_steps=100, decay="cosine", max_grad_norm=1.0),
        steps=9_000,
        batch_size=32,
        precision="auto",  # bfloat16 where the pipeline was made
        channels_last="auto",
        ema_decay=0.999,
        eval_every=9_000,
        save_every=250,
    )
