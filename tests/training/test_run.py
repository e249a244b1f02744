import math
from dataclasses import replace

import pytest
from training_toy import ToyConfig, toy_run

from slotworks.training import Adam, Run, schedule
from slotworks.types import DataConfig, MethodConfig


@pytest.mark.parametrize(
    ("optimizer", "total", "values"),
    [
        pytest.param(
            Adam(lr=4e-4, warmup_steps=10_000, half_life_steps=100_000),
            500_000,
            {0: 0, 1: 4.0e-8, 5_000: 1.932e-4, 10_000: 3.732e-4, 100_000: 2.0e-4, 500_000: 1.25e-5},
            id="slot_attention_discovery",
        ),
        pytest.param(
            Adam(lr=4e-4, warmup_steps=1_000, half_life_steps=50_000),
            150_000,
            {500: 1.986e-4, 1_000: 3.945e-4, 50_000: 2e-4, 100_000: 1e-4, 150_000: 5e-5},
            id="slot_attention_sets",
        ),
        pytest.param(
            Adam(lr=4e-4, warmup_steps=10_000, half_life_steps=100_000, half_life_after_warmup=True),
            500_000,
            {0: 0, 5_000: 2e-4, 10_000: 4e-4, 110_000: 2e-4, 210_000: 1e-4, 500_000: 4e-4 * 0.5**4.9},
            id="dinosaur",
        ),
        pytest.param(
            Adam(lr=4e-4, warmup_steps=9_240, decay="cosine", decay_start=0.1, final_lr_scale=1e-3),
            92_400,
            {4_620: 2e-4, 9_240: 4e-4, 50_820: 2.002e-4, 92_400: 4e-7},
            id="spot_coco",
        ),
        pytest.param(
            Adam(lr=2e-4, warmup_steps=2_500, decay="cosine", decay_after_warmup=True),
            100_000,
            {1_250: 1.0e-4, 2_500: 2.0e-4, 51_250: 1.0e-4, 75_000: 3.07e-5, 100_000: 0},
            id="savi",
        ),
        pytest.param(
            Adam(lr=1e-4, decay="linear", decay_power=0.9),
            20_000,
            {0: 1e-4, 5_000: 7.719e-5, 10_000: 5.359e-5, 19_000: 6.746e-6, 20_000: 0},
            id="mmsegmentation",
        ),
        pytest.param(
            Adam(lr=1e-4, warmup_steps=30_000, half_life_steps=250_000),
            200_000,
            {30_000: 9.20e-5, 100_000: 7.58e-5, 200_000: 5.74e-5},
            id="steve_encoder",
        ),
        pytest.param(
            Adam(lr=1e-3, decay="linear", decay_start=0.7, final_lr_scale=0.02),
            1000,
            {0: 1e-3, 700: 1e-3, 850: 5.1e-4, 1000: 2e-5, 2000: 2e-5},
            id="linear_to_two_percent",
        ),
    ],
)
def test_schedule_of_the_papers(optimizer, total, values):
    for step, lr in values.items():
        assert schedule(optimizer, step, total) == pytest.approx(lr, rel=2e-3, abs=1e-12), step


def test_schedule_closed_form():
    adam = Adam(lr=0.3, warmup_steps=8, half_life_steps=5, decay="linear", decay_start=0.5, final_lr_scale=0.5)
    assert schedule(adam, 6, 10) == pytest.approx(0.3 * (6 / 8) * 0.5 ** (6 / 5) * (1 - 0.5 * (1 / 5)), rel=1e-14)


def test_defaults_keep_what_old_runs_mean():
    """Without the newer arguments the cosine counts from step 0 and the warmup from a rate of 0."""
    adam = Adam(lr=1.0, warmup_steps=10, decay="cosine", final_lr_scale=0.0)
    for step in (0, 5, 10, 50, 100):
        expected = min(step / 10, 1) * (1 + math.cos(math.pi * step / 100)) / 2
        assert schedule(adam, step, 100) == pytest.approx(expected, rel=1e-14, abs=1e-16)


