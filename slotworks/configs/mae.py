"""Masked autoencoders: the recipe of the small vision transformer that comes with the package.

Where no pretrained network can be downloaded, DINOSAUR and SPOT have features through it:
`ViTConfig("package:scenes_vit", image_size=64, patch_size=4, feature_dim=128)`.
"""

from slotworks.configs.recipe import recipe
from slotworks.data.scenes import ShapeScenes
from slotworks.data.scenes.shapes import CLASSES
from slotworks.methods.mae import MAEConfig
from slotworks.training import Adam, Run


@recipe(
    takes="about 17 minutes on one busy core of a recent CPU",
    no_record="error 0.17 on the patches left out, of the normalised image; one colour per image costs 0.70",
)
def scenes_mini() -> Run:
    """A small vision transformer that fills in drawn scenes; its encoder is `slotworks/assets/scenes_vit`.

    Not a row of a table: four blocks of width 128, 77,000 scenes. The shipped weights are this run's with seed 0.
    """
    return Run(
        method=MAEConfig(num_layers=4, decoder_dim=64, decoder_layers=1, decoder_heads=2),
        data=ShapeScenes(
            num_train=200_000,
            max_objects=6,
            shapes=tuple(CLASSES),  # pyright: ignore[reportArgumentType]
            sizes=(0.18, 0.24, 0.3, 0.36),
            background="gradient",
        ),
        optimizer=Adam(
            lr=1e-3,
            betas=(0.9, 0.95),
            weight_decay=0.05,
            warmup_steps=100,
            decay="cosine",
            max_grad_norm=1.0,
        ),
        steps=2_400,
        batch_size=32,
        precision="auto",
        channels_last="auto",
        ema_decay=0.998,
        eval_every=2_400,
        save_every=200,
    )
