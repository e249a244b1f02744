"""STEVE on MOVi-D and MOVi-E as in the released code, on fixed tokens, and a `_mini` on drawn videos."""

from slotworks.configs.recipe import Published, changed, recipe
from slotworks.configs.shared import MOVI_WINDOWS, PAINTED_VIDEOS, VIDEO_SCENES, slot_diffusion_run
from slotworks.data import MOVi
from slotworks.methods import SteveConfig
from slotworks.training import Adam, Run

# Released code: encoder 1e-4, decoder 3e-4, both with warm-up and half-life; the discrete VAE 3e-4 throughout; the
# largest entry of the gradient is limited to 0.05.
RELEASED_ADAM = Adam(
    lr=1e-4,
    warmup_steps=30_000,
    half_life_steps=250_000,
    lr_scales={"decoder": 3.0, "dvae": 3.0},
    constant_groups=("dvae",),
    max_grad_norm=0.05,
    grad_norm_type="inf",
)
TABLE_2 = "SlotDiffusion, table 2"
MOVI_D = {"MSE": "655.4", "LPIPS": "0.549", "FG-ARI": "48.18", "mIoU": "20.41"}
MOVI_E = {"MSE": "588.1", "LPIPS": "0.494", "FG-ARI": "53.69", "mIoU": "18.69"}


@recipe(Published(TABLE_2, MOVI_D, "its STEVE is movi_d_stage2"))
def movi_d() -> Run:
    """MOVi-D, clips of three frames, 15 slots: the settings of the released code."""
    return Run(
        method=SteveConfig(),
        data=MOVi(variant="d", frames="video", clip_length=3),
        optimizer=RELEASED_ADAM,
        steps=200_000,
        batch_size=24,
        precision="32",  # the released code computes in float32
        eval_every=10_000,
        save_every=5_000,
        eval_images=250,
        protocol="slot-diffusion",
    )


movi_e = movi_d.but(
    "MOVi-E, as `movi_d`.", Published(TABLE_2, MOVI_E, "its STEVE is movi_e_stage2"), data={"variant": "e"}
)


@recipe(
    Published(TABLE_2, MOVI_D, "settings of video_based/configs/steve/steve_movid_params-res128.py"),
    takes="not measured here; a batch took 0.87 s and 51 GB on A40s in SlotDiffusion's table 4",
)
def movi_d_stage2() -> Run:
    """MOVi-D on the fixed tokens of `dvae.movi_d`: the STEVE row of SlotDiffusion's table 2, as there.

    30 epochs of the 22 windows of every video; most probable tokens, cross-entropy as a mean over tokens, slots that
    look at a ResNet-18 and start learned, 10.78 million parameters beside the discrete VAE's. Warm-up over a twentieth
    of the steps, then a cosine to 0 (`video_based/method.py: STEVEMethod`).
    """
    method = SteveConfig(
        parts="slot_diffusion",
        dvae_block="norm",
        dvae_signed=True,
        dvae_run="runs/dvae.movi_d",
        target_tokens="probable",
        mlp_dim=384,
        initializer="learned",
        predictor_blocks=2,
        predictor_dropout=0.1,
        loss_weights={"cross_entropy": 1 / 1024},  # of a frame's tokens
    )
    data = MOVi(variant="d", clip_length=3, clip_stride=1)
    optimizer = {"lr": 1e-4, "lr_scales": {"decoder": 3.0}, "decay_after_warmup": True, "max_grad_norm": 0.05}
    run = slot_diffusion_run(method, data, epochs=30, samples=MOVI_WINDOWS, batch_size=32, **optimizer)
    return changed(run, eval_images=250)


movi_e_stage2 = movi_d_stage2.but(
    "MOVi-E on the fixed tokens of `dvae.movi_e`, as `movi_d_stage2`.",
    Published(TABLE_2, MOVI_E, "settings of video_based/configs/steve/steve_movie_params-res128.py"),
    method={"dvae_run": "runs/dvae.movi_e"},
    data={"variant": "e"},
)


@recipe(
    takes="9 to 15 minutes on one busy core, and one for the words",
)
def scenes_mini() -> Run:
    """Drawn videos of moving shapes of 32 pixels, at a reduced cost; after dvae.videos_mini.

    Not a row of a table. As `slate.scenes_mini`: few words, two narrow blocks, half of the words hidden from the
    Transformer in training, learned first slots with the bi-level gradient. The words are fixed beforehand, and the
    first steps see single frames, then clips of three: trained along and on clips from the start, one slot took all.
    """
    return Run(
        method=SteveConfig(
            image_size=32,
            vocab_size=64,
            dvae_channels=32,
            dvae_run="runs/dvae.videos_mini",
            target_tokens="probable",
            cnn_channels=32,
            cnn_stride=2,
            num_slots=4,
            slot_dim=64,
            mlp_dim=128,
            first_iterations=3,
            short_clips=((3_000, 1),),
            mlp_in_last_iteration=True,
            initializer="learned",
            gradient="bilevel",
            model_dim=64,
            decoder_blocks=2,
            dropout=0.0,
            word_dropout=0.5,
        ),
        data=VIDEO_SCENES,
        optimizer=Adam(
            lr=1e-3, warmup_steps=200, decay="linear", decay_start=0.5, lr_scales={"dvae": 3.0}, max_grad_norm=1.0
        ),
        steps=5_000,
        batch_size=8,
        precision="auto",
        channels_last="auto",
        ema_decay=0.998,
        eval_every=2_500,
        save_every=1_000,
        eval_images=100,
    )


painted_mini = scenes_mini.but(
    "Painted videos of 64 pixels, at a reduced cost; after dvae.painted_mini.",
    takes="not measured yet",
    notes="Not a row of a table; see `scenes_mini`. The words are those of slate.painted_mini.",
    method={
        "image_size": 64,
        "vocab_size": 256,
        "dvae_run": "runs/dvae.painted_mini",
        "cnn_stride": 2,
        "num_slots": 5,
        "short_clips": ((2_000, 1),),
    },
    data=PAINTED_VIDEOS,
    steps=3_000,
    eval_every=1_500,
    eval_images=50,
)