def recheck(settings, **change):
    """Check changed settings as their own class does; annotations checked in tests would refuse some earlier."""
    for name, value in change.items():
        object.__setattr__(settings, name, value)
    settings.__post_init__()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"lr": 0.0}, "optimizer.lr is 0.0; it must be above 0."),
        ({"betas": (0.9, 1.0)}, r"optimizer.betas is \(0.9, 1.0\); it takes two numbers in \[0, 1\)."),
        ({"eps": 0.0}, "optimizer.eps is 0.0"),
        ({"weight_decay": -1.0}, "optimizer.weight_decay is -1.0"),
        ({"warmup_steps": -1}, "optimizer.warmup_steps is -1"),
        ({"half_life_steps": 0}, "optimizer.half_life_steps is 0; give a number of steps above 0, or None for never."),
        ({"decay": "exponential"}, "optimizer.decay is 'exponential'; choose none, linear or cosine."),
        ({"decay_start": 1.0}, "optimizer.decay_start is 1.0; it is a fraction of all steps"),
        ({"warmup_scale": 1.1}, r"optimizer.warmup_scale is 1.1; it is a factor in \[0, 1\]."),
        (
            {"decay_after_warmup": True, "decay_start": 0.1},
            "optimizer.decay_start is 0.1, but decay_after_warmup is set",
        ),
        ({"final_lr_scale": -0.1}, "optimizer.final_lr_scale is -0.1"),
        ({"decay_power": 0.0}, "optimizer.decay_power is 0.0; it must be above 0."),
        ({"max_grad_norm": 0.0}, "optimizer.max_grad_norm is 0.0; give a norm above 0, or None for no clipping."),
        ({"grad_norm_type": "l1"}, "optimizer.grad_norm_type is 'l1'; choose l2 or inf."),
        ({"lr_scales": {"encoder": -1.0}}, r"optimizer.lr_scales\['encoder'\] is -1.0"),
    ],
)
def test_adam_refuses(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        recheck(Adam(), **change)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"steps": -1}, "steps is -1; it cannot be negative."),
        ({"eval_every": 0}, "eval_every is 0; it must be 1 or more."),
        ({"keep_every": 0}, "keep_every is 0; give a number of steps, or None to keep only the last checkpoint."),
        ({"num_workers": -1}, "num_workers is -1; it cannot be negative."),
        ({"seed": -1}, "seed is -1; it cannot be negative."),
        ({"accumulate": 3}, "batch_size is 8 and accumulate is 3; the batch must divide into equal micro-batches."),
        ({"precision": "64"}, "precision is '64'; choose auto, 32, bf16 or 16."),
        ({"ema_decay": 1.0}, "ema_decay is 1.0; give a number between 0 and 1, or None for no average."),
        (
            {"method": ToyConfig(image_size=(8, 8))},
            r"method.image_size is \(8, 8\) but the images of ToyData are \(4, 4\) \(height, width in pixels\); set",
        ),
    ],
)
def test_run_refuses(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        recheck(toy_run(), **change)


def test_image_size_is_checked_only_where_both_are_known():
    class Square(MethodConfig):
        image_size = 4

    assert replace(toy_run(), method=Square()).steps == 10  # 4 means 4 x 4
    assert replace(toy_run(), method=MethodConfig()).steps == 10  # no image_size
    assert Run(method=ToyConfig(image_size=(8, 8)), data=DataConfig(), steps=1, batch_size=1).steps == 1  # no size


def test_command_line_overrides():
    """Every field can be set from the command line, with its comment as help."""
    import contextlib
    import io

    import tyro

    run = tyro.cli(
        Run,
        default=toy_run(),
        args=["--optimizer.lr", "1e-3", "--method.width", "9", "--ema-decay", "None", "--optimizer.decay", "cosine"],
    )
    assert (run.optimizer.lr, run.method.width, run.ema_decay, run.optimizer.decay) == (1e-3, 9, None, "cosine")
    assert replace(run, optimizer=toy_run().optimizer, method=toy_run().method, ema_decay=0.9) == toy_run()
    help_text = io.StringIO()
    with contextlib.redirect_stdout(help_text), pytest.raises(SystemExit):
        tyro.cli(Run, default=toy_run(), args=["--help"])
    assert "samples per update over all processes" in " ".join(help_text.getvalue().replace("│", " ").split())
