"""Composable Diffusion against diffusers' own pipeline, and the rules of weights."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import save_diffusion

from slotworks.cli import main
from slotworks.editing.composable import compose, embed_prompts, read_composition
from slotworks.encoders.diffusion import LatentDiffusion
from slotworks.evaluation.samples import to_pixels
from slotworks.types import UserError

diffusers = pytest.importorskip("diffusers")


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def folder(request, tmp_path_factory):
    return str(save_diffusion(tmp_path_factory.mktemp("sd") / request.param, prediction=request.param))


@pytest.fixture(scope="module")
def loaded(folder):
    return LatentDiffusion(folder)


def test_one_prompt_is_the_pipeline_of_diffusers(folder, loaded):
    """`StableDiffusionPipeline` of diffusers 0.42 with its own classifier-free guidance, same weights and noise."""
    parts = loaded.parts(torch.empty(0))
    from transformers import CLIPTextModel, CLIPTokenizer

    pipeline = diffusers.StableDiffusionPipeline(
        vae=parts.vae,
        unet=parts.unet,
        text_encoder=CLIPTextModel.from_pretrained(folder, subfolder="text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer"),
        scheduler=diffusers.DDIMScheduler.from_pretrained(folder, subfolder="scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    seeds = (4, 9)
    noise = torch.cat([torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    expected = pipeline(
        ["a cat"] * 2, latents=noise, num_inference_steps=3, guidance_scale=4.0, output_type="pt"
    ).images
    found = compose(loaded, ["a cat"], guidance=4.0, steps=3, seeds=seeds)
    assert found.shape == (2, 3, 64, 64)
    assert expected.std() > 0.01
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def picture(loaded, prompts, weights, **options):
    return compose(loaded, prompts, weights, steps=2, size=(32, 64), **options)


def test_weights_add_up(loaded):
    once = picture(loaded, ["a cat", "a dog"], [3.0, 2.0])
    assert once.shape == (1, 3, 32, 64)
    split = picture(loaded, ["a dog", "a cat", "a cat", "a hat"], [2.0, 1.0, 2.0, 0.0])
    torch.testing.assert_close(split, once, atol=1e-5, rtol=0)
    assert (picture(loaded, ["a cat", "a dog"], [3.0, -2.0]) - once).abs().max() > 1e-3


def test_a_prompt_and_its_negation_cancel(loaded):
    """What is left is the empty prompt, which every weight of it gives, too."""
    cancelled = picture(loaded, ["a cat", "a cat"], [5.0, -5.0])
    torch.testing.assert_close(cancelled, picture(loaded, [""], [7.0]), atol=1e-5, rtol=0)
    assert (picture(loaded, ["a cat"], [5.0]) - cancelled).abs().max() > 1e-3


def test_prompts_are_padded_as_the_text_encoder_takes_them(folder, loaded):
    texts = embed_prompts(folder, ["", "a cat", "b" * 200])
    assert texts.shape == (3, 77, 32)
    torch.testing.assert_close(texts[:1], loaded.parts(torch.empty(0)).empty_prompt)
    assert not torch.equal(texts[1], texts[0])


def test_sentences():
    assert read_composition("a cat AND a sink AND NOT a towel", 2.0) == (["a cat", "a sink", "a towel"], [2, 2, -2])
    assert read_composition("pizza | person | NOT NOTES") == (["pizza", "person", "NOTES"], [7.5, 7.5, -7.5])
    assert read_composition("sand AND NOTES") == (["sand", "NOTES"], [7.5, 7.5])
    for text in ("", "a cat AND", "a | | b", "a AND NOT"):
        with pytest.raises(UserError, match="has an empty part"):
            read_composition(text)


def test_what_cannot_be_composed(loaded, tmp_path):
    with pytest.raises(ValueError, match="2 prompts and 1 weights"):
        compose(loaded, ["a", "b"], [1.0])
    with pytest.raises(ValueError, match="0 prompts"):
        compose(loaded, [])
    with pytest.raises(ValueError, match="size is 20 x 64 pixels; both must be multiples of 32"):
        compose(loaded, ["a"], size=(20, 64))
    with pytest.raises(UserError, match=r"There is no folder '\./nowhere'"):
        compose("./nowhere", ["a"])


def test_two_text_encoders_are_refused(tmp_path):
    folder = save_diffusion(tmp_path / "xl", double=True)
    with pytest.raises(UserError, match="has two text encoders"):
        compose(str(folder), ["a"])


def test_figure_9_from_the_command_line(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["compose", "pizza AND person", "--model", folder, "--steps", "2", "--seeds", "0", "3", "--json"]
    assert main([*command, "--device", "cpu"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["prompts"], answer["weights"]) == (["pizza", "person"], [7.5, 7.5])
    assert answer["written"] == ["composed/pizza_and_person_0.png", "composed/pizza_and_person_3.png"]
    expected = compose(folder, ["pizza", "person"], steps=2, seeds=(0, 3))
    for path, picture in zip(answer["written"], expected, strict=True):
        with Image.open(path) as found:
            difference = np.asarray(found).astype(int) - to_pixels(picture).astype(int)
        assert np.abs(difference).max() <= 1
    Path("composed/pizza_and_person_0.png").write_text("mine")
    assert main([*command, "--device", "cpu"]) == 2
    assert "pizza_and_person_0.png" in capsys.readouterr().err
    assert Path("composed/pizza_and_person_0.png").read_text() == "mine"
    assert main(["compose", "cat AND "]) == 2
    assert "has an empty part" in capsys.readouterr().err
