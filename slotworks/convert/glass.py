"""StableLSD and GLASS: a folder of their released code as a run folder, and a trained U-Net as a folder.

`convert_glass` reads a folder as the code of StableLSD and GLASS writes it (and its evaluation reads it):

    multiheadstevesa/        config.json and weights of the slot module
    unet2dconditionmodel/    the fine-tuned U-Net, in the second stage of GLASS
    mlpdecoder/              weights of the MLP decoder; evaluation does without, so a release may lack it

Weights may be safetensors, or a file that `torch.save` wrote: that is read by torch's weights-only reader, which builds
tensors and nothing else. Optimiser states and random states lie beside them as pickles; they are never opened.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from slotworks.configs import glass as recipes
from slotworks.convert.family import Converted, check_place, write_run
from slotworks.convert.source import DAMAGE
from slotworks.encoders.vit import DINOV2_B14_NORMED_448, ViTConfig
from slotworks.errors import UserError, quote
from slotworks.files import check_writable, folder_beside
from slotworks.json_text import read_json
from slotworks.methods import Glass, GlassConfig, StableLSD, StableLSDConfig
from slotworks.outputs import Outputs, writing
from slotworks.training import load_method
from slotworks.training.checkpoint import check_weights, fit, unwrapped
from slotworks.types import MethodConfig

SLOTS, UNET = "multiheadstevesa", ("unet2dconditionmodel", "unet")
MLP = ("mlpdecoder", "mlp_decoder")
WRITTEN = "diffusion_pytorch_model.safetensors"
WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth")
SETTINGS = ("num_iterations", "num_slots", "num_heads", "input_size", "out_size", "slot_size", "mlp_hidden_size")

SLOT_MODULES = {
    "pos.projection": "position.project",
    "in_layer_norm": "feature_mlp.0",
    "in_mlp.0": "feature_mlp.1",
    "in_mlp.2": "feature_mlp.3",
    "norm_inputs": "slot_attention.norm_features",
    "norm_slots": "slot_attention.norm_slots",
    "norm_mlp": "slot_attention.norm_mlp",
    "project_q": "slot_attention.to_q",
    "project_k": "slot_attention.to_k",
    "project_v": "slot_attention.to_v",
    "gru": "slot_attention.gru",
    "mlp": "slot_attention.mlp",
    "out_layer_norm": "to_context.0",
    "out_linear": "to_context.1",
    "bbox_mlp": "box_mlp",
}
"""Parts of the published slot module and ours."""


def convert_glass(
    source: Path | str,
    out: Path | str,
    *,
    encoder: ViTConfig = DINOV2_B14_NORMED_448,
    diffusion: str | None = None,
    image_size: int | None = None,
) -> Converted:
    """A published checkpoint of StableLSD or GLASS as a run folder that can be evaluated, sampled from and edited.

    Without the MLP decoder, which only training needs, the run is one of `StableLSD`: encoder, slots, U-Net. With it,
    it is one of `Glass`. Its settings are those of the recipe glass.coco with the sizes of the checkpoint.

    Args:
        source: the checkpoint's folder.
        out: run folder; made, and must not hold a run yet. One that this left unfinished is finished.
        encoder: what gives the features; its number of patches is taken from the checkpoint.
        diffusion: the model that VAE and, where none was trained, U-Net come from; hub id or folder.
        image_size: pixels of images for the VAE; the recipe's by default.

    Raises:
        UserError: a file is missing, damaged or of another model, or the folder is in use.
    """
    source, out = Path(source), Path(out)
    check_place(out)
    settings = _settings(source)
    side = settings.get("input_resolution", encoder.grid[0])
    encoder = replace(encoder, image_size=side * encoder.patch_size)
    if encoder.feature_dim != settings["input_size"]:
        raise UserError(
            f"The slots in {source} read features {settings['input_size']} wide, but those of {encoder.model} are "
            f"{encoder.feature_dim}; name the encoder they were trained with."
        )
    weights = {f"slots.{name}": value for name, value in slot_weights(_read(source / SLOTS)).items()}
    mlp = next((source / name for name in MLP if (source / name).is_dir()), None)
    unet = next((source / name for name in UNET if (source / name).is_dir()), None)
    features = {} if mlp is None else feature_decoder_weights(_read(mlp))
    if features and features["position"].ndim != 2:
        raise UserError(f"pos_embed in {mlp} has the shape {_shape(features['position'])}; expected 1, p, d.")
    weights |= {f"feature_decoder.{name}": value for name, value in features.items()}

    run = recipes.coco()
    assert isinstance(run.method, GlassConfig)
    changed = {"context_dim": settings["out_size"], "model": diffusion, "image_size": image_size}
    changed = {name: value for name, value in changed.items() if value is not None}
    common = {
        "encoder": encoder,
        "diffusion": replace(run.method.diffusion, trained=unet is not None, **changed),
        "num_slots": settings["num_slots"],
        "slot_dim": settings["slot_size"],
        "num_iterations": settings["num_iterations"],
        "mlp_dim": settings["mlp_hidden_size"],
        "num_heads": settings["num_heads"],
        "initializer": "learned" if settings.get("learnable_slot_init") else "gaussian",
        "gradient": "bilevel" if settings.get("bi_level") else "unrolled",
    }
    method: MethodConfig
    try:
        if mlp is None:
            boxes = {"initializer": "boxes"} if settings.get("init_mlp") else {}
            method = StableLSDConfig(**{**common, **boxes})
        else:
            hidden = [len(value) for name, value in features.items() if name.startswith("hidden.") and value.ndim == 2]
            width = features["position"].shape[1]
            read = "context" if width == settings["out_size"] else "slots"
            method = GlassConfig(**common, decoder_dims=tuple(hidden), decoder_input=read)
        data = replace(recipes.REAL_COCO, image_size=method.image_size)
        run = replace(run, method=method, data=data, expected=f"converted from {source.name}")
    except ValueError as error:
        raise UserError(f"The settings of {source} do not fit together: {error}") from None

    untrained = replace(method, diffusion=replace(method.diffusion, trained=False))  # type: ignore[call-arg]
    fit(untrained.build(), weights, source=str(source))
    if unet is not None:
        weights |= {f"decoder.unet.{name}": value for name, value in _read(unet).items()}
    write_run(run, weights, out)
    found = {"slots": True, "feature_decoder": mlp is not None, "unet": unet is not None}
    return Converted(out, run, tuple(name for name, there in found.items() if there))


def export_unet(run_folder: Path | str, out: Path | str) -> Path:
    """Write the trained U-Net of a run to `unet/` in a folder, as `diffusers` reads it; returns that.

    Raises:
        UserError: if the folder is no run, its method trains no U-Net, or `unet/` holds files of somebody else.
    """
    out = Path(out)
    check_writable(out)
    there = [path.relative_to(out).as_posix() for path in (out / "unet").rglob("*") if not path.is_dir()]
    Outputs(out).check_free(there or (["unet"] if (out / "unet").is_file() else []))
    method: Any = load_method(run_folder)
    if not getattr(getattr(method.config, "diffusion", None), "trained", False):
        raise UserError(f"{run_folder} holds a {type(method).__name__} that trained no U-Net; phase 2 of GLASS does.")
    with writing(out, doing="converting") as outputs, folder_beside(out / "unet") as beside:
        outputs.place(method.decoder.export(beside), "unet")
    return out / "unet"


def slot_weights(published: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the published slot module (`MultiHeadSTEVESA`) for `LatentSlotAttention`."""
    weights = {}
    for name, value in published.items():
        module, _, kind = name.rpartition(".")
        if (name == "slot_mu" and value.ndim != 3) or (name == "pos.projection.weight" and value.ndim < 2):
            raise UserError(f"{name} of the slot module has the shape {_shape(value)}, which no MultiHeadSTEVESA has.")
        if name == "slot_mu" and value.shape[1] > 1:
            weights["initializer.slots"] = value[0]
        elif name in ("slot_mu", "slot_log_sigma"):
            weights[f"initializer.{name.removeprefix('slot_')}"] = value
        elif name != "pos.pe":  # the grid of positions, which is computed here
            theirs = next((known for known in SLOT_MODULES if f"{module}.".startswith(f"{known}.")), None)
            if theirs is None:
                raise UserError(f"The slot module has a weight {name!r}, which MultiHeadSTEVESA does not have.")
            ours = f"{SLOT_MODULES[theirs]}{module.removeprefix(theirs)}.{kind}"
            weights[ours] = value.flatten(1) if theirs == "pos.projection" and kind == "weight" else value
    if "box_mlp.0.weight" in weights:  # such slots start from boxes; the Gaussian beside it is not used
        weights = {name: value for name, value in weights.items() if not name.startswith("initializer.")}
    return weights


