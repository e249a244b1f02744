"""GLASS's data engine: prompts to images with pseudo-masks, in shards that any number of processes share.

    caption --nouns--> classes --"caption; classes"--> Stable Diffusion --attention to classes--> masks --> Parquet

Everything in a shard follows from the settings and the shard's number: each image has a seed of its own, and batches
never reach across shards. So it does not matter which process makes a shard, or how often work was stopped.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from slotworks.data.stores.generated import find_shards, num_rows, number_of, shard_path
from slotworks.encoders.clip import CLIPEncoder
from slotworks.encoders.sam2 import Sam2, Sam2Config
from slotworks.files import Claims, check_writable, only_one, replacing
from slotworks.machine import Precision
from slotworks.progress import Advice, cpu_advice, progress, say
from slotworks.remote import Place, RemotePath, as_place, cache_folder
from slotworks.synthesis.adaptive import Adaptive, adaptive_labels
from slotworks.synthesis.capture import AttentionCapture
from slotworks.synthesis.prompts import Prompt, TooManyClasses, caption_words, class_prompt, compose
from slotworks.synthesis.refine import class_maps, refined_powers, to_labels
from slotworks.synthesis.shards import contact_sheet, is_finished, npy, png, write_shard
from slotworks.synthesis.sources import PromptConfig, PromptSource, SceneCaptions, captions_file
from slotworks.synthesis.stable_diffusion import StableDiffusion, load_stable_diffusion
from slotworks.training.numerics import TABLE, device_kind, settle, slow_warning
from slotworks.training.seeds import seed_for
from slotworks.training.serialize import changes, flat, from_plain, to_plain, to_yaml
from slotworks.types import UserError
from slotworks.vocabulary import as_words
from slotworks.yaml_text import read_yaml

MAY_CHANGE = ("num_images", "batch_size", "source.captioner.batch_size")
"""Fields that may differ when work goes on: how much is made, and what changes nothing but rounding."""

CLAIMS = ".claims"  # folder of the locks of shards that are being made
LOCK = ".synthesis.lock"  # for what only one process may write; empty

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
    folder: str | Place,
    *,
    rank: int = 0,
    world_size: int = 1,
    device: torch.device | str = "cpu",
    on_shard: Callable[[Place], None] | None = None,
) -> dict[str, Any]:
    """Make all shards that are not there yet, with other processes that do the same if there are any.

    Writes `synthesis.yaml` first, then `captions/` if a model captions, `shard-00000.parquet` and so on, and at the end
    `sheet.png` with the first images. Processes share the shards by claims (`slotworks.files.Claims`): they may end and
    start at any time, in any number, and what one leaves that dies is done by the others. While images of one shard
    are generated, those of the shard before are compressed and written, and the captions of the next are made.

    Args:
        config: what to make.
        folder: made if it is missing; or a URL (`s3://`, `gs://`; extra `remote`), where there are no locks, so that
            processes may make the last shards twice.
        rank: number of this process, from 0: with which share of the shards it begins.
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
    folder, place = as_place(folder), torch.device(device)
    asked, config = config, note_settings(config, folder, device_kind(place))
    notes = [slow_warning(config.precision, place)]
    if config != settle(asked, device_kind(place)):
        notes.append(f"{folder} was begun with precision {config.precision}, which is kept: its images stay alike.")
    for note in filter(None, notes):
        say(note)
    captions = captions_of(folder)
    source = config.source.open(captions, place)
    ranges = _unfinished(config, folder, len(source))
    numbers, begun = list(ranges), {n for n in ranges if shard_path(folder, n).is_file()}  # these are to grow
    claims = Claims(
        numbers,
        lambda number: claimed(folder, f"{number:05d}"),
        lambda number: is_finished(shard_path(folder, number), ranges[number].stop),
        lambda: {number_of(shard) for shard in find_shards(folder)} - begun,
        rank * len(numbers) // world_size,
    )
    started = time.monotonic()
    with closing(claims), progress("generating", sum(map(len, ranges.values())), advice=_advice(config, place)) as done:
        made = _make(config, folder, source, ranges, claims, place, done, on_shard, captions)
    seconds = time.monotonic() - started
    shards = find_shards(folder)
    images = sum(map(num_rows, shards))
    if not images and made.reasons:
        for number in numbers:
            shard_path(folder, number).unlink(missing_ok=True)
        raise UserError(f"None of {made.left_out} prompts can be used; the first: {made.reasons[0]}.")
    with alone(folder):
        sheet = contact_sheet(folder)
    forget_claims(folder)
    return {
        "folder": str(folder),
        "images": images,
        "shards": len(shards),
        "made": made.images,
        "left_out": made.left_out,
        "seconds": seconds,
        "images_per_second": made.images / seconds if made.images else None,
        "sheet": None if sheet is None else str(sheet),
    }


