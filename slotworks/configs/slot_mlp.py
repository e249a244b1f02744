"""Slot MLP, the baseline of Slot Attention: every published row, and a `_mini` of each on drawn scenes."""

from slotworks.configs import set_prediction, slot_attention
from slotworks.configs.recipe import Published, changed, recipe
from slotworks.methods import SlotMLPAutoencoderConfig, SlotMLPConfig
from slotworks.training import Run

NOT_STATED = "not stated in the paper"

clevr10 = set_prediction.clevr10.but(
    "Set prediction on CLEVR.",
    set_prediction.average_precision("19.8 +- 1.6, 1.4 +- 0.3, 0.3 +- 0.2, 0.0, 0.0"),
    takes=NOT_STATED,
    method=SlotMLPConfig(norm_eps=slot_attention.KERAS),
)

tetrominoes = slot_attention.tetrominoes.but(
    "Object discovery on Tetrominoes.",
    Published(slot_attention.PAPER, {"FG-ARI": "25.1 +- 34.3"}),
    takes=NOT_STATED,
    method=SlotMLPAutoencoderConfig(norm_eps=slot_attention.KERAS),
)

multi_dsprites = slot_attention.multi_dsprites.but(
    "Object discovery on multi-dSprites, coloured on grey.",
    Published(slot_attention.PAPER, {"FG-ARI": "60.3 +- 1.8"}),
    takes=NOT_STATED,
    method=SlotMLPAutoencoderConfig(image_size=(64, 64), num_slots=6, norm_eps=slot_attention.KERAS),
)

clevr6 = slot_attention.clevr6.but(
    "Object discovery on CLEVR scenes with at most six objects.",
    Published(slot_attention.PAPER, {"FG-ARI": "60.4 +- 6.6"}),
    takes=NOT_STATED,
    method=SlotMLPAutoencoderConfig(
        image_size=(128, 128),
        num_slots=7,
        channels=64,
        decoder_strides=(2, 2, 2, 2, 1),
        norm_eps=slot_attention.KERAS,
    ),
)


@recipe(
    takes="274 to 298 seconds of training on one busy CPU core",
)
def scenes_mini() -> Run:
    """Set prediction on drawn shapes: encoder, data, slots and length of `set_prediction.scenes_mini`, a lower rate."""
    run = set_prediction.scenes_mini()
    names = ("image_size", "num_slots", "channels", "encoder_strides", "categories")
    same = {name: getattr(run.method, name) for name in names}
    return changed(run, method=SlotMLPConfig(**same), optimizer={"lr": 4e-4})


@recipe(takes="about 20 minutes of training on two CPU cores without bfloat16 instructions")
def tetrominoes_mini() -> Run:
    """Object discovery on drawn Tetrominoes: encoder, decoder and length of Slot Attention's long miniature."""
    run = slot_attention.tetrominoes_long_mini()
    names = ("image_size", "num_slots", "encoder_strides", "decoder_shuffle")
    same = {name: getattr(run.method, name) for name in names}
    return changed(run, method=SlotMLPAutoencoderConfig(**same))
