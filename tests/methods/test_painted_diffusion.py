"""The diffusion model of painted scenes: what is trained when, what tokens stand for, the pipeline that it leaves."""

from dataclasses import replace

import pytest
import torch

from slotworks.data.scenes import PaintedScenes
from slotworks.encoders.object_tokens import Objects
from slotworks.evaluation.generation import evaluate_generation
from slotworks.methods import PaintedDiffusion, PaintedDiffusionConfig, TinyDiffusionConfig
from slotworks.methods.painted_diffusion import _attention_loss
from slotworks.nn.noise import shared_noise
from slotworks.synthesis.stable_diffusion import load_stable_diffusion
from slotworks.types import UserError, to_batch

pytest.importorskip("diffusers")

SMALL = PaintedDiffusionConfig(
    image_size=32, vae_batch=2, unet_dims=(16, 32, 32), head_dim=8, context_dim=32, text_layers=1
)
SCENES = PaintedScenes(image_size=32, num_train=64, num_val=8)


@pytest.fixture(scope="module")
def batch():
    return to_batch(SCENES.open("train").__getitems__(range(8)))


def build(batch, **changed):
    torch.manual_seed(0)
    method = replace(SMALL, **changed).build()
    method.fit([batch])
    return method


def of_phase_2(first):
    second = replace(first.config, phase_1="runs/first").build()
    second.prepare(lambda folder: first)
    return second


def trained(method, batch):
    method.zero_grad()
    terms = method.loss(batch, 0)
    torch.stack(list(terms.values())).sum().backward()
    parts = {name.split(".")[0] for name, p in method.named_parameters() if p.grad is not None}
    return parts, {name for name, value in terms.items() if value}


def test_what_each_phase_trains(batch):
    first = build(batch)
    assert trained(first, batch) == ({"unet", "tokens"}, {"denoise", "attention"})
    second = of_phase_2(first)
    assert trained(second, batch) == ({"vae", "text_encoder"}, {"recon", "words"})
    for name, value in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name


def test_the_other_phase_has_to_fit(batch):
    second = replace(SMALL, phase_1="runs/first").build()
    with pytest.raises(UserError, match="is runs/first, a run of TinyDiffusion"):
        second.prepare(lambda folder: TinyDiffusionConfig(vae_dims=(8, 16), unet_dims=(32,), text_layers=1).build())
    with pytest.raises(UserError, match=r"differ in .*; both phases need the same sizes"):
        second.prepare(lambda folder: build(batch, unet_dims=(16, 16, 32)))


def test_latents_are_those_of_the_vae_and_have_deviation_one(batch):
    method = build(batch)
    latents = method.latents(batch["image"])
    encoded = method.vae.encode(2 * batch["image"] - 1).latent_dist.mode()
    torch.testing.assert_close(latents, encoded, atol=1e-3, rtol=1e-3)
    assert float(latents.std()) == pytest.approx(1, abs=0.02)
    torch.testing.assert_close(latents.std((0, 2, 3)).sort(descending=True).values, latents.std((0, 2, 3)))
    error = (method.pixels(latents) - batch["image"]).square().mean()
    assert 0 < float(error) < 2e-3  # twelve of 48 components


def context(batch, **changed):
    """Of pictures in which only one thing is left out, tokens and what they stand for."""
    shares = dict.fromkeys(("empty_share", "classes_share", "placeless_share", "drop_share", "copy_share"), 0.0)
    method = build(batch, **{**shares, **changed})
    with shared_noise(0, part=0, parts=1), torch.no_grad():
        tokens, stands = method._context(batch)
    return method, tokens, stands


def test_tokens_stand_for_objects(batch):
    method, tokens, stands = context(batch)
    objects = Objects.of(batch)
    m = objects.present.shape[1]
    with torch.no_grad():
        torch.testing.assert_close(tokens[:, : 1 + m], method.tokens.context(objects, batch["background"].long()))
        torch.testing.assert_close(tokens[:, 1 + m :], method.tokens.nulls(1, 1).expand_as(tokens[:, 1 + m :]))
    assert torch.equal(stands.sum(2), torch.ones_like(stands.sum(2)))  # each for one id
    for k in range(m):
        assert torch.equal(stands[:, 1 + k, 1 + k], objects.present[:, k])
    assert not stands[:, 1 + m :, 1:].any()


def test_nothing_said_stands_for_nothing(batch):
    _, tokens, stands = context(batch, empty_share=1.0)
    assert torch.equal(tokens, tokens[:1, :1].expand_as(tokens))
    assert stands[..., 0].all()
    assert not stands[..., 1:].any()