def feature_decoder_weights(published: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the published `MlpDecoder` for `PatchMLPDecoder`: its last layer holds features, then the mask."""
    try:
        layers = sorted({int(name.split(".")[1]) for name in published if name.startswith("decoder.")})
        weights = {"position": published["pos_embed"][0]}
        for k, layer in enumerate(layers):
            for kind in ("weight", "bias"):
                value = published[f"decoder.{layer}.{kind}"]
                if k < len(layers) - 1:
                    weights[f"hidden.{k}.{kind}"] = value
                else:
                    weights[f"to_features.{kind}"], weights[f"to_mask.{kind}"] = value[:-1], value[-1:]
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(f"The MLP decoder lacks a weight ({error}); it should be GLASS's MlpDecoder.") from None
    return weights


def _settings(source: Path) -> dict[str, Any]:
    path = source / SLOTS / "config.json"
    if not source.is_dir():
        raise UserError(f"There is no folder {source}; give the unpacked checkpoint.")
    if not path.is_file():
        kind = "the CNN encoder of LSD" if (source / "unetencoder").is_dir() else "no slot module"
        raise UserError(f"{source} holds {kind}, not {SLOTS}/config.json; give a checkpoint of StableLSD or GLASS.")
    if (source / "unetencoder").is_dir():
        raise UserError(f"{source} holds an encoder of its own (LSD); only checkpoints on a frozen ViT can be read.")
    try:
        settings = read_json(path.read_text(encoding="utf-8-sig"))
        given = {name: settings.get(name) for name in (*SETTINGS, "input_resolution")}
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error}); get the checkpoint again.") from None
    for name, value in given.items():
        if value is None and name in SETTINGS:
            raise UserError(f"{path} does not say {name}; it should be the config of a MultiHeadSTEVESA.")
        if value is not None and (type(value) is not int or not 1 <= value <= 2**20):
            raise UserError(f"{path} has {name} {quote(value)}; expected a whole number, 1 or more.")
    if settings.get("epsilon", 1e-6) != 1e-6:
        raise UserError(f"{path} has epsilon {settings['epsilon']}; only the published 1e-6 is understood here.")
    return settings


def _read(folder: Path) -> dict[str, Tensor]:
    """All weights in a folder; no file is unpickled."""
    files = next((found for pattern in WEIGHTS if (found := sorted(folder.glob(pattern)))), [])
    if not files:
        raise UserError(f"{folder} holds no weights; expected diffusion_pytorch_model.safetensors or .bin.")
    weights: dict[str, Tensor] = {}
    for file in files:
        try:
            if file.suffix == ".safetensors":
                weights |= load_file(file)
            else:
                weights |= torch.load(file, map_location="cpu", weights_only=True)
        except DAMAGE as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)[:120]
            raise UserError(f"{file} cannot be read as plain tensors ({reason}); get the checkpoint again.") from None
    if not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in weights.items()):
        raise UserError(f"{folder} holds more than named tensors; expected a state dict.")
    check_weights(weights, source=str(folder))
    # Published files may be in half precision; a checkpoint holds what the method computes with.
    return unwrapped({name: value.float() if value.is_floating_point() else value for name, value in weights.items()})


def _shape(value: Tensor) -> str:
    return ", ".join(map(str, value.shape)) or "of a single number"


def write_back(method: StableLSD | Glass, out: Path) -> Path:
    """Write a run of StableLSD or GLASS as their code reads it: the folder that `convert_glass` reads.

    There and back every tensor is the same to the bit, but for the Gaussian that a module with slots from boxes also
    has and does not use: it is written as zeros.

    Raises:
        UserError: the method has slots that their code does not know, or somebody else's files are in the way.
    """
    config = method.config
    if config.initializer == "per_slot" or config.gradient == "implicit":
        raise UserError(
            f"This run starts slots {config.initializer!r} with the gradient {config.gradient!r}, which the code of "
            "StableLSD and GLASS does not have."
        )
    own = {name: value.detach().clone() for name, value in method.state_dict().items()}
    slots = {name.removeprefix("slots."): value for name, value in own.items() if name.startswith("slots.")}
    mlp = {n.removeprefix("feature_decoder."): v for n, v in own.items() if n.startswith("feature_decoder.")}
    settings = {
        "_class_name": "MultiHeadSTEVESA",
        "num_iterations": config.num_iterations,
        "num_slots": config.num_slots,
        "num_heads": config.num_heads,
        "slot_size": config.slot_dim,
        "mlp_hidden_size": config.mlp_dim,
        "out_size": config.diffusion.context_dim,
        "input_size": config.encoder.feature_dim,
        "input_resolution": config.encoder.grid[0],
        "epsilon": 1e-6,
        "learnable_slot_init": config.initializer == "learned",
        "bi_level": config.gradient == "bilevel",
        "init_mlp": config.initializer == "boxes",
    }
    check_writable(out)
    with writing(out, doing="converting") as outputs, folder_beside(out / SLOTS) as beside:
        folder = beside / SLOTS
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        save_file(_published_slots(slots, config.encoder.grid[0]), folder / WRITTEN)
        made = [SLOTS]
        if mlp:
            (beside / MLP[0]).mkdir()
            save_file(_published_mlp(mlp), beside / MLP[0] / WRITTEN)
            made.append(MLP[0])
        if config.diffusion.trained:
            (beside / "exported").mkdir()
            method.decoder.export(beside / "exported").rename(beside / UNET[0])
            made.append(UNET[0])
        for name in made:
            outputs.place(beside / name, name)
    return out


def _published_slots(ours: dict[str, Tensor], side: int) -> dict[str, Tensor]:
    """The reverse of `slot_weights`, with the grid of positions, which their module stores."""
    back = sorted(((mine, theirs) for theirs, mine in SLOT_MODULES.items()), key=lambda pair: -len(pair[0]))
    coordinates = torch.linspace(0.0, 1.0, side + 1)
    middle = 0.5 * (coordinates[:-1] + coordinates[1:])
    columns, rows = torch.meshgrid(middle, middle, indexing="xy")
    found = {"pos.pe": torch.stack((rows, columns, 1 - rows, 1 - columns))[None]}
    for name, value in ours.items():
        if name == "initializer.slots":
            found["slot_mu"] = value[None]
        elif name.startswith("initializer."):
            found[f"slot_{name.removeprefix('initializer.')}"] = value
        else:
            mine, theirs = next(pair for pair in back if name.startswith(f"{pair[0]}."))
            found[theirs + name.removeprefix(mine)] = value
    found["pos.projection.weight"] = found["pos.projection.weight"][:, :, None, None]
    if "slot_mu" not in found:
        width = len(found["norm_slots.weight"])
        found |= {name: torch.zeros(1, 1, width) for name in ("slot_mu", "slot_log_sigma")}
    return {name: value.contiguous() for name, value in found.items()}


def _published_mlp(ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """The reverse of `feature_decoder_weights`."""
    layers = len({name.split(".")[1] for name in ours if name.startswith("hidden.")})
    found = {"pos_embed": ours["position"][None]}
    for kind in ("weight", "bias"):
        for k in range(layers):
            found[f"decoder.{2 * k}.{kind}"] = ours[f"hidden.{k}.{kind}"]
        found[f"decoder.{2 * layers}.{kind}"] = torch.cat([ours[f"to_features.{kind}"], ours[f"to_mask.{kind}"]])
    return {name: value.contiguous() for name, value in found.items()}
