"""Masked autoencoder: image -> patches, three quarters left out -> ViT -> small decoder -> the patches left out.

He et al. 2022, "Masked Autoencoders Are Scalable Vision Learners", arXiv 2111.06377; the network is `transformers`'
`ViTMAEForPreTraining`. This trains an encoder, not slots: it has no `encode`. What it leaves behind is a Hugging Face
folder (`save_encoder`) that `ViTConfig(model=FOLDER)` reads, for DINOSAUR and SPOT where nothing can be downloaded.

Differences from the paper: the defaults are a small network for drawn scenes of 64 pixels, not ViT-B; the waves of the
position embeddings fit a grid of 16 patches (the paper's, up to 63,000 patches long, hardly change over one, and the
small network then takes far longer to learn where a patch is); the noise that chooses the patches does not depend on
how a batch is split over processes.
"""

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from slotworks.encoders.vit import IMAGENET_MEAN, IMAGENET_STD
from slotworks.errors import needs_extra
from slotworks.files import replacing, write_text
from slotworks.nn.noise import batch_uniform
from slotworks.nn.position import sine_grid
from slotworks.types import Batch, Method, MethodConfig


@dataclass(frozen=True)
class MAEConfig(MethodConfig):
    """Hyperparameters of encoder, decoder and masking."""

    image_size: int = 64  # pixels, square
    patch_size: int = 4  # pixels
    hidden_dim: int = 128  # width of a token in the encoder, a multiple of 4 and of its heads
    num_layers: int = 6  # blocks of the encoder
    num_heads: int = 4  # of the encoder
    decoder_dim: int = 96  # width of a token in the decoder, a multiple of 4 and of its heads
    decoder_layers: int = 2  # Transformer layers of the decoder
    decoder_heads: int = 4  # attention heads of the decoder
    mask_ratio: float = 0.75  # share of the patches that the encoder does not see
    position_temperature: float = 10.0  # ratio of the longest wave of the position embeddings to the shortest
    norm_targets: bool = False  # predict patches with mean 0 and variance 1 each (the paper's better choice on photos)
    mean: tuple[float, float, float] = IMAGENET_MEAN  # subtracted from an image in [0, 1]
    std: tuple[float, float, float] = IMAGENET_STD  # divided by

    @property
    def finds_slots(self) -> bool:
        """No: methods build on it."""
        return False

    def build(self) -> "MaskedAutoencoder":
        """Make the method with fresh weights."""
        return MaskedAutoencoder(self)


class MaskedAutoencoder(Method):
    """A vision transformer that learns to fill in the patches it was not shown."""

    config: MAEConfig
    mean: Tensor
    std: Tensor

    def __init__(self, config: MAEConfig):
        super().__init__()
        with needs_extra("vision"):
            from transformers import ViTMAEConfig, ViTMAEForPreTraining
        self.config = config
        self.mae = ViTMAEForPreTraining(
            ViTMAEConfig(
                image_size=config.image_size,
                patch_size=config.patch_size,
                hidden_size=config.hidden_dim,
                num_hidden_layers=config.num_layers,
                num_attention_heads=config.num_heads,
                intermediate_size=4 * config.hidden_dim,
                decoder_hidden_size=config.decoder_dim,
                decoder_num_hidden_layers=config.decoder_layers,
                decoder_num_attention_heads=config.decoder_heads,
                decoder_intermediate_size=4 * config.decoder_dim,
                mask_ratio=config.mask_ratio,
                norm_pix_loss=config.norm_targets,
            )
        )
        for layer in self.mae.modules():  # as the paper's code; transformers' 0.02 suits wide layers only
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
        side = config.image_size // config.patch_size
        for fixed in (self.mae.vit.embeddings.position_embeddings, self.mae.decoder.decoder_pos_embed):
            fixed.data[0, 1:] = sine_grid(side, side, fixed.shape[-1], config.position_temperature)
        for name in ("mean", "std"):
            value = torch.tensor(getattr(config, name)).view(3, 1, 1)
            self.register_buffer(name, value, persistent=False)

    def loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Mean squared error over the values of the patches left out, in units of the normalised image."""
        image = batch["image"]
        noise = batch_uniform((len(image), (self.config.image_size // self.config.patch_size) ** 2), image.device)
        return {"recon": self.mae((image - self.mean) / self.std, noise=noise).loss}

    def export(self, folder: Path) -> None:
        """Write `encoder/`, see `save_encoder`."""
        self.save_encoder(folder / "encoder")

    def save_encoder(self, folder: Path | str) -> Path:
        """Write the encoder as a Hugging Face folder, a `ViTMAEModel` in float16: config.json and model.safetensors.

        The written `mask_ratio` is 0, so that whoever loads it sees the whole image; `transformers` still shuffles the
        patches unless it is given `noise` that ascends, as `slotworks.encoders.ViTEncoder` does.

        Raises:
            UserError: if the disk refuses.
        """
        folder = Path(folder)
        settings = copy.deepcopy(self.mae.vit.config)
        settings.mask_ratio, settings.architectures = 0.0, ["ViTMAEModel"]
        weights = {name: value.detach().half().cpu().contiguous() for name, value in self.mae.vit.state_dict().items()}
        with replacing(folder / "model.safetensors") as beside:
            save_file(weights, beside, metadata={"format": "pt"})
        write_text(folder / "config.json", settings.to_json_string())
        return folder
