"""DiffCut: cut values by hand and against the Rayleigh quotient, blocks, features inside a tiny U-Net."""

import math

import pytest
import torch
import torch.nn.functional as F
from tiny_models import save_diffusion

from slotworks.methods.diff_cut import (
    DiffCutConfig,
    affinity,
    best_cut,
    cut_values,
    last_down_attention,
    nearest_region,
    regions_of,
)
from slotworks.types import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_diffusion(tmp_path_factory.mktemp("sd"))


def test_cut_value_by_hand():
    """A path of three nodes, each also linked to itself."""
    w = torch.tensor([[2.0, 1, 0], [1, 2, 1], [0, 1, 2]]).double()
    sides = torch.tensor([[True, False, False], [False, True, True], [False, True, False], [True, True, True]])
    values = cut_values(w, sides)
    # degrees 3, 4, 3; one edge cut in the first two, two in the third
    assert values.tolist() == pytest.approx([1 / 3 + 1 / 7, 1 / 3 + 1 / 7, 2 / 4 + 2 / 6, math.inf], abs=1e-12)


def test_cut_value_is_the_rayleigh_quotient():
    """Shi & Malik 2000, section 2.1: y = (1 + x) - b (1 - x) with x in {1, -1}."""
    torch.manual_seed(0)
    w = torch.rand(8, 8).double()
    w = w + w.T
    d = torch.diag(w.sum(1))
    sides = torch.rand(20, 8) > 0.5
    for side, value in zip(sides, cut_values(w, sides), strict=True):
        x = 2 * side.double() - 1
        k = d.diagonal()[side].sum() / d.sum()
        y = (1 + x) - k / (1 - k) * (1 - x)
        torch.testing.assert_close(value, (y @ (d - w) @ y) / (y @ d @ y), rtol=0, atol=1e-12)


def test_blocks_are_found_exactly():
    ids = torch.tensor([0, 2, 1, 1, 0, 2, 2, 3])
    w = (ids[:, None] == ids).double()
    found = regions_of(w, 0.5)
    assert torch.equal(found[:, None] == found, ids[:, None] == ids)
    assert found.unique().tolist() == [0, 1, 2, 3]


def test_tau_decides_when_to_stop():
    """Two groups, all pairs linked weakly: the one cut costs 2 * 0.4 / 1.4 = 4/7."""
    ids = torch.tensor([0, 0, 1, 1])
    w = 0.4 + 0.6 * (ids[:, None] == ids).double()
    sides, value = best_cut(w)
    assert value == pytest.approx(2 * 4 * 0.4 / (2 * 2.8), abs=1e-12)
    assert sides[0] == sides[1] != sides[2] == sides[3]
    assert regions_of(w, value - 1e-6).unique().tolist() == [0]
    assert regions_of(w, value + 1e-6).tolist() in ([0, 0, 1, 1], [1, 1, 0, 0])
    assert best_cut(w[:1, :1])[1] == math.inf


def test_permuting_positions_permutes_regions():
    torch.manual_seed(0)
    w = affinity(torch.randn(5, 6)[torch.randint(5, (40,))] + 0.3 * torch.randn(40, 6), 10.0)
    order = torch.randperm(40)
    found, permuted = regions_of(w, 0.5), regions_of(w[order][:, order], 0.5)
    assert torch.equal(found[order][:, None] == found[order], permuted[:, None] == permuted)
    assert len(found.unique()) > 2


def test_affinity():
    f = torch.tensor([[2.0, 0], [0, 3], [-1, 0]])  # cosines 1, 0, -1 become 1, 1/2, 0
    h = 0.5**3
    torch.testing.assert_close(affinity(f, 3.0), torch.tensor([[1, h, 0], [h, 1, h], [0, h, 1]]).double())


def test_nearest_region_keeps_the_largest():
    features = torch.eye(3)[[0, 0, 0, 1, 2, 2]]
    fine = torch.tensor([[1.0, 0, 0], [0, 1, 0.1], [0, 0, 1]])
    regions = torch.tensor([0, 0, 0, 1, 2, 2])
    assert nearest_region(features, regions, fine, 8).tolist() == [0, 1, 2]
    assert nearest_region(features, regions, fine, 2).tolist() == [0, 1, 1]  # region 1, the smallest, is gone


@pytest.mark.parametrize("double", [False, True])
def test_features_are_those_of_the_whole_unet(tmp_path, double):
    """One pass with a hook, everything spelled out with the pipeline's own parts."""
    import diffusers

    folder = save_diffusion(tmp_path, double=double)
    method = DiffCutConfig(model=str(folder), input_size=64).build()
    image = torch.rand(2, 3, 64, 64)
    found = method.features(image)
    pipeline_class = diffusers.StableDiffusionXLPipeline if double else diffusers.StableDiffusionPipeline
    pipe = load_pipeline(pipeline_class, folder)
    caught = []
    module = pipe.unet.down_blocks[1].attentions[-1].transformer_blocks[-1].attn1
    module.register_forward_hook(lambda module, args, output: caught.append(output))
    options = {"device": "cpu", "num_images_per_prompt": 1, "do_classifier_free_guidance": False}
    prompt = pipe.encode_prompt(["", ""], **options)
    added = {}
    if double:
        ids = torch.tensor([[64.0, 64, 0, 0, 64, 64]] * 2)
        added = {"added_cond_kwargs": {"text_embeds": prompt[2], "time_ids": ids}}
    with torch.no_grad():
        latents = pipe.vae.encode(2 * image - 1).latent_dist.mean * pipe.vae.config.scaling_factor
        noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(42)).expand_as(latents)
        noisy = pipe.scheduler.add_noise(latents, noise, torch.tensor([50, 50]))
        pipe.unet(noisy, 50, encoder_hidden_states=prompt[0], **added)
    assert found.shape == (2, 16, 32)
    torch.testing.assert_close(found, caught[0], rtol=0, atol=1e-5)


