"""Recipes of a few kilobytes for whole commands: `slotworks train tests/tiny_recipes.py:videos`."""

from slotworks.data.scenes import VideoScenes
from slotworks.methods import SAViConfig
from slotworks.training import Run

SAVI = SAViConfig(
    image_size=(16, 16),
    num_slots=3,
    slot_dim=8,
    qkv_dim=8,
    predictor_qkv_dim=8,
    predictor_mlp_dim=8,
    encoder_channels=4,
    encoder_strides=(2,),
    decoder_channels=4,
    decoder_strides=(2,),
    initializer="learned",
    targets=("rgb",),
)


def videos() -> Run:
    """SAVi on drawn videos of 16 pixels."""
    return Run(
        method=SAVI,
        data=VideoScenes(image_size=16, sizes=(0.4, 0.5), num_train=4, num_val=2, num_test=2),
        steps=2,
        batch_size=2,
        protocol="savi",
    )
