"""GLASS's data engine: prompts to images with pseudo-masks, in shards that any number of processes share.

    caption --nouns--> classes --"caption; classes"--> Stable Diffusion --attention to classes--> masks --> Parquet

Everything in a shard follows from the settings and the shard's number: each image has a seed of its own, and batches
never reach across shards. So it does not matter which process makes a shard, or how often work was stopped.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from slotworks.data.stores.generated import find_shards, num_rows, shard_path
from slotworks.encoders.clip import CLIPEncoder
from slotworks.encoders.sam2 import Sam2, Sam2Config
from slotworks.files import locked, write_text
from slotworks.machine import Precision
from slotworks.progress import Advice, cpu_advice, progress, say
from slotworks.synthesis.adaptive import Adaptive, adaptive_labels
from slotworks.synthesis.capture import AttentionCapture
from slotworks.synthesis.prompts import Prompt, TooManyClasses, caption_words, class_prompt, compose
from slotworks.synthesis.refine import class_maps, refine, to_labels
from slotworks.synthesis.shards import contact_sheet, is_finished, png, write_shard
from slotworks.synthesis.sources import PromptConfig, SceneCaptions
from slotworks.synthesis.stable_diffusion import StableDiffusion, load_stable_diffusion
from slotworks.training.numerics import TABLE, device_kind, settle, slow_warning
from slotworks.training.seeds import seed_for
from slotworks.training.serialize import changes, flat, from_plain, to_plain, to_yaml
from slotworks.types import UserError
from slotworks.vocabulary import as_words
from slotworks.yaml_text import read_yaml

MAY_CHANGE = ("num_images", "batch_size", "source.captioner.batch_size")
"""Fields that may differ when work goes on: how much is made, and what changes nothing but rounding."""

NEGATIVE_PROMPT = (
    "low quality, blurry, ugly, badly drawn, distorted face, deformed hands, deformed feet, extra limbs, "
    "extra fingers, mutated, tiled, cropped, out of frame, watermark, text"
)

NEWER: dict[str, Any] = {"source.places": False, "append_classes": True, "clip_filter": ""}
NEWER |= {f"adaptive.{name}": value for name, value in to_plain(Adaptive()).items()}
"""Settings that came later, and what they are in folders without them: their shards stay what they were."""


@dataclass(frozen=True)
class Synthesis:
    """What is generated and how masks are read. Defaults are those of Dataset Diffusion's code with GLASS's thresholds.

    GLASS names Stable Diffusion 2.1 and one image for each prompt (supplement, B) and thresholds of 0.4 and 0.6 (B,
    Pseudo labels); 512 pixels follow from the sizes of the maps that Dataset Diffusion needs. Its section 4 makes a
    prompt for each class and averages maps over sizes, which the recipes of GLASS do; its supplement speaks of the same
    setup as Dataset Diffusion, whose code makes one prompt for all classes and takes one size.
    """

    source: PromptConfig = field(default_factory=SceneCaptions)  # where prompts come from
    model: str = "stabilityai/stable-diffusion-2-1"  # hub id, folder in the format of diffusers, or package:NAME
    num_images: int | None = None  # prompts taken, from the first on; those without a class make no image. None: all
    image_size: int = 512  # pixels, square
    steps: int = 100  # of the checkpoint's own scheduler
    cfg_scale: float = 7.5  # classifier-free guidance; 1 is none
    negative_prompt: str = NEGATIVE_PROMPT  # in Dataset Diffusion a list of the same kind
    precision: Precision = "32"  # of the U-Net and text encoder, auto: what is fast here; maps add up in float32
    masks: Literal["attention", "adaptive", "sam2"] = "attention"
    """adaptive: DiffuMask's, without uncertain pixels; sam2: segments without classes, the comparison of Table 6c"""
    append_classes: bool = True  # draw with "caption; classes"; False: with the caption alone
    class_prompts: Literal["joint", "per_class", "caption"] = "joint"
    """one prompt of all classes, one for each class, or none: the words of the caption that name them"""
    cross_sizes: tuple[int, ...] = (16,)  # sides of the maps that attend to classes; several are averaged
    self_size: int = 32  # side of the maps that refine them
    power: int = 4  # of the self-attention
    low: float = 0.4  # below: background; 0.5 in Dataset Diffusion's code
    high: float = 0.6  # above: the class; between: uncertain, 255
    adaptive: Adaptive = field(default_factory=Adaptive)  # for masks = adaptive, with power and the sizes of maps
    clip_filter: str = ""  # hub id or folder of a CLIP: images that it takes for another class are left out; "": none
    sam2: Sam2Config = field(default_factory=Sam2Config)  # for masks = sam2
    points_per_side: int = 32  # of SAM 2's grid; more points find more and smaller segments
    batch_size: int = 4  # images at once
    shard_size: int = 128  # prompts in a shard: what is made again after being killed
    seed: int = 0  # of all images

    def __post_init__(self) -> None:
        for name in ("image_size", "steps", "batch_size", "shard_size", "self_size", "points_per_side"):
            _check(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; it must be 1 or more.")
        _check(
            self.num_images is None or self.num_images >= 1,
            f"num_images is {self.num_images}; give 1 or more, or None for all.",
        )
        _check(bool(self.cross_sizes), "cross_sizes is empty; give the side of at least one map, such as 16.")
        _check(self.power >= 0, f"power is {self.power}; it cannot be negative.")
        _check(0 <= self.low <= self.high <= 1, f"low is {self.low} and high {self.high}; give 0 <= low <= high <= 1.")
        _check(self.seed >= 0, f"seed is {self.seed}; it cannot be negative.")


def synthesize(
    config: Synthesis,
    folder: str | Path,
    *,
    rank: int = 0,
    world_size: int = 1,
    device: torch.device | str = "cpu",
    on_shard: Callable[[Path], None] | None = None,
) -> dict[str, Any]:
    """Make all shards of this process that are not there yet.

    Writes `synthesis.yaml` first, then `captions/` if a model captions, `shard-00000.parquet` and so on, and at the end
    `sheet.png` with the first images. Shard `k` is made by process `k % world_size`; processes need not know of each
    other and may end and start again at any time, also in another number.

    Args:
        config: what to make.
        folder: made if it is missing.
        rank: number of this process, from 0.
        world_size: number of processes.
        device: where to compute.
        on_shard: called with each finished shard.

    Returns:
        `folder`; `images` and `shards` in it now; of this call `made`, `left_out` (prompts without an image), `seconds`
        and `images_per_second`; `sheet`.

    Raises:
        UserError: the folder was made with other settings, a model cannot be had, no prompt names a class, the disk is
            full. Finished shards are kept, and the same call goes on.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank is {rank} of {world_size}; processes are counted from 0 to {world_size - 1}.")
    folder, own = Path(folder), Path(folder) / f".rank-{rank}"
    with locked(own, doing="synthesizing"):
        place = torch.device(device)
        asked, config = config, _note_settings(config, folder, own, device_kind(place))
        notes = [slow_warning(config.precision, place)]
        if config != settle(asked, device_kind(place)):
            notes.append(f"{folder} was begun with precision {config.precision}, which is kept: its images stay alike.")
        for note in filter(None, notes):
            say(note)
        source = config.source.open(folder, place, rank)
        ranges = _unfinished(config, folder, len(source), rank, world_size)
        prompts = _read_prompts(source, ranges)
        _check_any(prompts, folder)
        class_names = source.class_names
        del source  # a captioner takes as much memory as what comes now
        if place.type == "cuda":
            torch.cuda.empty_cache()
        made, started = 0, time.monotonic()
        if any(isinstance(prompt, Prompt) for found in prompts.values() for prompt in found):
            generator: _Generator | None = _Generator(config, class_names, place)
            started = time.monotonic()
        else:
            generator = None
        total = sum(isinstance(prompt, Prompt) for found in prompts.values() for prompt in found)
        advice = _advice(config, place) if place.type == "cpu" else None
        with progress("generating", total, advice=advice) as advance:
            for number, found in prompts.items():
                wanted = [prompt for prompt in found if isinstance(prompt, Prompt)]
                rows: list[dict[str, Any]] = []
                for start in range(0, len(wanted), config.batch_size):
                    assert generator is not None
                    batch = wanted[start : start + config.batch_size]
                    rows += generator(batch)
                    advance(len(batch))
                kept = {row["index"] for row in rows}
                facts = {
                    "start": ranges[number].start,
                    "stop": ranges[number].stop,
                    "masks": "segments" if config.masks == "sam2" else "classes",
                    "class_names": class_names,
                    "settings": settings_hash(config),
                    "left_out": [index for index in ranges[number] if index not in kept],
                }
                write_shard(shard_path(folder, number), rows, facts)
                made += len(rows)
                if on_shard is not None:
                    on_shard(shard_path(folder, number))
        seconds = time.monotonic() - started
        sheet = contact_sheet(folder) if rank == 0 else None
    shards = find_shards(folder)
    return {
        "folder": str(folder),
        "images": sum(map(num_rows, shards)),
        "shards": len(shards),
        "made": made,
        "left_out": sum(len(found) for found in prompts.values()) - made,
        "seconds": seconds,
        "images_per_second": made / seconds if made else None,
        "sheet": None if sheet is None else str(sheet),
    }


class _Generator:
    """Batches of prompts to rows of a shard. Networks are loaded once."""

    def __init__(self, config: Synthesis, class_names: Sequence[str], device: torch.device):
        self.config, self.class_names = config, class_names
        self.diffusion: StableDiffusion = load_stable_diffusion(config.model, device, precision=config.precision)
        self.negative = self.diffusion.embed([config.negative_prompt]) if config.cfg_scale != 1 else None
        self.sam2 = Sam2(config.sam2, device) if config.masks == "sam2" else None
        self.settings = settings_hash(config)
        self.clip = CLIPEncoder(config.clip_filter) if config.clip_filter else None
        self._names: Tensor | None = None

    def __call__(self, prompts: Sequence[Prompt]) -> list[dict[str, Any]]:
        texts: dict[int, str] = {}
        for prompt in prompts:
            try:
                whole = compose(prompt.caption, prompt.classes, self.diffusion.tokenizer)
                texts[prompt.index] = whole if self.config.append_classes else prompt.caption
            except TooManyClasses:
                continue  # masks of some classes could not be read: no image rather than a wrong one
        prompts = [prompt for prompt in prompts if prompt.index in texts]
        if not prompts:
            return []
        seeds = [seed_for("noise", self.config.seed, prompt.index) for prompt in prompts]
        try:
            images, masks = self._images(prompts, list(texts.values()), seeds)
        except torch.OutOfMemoryError:
            raise UserError(
                f"{len(prompts)} images of {self.config.image_size} pixels do not fit the memory of "
                f"{self.diffusion.device}; set a smaller batch_size, or precision to 16 or bf16. Finished shards are "
                "kept."
            ) from None
        return [
            {
                "image": png(image),
                "mask": png(mask),
                "caption": prompt.caption,
                "prompt": texts[prompt.index],
                "classes": list(prompt.classes),
                "class_ids": self._ids(prompt),
                "index": prompt.index,
                "seed": seed,
                "settings": self.settings,
            }
            for prompt, seed, image, mask, kept in zip(
                prompts, seeds, images, masks, self._recognised(images, prompts), strict=True
            )
            if kept
        ]

    @torch.no_grad()
    def _recognised(self, images: np.ndarray, prompts: Sequence[Prompt]) -> list[bool]:
        """Whether the name nearest to an image, by CLIP, is one of the classes of its prompt; all without a CLIP."""
        if self.clip is None:
            return [True] * len(images)
        named = [name for name in self.class_names if name]
        pixels = torch.from_numpy(images).to(self.diffusion.device).movedim(3, 1).float() / 255
        if self._names is None:
            self._names = self.clip.text([f"a photo of a {name}" for name in as_words(tuple(named))], pixels)
        nearest = (self.clip.whole(pixels) @ self._names.T).argmax(1).tolist()
        return [named[k] in prompt.classes for k, prompt in zip(nearest, prompts, strict=True)]

    def _ids(self, prompt: Prompt) -> list[int]:
        return [self.class_names.index(name) + 1 for name in prompt.classes]

    @torch.no_grad()
    def _images(
        self, prompts: Sequence[Prompt], texts: Sequence[str], seeds: Sequence[int]
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Images `b h w 3` and masks `h w`, uint8."""
        config = self.config
        options: dict[str, Any] = {"image_size": config.image_size, "steps": config.steps, "seeds": seeds}
        options["cfg_scale"] = config.cfg_scale
        context = self.diffusion.embed(texts)
        if self.sam2 is not None:
            images = self.diffusion.generate(context, self.negative, **options).numpy()
            return images, [self._segments(image) for image in images]
        class_context, tokens = self._class_context(prompts, texts, context)
        maps = AttentionCapture(
            self.diffusion.unet, class_context, cross_sizes=config.cross_sizes, self_size=config.self_size
        )
        images = self.diffusion.generate(context, self.negative, inside=maps, **options).numpy()
        ids = torch.zeros(len(prompts), max(len(prompt.classes) for prompt in prompts), dtype=torch.int64)
        for k, prompt in enumerate(prompts):
            ids[k, : len(prompt.classes)] = torch.tensor(self._ids(prompt))
        if config.masks == "adaptive":
            sizes = [class_maps(maps.cross_of(size), tokens) for size in config.cross_sizes]
            pixels = torch.from_numpy(images)
            return images, list(
                adaptive_labels(sizes, maps.self_, pixels, ids, config.adaptive, config.power).cpu().numpy()
            )
        refined = refine(class_maps(maps.cross, tokens), maps.self_, config.power)
        size = (config.image_size, config.image_size)
        labels = to_labels(refined, ids.to(refined.device), size, config.low, config.high)
        return images, list(labels.cpu().numpy())

    def _class_context(
        self, prompts: Sequence[Prompt], texts: Sequence[str], context: torch.Tensor
    ) -> tuple[torch.Tensor, list[list[Sequence[int]]]]:
        """Embedded class prompts, `b s c` or `b g s c`, and the tokens of each class in its prompt."""
        tokenizer, kind = self.diffusion.tokenizer, self.config.class_prompts
        if kind == "caption":
            named = zip(texts, prompts, strict=True)
            return context, [caption_words(text, prompt.classes, tokenizer) for text, prompt in named]
        if kind == "joint":
            found = [class_prompt(prompt.classes, tokenizer) for prompt in prompts]
            return self.diffusion.embed([text for text, _ in found]), [tokens for _, tokens in found]
        most = max(len(prompt.classes) for prompt in prompts)
        groups = [[class_prompt([name], tokenizer) for name in prompt.classes] for prompt in prompts]
        each = [text for group in groups for text in [*(text for text, _ in group), *[""] * (most - len(group))]]
        groups_context = self.diffusion.embed(each).unflatten(0, (len(prompts), most))
        return groups_context, [[own for _, tokens in group for own in tokens] for group in groups]

    def _segments(self, image: np.ndarray) -> np.ndarray:
        """SAM 2's automatic masks in one: the larger below the smaller ones, numbered from 1; 0 is in none."""
        assert self.sam2 is not None
        masks = self.sam2.automatic_masks(image, points_per_side=self.config.points_per_side).masks.cpu().numpy()[:254]
        painted = np.zeros(image.shape[:2], np.uint8)
        for number, k in enumerate(np.argsort(-masks.sum((1, 2)), kind="stable"), 1):
            painted[masks[k]] = number
        return painted


def _advice(config: Synthesis, device: torch.device) -> Advice:
    """What would make the generation on a CPU shorter."""

    def advice() -> list[str]:
        numerics = TABLE[device_kind(device)]
        slow = [f"--precision auto, which is {numerics.precision} here"] if config.precision in numerics.slow else []
        return [*slow, "fewer --num-images", "fewer --steps of the sampler", *cpu_advice(torch.get_num_threads())]

    return advice


def settings_hash(config: Synthesis) -> str:
    """A short hash of everything that decides what an image is; a newer setting counts where it is not its default."""
    plain = {name: value for name, value in flat(to_plain(config)).items() if name not in MAY_CHANGE}
    plain = {name: value for name, value in plain.items() if NEWER.get(name, ...) != value}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def _note_settings(config: Synthesis, folder: Path, own: Path, kind: str) -> Synthesis:
    """Write `synthesis.yaml`, or compare with the one that is there; the settings with `auto` as it was settled.

    The first process settles `auto` by its kind of device, and all that come later keep it: all images are alike.
    """
    path, mine = folder / "synthesis.yaml", own / "synthesis.yaml"
    if not path.exists():
        taken = [*folder.glob("shard-*.parquet"), *folder.glob("sheet.png"), *folder.glob("captions")]
        if taken and not path.exists():  # another process of this work may have written it meanwhile
            raise UserError(
                f"{folder} holds {taken[0].name}, but no synthesis.yaml; it was not made here, choose another."
            )
        write_text(mine, to_yaml(settle(config, kind)))
        with suppress(OSError):  # another process was first
            os.link(mine, path)
    if path.exists():
        try:
            plain = read_yaml(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read ({type(error).__name__}); choose another folder.") from None
        kept = from_plain(Synthesis, plain, source=str(path))  # with the defaults of settings that are newer
        if settle(config, kind) != config:  # something is auto
            config = settle(config, kind, kept)
        if changed := changes(to_plain(kept), to_plain(config), MAY_CHANGE):
            raise UserError(
                f"{folder} was made with other settings: {'; '.join(changed)}. Choose another folder, or set this back "
                "to go on."
            )
    config = settle(config, kind)
    # Several processes may write it at once: each its own file, which then takes the place at once.
    write_text(mine, to_yaml(config)).replace(path)
    return config


def _unfinished(config: Synthesis, folder: Path, available: int, rank: int, world_size: int) -> dict[int, range]:
    """The shards of this process that are still to be made, with their numbers in the source."""
    total = available if config.num_images is None else config.num_images
    if total > available:
        raise UserError(f"num_images is {total}, but the source has {available} prompts; ask for at most as many.")
    if not total:
        raise UserError("The source has no prompts; nothing can be generated.")
    found = {}
    for number in range(rank, -(-total // config.shard_size), world_size):
        start = number * config.shard_size
        stop = min(start + config.shard_size, total)
        if not is_finished(shard_path(folder, number), stop):
            found[number] = range(start, stop)
    return found


def _read_prompts(source: Any, ranges: dict[int, range]) -> dict[int, list[Prompt | str]]:
    prompts: dict[int, list[Prompt | str]] = {}
    with progress("captions", sum(map(len, ranges.values())), unit="captions") as advance:
        for number, indices in ranges.items():
            prompts[number] = []
            for prompt in source.prompts(indices):
                prompts[number].append(prompt)
                advance(1)
    return prompts


def _check_any(prompts: dict[int, list[Prompt | str]], folder: Path) -> None:
    reasons = [prompt for found in prompts.values() for prompt in found if isinstance(prompt, str)]
    if reasons and len(reasons) == sum(map(len, prompts.values())) and not find_shards(folder):
        raise UserError(f"None of {len(reasons)} prompts can be used; the first: {reasons[0]}.")


def _check(ok: bool, message: str) -> None:
    if not ok:
        raise ValueError(message)
