"""What StableLSD and GLASS need of an image, computed once: ViT features, latent moments of a VAE, and label maps.

    images  --ViT-->  features b p c               float16 or bfloat16
            --VAE-->  latents  b 2l h w            float32: means and log variances, so that each epoch draws anew
            -------->  mask, void  b y x           as they are

Stored as `CachedFeatures` stores features, with its guarantees: another folder when anything changes that the numbers
depend on, the same bytes after a kill, and no network is imported or run when a store is read.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from slotworks.data.stores.features import CachedFeatures, fingerprint
from slotworks.encoders.blank import vae_settings, wanted
from slotworks.encoders.pretrained import load_part
from slotworks.encoders.vit import ViTEncoder
from slotworks.errors import needs_extra
from slotworks.json_text import read_json
from slotworks.nn.resize import resize
from slotworks.types import Batch, Dataset, UserError

VAE_FILES = ("config.json", "diffusion_pytorch_model.safetensors")


@dataclass(frozen=True)
class CachedLatents(CachedFeatures):
    """The training images as `features`, `latents` and the maps of `labels`; other splits are the images themselves.

    Images may have any size that is not below either network's: they are resized on the device for each, from the same
    pixels. One image takes 1.7 MB for DINOv2 ViT-B/14 at 448 and Stable Diffusion at 256 pixels, 170 GB for 100,000.
    """

    diffusion: str = "stabilityai/stable-diffusion-2-1"  # whose VAE: hub id, folder, or `package:NAME`
    latent_size: int = 256  # pixels of the image that the VAE sees
    labels: tuple[str, ...] = ("mask", "void")  # maps that are stored as well, where the images have them

    def key(self, dataset: Dataset) -> dict[str, Any]:
        """That of the features, and what latents and labels depend on."""
        first = dataset.__getitems__([0]) if len(dataset) else {}
        labels = [name for name in self.labels if name in first]
        vae = {"vae": vae_hash(self.diffusion), "latent_size": self.latent_size, "labels": labels}
        return {**super().key(dataset), **vae, "data": fingerprint(self.images, dataset, labels)}

    @property
    def kept(self) -> tuple[str, ...]:
        """The labels."""
        return self.labels

    @property
    def row_bytes(self) -> int:
        """Bytes on the disk for each image, without its labels: of the features, and of the moments of the latents."""
        return super().row_bytes + math.prod(self.latent_shape) * 4

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the moments: means and log variances."""
        blank = wanted(self.diffusion)
        settings = vae_settings(self.diffusion) if blank else load_part(_settings, self.diffusion, "vae")
        side = self.latent_size // 2 ** (len(settings["block_out_channels"]) - 1)
        return 2 * settings["latent_channels"], side, side

    def computation(self) -> Callable[[Batch], dict[str, np.ndarray]]:
        """What makes the stored arrays of a batch of images; holds the networks."""
        with needs_extra("diffusion"):
            from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
        encoder, size = ViTEncoder(self.encoder), self.encoder.image_size
        options = {"torch_dtype": torch.float32, "use_safetensors": True}
        vae = load_part(AutoencoderKL.from_pretrained, self.diffusion, "vae", **options)

        def compute(batch: Batch) -> dict[str, np.ndarray]:
            image = batch["image"]
            if min(image.shape[-2:]) < max(size, self.latent_size):
                raise UserError(
                    f"The images of {self.name} have {image.shape[-2]}x{image.shape[-1]} pixels, but the networks see "
                    f"{size} and {self.latent_size}; give images of the larger of both."
                )
            with torch.no_grad():
                small = resize(image, self.latent_size)
                latents = vae.to(image.device).encode(2 * small - 1).latent_dist.parameters
            features = self._stored(encoder(resize(image, size)))
            maps = {name: _stored_map(batch[name].cpu().numpy(), name) for name in self.labels if name in batch}
            return {"features": features, "latents": latents.cpu().numpy(), **maps}

        return compute


def vae_hash(model: str) -> str:
    """SHA-256 of what the VAE of a diffusion model is: its settings and weights. Loads no network.

    Raises:
        UserError: they cannot be found or downloaded.
    """
    return load_part(_hash, model, "vae")


def _hash(name: str, *, subfolder: str, local_files_only: bool) -> str:
    digest = hashlib.sha256()
    for path in _files(name, subfolder, local_files_only):
        with path.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()


def _settings(name: str, *, subfolder: str, local_files_only: bool) -> dict[str, Any]:
    path = _files(name, subfolder, local_files_only)[0]
    try:
        return dict(read_json(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); get the model again.") from None


def _files(name: str, subfolder: str, local_files_only: bool) -> list[Path]:
    folder = Path(name)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        patterns = [f"{subfolder}/{file}" for file in VAE_FILES]
        folder = Path(snapshot_download(name, allow_patterns=patterns, local_files_only=local_files_only))
    return [folder / subfolder / file for file in VAE_FILES]


def _stored_map(values: np.ndarray, name: str) -> np.ndarray:
    """In one byte for each pixel."""
    if values.dtype == bool:
        return values
    if values.size and not 0 <= values.min() <= values.max() <= 255:
        raise UserError(f"{name} holds ids from {values.min()} to {values.max()}; only 0 to 255 can be cached.")
    return values.astype(np.uint8)
