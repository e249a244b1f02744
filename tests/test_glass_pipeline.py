"""GLASS on COCO with Stable Diffusion 2.1 as docs/methods/glass.md writes it, on networks of a few kilobytes.

The classes are the real ones, BLIP-2, CLIP, a U-Net that predicts velocities, DINOv2; the files are COCO's.
"""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from tiny_models import save_blip2, save_diffusion, save_dinov2

from slotworks.cli import main
from slotworks.vocabulary import COCO_CLASSES

FIXTURES = Path(__file__).parent / "fixtures"
ENCODER = {"model": "dinov2", "image-size": "56", "feature-dim": "32"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("glass")
    shutil.copytree(FIXTURES / "coco", folder / "data" / "coco")
    words = [name for name in COCO_CLASSES if name and " " not in name]
    save_blip2(folder / "blip2", words)
    save_diffusion(folder / "sd21", prediction="v_prediction")
    save_dinov2(folder / "dinov2")
    return folder


def words(options):
    return [word for name, value in options.items() for word in (f"--{name}", *str(value).split())]


def training(steps=2):
    """What makes the recipe small: sizes of the tiny networks, and a few steps."""
    encoders = {f"{part}.encoder.{name}": value for part in ("method", "data") for name, value in ENCODER.items()}
    sizes = {
        "method.diffusion.model": "sd21",
        "method.diffusion.image-size": 64,
        "method.diffusion.context-dim": 32,
        "method.slot-dim": 16,
        "method.mlp-dim": 16,
        "method.decoder-dims": "16 16",
        "data.diffusion": "sd21",
        "data.latent-size": 64,
        "data.images.image-size": 64,
        "data.images.mask-size": 16,
    }
    return words(encoders | sizes | {"steps": steps, "batch-size": 2, "eval-images": 4, "num-workers": 0})


def test_every_command(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    small = {"image-size": 64, "steps": 1, "self-size": 8, "cross-sizes": 8, "precision": 32}
    models = {"model": "sd21", "source.captioner.model": "blip2", "source.captioner.max-new-tokens": 12}
    models |= {"source.captioner.precision": 32, "source.tagger": "dictionary"}
    assert main(["synthesize", "glass.coco", *words(models | small), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["images"] == 2  # both training pictures of the fixture got a caption that names a class
    assert Path(made["sheet"]).exists()

    for name in ("glass.coco", "glass.coco_phase2"):
        assert main(["train", name, *training()]) == 0, capsys.readouterr().err
        scores = json.loads(next((place / "runs" / name / "eval").glob("*-glass-release.json")).read_text())
        assert scores["num_images"] == 4  # real pictures of val2017
        assert (scores["data"], scores["split"]) == ("coco2017", "test")
    second = next((place / "runs" / "glass.coco_phase2").glob("checkpoints/last.safetensors"))
    assert second.stat().st_size > 2 * (place / "runs/glass.coco/checkpoints/last.safetensors").stat().st_size

    sampling = ["--task", "reconstruction", "--steps", "2", "--images", "2"]
    assert main(["evaluate", "runs/glass.coco_phase2", *sampling, "--json"]) == 0
    out = capsys.readouterr().out
    assert set(json.loads(out[out.index("[") :])[0]["metrics"]) == {"mse_sum", "psnr", "ssim"}
    picture = "data/coco/val2017/000000139001.jpg"
    assert main(["edit", "runs/glass.coco_phase2", picture, "--remove", "1", "--steps", "2"]) == 0
    assert Image.open("edits/000000139001_edited.png").size == (64, 64)
    assert main(["convert", "unet", "runs/glass.coco_phase2", "--out", "unet"]) == 0
    assert Path("unet/unet/config.json").exists()
