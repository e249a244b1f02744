"""Deep Set Prediction Networks: the rows of the Slot Attention paper's table 2, and a `_mini` on drawn scenes."""

from dataclasses import replace

from slotworks.configs import set_prediction
from slotworks.data.scenes import SetScenes
from slotworks.methods import DSPNConfig
from slotworks.training import Adam, Run

__all__ = ["clevr10", "clevr10_t30", "scenes_mini"]


def clevr10() -> Run:
    """Set prediction on CLEVR, ten steps of the inner descent (Zhang et al. 2019).

    100 epochs as in the released code.

    Command:   slotworks train dspn.clevr10
    Takes:     not stated in the paper.
    Expected:  AP at distances inf, 1, 0.5, 0.25, 0.125: 72.8, 59.2, 39.0, 12.4, 1.3 (supplement of Slot Attention).
    """
    return replace(
        set_prediction.clevr10(),
        method=DSPNConfig(),
        optimizer=Adam(lr=3e-4),
        steps=218_700,
        batch_size=32,
        precision="32",  # the released code computes in float32
        expected="AP at inf, 1, 0.5, 0.25, 0.125: 72.8, 59.2, 39.0, 12.4, 1.3 in the paper",
    )


def clevr10_t30() -> Run:
    """The same, trained with ten steps and tested with thirty.

    A run of dspn.clevr10 gives the same number: slotworks evaluate RUN --task sets --set method.test-iterations=30.

    Command:   slotworks train dspn.clevr10_t30
    Takes:     not stated in the paper.
    Expected:  AP at distances inf, 1, 0.5, 0.25, 0.125: 85.2, 81.1, 47.4, 10.8, 0.6 (supplement of Slot Attention).
    """
    run = clevr10()
    expected = "AP at inf, 1, 0.5, 0.25, 0.125: 85.2, 81.1, 47.4, 10.8, 0.6 in the paper"
    return replace(run, method=replace(run.method, test_iterations=30), expected=expected)


def scenes_mini() -> Run:
    """Drawn shapes that lie near and far, at a reduced cost; the data of `set_prediction.scenes_mini`.

    Not the paper's configuration: a small ResNet in place of ResNet-34, shorter codes, five steps of descent in
    training and ten in tests, codes of true sets before those of images, a higher learning rate, fewer steps, averaged
    weights.

    Command:   slotworks train dspn.scenes_mini
    Takes:     488 to 566 seconds of training on one busy CPU core.
    Expected:  AP at inf, 1, 0.5, 0.25: 45.4, 20.5, 3.0, 0.2 (3 seeds, docs/results.md).
               Slot MLP on the same data 16.6 and 3.0 at inf and 1.
    """
    run = set_prediction.scenes_mini()
    same = {name: getattr(run.method, name) for name in ("image_size", "categories")}
    return replace(
        run,
        method=DSPNConfig(
            **same,
            num_slots=SetScenes().max_objects,  # no more: the inner descent compares all pairs of elements
            num_iterations=5,
            test_iterations=10,
            autoencode_steps=3_500,
            latent_dim=128,
            hidden_dim=128,
            encoder_width=32,
            encoder_blocks=(1, 1, 1),
        ),
        optimizer=replace(run.optimizer, lr=2e-3),
        steps=6_000,
        expected="AP at inf, 1, 0.5, 0.25: 45.4, 20.5, 3.0, 0.2 over 3 seeds",
    )
