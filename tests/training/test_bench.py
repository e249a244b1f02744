"""What `slotworks bench` measures of a recipe, on tiny networks."""

import math
from dataclasses import replace

import pytest

from slotworks.cli import main
from slotworks.cli.bench import RENDERING, _at_size
from slotworks.configs import find
from slotworks.data.scenes import ShapeScenes, VideoScenes
from slotworks.decoders import DenoiserConfig, VQConfig
from slotworks.methods import (
    DinosaurConfig,
    SlotAttentionConfig,
    SlotDiffusionConfig,
    VideoSlotDiffusionConfig,
    VQVAEConfig,
)
from slotworks.training import Run
from slotworks.training.bench import measure

VQ = VQConfig(dims=(8, 8), layers=1, num_codes=9, norm_groups=4)
DIFFUSION = {
    "image_size": 16,
    "resnet_width": 32,
    "resnet_strides": (2, 1),
    "num_slots": 3,
    "slot_dim": 8,
    "mlp_dim": 16,
    "denoiser": DenoiserConfig(dims=(8, 16), layers=1, head_dim=8, norm_groups=4),
    "autoencoder": VQ,
    "autoencoder_run": "runs/first",
}
IMAGES = ShapeScenes(image_size=16, sizes=(0.5,), max_objects=2)
CLIPS = VideoScenes(image_size=16, sizes=(0.5,), clip_length=3)


def first_stage(folder):
    assert folder == "runs/first"
    return VQVAEConfig(image_size=16, autoencoder=VQ, perceptual=False).build()


@pytest.mark.parametrize(("config", "data"), [(SlotDiffusionConfig, IMAGES), (VideoSlotDiffusionConfig, CLIPS)])
def test_a_second_stage_is_measured_with_a_fresh_first_one(config, data):
    pytest.importorskip("diffusers")
    run = Run(method=config(**DIFFUSION), data=data, steps=10, batch_size=2)
    row = measure(run, steps=1, load=first_stage)
    assert row["step_ms"] > 0
    assert row["render_s"] > 0
    assert row["train_mib"] <= row["peak_mib"]


def test_an_autoencoder_is_trained_only():
    pytest.importorskip("diffusers")
    row = measure(Run(method=first_stage("runs/first").config, data=IMAGES, steps=10, batch_size=2), steps=1)
    assert row["step_ms"] > 0
    assert math.isnan(row["render_s"])
    assert math.isnan(row["infer_images_per_second"])


def test_a_direct_decoder_renders_and_one_of_features_does_not(tiny_vit_config):
    method = SlotAttentionConfig(image_size=(16, 16), num_slots=3, channels=4)
    run = Run(method=method, data=IMAGES, steps=10, batch_size=2)
    assert 0 < measure(run, steps=1)["render_s"] < 60
    features = replace(run, method=DinosaurConfig(encoder=tiny_vit_config, decoder_dims=(8,), slot_dim=8))
    assert math.isnan(measure(features, steps=1)["render_s"])


@pytest.fixture
def tiny_vit_config():
    from slotworks.encoders import ViTConfig

    return ViTConfig("nowhere", image_size=16, patch_size=8, feature_dim=12)


def test_the_command_takes_a_size_and_prints_the_time_to_render(capsys, monkeypatch):
    monkeypatch.setattr("slotworks.cli.bench.ProcessPoolExecutor", Here)
    words = "bench --recipes slot_attention.clevr6_mini --image-size 48 --steps 1 --batch-size 2"
    assert main(words.split()) == 0
    assert "render" in capsys.readouterr().out
    assert main(words.replace("48", "32").split()) == 2
    assert "This recipe cannot be run at 32 pixels: sizes is" in capsys.readouterr().err
    assert main("bench --rendering --recipes slot_attention.clevr6".split()) == 2
    assert "Give --rendering or --recipes" in capsys.readouterr().err


class Here:
    """Runs a job in this process."""

    def __init__(self, *_, **__):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def submit(self, function, *args):
        self.found = function(*args)
        return self

    def result(self):
        return self.found


def test_the_rendering_methods_are_recipes_of_one_size():
    for name in RENDERING:
        run = _at_size(find(name)(), 64)
        assert run.data.size == (64, 64)
