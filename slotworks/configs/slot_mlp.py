"""Slot MLP, the baseline of Slot Attention: every published row, and a `_mini` of each on drawn scenes."""

from dataclasses import replace

from slotworks.configs import set_prediction, slot_attention
from slotworks.methods import SlotMLPAutoencoderConfig, SlotMLPConfig
from slotworks.training import Run

__all__ = ["clevr6", "clevr10", "multi_dsprites", "scenes_mini", "tetrominoes", "tetrominoes_mini"]


def clevr10() -> Run:
    """Set prediction on CLEVR (Locatello et al. 2020, figure 5; supplement, table 2).

    Command:   slotworks train slot_mlp.clevr10
    Takes:     not stated in the paper.
    Expected:  AP at distances inf, 1, 0.5, 0.25, 0.125: 19.8, 1.4, 0.3, 0.0, 0.0 in the paper (5 seeds).
    """
    expected = "AP at inf, 1, 0.5, 0.25, 0.125: 19.8, 1.4, 0.3, 0.0, 0.0 in the paper"
    return replace(set_prediction.clevr10(), method=SlotMLPConfig(norm_eps=slot_attention.KERAS), expected=expected)


def tetrominoes() -> Run:
    """Object discovery on Tetrominoes (Locatello et al. 2020, table 1).

    Command:   slotworks train slot_mlp.tetrominoes
    Takes:     not stated in the paper.
    Expected:  FG-ARI 25.1 +- 34.3 in the paper.
    """
    method = SlotMLPAutoencoderConfig(norm_eps=slot_attention.KERAS)
    return replace(slot_attention.tetrominoes(), method=method, expected="FG-ARI 25.1 +- 34.3 in the paper")


def multi_dsprites() -> Run:
    """Object discovery on multi-dSprites, coloured on grey (Locatello et al. 2020, table 1).

    Command:   slotworks train slot_mlp.multi_dsprites
    Takes:     not stated in the paper.
    Expected:  FG-ARI 60.3 +- 1.8 in the paper.
    """
    method = SlotMLPAutoencoderConfig(image_size=(64, 64), num_slots=6, norm_eps=slot_attention.KERAS)
    return replace(slot_attention.multi_dsprites(), method=method, expected="FG-ARI 60.3 +- 1.8 in the paper")


def clevr6() -> Run:
    """Object discovery on CLEVR scenes with at most six objects (Locatello et al. 2020, table 1).

    Command:   slotworks train slot_mlp.clevr6
    Takes:     not stated in the paper.
    Expected:  FG-ARI 60.4 +- 6.6 in the paper.
    """
    norm_eps = slot_attention.KERAS
    method = SlotMLPAutoencoderConfig(
        image_size=(128, 128), num_slots=7, channels=64, decoder_strides=(2, 2, 2, 2, 1), norm_eps=norm_eps
    )
    return replace(slot_attention.clevr6(), method=method, expected="FG-ARI 60.4 +- 6.6 in the paper")


def scenes_mini() -> Run:
    """Set prediction on drawn shapes: encoder, data, slots and length of `set_prediction.scenes_mini`, a lower rate.

    Command:   slotworks train slot_mlp.scenes_mini
    Takes:     274 to 298 seconds of training on one busy CPU core.
    Expected:  AP at inf, 1, 0.5, 0.25: 16.6, 3.0, 0.6, 0.1 (3 seeds, docs/results.md).
    """
    run = set_prediction.scenes_mini()
    names = ("image_size", "num_slots", "channels", "encoder_strides", "categories")
    same = {name: getattr(run.method, name) for name in names}
    optimizer = replace(run.optimizer, lr=4e-4)
    return replace(
        run,
        method=SlotMLPConfig(**same),
        optimizer=optimizer,
        expected="AP at inf, 1, 0.5, 0.25: 16.6, 3.0, 0.6, 0.1 over 3 seeds",
    )


def tetrominoes_mini() -> Run:
    """Object discovery on drawn Tetrominoes: encoder, decoder and length of Slot Attention's long miniature.

    Command:   slotworks train slot_mlp.tetrominoes_mini
    Takes:     not measured yet.
    Expected:  not measured yet.
    """
    run = slot_attention.tetrominoes_long_mini()
    names = ("image_size", "num_slots", "encoder_strides", "decoder_shuffle")
    same = {name: getattr(run.method, name) for name in names}
    return replace(run, method=SlotMLPAutoencoderConfig(**same), expected="not measured yet")
