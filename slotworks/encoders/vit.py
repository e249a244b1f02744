"""Vision transformers from `transformers`: DINO, DINOv2, MAE, or a user's own; frozen, or the last blocks trained.

The network is any Hugging Face model that cuts the image into square patches and runs one list of equal blocks over
them: ViT, DINO, DeiT, MAE, DINOv2 with or without registers, DINOv3, I-JEPA, BEiT, the image half of CLIP or SigLIP.
It needs the extra `vision`. Code that comes with a model is never run.

Position embeddings of another size are interpolated as `transformers` does for each family: bicubic to the exact number
of patches, with antialiasing for DINOv2 with registers, in float32. The original DINO and DINOv2 code instead scales by
`(patches + 0.1) / stored patches`; `position_offset=0.1` does the same, as the DINO and DINOv2 networks named here do
(not those with registers, whose code has no offset). At the native size (224 for DINO, 518 for DINOv2) nothing is
interpolated. BEiT has relative and DINOv3 rotary positions, which follow any size.
"""

import hashlib
import inspect
import os
from collections.abc import Collection
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from slotworks.encoders.blank import as_planned, blank_transformer, wanted
from slotworks.encoders.reports import first_line, quiet
from slotworks.errors import needs_extra, quote, transport_errors
from slotworks.json_text import read_json
from slotworks.nn.resize import resize
from slotworks.types import Batch, UserError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OWNER = "facebook"
KNOWN: dict[str, "ViTConfig"] = {}
"""The networks below by their hub id. Each may be named without its owner; a folder of this name comes first."""

FEATURES = ("tokens", "normed", "queries", "keys", "values")
ASSETS = Path(__file__).parent.parent / "assets"
VARIABLE = "SLOTWORKS_DINOV2"
"""Environment variable that names a folder with DINOv2 ViT-S/14, which then takes the place of that of the hub."""

_CONFIG = "config.json"
_SAFE = ("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors")
_BIN = ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin")
_UNUSED = ("pooler", "mask_token")  # weights a checkpoint may lack: what they feed is not used here
_PROJECTIONS = {"queries": ("query", "q_proj"), "keys": ("key", "k_proj"), "values": ("value", "v_proj")}


@dataclass(frozen=True)
class ViTConfig:
    """Which network, which of its features, and at which image size. Nothing is loaded or imported by this.

    `features="tokens"` is the output of block `layer` before the final LayerNorm: what DINOSAUR and SPOT use (oclf
    replaces the norm by the identity). `"normed"` applies the final LayerNorm to it: StableLSD and GLASS. `"queries"`,
    `"keys"` and `"values"` are those of the attention of block `layer`, heads side by side, before any rotation.

    `mean` and `std` are ImageNet's; networks trained with supervision by Google (`google/vit-*`) want 0.5 for all.
    """

    model: str = "facebook/dino-vitb16"  # hub id, short name (dinov2-small), folder with config.json, or `package:NAME`
    image_size: int = 224  # pixels, square; a multiple of patch_size
    patch_size: int = 16  # pixels
    feature_dim: int = 768  # width of a token
    features: Literal["tokens", "normed", "queries", "keys", "values"] = "tokens"  # tokens: before the last norm
    layer: int = -1  # block whose output (or attention) is taken, from 0, or from the end
    position_offset: float = 0.0  # added to the number of patches when position embeddings are interpolated
    trained_blocks: int = 0  # how many of the last blocks up to `layer` are trained; the rest is frozen
    mean: tuple[float, float, float] = IMAGENET_MEAN  # subtracted from an image in [0, 1]
    std: tuple[float, float, float] = IMAGENET_STD  # divided by

    def __post_init__(self) -> None:
        owned = f"{OWNER}/{self.model}"
        if owned in KNOWN and not Path(self.model).is_dir():
            object.__setattr__(self, "model", owned)
        if self.patch_size < 1 or self.image_size < 1 or self.image_size % self.patch_size:
            raise ValueError(
                f"image_size is {self.image_size} and patch_size {self.patch_size}; the image must be a positive "
                "multiple of the patch."
            )
        if self.features not in FEATURES:
            raise ValueError(f"features is {self.features!r}; choose {', '.join(FEATURES)}.")
        if self.trained_blocks < 0:
            raise ValueError(f"trained_blocks is {self.trained_blocks}; it cannot be negative.")
        if self.trained_blocks and self.features not in ("tokens", "normed"):
            raise ValueError(
                f"features is {self.features!r} and trained_blocks {self.trained_blocks}: most of the last block would "
                "get no gradient; train blocks with tokens or normed."
            )
        if min(self.std) <= 0:
            raise ValueError(f"std is {self.std}; each channel is divided by it, so it must be above 0.")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        side = self.image_size // self.patch_size
        return side, side


