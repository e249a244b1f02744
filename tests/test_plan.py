"""A step counted on the meta device: closed forms, sizes of published networks, every published recipe, the command."""

import json
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from networks import networks
from torch import nn

from slotworks.cli import main
from slotworks.cli.plan import disk_of, hours_of
from slotworks.configs import find, recipes
from slotworks.encoders import ViTConfig
from slotworks.encoders.blank import TRANSFORMERS, blank_transformer, without_weights
from slotworks.encoders.diffusion import load_diffusion
from slotworks.encoders.vit import KNOWN, load_network
from slotworks.nn.precision import without_autocast
from slotworks.plan import KINDS, Flops, HostVisits, Pace, plan, rates_here
from slotworks.training import Adam, Run
from slotworks.types import DataConfig, Method, MethodConfig, UserError


@dataclass(frozen=True)
class Pixels(DataConfig):
    image_size: int = 2
    name = "pixels"


@dataclass(frozen=True)
class LineConfig(MethodConfig):
    image_size: tuple[int, int] = (2, 2)
    asks: bool = False

    def build(self):
        return Line(self)


class Line(Method):
    """12 numbers to 20 and their square."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.layer = nn.Linear(12, 20)
        self.aside = (nn.Linear(3, 5).requires_grad_(False),)

    def loss(self, batch, step):
        out = self.layer(batch["image"].flatten(1))
        if self.config.asks and out.sum() > 0 and torch.equal(out, out) and out.argmax().item() > 0:
            out = out + out.detach().cpu().to(out.device)
        return {"square": out.square().mean()}


def line(**settings):
    return Run(method=LineConfig(**settings), data=Pixels(), optimizer=Adam(), steps=10, batch_size=8, accumulate=2)


def test_a_linear_layer_in_closed_form():
    """Forward 2 b i o, backward to the weights as much; the input and the output of the square are kept."""
    found = plan(line())
    assert found.flops == 2 * (2 * 4 * 12 * 20 + 2 * 4 * 12 * 20)  # two micro-batches of four
    assert (found.parameters, found.trained, found.frozen) == (260, 260, 20)
    assert (found.weights, found.optimizer) == (280 * 4, 3 * 260 * 4)
    assert found.activations == 4 * (4 * 12 + 4 * 20)
    assert (found.terms, found.visits) == (("square",), {})


def test_every_place_where_the_device_is_waited_for_is_counted():
    assert plan(line(asks=True)).visits == {"one number": 2, "comparison": 1, "copy to the CPU": 1}


def test_answers_for_numbers_that_are_not_there():
    x = torch.empty(2, 3, device="meta")
    with HostVisits() as counted:
        assert bool(x.sum())
        assert int(x.sum()) == float(x.sum()) == x.sum().item() == 1
        assert x.tolist() == [[0, 0, 0], [0, 0, 0]]
        assert x.cpu().device == x.to("cpu").device == x.to(device="cpu").device == torch.device("cpu")
        assert x.to(torch.float64).device == torch.device("meta")
        assert not (x < 0).any()
        assert (x < 0).all()
    assert counted.visits == {"one number": 6, "copy to the CPU": 4}


def test_published_networks_have_their_published_size():
    """U-Net 865,910,724 and VAE 83,653,863 (Stable Diffusion 2.1); 859,520,964 (1.5); DINOv2 and DINO as on the hub."""
    with without_weights(), torch.device("meta"):
        for model, unet in (
            ("stabilityai/stable-diffusion-2-1", 865_910_724),
            ("CompVis/stable-diffusion-v1-4", 859_520_964),
        ):
            parts = load_diffusion(model, "meta")
            assert sum(p.numel() for p in parts.unet.parameters()) == unet
            assert sum(p.numel() for p in parts.vae.parameters()) == 83_653_863
        for model, size in (("facebook/dinov2-base", 86_580_480), ("facebook/dino-vits8", 21_670_272 + 384 * 385)):
            assert sum(p.numel() for p in blank_transformer(model).parameters()) == size


def test_shapes_are_those_that_recipes_ask_for():
    """All networks with a name of their own here have a shape, with the patch and width that their settings say."""
    assert set(KNOWN) == set(TRANSFORMERS)
    with without_weights(), torch.device("meta"):
        for config in KNOWN.values():
            network, blocks = load_network(config)  # raises where patch or width differ
            assert len(blocks) == network.config.num_hidden_layers
        with pytest.raises(UserError, match=r"^The shape of someone/vit is not known without its files; known are "):
            load_network(ViTConfig("someone/vit"))


def test_mixed_precision_is_left_where_there_is_some():
    with torch.autocast("cpu", torch.bfloat16):
        x = torch.ones(2, 2)
        assert (x @ x).dtype == torch.bfloat16
        with without_autocast(x.device):
            assert (x @ x).dtype == torch.float32
        with without_autocast(torch.device("meta")):
            assert (x @ x).dtype == torch.bfloat16


# ---- every published recipe ----------------------------------------------------------------------------------------

MATCHING = {"copy to the CPU": 1}  # the Hungarian method
K_MEANS = {"comparison": 1}  # ends when no point moves
TAUGHT = MATCHING | K_MEANS
READS = {"copy to the CPU": 1, "one number": 1}
VISITS = {
    **dict.fromkeys(("SetPredictionConfig", "SlotMLPConfig", "DSPNConfig", "GlassConfig"), MATCHING),
    **dict.fromkeys(("DinosaurConfig", "SpotConfig"), K_MEANS),
    **dict.fromkeys(("DinosaurStudentConfig", "SpotStudentConfig"), TAUGHT),
    # captions are text, of which tokens are made on the CPU; transformers looks whether a mask of tokens masks any
    **dict.fromkeys(("CLIPpyConfig", "SegCLIPConfig", "TinyCLIPConfig"), READS),
    "OVSegmentorConfig": {"copy to the CPU": 2, "one number": 4},  # and of a matching; caption, masked, answer, noun
    "DatasetDiffusionConfig": {"one number": 1},  # whether a class has no name
    "SAViConfig": {"one number": 3},  # whether boxes are some and lie in the image
    "SlotDiffusionConfig": {"one number": 1},  # whether the autoencoder is trained, at the first step
    "StableLSDConfig": {"one number": 1},  # of starts from boxes and of as many slots as objects: the most of an image
    "VideoSlotDiffusionConfig": {"one number": 1},
}
"""How often a step waits for the device at most, by the class of the settings; never where nothing is said."""


@pytest.mark.parametrize("name", list(networks()))
def test_published_recipes_step(name):
    """Forward and backward at full size: every shape and device fits, every loss has a gradient, few waits."""
    run = recipes()[name]()
    if getattr(run.method, "perceptual", False) and find_spec("torchvision") is None:  # LPIPS is an extra
        run = replace(run, method=replace(run.method, perceptual=False))
    found = plan(run, load=lambda folder: recipes()[Path(folder).name]().method.build(), count_flops=False)
    assert found.trained > 0
    assert found.terms
    allowed = VISITS.get(type(run.method).__name__, {})
    method: Any = run.method
    times = method.num_iterations if getattr(method, "stepwise_loss", False) else 1  # a matching after each
    assert all(count <= times * allowed.get(what, 0) for what, count in found.visits.items()), found.visits


# ---- the command ---------------------------------------------------------------------------------------------------


def test_hours_follow_from_operations_and_peak(capsys):
    """4.62e12 operations a step, 312e12 a second, 0.3 of them: 0.0494 s, times 500,000 steps 6.86 hours."""
    assert main(["plan", "dinosaur.coco_mlp", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["hours"] == pytest.approx(answer["flops"] / (312e12 * 0.3) * 500_000 / 3600)
    assert answer["hours"] == pytest.approx(6.86, rel=0.01)
    assert main(["plan", "dinosaur.coco_mlp", "--gpu", "h100", "--devices", "2", "--utilisation", "0.4", "--json"]) == 0
    shared = json.loads(capsys.readouterr().out)
    positions = 3 * 2 * 196 * 256 * 2_048  # their layer: forward, its weights and its inputs, once on each device
    assert 2 * shared["flops"] - answer["flops"] == positions
    assert shared["gpu_hours"] == pytest.approx(2 * shared["flops"] / (989e12 * 0.4) * 500_000 / 3600)
    assert main(["plan", "dinosaur.coco_mlp", "--batch-size", "128"]) == 0
    text = capsys.readouterr().out
    assert "500,000 steps of 128" in text
    assert "9.24 x 10^12 operations" in text
    assert "for each checkpoint, the data prepared 17.8 GB for training, 3.3 GB for validation" in text


@pytest.mark.parametrize("name", ["stable_lsd.scenes_mini", "dataset_diffusion.scenes_mini"])
def test_networks_that_are_read_from_files(name):
    """Those of the package itself, whose shapes no list holds."""
    found = plan(find(name)(), count_flops=False)
    assert 0 < found.trained < found.parameters + found.frozen


def test_what_a_run_takes_on_the_disk():
    """Weights and two moments of those that are trained; ViT-B/14 features at 448 pixels and moments of 32 x 32."""
    run: Any = find("glass.coco")()
    found: Any = SimpleNamespace(parameters=10, trained=3)
    per_image = 32 * 32 * 768 * 2 + 8 * 32 * 32 * 4
    assert disk_of(run, found) == {"checkpoint": 4 * (10 + 2 * 3), "features": per_image, "data": None}
    averaged = replace(find("slot_attention.clevr6")(), ema_decay=0.9)
    on_disk = "6.6 GB (CLEVR6 and CLEVR10 together)"
    assert disk_of(averaged, found) == {"checkpoint": 4 * (10 + 3 * 3), "features": None, "data": on_disk}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            "dinosaur.coco_mlp --gpu h10",
            "--gpu is h10; known are t4, v100, a40, a100, l40s, h100, h200, here. Nearest: h1",
        ),
        ("dinosaur.coco_mlp --devices 0", "--devices is 0; expected a number of GPUs, 1 or more."),
        ("dinosaur.coco_mlp --devices 3", "batch_size is 64 in 1 micro-batches, which 3 GPUs cannot share evenly"),
        ("dinosaur.coco_mlp --utilisation 1.5", "--utilisation is 1.5; expected a share of the peak rate, above 0"),
        ("dinosaur.coco_mlp --utilisation nan", "--utilisation is nan; expected a share of the peak rate"),
        ("blocks.scenes_mini", "This recipe trains nothing (steps is 0)"),
        ("painted_diffusion.scenes", "A step of PaintedDiffusion reads 'shape' of its data, which are not opened here"),
        (
            "spot.coco_stage2 --method.encoder.model someone/vit",
            "The shape of someone/vit is not known without its files",
        ),
    ],
)
def test_mistakes(words, sentence, capsys):
    assert main(["plan", *words.split()]) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())


def test_seconds_of_a_step_in_closed_form(monkeypatch):
    """Start, arithmetic and memory of each operation; 12 numbers of each trained weight for the update."""
    work = {("product", 600, 40): 2, ("convolution", 500, 10): 1, ("simple", 0, 1000): 3, ("random", 0, 100): 1}
    counted = replace(plan(line()), work=work, trained=5)
    rates = {"product": Pace(0.5, 100, 20), "convolution": Pace(3, 50, 5), "simple": Pace(0.5, 1, 10)}
    rates["random"] = Pace(1, 1, 4)
    expected = 2 * (0.5 + 6 + 2) + (3 + 10 + 2) + 3 * (0.5 + 100) + (1 + 25) + 12 * 5 * 4 / 10
    assert counted.seconds(rates) == pytest.approx(expected)
    monkeypatch.setattr("slotworks.plan.rates_here", lambda: rates)
    assert hours_of(line(), counted, "here", 1, 0.3)["step_seconds"] == counted.seconds(rates)


def test_rates_of_this_machine():
    """Of every kind, positive and finite; a convolution takes longer to begin than an addition."""
    rates = rates_here()
    assert set(rates) == set(KINDS)
    assert all(0 < pace.start < 1 and min(pace.memory, pace.flops) > 1e6 for pace in rates.values())
    assert rates["convolution"].seconds(0, 1 << 18) > rates["simple"].seconds(0, 1 << 18)


def test_every_operation_has_its_kind():
    """By name, and copies by whether they put numbers in another order; counts of bytes are of all that is touched."""
    flops = Flops()
    with torch.device("meta"), flops:
        image = torch.empty(2, 3, 4, 5)
        torch.nn.functional.conv2d(image, torch.empty(7, 3, 1, 1))
        image.movedim(1, -1).contiguous()
        image.clone()
        torch.rand_like(image)
        torch.bernoulli(image)
        image.softmax(1)
        torch.nn.functional.pixel_shuffle(torch.empty(2, 12, 4, 5), 2)
    size = 4 * 120
    assert flops.work["convolution", 2 * 3 * 7 * 40, size + 4 * 21 + 4 * 280] == 1
    assert flops.work["copy", 0, 2 * size] == 1
    assert flops.work["simple", 0, 2 * size] == 1
    assert flops.work["random", 0, 2 * size] == 2
    assert flops.work["function", 0, 2 * size] == 1
    assert flops.work["copy", 0, 8 * size] == 1
    assert {kind for kind, _, _ in flops.work} <= set(KINDS)


def test_views_move_nothing_and_products_are_counted_with_their_bytes():
    flops = Flops()
    with torch.device("meta"), flops:
        x, w = torch.empty(4, 3), torch.empty(5, 3)
        x @ w.T
        torch.empty(7).sqrt()
    assert flops.work["product", 2 * 4 * 3 * 5, 4 * (12 + 15 + 20)] == 1
    assert flops.work["function", 0, 4 * 14] == 1
    assert not [key for key in flops.work if key[2] == 4 * 30]  # the transposed view


def test_a_cpu_is_one_device(capsys):
    assert main(["plan", "slot_attention.tetrominoes_mini", "--gpu", "here", "--devices", "2"]) == 2
    assert "leave --devices and --utilisation out" in capsys.readouterr().err
