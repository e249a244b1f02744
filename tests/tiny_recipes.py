"""Recipes of a few kilobytes for whole commands: `slotworks train tests/tiny_recipes.py:videos`."""

from slotworks.data.scenes import TetrominoScenes, VideoScenes
from slotworks.methods import SAViConfig, SlotAttentionConfig
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


def tetrominoes() -> Run:
    """Slot Attention on drawn Tetrominoes, three steps with an average of the weights."""
    return Run(
        method=SlotAttentionConfig(channels=4, slot_dim=8, mlp_dim=16, initializer="learned", encoder_strides=(2, 1)),
        data=TetrominoScenes(num_train=8, num_val=4, num_test=4),
        steps=3,
        batch_size=2,
        ema_decay=0.5,
        eval_images=4,
        tensorboard=False,
    )