DINO_B16 = ViTConfig("facebook/dino-vitb16", position_offset=0.1)
DINO_B8 = replace(DINO_B16, model="facebook/dino-vitb8", patch_size=8)
DINO_S16 = replace(DINO_B16, model="facebook/dino-vits16", feature_dim=384)
DINO_S8 = replace(DINO_S16, model="facebook/dino-vits8", patch_size=8)
DINOV2_B14 = ViTConfig("facebook/dinov2-base", patch_size=14, position_offset=0.1)
DINOV2_S14 = replace(DINOV2_B14, model="facebook/dinov2-small", feature_dim=384)
DINOV2_S14_NORMED = replace(DINOV2_S14, features="normed")
DINOV2_L14 = replace(DINOV2_B14, model="facebook/dinov2-large", feature_dim=1024)
DINOV2_REG_S14 = replace(DINOV2_S14, model="facebook/dinov2-with-registers-small", position_offset=0.0)
DINOV2_REG_B14 = replace(DINOV2_B14, model="facebook/dinov2-with-registers-base", position_offset=0.0)
DINOV2_REG_L14 = replace(DINOV2_L14, model="facebook/dinov2-with-registers-large", position_offset=0.0)
DINOV2_B14_NORMED_448 = replace(DINOV2_B14, image_size=448, features="normed")  # StableLSD, GLASS
MAE_B16 = ViTConfig("facebook/vit-mae-base")

_NAMED = (
    *(DINO_B16, DINO_B8, DINO_S16, DINO_S8, MAE_B16, DINOV2_B14, DINOV2_S14, DINOV2_L14),
    *(DINOV2_REG_S14, DINOV2_REG_B14, DINOV2_REG_L14),
)
KNOWN.update({config.model: config for config in _NAMED})


def fitted(config: ViTConfig, *, keep: Collection[str] = ()) -> ViTConfig:
    """The settings with patch, width and position offset of the network `config.model`, but for those to `keep`.

    Of the networks above they are known, of a folder patch and width are in its config.json. For others, whose files
    may still have to be downloaded, nothing is changed; what does not fit is said when the network is read.

    Raises:
        UserError: the image is no multiple of the patch of that network.
    """
    found: dict[str, Any] = {}
    if config.model in KNOWN:
        known = KNOWN[config.model]
        found = {name: getattr(known, name) for name in ("patch_size", "feature_dim", "position_offset")}
    elif (file := Path(config.model).expanduser() / _CONFIG).is_file():
        settings = read_json(file.read_text(encoding="utf-8"))
        names = {"patch_size": settings.get("patch_size"), "feature_dim": settings.get("hidden_size")}
        found = {name: value for name, value in names.items() if type(value) is int}
        if settings.get("model_type") == "dinov2":
            found["position_offset"] = DINOV2_S14.position_offset
    try:
        return replace(config, **{name: value for name, value in found.items() if name not in keep})
    except ValueError as error:
        raise UserError(f"{config.model} does not fit: {error}") from None


