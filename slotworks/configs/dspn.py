"""Deep Set Prediction Networks: the rows of the Slot Attention paper's table 2, and a `_mini` on drawn scenes."""

from slotworks.configs import set_prediction
from slotworks.configs.recipe import Published, changed, recipe
from slotworks.data.scenes import SetScenes
from slotworks.methods import DSPNConfig
from slotworks.training import Adam, Run

clevr10 = set_prediction.clevr10.but(
    "Set prediction on CLEVR, ten steps of the inner descent (Zhang et al. 2019).",
    set_prediction.average_precision("72.8 +- 2.3, 59.2 +- 2.8, 39.0 +- 4.4, 12.4 +- 2.5, 1.3 +- 0.4"),
    takes="not stated in the paper",
    notes="100 epochs as in the released code, which also computes in float32.",
    method=DSPNConfig(),
    optimizer=Adam(lr=3e-4),
    steps=218_700,
    batch_size=32,
)

clevr10_t30 = clevr10.but(
    "The same, trained with ten steps and tested with thirty.",
    set_prediction.average_precision("85.2 +- 4.8, 81.1 +- 5.2, 47.4 +- 17.6, 10.8 +- 9.0, 0.6 +- 0.7"),
    notes="A run of dspn.clevr10 gives the same: `slotworks evaluate RUN --task sets --set method.test-iterations=30`.",
    method={"test_iterations": 30},
)

clevr10_stepwise = clevr10.but(
    "The same with a loss after every step of the inner descent (supplement, section 3.2).",
    Published("Locatello et al. 2020, supplement, figure 17", note="above clevr10 at the small distances only"),
    notes="The figure's coordinates in other ranges: `slotworks sweep dspn.clevr10 --set method.coordinate-scale=2,5`.",
    method={"stepwise_loss": True},
)


@recipe(
    takes="488 to 566 seconds of training on one busy CPU core",
)
def scenes_mini() -> Run:
    """Drawn shapes that lie near and far, at a reduced cost; the data of `set_prediction.scenes_mini`.

    Not the paper's configuration: a small ResNet in place of ResNet-34, shorter codes, five steps of descent in
    training and ten in tests, codes of true sets before those of images, a higher learning rate, fewer steps, averaged
    weights.
    """
    run = set_prediction.scenes_mini()
    same = {name: getattr(run.method, name) for name in ("image_size", "categories")}
    method = DSPNConfig(
        **same,
        num_slots=SetScenes().max_objects,  # no more: the inner descent compares all pairs of elements
        num_iterations=5,
        test_iterations=10,
        autoencode_steps=3_500,
        latent_dim=128,
        hidden_dim=128,
        encoder_width=32,
        encoder_blocks=(1, 1, 1),
    )
    return changed(run, method=method, optimizer={"lr": 2e-3}, steps=6_000)
