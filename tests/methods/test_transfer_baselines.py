"""Slot Attention, SAVi, SLATE and STEVE of SlotDiffusion's tables equal their originals in its repository.

Outputs, losses and gradients with the same weights, which are drawn from a seed that is the original's name of each
array, as in `test_transfer_slot_diffusion`; the sizes of the published configurations; and what the two-stage methods
learn at which rate. `tests/references/README.md` names commit and settings.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from test_transfer_slate import dvae_names, transformer_names
from test_transfer_slot_diffusion import fill, noise, slots_array, substitute, weight

from slotworks import protocols
from slotworks.configs import dvae, savi, slate, slot_attention, steve
from slotworks.methods import SAViConfig, SlateConfig, SlotAttentionConfig, SteveConfig
from slotworks.training import schedule

REFERENCE = np.load(Path(__file__).parents[1] / "references" / "slot_diffusion_baselines.npz")
SLOTS = {"parts": "slot_diffusion", "num_slots": 4, "slot_dim": 24, "mlp_dim": 48, "initializer": "learned"}
WORDS = {
    "image_size": 16,
    "vocab_size": 12,
    "dvae_run": "runs/dvae",
    "dvae_signed": True,
    "target_tokens": "probable",
    "model_dim": 24,
    "decoder_blocks": 2,
    "decoder_heads": 2,
}
TRANSFORMER = {**dvae_names("norm"), **transformer_names("trans_decoder.tf_dec")}


def close(found, name):
    expected = torch.from_numpy(REFERENCE[name]).double()
    found = found.detach().double().flatten()[: expected.numel()]  # of some gradients only the beginning is stored
    torch.testing.assert_close(found, expected.flatten(), rtol=1e-6, atol=1e-6)


def array(name, shape):
    """The original's array that is `name` here."""
    if name in TRANSFORMER:
        return weight(TRANSFORMER[name], shape)
    if name == "decoder.words.weight":
        return weight("trans_decoder.tok_emb.weight", (shape[0] + 1, shape[1]))[:-1]
    if name == "decoder.begin":
        return weight("trans_decoder.tok_emb.weight", (13, *shape))[-1]
    if name == "decoder.positions":
        return weight("trans_decoder.pos_emb.pe", (1, *shape))[0]
    if name.startswith("decoder.project_slots"):
        return weight(name.replace("decoder.project_slots", "trans_decoder.in_proj"), shape)
    if name == "decoder.head.weight":
        return weight("trans_decoder.head.weight", shape)
    if name.startswith("decoder."):
        rules = (
            (r"^decoder\.position\.project", "decoder_pos_embedding.dense"),
            (r"^decoder\.layers\.(\d)", r"decoder.\1.0"),
            (r"^decoder\.last", "decoder.2"),
        )
        return weight(substitute(name, *rules), shape)
    name = substitute(
        name,
        (r"^encoder\.backbone", "front.encoder"),
        (r"^encoder\.position", "front.position"),
        (r"^encoder\.norm", "front.feature_mlp.0"),
        (r"^encoder\.mlp\.0", "front.feature_mlp.1"),
        (r"^encoder\.mlp\.2", "front.feature_mlp.3"),
        (r"^initializer", "front.initializer"),
        (r"^slot_attention|^slots\.corrector", "video_slots.corrector"),
        (r"^slots\.predictor", "video_slots.predictor"),
    )
    return slots_array(name, shape)


def test_slot_attention():
    config = SlotAttentionConfig(image_size=(16, 16), channels=10, decoder_strides=(2, 2), eps=1e-6, **SLOTS)
    method = fill(config.build(), array)
    image = noise("image", (2, 3, 16, 16)).tanh().requires_grad_()
    decoded = method.decode(method.encode(image / 2 + 0.5).slots)
    loss = method.loss({"image": image / 2 + 0.5}, 0)["recon"]
    loss.backward()
    close(2 * decoded.recon - 1, "sa_recon")
    close(decoded.masks, "sa_masks")
    close(loss, "sa_loss")
    close(image.grad, "sa_grad_image")
    close(method.initializer.slots.grad, "sa_grad_init")
    close(method.decoder.last.weight.grad, "sa_grad_last")
    close(method.decoder.layers[0].weight.grad, "sa_grad_first")
    close(method.encoder.backbone.stem.weight.grad, "sa_grad_stem")