class ViTEncoder(nn.Module):
    """A pretrained vision transformer as a feature extractor: image -> patch features, row major, no CLS token.

    The frozen network is loaded at the first image and stays outside `parameters()` and the state dict; it follows the
    images to their device and precision. With `trained_blocks` above 0 it is loaded at once, `blocks` holds the trained
    ones, first to last, and only they are parameters and get gradients. The network stays in evaluation mode also
    under `train()` (no dropout, as in SPOT). Blocks after `layer` are dropped. Copying or pickling leaves the frozen
    weights behind; the copy reads them again when it needs them. `torch.compile` runs the network as it is.

    Raises:
        UserError: the network cannot be found or downloaded, is not a vision transformer of the kind described above,
            or differs from what the config says.
    """

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList()
        self._network: tuple[Any, nn.ModuleList] | None = None  # in a tuple, it is no submodule: not saved, not trained
        if config.trained_blocks:
            self._network = load_network(config)
            self.blocks.extend(self._network[1][-config.trained_blocks :]).requires_grad_()
        self.eval()

    def train(self, mode: bool = True) -> "ViTEncoder":
        """Stays in evaluation mode, whatever `mode` says."""
        return super().train(False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_network": None}

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches for an image of this size in pixels.

        Raises:
            ValueError: the size is not a multiple of the patch.
        """
        patch = self.config.patch_size
        if height % patch or width % patch:
            raise ValueError(
                f"The image has {height}x{width} pixels, but {self.config.model} sees patches of {patch}x{patch}; "
                f"resize it to a multiple of {patch}."
            )
        return height // patch, width // patch

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b p c"]:
        """Images in [0, 1] of any size that is a multiple of the patch, to features in the precision of the image.

        Raises:
            ValueError: the size is not a multiple of the patch.
        """
        if torch.compiler.is_compiling():  # tracing into the loading of a network fails
            encode: Any = torch.compiler.disable(self._encode)
            return encode(image)
        return self._encode(image)

    def features_of(self, batch: Batch) -> Float[Tensor, "b p c"]:
        """Without a gradient: cached `features` of a batch, or those of its images, which may have any size."""
        if "features" in batch:
            return batch["features"].float()  # may be stored as float16
        with torch.no_grad():
            return self(resize(batch["image"], self.config.image_size))

    def _encode(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b p c"]:
        config = self.config
        rows, columns = self.grid(*image.shape[-2:])
        network, blocks = self._ready(image)
        mean, std = (image.new_tensor(values)[:, None, None] for values in (config.mean, config.std))
        inputs: dict[str, Any] = {"pixel_values": (image.detach() - mean) / std}
        known = inspect.signature(network.forward).parameters
        if "interpolate_pos_encoding" in known:
            inputs["interpolate_pos_encoding"] = True
        if "noise" in known:  # MAE sorts its patches by noise, also when it hides none of them
            inputs["noise"] = torch.arange(rows * columns, device=image.device).expand(image.shape[0], -1)

        # Nothing below the trained blocks needs a gradient, so none is recorded there.
        with nullcontext() if config.trained_blocks else torch.no_grad():
            tokens = _output_of(_source(blocks, config), network, inputs)
            special = tokens.shape[1] - rows * columns if tokens.ndim == 3 else -1  # CLS, distillation, registers
            if not 0 <= special <= 2 + getattr(network.config, "num_register_tokens", 0):
                raise UserError(
                    f"{config.model} gives an output of shape {tuple(tokens.shape)} for {rows * columns} patches, "
                    "which is not understood here; choose a plain vision transformer."
                )
            if tokens.shape[-1] != config.feature_dim:
                raise UserError(
                    f"feature_dim is {config.feature_dim}, but the {config.features} of {config.model} are "
                    f"{tokens.shape[-1]} wide; set it to that."
                )
            tokens = tokens[:, special:]
            if config.features == "normed":
                tokens = _final_norm(network, config)(tokens)
        return tokens.to(image.dtype)

    def _ready(self, image: Tensor) -> tuple[Any, nn.ModuleList]:
        """The network and its blocks, loaded, where the trained blocks or else the image is, in the same precision."""
        if not self._network:
            network, blocks = load_network(self.config)
            for k, block in enumerate(self.blocks, len(blocks) - len(self.blocks)):  # in a copy, its own weights count
                blocks[k] = block
            self._network = network, blocks
        network, blocks = self._network
        now, wanted = next(network.parameters()), next(self.blocks.parameters(), image)
        if (now.device, now.dtype) != (wanted.device, wanted.dtype):
            network.to(wanted.device, wanted.dtype)
        return network, blocks


def weights_hash(config: ViTConfig) -> str:
    """SHA-256 of what a network is: its config.json and its weight files. Loads no network and not `transformers`.

    A folder and a hub id with the same files have the same hash. Files of a hub id that are not on this machine yet
    are downloaded.

    Raises:
        UserError: they cannot be found or downloaded.
    """
    digest = hashlib.sha256()
    for file in find_files(config.model):
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()


def find_files(model: str) -> list[Path]:
    """config.json and the weight files of a folder, of `package:NAME`, or of a hub id, which is downloaded once.

    Safetensors are preferred. A model that comes only as pytorch_model.bin, as some of the first DINO uploads, is
    accepted: torch's weights-only reader builds tensors and nothing else, so such a file cannot run code.

    Raises:
        UserError: the model cannot be found or downloaded, or its files are incomplete.
    """
    if model.startswith("package:"):
        folder = package_folder(model)
    else:
        folder = _place_of(model)
        if not folder.is_dir():
            if model.startswith((".", "/", "~")) or "\\" in model or model.count("/") != 1:
                raise UserError(
                    f"There is no folder {model!r}; give a folder with config.json and model.safetensors, or a hub id "
                    "such as facebook/dino-vitb16."
                )
            return _download(model)
    files = _complete(folder)
    if not files:
        raise UserError(
            f"{folder} is not a complete Hugging Face model: expected are {_CONFIG} and model.safetensors "
            f"(or its shards); save one with `model.save_pretrained(folder)`."
        )
    return files


def _place_of(model: str) -> Path:
    """The folder that a name is, or that stands in the environment variable for it."""
    named = os.environ.get(VARIABLE, "") if model == DINOV2_S14.model and not Path(model).is_dir() else ""
    return Path(named or model).expanduser()


def package_folder(model: str) -> Path:
    """The folder of a network that comes with slotworks, `package:NAME`; raises UserError if there is none."""
    folder = ASSETS / model.removeprefix("package:")
    if not folder.is_dir():
        known = sorted(path.name for path in ASSETS.iterdir() if path.is_dir())
        raise UserError(f"slotworks comes without a network {model!r}; it has {', '.join(known) or 'none'}.")
    return folder


def _complete(folder: Path) -> list[Path]:
    """config.json and all weight files below a folder, safetensors before .bin; nothing if a part is missing."""
    if not (folder / _CONFIG).is_file():
        return []
    for whole, index, _ in (_SAFE, _BIN):
        if (folder / whole).is_file():
            return [folder / _CONFIG, folder / whole]
        if (folder / index).is_file():
            try:
                names = sorted(set(read_json((folder / index).read_text(encoding="utf-8"))["weight_map"].values()))
                shards = [folder / Path(name).name for name in names]
            except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
                raise UserError(f"{folder / index} is damaged ({quote(error)}); get the model again.") from error
            if all(shard.is_file() for shard in shards):
                return [folder / _CONFIG, folder / index, *shards]
    return []


def loading_errors() -> tuple[type[Exception], ...]:
    """What transformers, diffusers and the hub's client raise for files and connections that are no good."""
    from pickle import UnpicklingError
    from zipfile import BadZipFile

    from safetensors import SafetensorError

    files = (OSError, EOFError, UnpicklingError, BadZipFile, SafetensorError, ImportError, MemoryError)
    contents = (ValueError, TypeError, LookupError, AttributeError, RuntimeError, AssertionError, ArithmeticError)
    return (*files, *contents, *transport_errors())


def is_here(model: str) -> bool:
    """Whether the files of a folder, of `package:NAME` or of a hub id are on this machine; asks no network."""
    if model.startswith("package:") or _place_of(model).is_dir():
        return True
    with needs_extra("vision"):
        from huggingface_hub import snapshot_download
    try:
        folder = snapshot_download(model, allow_patterns=[_CONFIG, *_SAFE, *_BIN], local_files_only=True)
    except loading_errors():
        return False
    return bool(_complete(Path(folder)))


def _download(model: str) -> list[Path]:
    """The files of a hub id: from the local cache without asking the network if they are there."""
    with needs_extra("vision"):
        from huggingface_hub import snapshot_download
    for patterns, local in (((*_SAFE, *_BIN), True), (_SAFE, False), (_BIN, False)):
        try:
            folder = snapshot_download(model, allow_patterns=[_CONFIG, *patterns], local_files_only=local)
        except loading_errors() as error:
            if local and isinstance(error, FileNotFoundError):
                continue
            raise UserError(
                f"The network {model!r} is not on this machine and could not be downloaded ({first_line(error)}); "
                "check the name and the connection, or give a folder with config.json and model.safetensors, to train "
                "as --method.encoder.model FOLDER, to segment as --encoder FOLDER."
            ) from error
        if files := _complete(Path(folder)):
            return files
    raise UserError(
        f"There are no complete weights of {model!r}, neither on the hub, if it could be asked, nor on this machine; "
        "expected model.safetensors or pytorch_model.bin. Check the connection, or give a folder that has them."
    )


def load_network(config: ViTConfig) -> tuple[Any, nn.ModuleList]:
    """The network of a config and its list of blocks up to `layer`; on the CPU, float32, frozen, in evaluation mode.

    Raises:
        UserError: the network cannot be found or read, or is not what the config says.
    """
    network = blank_transformer(config.model) if wanted(config.model) else _read_network(config)
    network = getattr(network, "vision_model", network)  # the image half of CLIP and the like
    if hasattr(network, "pooler"):
        network.pooler = None
    blocks = _fitting_blocks(network, config)
    if config.position_offset:
        _offset_positions(network, config)
    network.requires_grad_(False)
    return network.eval(), blocks


def _read_network(config: ViTConfig) -> Any:
    """The whole network of a config from its files, with the gradient on."""
    files = find_files(config.model)
    with needs_extra("vision"):
        from transformers import AutoConfig, AutoModel
    folder = str(files[0].parent)
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    # Lazy loading must not disturb the run: transformers draws weights that a checkpoint lacks, such as a pooler's.
    with torch.inference_mode(False), torch.random.fork_rng(devices=[]), quiet(), torch.device("cpu"):
        try:
            settings = AutoConfig.from_pretrained(folder, **options)
            if hasattr(settings, "mask_ratio"):
                settings.mask_ratio = 0.0  # MAE sees the whole image
            safe = any(file.suffix == ".safetensors" for file in files)
            options |= {"use_safetensors": safe, "dtype": torch.float32}
            options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}  # said below, in one sentence
            network, report = AutoModel.from_pretrained(folder, config=settings, **options)
        except loading_errors() as error:
            raise UserError(
                f"The network {config.model} cannot be read ({first_line(error)}); it should be a vision transformer "
                "saved by `save_pretrained`."
            ) from error
    wrong = {*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])}
    wrong = sorted(name for name in wrong if not any(part in name for part in _UNUSED))
    if wrong:
        raise UserError(
            f"The weights of {config.model} do not belong to its config.json: {len(wrong)} tensors are missing or have "
            f"another shape, such as {wrong[0]}."
        )
    return as_planned(network)