def load_pipeline(pipeline_class, folder):
    """The parts of the folder as a pipeline, which the folder itself does not name."""
    import transformers
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

    parts = {
        "unet": UNet2DConditionModel.from_pretrained(folder / "unet"),
        "vae": AutoencoderKL.from_pretrained(folder / "vae"),
        "scheduler": DDIMScheduler.from_pretrained(folder / "scheduler"),
        "tokenizer": transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        "text_encoder": transformers.CLIPTextModel.from_pretrained(folder / "text_encoder"),
    }
    if (folder / "tokenizer_2").is_dir():
        parts["tokenizer_2"] = transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer_2")
        text_class = transformers.CLIPTextModelWithProjection
        return pipeline_class(**parts, text_encoder_2=text_class.from_pretrained(folder / "text_encoder_2"))
    return pipeline_class(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)


def test_encode(folder):
    """Regions of the tiny U-Net's features; the seed does not matter, nor what else is in the batch."""
    options = {"input_size": 64, "map_size": 16, "num_slots": 6, "tau": 0.9, "images_per_pass": 2}
    method = DiffCutConfig(model=str(folder), **options).build()
    image = torch.rand(3, 3, 32, 48)
    out = method.encode(image)
    assert out.attn.shape == (3, 6, 256)
    assert out.grid == (16, 16)
    assert out.attn.sum(1).unique().tolist() == [1]
    torch.manual_seed(9)
    torch.testing.assert_close(method.encode(image).attn, out.attn, rtol=0, atol=0)
    torch.testing.assert_close(method.features(image[1:2])[0], method.features(image)[1], rtol=0, atol=1e-5)
    resized = F.interpolate(image, (64, 64), mode="bilinear")
    torch.testing.assert_close(method.encode(resized).attn, out.attn, rtol=0, atol=0)
    assert method.state_dict() == {}


def test_planted_features_give_the_planted_regions(folder, monkeypatch):
    """Three features on a 4 x 4 grid: the same picture on a 8 x 8 map; slots are the features."""
    ids = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 2, 2], [2, 2, 2, 2]])
    method = DiffCutConfig(model=str(folder), map_size=8, num_slots=5).build()
    monkeypatch.setattr(method, "features", lambda image: (torch.eye(3) * 7)[ids.flatten()].unsqueeze(0))
    out = method.encode(torch.zeros(1, 3, 64, 64))
    large = ids.repeat_interleave(2, 0).repeat_interleave(2, 1)
    found = out.attn_maps[0].argmax(0)
    assert torch.equal(found.flatten()[:, None] == found.flatten(), large.flatten()[:, None] == large.flatten())
    assert (out.attn.sum(2) > 0).sum() == 3


def test_refined_regions_follow_the_picture(folder, monkeypatch):
    """Two regions whose border lies two pixels of the map beside the edge of the picture; PAMR moves it there."""
    image = torch.zeros(1, 3, 64, 64)
    image[..., 24:] = 1
    ids = torch.tensor([[0, 0, 1, 1]] * 4)
    found = []
    for refinement in (0, 10):
        method = DiffCutConfig(model=str(folder), map_size=16, num_slots=3, refinement=refinement).build()
        monkeypatch.setattr(method, "features", lambda image: (torch.eye(3) * 7)[ids.flatten()].unsqueeze(0))
        found.append(method.encode(image).attn_maps[0].argmax(0))
    columns = torch.arange(16).expand(16, 16)
    for regions, border in zip(found, (8, 6), strict=True):
        assert torch.equal(regions == regions[0, 0], columns < border)


def test_mistakes(folder, tmp_path):
    class NoAttention:
        down_blocks = ()

    with pytest.raises(UserError, match="no attention in its down blocks"):
        last_down_attention(NoAttention())
    with pytest.raises(UserError, match="DiffCut trains nothing"):
        DiffCutConfig(model=str(folder)).build().loss({}, 0)
    with pytest.raises(ValueError, match=r"72x72 pixels, but .* needs multiples of 32"):
        DiffCutConfig(model=str(folder), input_size=72).build().features(torch.zeros(1, 3, 72, 72))
    with pytest.raises(UserError, match=r"The part unet of '.*' could not be loaded"):
        DiffCutConfig(model=str(tmp_path), input_size=64).build().features(torch.zeros(1, 3, 64, 64))