@dataclass
class _Made:
    images: int = 0
    left_out: int = 0
    reasons: list[str] = field(default_factory=list)  # why prompts cannot be used; the first


def _make(
    config: Synthesis,
    folder: Place,
    source: PromptSource,
    ranges: dict[int, range],
    claims: Claims[int],
    device: torch.device,
    done: Callable[[int], None],
    on_shard: Callable[[Place], None] | None,
    captions: Path,
) -> _Made:
    """Prompts of the next shard, images of this one, files of the one before: three things at a time."""
    made, names = _Made(), source.class_names
    generator: _Generator | None = None

    def read() -> tuple[int, list[Prompt | str]] | None:
        number = claims.take()
        if number is None:
            return None
        found: list[Prompt | str] = []
        for prompt in source.prompts(ranges[number]):
            if claims.closed:
                return None
            found.append(prompt)
        return number, found

    def write(number: int, rows: list[list[dict[str, Any]]]) -> None:
        whole = [_encoded(row) for batch in rows for row in batch]
        kept = {row["index"] for row in whole}
        left_out = [index for index in ranges[number] if index not in kept]
        bounds = {"start": ranges[number].start, "stop": ranges[number].stop}
        write_shard(shard_path(folder, number), whole, {**bounds, **facts_of(config, names), "left_out": left_out})
        send_captions(captions, folder)
        claims.release(number)
        made.images += len(whole)
        made.left_out += len(left_out)
        if on_shard is not None:
            on_shard(shard_path(folder, number))

    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        try:
            coming, going = reader.submit(read), None
            while (found := coming.result()) is not None:
                coming = reader.submit(read)
                number, prompts = found
                wanted = [prompt for prompt in prompts if isinstance(prompt, Prompt)]
                made.reasons = made.reasons or [prompt for prompt in prompts if isinstance(prompt, str)][:1]
                done(len(prompts) - len(wanted))
                rows = []
                for start in range(0, len(wanted), config.batch_size):
                    generator = generator or _Generator(config, names, device)
                    batch = wanted[start : start + config.batch_size]
                    rows.append(generator(batch))
                    done(len(batch))
                if going is not None:
                    going.result()
                going = writer.submit(write, number, rows)
            if going is not None:
                going.result()
        finally:
            claims.closed = True  # the reader ends at its next prompt
    return made


def _encoded(row: dict[str, Any]) -> dict[str, Any]:
    """A row with its pictures as files."""
    maps = None if row["maps"] is None else npy(row["maps"])
    return {**row, "image": png(row["image"]), "mask": png(row["mask"]), "maps": maps}


@contextmanager
def claimed(folder: Place, name: str) -> Iterator[bool]:
    """The claim of a shard in this folder; at a URL nobody can claim, and all are to be had."""
    if isinstance(folder, RemotePath):
        yield True
        return
    with _refused(folder), only_one(folder / CLAIMS / name, wait=False) as mine:
        yield mine