def test_savi():
    config = SAViConfig(
        image_size=(16, 16),
        num_iterations=2,
        decoder_channels=10,
        decoder_strides=(2, 2),
        predictor_blocks=2,
        predictor_mlp_dim=96,
        predictor_dropout=0.1,
        targets=("rgb",),
        **SLOTS,
    )
    method = fill(config.build(), array)
    video = noise("video", (2, 3, 3, 16, 16)).tanh().requires_grad_()
    out = method.encode(video / 2 + 0.5)
    decoded = method.decode(out.slots)
    loss = method.loss({"video": video / 2 + 0.5}, 0)["rgb"]
    loss.backward()
    close(out.slots, "savi_slots")
    close(2 * decoded.recon - 1, "savi_recon")
    close(decoded.masks, "savi_masks")
    close(loss, "savi_loss")
    close(video.grad, "savi_grad_video")
    close(method.initializer.slots.grad, "savi_grad_init")
    close(method.video_slots.predictor.blocks[1].mlp[0].weight.grad, "savi_grad_linear1")


def test_slate():
    method = fill(SlateConfig(num_iterations=3, loss_weights={}, **SLOTS, **WORDS).build(), array)
    image = noise("image", (2, 3, 16, 16)).tanh().requires_grad_()
    out = method.encode(image / 2 + 0.5)
    tokens = method.dvae.tokenize(image / 2 + 0.5)
    terms = method.loss({"image": image / 2 + 0.5}, 0)
    assert set(terms) == {"cross_entropy"}
    (terms["cross_entropy"] / 16).backward()  # theirs is a mean over 16 tokens
    assert torch.equal(tokens, torch.from_numpy(REFERENCE["slate_tokens"]).long())
    close(out.slots, "slate_slots")
    close(method.decoder(out.slots, method.decoder.embed(tokens)), "slate_logits")
    close(terms["cross_entropy"] / 16, "slate_loss")
    close(image.grad, "slate_grad_image")
    close(method.initializer.slots.grad, "slate_grad_init")
    close(torch.cat([method.decoder.words.weight.grad, method.decoder.begin.grad[None]]), "slate_grad_words")
    close(method.decoder.positions.grad, "slate_grad_positions")
    close(method.decoder.project_slots.weight.grad, "slate_grad_project")
    close(2 * method.dvae.decode_codes(noise("codes", (2, 12, 4, 4)).softmax(1)) - 1, "slate_dvae")
    written = torch.from_numpy(REFERENCE["slate_written"]).long()
    assert torch.equal(method.decoder.generate(out.slots), written)
    assert torch.equal(method.decoder.generate(out.slots, cache=False), written)
    assert out.grid == (4, 4)


def test_steve():
    config = SteveConfig(
        num_iterations=2, predictor_blocks=2, predictor_dropout=0.1, dvae_block="norm", **SLOTS, **WORDS
    )
    method = fill(config.build(), array)
    video = noise("video", (2, 3, 3, 16, 16)).tanh().requires_grad_()
    out = method.encode(video / 2 + 0.5)
    tokens = method.dvae.tokenize(video.flatten(0, 1) / 2 + 0.5)
    loss = method.loss({"video": video / 2 + 0.5}, 0)["cross_entropy"] / 16
    loss.backward()
    assert torch.equal(tokens, torch.from_numpy(REFERENCE["steve_tokens"]).long())
    close(out.slots, "steve_slots")
    close(method.decoder(out.slots.flatten(0, 1), method.decoder.embed(tokens)), "steve_logits")
    close(loss, "steve_loss")
    close(video.grad, "steve_grad_video")
    close(method.initializer.slots.grad, "steve_grad_init")
    close(method.slots.predictor.blocks[1].mlp[0].weight.grad, "steve_grad_linear1")
    assert out.grid == (4, 4)


@pytest.mark.parametrize(
    ("recipe", "trained", "fixed"),
    [
        (slot_attention.clevrtex, 5_192_708, 0),
        (slot_attention.celeba, 5_191_364, 0),
        (savi.movi_d_unconditional, 4_853_892, 0),
        (savi.movi_e_unconditional, 4_853_892, 0),
        (slate.clevrtex_stage2, 9_890_112, 681_923),
        (slate.celeba_stage2, 9_888_768, 681_923),
        (steve.movi_d_stage2, 10_780_608, 681_923),
        (steve.movi_e_stage2, 10_780_608, 681_923),
    ],
)
def test_sizes_of_the_originals(recipe, trained, fixed):
    """Counted in the original networks, built from the repository's own configuration files."""
    with torch.device("meta"):
        method = recipe().method.build()
    sizes = {True: 0, False: 0}
    for parameter in method.parameters():
        sizes[parameter.requires_grad] += parameter.numel()
    assert sizes == {True: trained, False: fixed}


