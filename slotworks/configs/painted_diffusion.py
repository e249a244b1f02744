"""The diffusion model of painted scenes: the two recipes of what comes with the package as `package:painted_diffusion`.

slotworks train painted_diffusion.scenes        U-Net and tokens of objects
slotworks train painted_diffusion.scenes_words  the VAE's decoder and the text encoder
"""

from slotworks.configs.recipe import changed, recipe
from slotworks.data.scenes import PaintedScenes
from slotworks.methods import PaintedDiffusionConfig
from slotworks.training import Adam, Run

PAINTED_SCENES = PaintedScenes(num_train=1_000_000, min_objects=0)  # an empty ground, too, has to be learnt


@recipe(
    takes="90 minutes on one thread of a CPU without bfloat16 beside much other work; on two, 45 to 56 by its "
    "first 340 steps",
    no_record="95.4 % of the objects placed, see the README of package:painted_diffusion",
)
def scenes() -> Run:
    """Painted scenes from what is known of their objects, phase 1: the U-Net and a token for each object."""
    return Run(
        method=PaintedDiffusionConfig(),
        data=PAINTED_SCENES,
        optimizer=Adam(
            lr=3e-3,
            betas=(0.9, 0.99),
            weight_decay=0.01,
            warmup_steps=60,
            decay="linear",
            decay_start=0.5,
            final_lr_scale=0.02,
            max_grad_norm=1.0,
        ),
        steps=10_000,
        batch_size=16,
        channels_last=True,
        ema_decay=0.997,
        eval_every=10_000,
        save_every=500,
    )


@recipe(
    takes="16 minutes on one thread, two cores without bfloat16 beside other work",
    no_record="VAE 36.1 dB, see the README of package:painted_diffusion",
)
def scenes_words() -> Run:
    """Painted scenes, phase 2: a decoder for the latents of painted_diffusion.scenes and a text encoder for its tokens.

    The pipeline in `slotworks/assets/painted_diffusion` is this run's, seed 0.
    """
    return changed(
        scenes(),
        method={"phase_1": "runs/painted_diffusion.scenes"},
        optimizer={"lr": 2e-3, "weight_decay": 0.0},
        steps=3_000,
        ema_decay=0.99,
        eval_every=3_000,
    )