@contextmanager
def _refused(folder: Place) -> Iterator[None]:
    """What the disk refuses as a sentence."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{folder} cannot be written to ({reason}); finished shards are kept.") from None


def forget_claims(folder: Place) -> None:
    """When all shards are done."""
    if isinstance(folder, Path):
        shutil.rmtree(folder / CLAIMS, ignore_errors=True)


def captions_of(folder: Place) -> Path:
    """The folder itself, or one of this machine with the captions that are at the URL."""
    if isinstance(folder, Path):
        return folder
    place = cache_folder().with_name("captions") / hashlib.sha256(str(folder).encode()).hexdigest()[:32]
    (place / "captions").mkdir(parents=True, exist_ok=True)
    for file in (folder / "captions").glob("*.jsonl"):
        if not (place / "captions" / file.name).exists():
            (place / "captions" / file.name).write_bytes(file.read_bytes())
    return place


def send_captions(captions: Path, folder: Place) -> None:
    """To a URL: those that this machine wrote."""
    if isinstance(folder, RemotePath):
        for file in (captions / "captions").glob(f"{captions_file()}"):
            (folder / "captions" / file.name).put(file)


def facts_of(config: Synthesis, class_names: Sequence[str]) -> dict[str, Any]:
    """What holds for the rows of all shards, see `slotworks.data.stores.generated.read_facts`."""
    kind = "segments" if config.masks == "sam2" else "classes"
    return {"masks": kind, "class_names": class_names, "settings": settings_hash(config)}


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
            images, masks, maps = self._images(prompts, list(texts.values()), seeds)
        except torch.OutOfMemoryError:
            raise UserError(
                f"{len(prompts)} images of {self.config.image_size} pixels do not fit the memory of "
                f"{self.diffusion.device}; set a smaller batch_size, or precision to 16 or bf16. Finished shards are "
                "kept."
            ) from None
        return [
            {
                "image": image,
                "mask": mask,
                "caption": prompt.caption,
                "prompt": texts[prompt.index],
                "classes": list(prompt.classes),
                "class_ids": self._ids(prompt),
                "index": prompt.index,
                "seed": seed,
                "settings": self.settings,
                "maps": own,
            }
            for prompt, seed, image, mask, own, kept in zip(
                prompts, seeds, images, masks, maps, self._recognised(images, prompts), strict=True
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
    ) -> tuple[np.ndarray, Sequence[np.ndarray], Sequence[np.ndarray | None]]:
        """Images `b h w 3` and masks `h w`, uint8; and refined maps `n c y x` of each power and class, if there are."""
        config = self.config
        options: dict[str, Any] = {"image_size": config.image_size, "steps": config.steps, "seeds": seeds}
        options["cfg_scale"] = config.cfg_scale
        context, nothing = self.diffusion.embed(texts), [None] * len(prompts)
        if self.sam2 is not None:
            images = self.diffusion.generate(context, self.negative, **options).numpy()
            return images, [segments(self.sam2, image, config.points_per_side) for image in images], nothing
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
            labels = adaptive_labels(sizes, maps.self_, pixels, ids, config.adaptive, config.power)
            return images, list(labels.cpu().numpy()), nothing
        refined = refined_powers(class_maps(maps.cross, tokens), maps.self_, config.power)
        size = (config.image_size, config.image_size)
        labels = to_labels(refined[:, -1], ids.to(refined.device), size, config.low, config.high)
        own = [maps[:, : len(prompt.classes)] for maps, prompt in zip(refined.cpu().numpy(), prompts, strict=True)]
        return images, list(labels.cpu().numpy()), own

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


def segments(sam2: Sam2, image: np.ndarray, points_per_side: int) -> np.ndarray:
    """SAM 2's automatic masks in one: the larger below the smaller ones, numbered from 1; 0 is in none."""
    masks = sam2.automatic_masks(image, points_per_side=points_per_side).masks.cpu().numpy()[:254]
    painted = np.zeros(image.shape[:2], np.uint8)
    for number, k in enumerate(np.argsort(-masks.sum((1, 2)), kind="stable"), 1):
        painted[masks[k]] = number
    return painted


def _advice(config: Synthesis, device: torch.device) -> Advice | None:
    """What would make the generation on a CPU shorter."""
    if device.type != "cpu":
        return None

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


def note_settings(config: Synthesis, folder: Place, kind: str) -> Synthesis:
    """Write `synthesis.yaml`, or compare with the one that is there; the settings with `auto` as it was settled.

    The first process settles `auto` by its kind of device, and all that come later keep it: all images are alike.
    """
    path = folder / "synthesis.yaml"
    check_writable(folder)
    with _tidied(folder), _refused(folder), alone(folder):
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
                    f"{folder} was made with other settings: {'; '.join(changed)}. Choose another folder, or set this "
                    "back to go on."
                )
        elif taken := [*folder.glob("shard-*.parquet"), *folder.glob("sheet.png"), *folder.glob("captions")]:
            raise UserError(
                f"{folder} holds {taken[0].name}, but no synthesis.yaml; it was not made here, choose another."
            )
        config = settle(config, kind)
        with replacing(path) as beside:
            beside.write_text(to_yaml(config), encoding="utf-8")
    return config


@contextmanager
def alone(folder: Place) -> Iterator[None]:
    """One process at a time, where there are locks."""
    if isinstance(folder, RemotePath):
        yield
        return
    with only_one(folder / LOCK):
        yield


@contextmanager
def _tidied(folder: Place) -> Iterator[None]:
    """After an error nothing is left of a folder in which nothing was made."""
    try:
        yield
    except UserError:
        if isinstance(folder, Path):
            with suppress(OSError):
                if [file.name for file in folder.iterdir()] == [LOCK]:
                    (folder / LOCK).unlink()
                    folder.rmdir()
        raise


def _unfinished(config: Synthesis, folder: Place, available: int) -> dict[int, range]:
    """The shards that are still to be made, with their numbers in the source."""
    total = available if config.num_images is None else config.num_images
    if total > available:
        raise UserError(f"num_images is {total}, but the source has {available} prompts; ask for at most as many.")
    if not total:
        raise UserError("The source has no prompts; nothing can be generated.")
    found = {}
    for number in range(-(-total // config.shard_size)):
        start = number * config.shard_size
        stop = min(start + config.shard_size, total)
        if not is_finished(shard_path(folder, number), stop):
            found[number] = range(start, stop)
    return found


def _check(ok: bool, message: str) -> None:
    if not ok:
        raise ValueError(message)