@pytest.mark.parametrize("recipe", [slate.clevrtex_stage2, steve.movi_d_stage2])
def test_what_learns_fast(recipe):
    """The projection of the slots is part of the decoder there, which learns three times as fast."""
    run = recipe()
    with torch.device("meta"):
        groups = run.method.build().param_groups()
    assert run.optimizer.lr_scales == {"decoder": 3.0}
    assert sum(p.numel() for p in groups["decoder"]) == 6_542_592
    assert groups["dvae"] == []


RATES = [  # what the repository's `CosineAnnealingWarmupRestarts` set for the update after so many others
    (
        dvae.clevrtex,
        62_500,
        {
            0: 1e-5,
            1: 1.03168e-5,
            1_562: 5.048416e-4,
            3_125: 1e-3,
            15_625: 8.956245521512149e-4,
            62_499: 1.0000000692e-5,
        },
    ),
    (
        slot_attention.clevrtex,
        125_000,
        {
            0: 4e-6,
            1: 4.12672e-6,
            3_125: 4e-4,
            31_250: 3.502051281378e-4,
            62_500: 2.0997265614e-4,
            124_999: 4.0000000658e-6,
        },
    ),
    (
        savi.movi_d_unconditional,
        201_090,
        {0: 1e-6, 1: 1.01969267e-6, 50_272: 8.755154501e-5, 100_545: 5.2493164035e-5, 201_089: 1.00000000635e-6},
    ),
    (
        slate.clevrtex_stage2,
        125_000,
        {
            0: 0.0,
            1: 1.6e-8,
            3_125: 5e-5,
            6_250: 1e-4,
            31_250: 8.945702547e-5,
            62_500: 5.4128967274e-5,
            124_999: 1.74974e-14,
        },
    ),
    (
        steve.movi_d_stage2,
        201_090,
        {0: 0.0, 1: 9.945795415e-9, 50_272: 8.9457277988e-5, 100_545: 5.4128967274e-5, 201_089: 6.761e-15},
    ),
]


@pytest.mark.parametrize(("recipe", "steps", "rates"), RATES)
def test_learning_rates_by_step(recipe, steps, rates):
    """The original's warm-up may end between two steps (5 percent of 201,090), ours does at one: 1e-4 of the rate."""
    run = recipe()
    assert run.steps == steps
    for step, rate in rates.items():
        assert schedule(run.optimizer, step, steps) == pytest.approx(rate, rel=1e-4, abs=1e-18), step


def test_learning_rates_of_the_released_savi():
    """Closed form of optax' `warmup_cosine_decay_schedule`: from 0 over 2,500 steps to 2e-4, down to 0 at the last."""
    run = savi.movi_a_small()
    for step in (0, 1, 1_250, 2_500, 2_501, 51_250, 75_000, 99_999, 100_000):
        after = (1 + np.cos(np.pi * (step - 2_500) / 97_500)) / 2
        expected = 2e-4 * (step / 2_500 if step < 2_500 else after)
        assert schedule(run.optimizer, step, run.steps) == pytest.approx(expected, rel=1e-12, abs=1e-24)


def test_other_parts_refuse_what_they_do_not_read():
    with pytest.raises(ValueError, match=r"method.encoder_strides is \(2, 1\), which means nothing with method.parts="):
        SAViConfig(parts="slot_diffusion", encoder_strides=(2, 1)).build()
    with pytest.raises(ValueError, match=r"method.cnn_stride is 1, which means nothing with method.parts='slot_diff"):
        SteveConfig(parts="slot_diffusion", cnn_stride=1).build()


def test_masks_are_scored_where_the_tables_take_them():
    """`img_based/test_seg.py` and `video_based/test_seg.py`: SA and SAVi by their decoders, the others by attention."""
    decoder = (slot_attention.clevrtex, savi.movi_d_unconditional, savi.movi_e_unconditional)
    attention = (slate.clevrtex_stage2, steve.movi_d_stage2, steve.movi_e_stage2)
    for recipe in decoder + attention:
        protocol = protocols.get(recipe().protocol)
        assert protocol.masks == ("decoder" if recipe in decoder else "attention")
        assert {"fg_ari", "miou_i"} <= set(protocol.metrics)
        assert "miou_i" in protocol.background_in
