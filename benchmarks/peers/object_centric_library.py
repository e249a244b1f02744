"""Slot Attention of Dittadi et al. (2021): addtt/object-centric-library."""

import importlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.peers import Job, their_modules, training_step
from slotworks.methods import SlotAttentionConfig
from slotworks.methods.slot_attention import SlotAttentionAutoencoder
from slotworks.training import Adam, Run
from slotworks.training.optimizer import build_optimizer
from slotworks.types import DataConfig

REPOSITORY, COMMIT = "addtt/object-centric-library", "c13c550cc193b50af63f027e4d147d2bf47bb62d"
STAND_INS = ("omegaconf", "ignite", "torchvision", "hydra")
STRIDED = {  # config/special_cases/slot-attention-clevr.yaml
    "encoder": {"channels": [64] * 4, "kernels": [5] * 4, "paddings": [2] * 4, "strides": [1, 2, 2, 1]},
    "decoder": {
        "conv_transposes": [True] * 6,
        "channels": [64, 64, 64, 64, 64, 4],
        "kernels": [5, 5, 5, 5, 5, 3],
        "strides": [2, 2, 2, 2, 1, 1],
        "paddings": [2, 2, 2, 2, 2, 1],
        "output_paddings": [1, 1, 1, 1, 0, 0],
        "activations": ["relu"] * 5 + [None],
    },
}
PLAIN = {  # config/model/slot-attention.yaml
    "encoder": {"channels": [32] * 4, "kernels": [5] * 4, "paddings": [2] * 4, "strides": [1] * 4},
    "decoder": {
        "conv_transposes": [False] * 4,
        "channels": [32, 32, 32, 4],
        "kernels": [5, 5, 5, 3],
        "strides": [1] * 4,
        "paddings": [2, 2, 2, 1],
        "output_paddings": [0] * 4,
        "activations": ["relu"] * 3 + [None],
    },
}
SIDES = [1, 3, 0, 2]  # their distances to the four sides in our order


def jobs(folder: Path) -> Iterator[Job]:
    """A training step at the size of Tetrominoes, and at CLEVR's with their strides."""
    plain = SlotAttentionConfig(norm_eps=1e-3)
    strided = SlotAttentionConfig(
        image_size=(128, 128),
        num_slots=7,
        channels=64,
        encoder_strides=(1, 2, 2, 1),
        decoder_strides=(2, 2, 2, 2, 1),
        norm_eps=1e-3,
    )
    for name, config, layers, batch, grid in (
        ("Slot Attention step, Tetrominoes, 35 px, batch 16", plain, PLAIN, 16, 35),
        ("Slot Attention step, CLEVR6, 128 px, their strides, batch 2", strided, STRIDED, 2, 8),
    ):
        yield replace(_step(folder, name, config, layers, batch, grid), target=2.5 if layers is PLAIN else 1.2)


def _step(folder: Path, name: str, config: SlotAttentionConfig, layers: dict, batch: int, grid: int) -> Job:
    torch.manual_seed(0)
    side = config.image_size[0]
    with their_modules(folder, stand_ins=STAND_INS):
        model_of = importlib.import_module("models.slot_attention.model").SlotAttentionAE
        theirs = model_of(
            name="slot-attention",
            width=side,
            height=side,
            num_slots=config.num_slots,
            latent_size=config.slot_dim,
            encoder_params=dict(layers["encoder"]),
            decoder_params=dict(layers["decoder"]),
            w_broadcast=grid,
            h_broadcast=grid,
        )
    ours = config.build()
    _carry(theirs, ours)
    slots = torch.randn(2, config.num_slots, config.slot_dim)
    with torch.no_grad():
        x = theirs.spatial_broadcast(slots.flatten(0, 1))
        colors, masks = theirs.decoder(x)
        features = torch.randn(2, 49, config.channels)
        torch.manual_seed(1)
        grouped = theirs.slot_attention(features)
        torch.manual_seed(1)
        start = ours.initializer(2, config.num_slots)
        difference = (ours.slot_attention(features, start).slots - grouped).abs().max().item()
        equal = "Slot Attention; their encoder normalises whole maps, and strides crop another pixel"
        if layers is PLAIN:
            out = ours.decoder(slots)
            masks = masks.view(2, config.num_slots, side, side).softmax(1)
            recon = (colors.view(2, config.num_slots, 3, side, side) * masks[:, :, None]).sum(1)
            difference = max(difference, (out.recon - recon).abs().max().item())
            equal = "Slot Attention and decoder; their encoder normalises whole maps where the paper does positions"
    image = torch.rand(batch, 3, side, side)
    run = Run(method=config, data=DataConfig(), optimizer=Adam(lr=4e-4), steps=1, batch_size=batch)
    return Job(
        name,
        training_step(lambda: ours.loss({"image": image}, 0)["recon"], build_optimizer(ours, run)),
        training_step(lambda: theirs(image)["loss"], torch.optim.Adam(theirs.parameters(), lr=4e-4)),
        equal,
        difference,
    )


def _carry(theirs: Any, ours: SlotAttentionAutoencoder) -> None:
    """Their weights of Slot Attention and the decoder."""
    its, own = theirs.slot_attention, ours.slot_attention
    pairs = [(its.norm_input, own.norm_features), (its.norm_slots, own.norm_slots), (its.norm_pre_ff, own.norm_mlp)]
    pairs += [(its.to_q, own.to_q), (its.to_k, own.to_k), (its.to_v, own.to_v), (its.gru, own.gru)]
    assert own.mlp is not None
    pairs += [(its.mlp[0], own.mlp[0]), (its.mlp[2], own.mlp[2])]
    convs = [layer for layer in theirs.decoder.conv_bone if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
    last = ours.decoder.last
    for source, target in pairs + list(zip(convs[:-1], ours.decoder.layers, strict=True)):
        if tuple(source.weight.shape) == tuple(target.weight.shape) if hasattr(source, "weight") else True:
            target.load_state_dict(source.state_dict())
    with torch.no_grad():
        if isinstance(convs[-1], nn.Conv2d):
            last.load_state_dict(convs[-1].state_dict())
        ours.initializer.mu.copy_(its.slots_mu.view_as(ours.initializer.mu))
        ours.initializer.log_sigma.copy_(its.slots_log_sigma.view_as(ours.initializer.log_sigma))
        position, project = theirs.decoder.pos_embedding.channels_map, ours.decoder.position.project
        project.weight.copy_(position.weight[:, SIDES, 0, 0])
        project.bias.copy_(position.bias)