def test_classes_are_one_token_each(batch):
    method, tokens, stands = context(batch, classes_share=1.0)
    objects = Objects.of(batch)
    null = method.tokens.nulls(1, 1)[0, 0]
    for i in range(len(tokens)):
        said = [k for k in range(5) if not torch.equal(tokens[i, 1 + k], null)]
        ids = objects.shape[i, said].tolist()
        assert sorted(ids) == sorted(set(objects.shape[i][objects.present[i]].tolist()))
        for k, shape in zip(said, ids, strict=True):
            assert torch.equal(stands[i, 1 + k, 1:], (objects.shape[i] == shape) & objects.present[i])


def test_copies_say_no_place(batch):
    _, once, _ = context(batch)
    method, tokens, stands = context(batch, copy_share=1.0)
    objects = Objects.of(batch)
    torch.testing.assert_close(tokens[:, :6], once[:, :6])
    placeless = replace(objects, x=torch.full_like(objects.x, torch.nan))
    with torch.no_grad():
        torch.testing.assert_close(tokens[:, 6:11], method.tokens(placeless))
    assert torch.equal(stands[:, 1:6, 1:], stands[:, 6:11, 1:])


def test_the_loss_of_attention():
    """Two positions, the second half covered by object 1; tokens for the background, object 1, and object 2 twice."""
    mask = torch.tensor([[[0, 0, 0, 1], [0, 0, 0, 1]]])
    stands = torch.tensor([[[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]]]).bool()
    attention = torch.tensor([[[0.7, 0.1, 0.1, 0.1], [0.5, 0.25, 0.125, 0.125]]])
    expected = -(torch.tensor(0.7).log() + 0.5 * torch.tensor(0.5).log() + 0.5 * torch.tensor(0.25).log()) / 2
    torch.testing.assert_close(_attention_loss(attention, stands, mask, (1, 2)), expected, atol=1e-5, rtol=0)
    stands[:, 1] = False  # nobody stands for object 1: it does not count
    expected = -(torch.tensor(0.7).log() + 0.5 * torch.tensor(0.5).log()) / 2
    torch.testing.assert_close(_attention_loss(attention, stands, mask, (1, 2)), expected, atol=1e-5, rtol=0)


def test_it_learns_where_to_look(batch):
    """Fifteen steps on four pictures: less error in the same noise, and attention that begins to find the objects."""
    method, few = build(batch), {name: value[:4] for name, value in batch.items()}
    optimizer = torch.optim.Adam(method.param_groups()["all"], lr=3e-3)

    def now():
        with shared_noise(99, part=0, parts=1), torch.no_grad():
            return {name: value.item() for name, value in method.loss(few, 0).items()}

    before = now()
    for step in range(15):
        with shared_noise(step, part=0, parts=1):
            terms = method.loss(few, step)
        optimizer.zero_grad()
        (terms["denoise"] + terms["attention"]).backward()
        optimizer.step()
    after = now()
    assert after["denoise"] < 0.9 * before["denoise"]
    assert after["attention"] < 0.9 * before["attention"]


def test_exported_as_a_pipeline(batch, tmp_path):
    from diffusers import StableDiffusionPipeline

    first = build(batch)
    first.export(tmp_path)
    assert not (tmp_path / "pipeline").exists()  # the first phase has no decoder yet
    method = of_phase_2(first).eval()
    method.export(tmp_path)
    folder = tmp_path / "pipeline"
    pipeline = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    assert pipeline.scheduler.config.rescale_betas_zero_snr
    assert float(pipeline.scheduler.alphas_cumprod[-1]) < 1e-9
    pipeline.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 2, "height": 32, "width": 32, "output_type": "np"}
    prompts = ["a red circle at 20 30 on grey", "", "a flying zebra", " and ".join(["a small red star"] * 12)]
    theirs = pipeline(prompts, generator=torch.Generator().manual_seed(0), **options).images
    assert theirs.shape == (4, 32, 32, 3)
    ours = load_stable_diffusion(str(folder), "cpu")
    context = ours.embed(prompts)
    images = ours.generate(context, ours.embed([""]), seeds=[0] * 4, image_size=32, steps=2, cfg_scale=1.5)
    assert images.shape == (4, 32, 32, 3)
    one = method.draw({name: value[:2] for name, value in batch.items()}, captions=True, steps=2, seed=3)
    assert one.shape == (2, 3, 32, 32)


def test_scores_of_generation(batch):
    first = build(batch)
    assert isinstance(first, PaintedDiffusion)
    result = evaluate_generation(first, SCENES.open("val"), SCENES.open("train"), num_images=4, steps=1)
    assert set(result.metrics) >= {"shown", "placed", "centred", "iou", "shape", "attention_0", "attention_4"}
    assert result.metrics["placed"].n == int(SCENES.open("val").__getitems__(range(4))["num_objects"].sum())
