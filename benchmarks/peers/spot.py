"""SPOT of its authors (Kakogeorgiou et al. 2024): gkakogeorgiou/spot, on features that are there already."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from benchmarks.peers import Job, their_modules, training_step
from slotworks.convert.spot import names_of
from slotworks.encoders import ViTConfig
from slotworks.methods import SpotConfig
from slotworks.training import Adam, Run
from slotworks.training.optimizer import build_optimizer
from slotworks.types import DataConfig

REPOSITORY, COMMIT = "gkakogeorgiou/spot", "13c5926f4839e0c87acd7c4b0024545ed90dddae"
STAND_INS = ("timm", "torchvision")
BATCH = 4
ARGUMENTS = {  # the defaults of its train_spot.py; one order, so that both sides take the same
    "which_encoder": "dino",
    "encoder_final_norm": False,
    "finetune_blocks_after": 100,
    "img_channels": 3,
    "image_size": 224,
    "num_slots": 7,
    "num_iterations": 3,
    "slot_size": 256,
    "mlp_hidden_size": 1024,
    "pos_channels": 4,
    "truncate": "none",
    "init_method": "shared_gaussian",
    "cappa": -1,
    "train_permutations": "standard",
    "eval_permutations": "standard",
    "dec_type": "transformer",
    "use_slot_proj": True,
    "num_dec_blocks": 4,
    "max_tokens": 196,
    "num_heads": 6,
    "num_cross_heads": None,
    "dropout": 0.0,
}


class Stored(nn.Module):
    """Features in the place of their encoder, with a class token in front."""

    def __init__(self, features: Tensor):
        super().__init__()
        self.features = nn.functional.pad(features, (0, 0, 1, 0))
        self.blocks = nn.ModuleList()

    def prepare_tokens(self, image: Tensor) -> Tensor:
        return self.features[: len(image)]


def jobs(folder: Path) -> Iterator[Job]:
    """A training step of the first stage and its decoder alone."""
    for model, width in (("facebook/dino-vits16", 384), ("facebook/dino-vitb16", 768)):
        torch.manual_seed(0)
        features = torch.randn(BATCH, 196, width)
        encoder = Stored(features)
        with their_modules(folder, stand_ins=STAND_INS):
            theirs = importlib.import_module("spot").SPOT(encoder, SimpleNamespace(**ARGUMENTS))
        config = SpotConfig(
            encoder=ViTConfig(model, feature_dim=width), train_orders="standard", eval_orders="standard"
        )
        ours = config.build()
        state = theirs.state_dict()
        weights = {own: state[its] for own, its in names_of("gaussian", 4).items()}
        weights["decoder.begin"] = weights["decoder.begin"].flatten(0, 2)
        missing = ours.load_state_dict(weights, strict=False).missing_keys
        if missing:
            raise AssertionError(f"Weights of {missing} were not carried over.")
        image = torch.zeros(BATCH, 3, 224, 224)
        torch.manual_seed(1)
        mine = ours.loss({"features": features}, 0)["recon"].item()
        torch.manual_seed(1)
        difference = abs(theirs(image)[0].item() - mine)
        slots = torch.randn(BATCH, 7, 256)
        with torch.no_grad():  # before the steps, after which the weights are no longer the same
            recon = ours.decode(slots, features).recon.flatten(2).mT
            decoders = (recon - theirs.forward_decoder(slots, features)[0]).abs().max().item()
        run = Run(method=config, data=DataConfig(), optimizer=Adam(lr=4e-4), steps=1, batch_size=BATCH)
        yield Job(
            f"SPOT stage 1 step, cached features, {model.split('/')[1]}, batch {BATCH}",
            training_step(
                lambda ours=ours, features=features: ours.loss({"features": features}, 0)["recon"],
                build_optimizer(ours, run),
                clip=0.3,
            ),
            training_step(
                lambda theirs=theirs, image=image: theirs(image)[0],
                torch.optim.Adam([p for p in theirs.parameters() if p.requires_grad], lr=4e-4),
                clip=0.3,
            ),
            "the loss",
            difference,
            target=3.0,
        )
        yield Job(
            f"SPOT decoder, forward and backward, {model.split('/')[1]}, batch {BATCH}",
            lambda ours=ours, slots=slots, features=features: ours.decode(slots, features).recon.mean().backward(),
            lambda theirs=theirs, slots=slots, features=features: (
                theirs.forward_decoder(slots, features)[0].mean().backward()
            ),
            "what it predicts",
            decoders,
            target=1.3,
        )