def _offset_positions(network: Any, config: ViTConfig) -> None:
    """Interpolate position embeddings as facebookresearch/dino and dinov2 do: by `(patches + offset) / stored`."""
    embeddings: Any = getattr(network, "embeddings", network)
    stored: Any = getattr(embeddings, "position_embeddings", None)
    side = round((stored.shape[1] - 1) ** 0.5) if isinstance(stored, Tensor) else 0
    if not side or side**2 + 1 != stored.shape[1] or not hasattr(embeddings, "interpolate_pos_encoding"):
        raise UserError(
            f"position_offset is {config.position_offset}, but {config.model} has no square of position embeddings; "
            "leave it at 0."
        )

    def interpolate(tokens: Tensor, height: int, width: int) -> Tensor:
        known = embeddings.position_embeddings  # moved to a device, it is another tensor
        size = (height // config.patch_size, width // config.patch_size)
        if size == (side, side):
            return known
        scale = [(patches + config.position_offset) / side for patches in size]
        square = known[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
        resized = nn.functional.interpolate(square.float(), scale_factor=scale, mode="bicubic", align_corners=False)
        return torch.cat([known[:, :1], resized.to(known.dtype).flatten(2).transpose(1, 2)], dim=1)

    embeddings.interpolate_pos_encoding = interpolate


def _fitting_blocks(network: Any, config: ViTConfig) -> nn.ModuleList:
    """Compare the network with the config; its list of blocks, from which those after `layer` are dropped."""
    patch = getattr(network.config, "patch_size", None)
    patch = patch if isinstance(patch, int) or not patch else patch[0]
    if patch is None:
        raise UserError(f"{config.model} is a {type(network).__name__}, not a vision transformer with patches.")
    if patch != config.patch_size:
        raise UserError(
            f"patch_size is {config.patch_size}, but {config.model} has patches of {patch} pixels; set it to that."
        )
    width = getattr(network.config, "hidden_size", config.feature_dim)
    if width != config.feature_dim:
        raise UserError(
            f"feature_dim is {config.feature_dim}, but the tokens of {config.model} are {width} wide; set it to that."
        )
    count = getattr(network.config, "num_hidden_layers", None)
    lists = (module for module in network.modules() if isinstance(module, nn.ModuleList) and len(module) == count)
    blocks = next(lists, None)
    if blocks is None or not isinstance(getattr(network.config, "num_attention_heads", None), int):  # or one per stage
        raise UserError(f"{config.model} is a {type(network).__name__}, which has no plain list of transformer blocks.")
    if not -len(blocks) <= config.layer < len(blocks):
        raise UserError(f"layer is {config.layer}, but {config.model} has {len(blocks)} blocks, counted from 0.")
    del blocks[config.layer % len(blocks) + 1 :]
    if config.trained_blocks > len(blocks):
        raise UserError(
            f"trained_blocks is {config.trained_blocks}, but {config.model} has {len(blocks)} blocks up to `layer`."
        )
    _source(blocks, config)
    if config.features == "normed":
        _final_norm(network, config)
    return blocks


def _source(blocks: nn.ModuleList, config: ViTConfig) -> nn.Module:
    """The module whose output holds the features: the last block, or a projection in its attention."""
    if config.features in ("tokens", "normed"):
        return blocks[-1]
    for name, module in blocks[-1].named_modules():
        if name.split(".")[-1] in _PROJECTIONS[config.features] and isinstance(module, nn.Linear):
            return module
    raise UserError(f"The attention in {config.model} has no projection to {config.features} alone; choose tokens.")


def _final_norm(network: Any, config: ViTConfig) -> nn.Module:
    """The normalisation after the blocks: of those outside all parts, the last one."""
    norms = [module for module in network.children() if "Norm" in type(module).__name__]
    if not norms:
        raise UserError(f"{config.model} has no normalisation after its blocks; choose tokens.")
    return norms[-1]


def _output_of(module: nn.Module, network: nn.Module, inputs: dict[str, Any]) -> Tensor:
    """Run the network and catch what one of its modules returns."""
    caught: list[Any] = []
    handle = module.register_forward_hook(lambda module, args, output: caught.append(output))
    try:
        network(**inputs)
    finally:
        handle.remove()
    return caught[0][0] if isinstance(caught[0], tuple) else caught[0]
