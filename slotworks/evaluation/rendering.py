"""Slots to pictures, with any method that can: a direct decoder, or a generator of images."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from slotworks.evaluation.masks import check_finite, inspecting
from slotworks.evaluation.task import Job, option
from slotworks.types import Decodes, Method, Samples, UserError

Renderer = Literal["sample", "decode"]

EDITING = (75, 3.0)
"""Steps and guidance of GLASS's composition script, for generators that say nothing of their own."""


@dataclass(frozen=True)
class Rendered:
    """Pictures in [0, 1], and the decoder's masks where the pictures come from one."""

    image: Float[Tensor, "*b 3 h w"]
    masks: Float[Tensor, "*b n y x"] | None = None


def renderer_of(method: Method, wanted: Renderer | None = None) -> Renderer:
    """How a method makes pictures: by sampling if it generates, else with its direct decoder.

    Raises:
        UserError: if it cannot be done in the way that is wanted, or at all.
    """
    able: list[Renderer] = []
    if isinstance(method, Samples):
        able.append("sample")
    if isinstance(method, Decodes):
        able.append("decode")
    if not able or (wanted and wanted not in able):
        way = {"sample": "generate pictures", "decode": "decode slots directly", None: "turn slots into pictures"}
        raise UserError(f"{type(method).__name__} cannot {way[wanted]}; take a run whose method does.")
    return wanted or able[0]


def sampling_of(
    method: Method, steps: int | None, cfg_scale: float | None, default: tuple[int, float]
) -> tuple[int | None, float | None]:
    """Steps and guidance of a generator: what is given, else what the method says in `sampling`, else `default`.

    `sampling` may be None: nothing of its own. None in the answer is a setting that the method does not have: its
    `sampling` leaves it out, as that of autoregressive decoders.

    Raises:
        UserError: if a setting is given that the method does not have.
    """
    own = getattr(method, "sampling", None)
    if own is None:
        own = {"steps": default[0], "cfg_scale": default[1]}
    for name, given in (("steps", steps), ("cfg_scale", cfg_scale)):
        if given is not None and name not in own:
            raise UserError(
                f"{name} is {given:g}, but {type(method).__name__} generates pictures without such a setting; leave it "
                "out."
            )
    return own.get("steps") if steps is None else steps, own.get("cfg_scale") if cfg_scale is None else cfg_scale


@dataclass(frozen=True)
class RenderingOptions:
    """Options of tasks that render."""

    steps: int | None = option(None, "of a generator: denoising steps")
    cfg_scale: float | None = option(None, "of a generator: guidance scale")
    renderer: Renderer | None = option(None, "for a method that can do both; by default it samples")


def check_rendering(job: Job) -> None:
    """What a task that renders asks before the data are opened: that the method can, and has the settings given.

    Raises:
        UserError: as `renderer_of` and `sampling_of`.
    """
    renderer_of(job.method, job.options.renderer)
    sampling_of(job.method, job.options.steps, job.options.cfg_scale, EDITING)


def sampled_with(steps: int | None, cfg_scale: float | None) -> str:
    """How pictures were generated, for the rules of a record."""
    settings = [f"{steps} steps"] if steps is not None else []
    settings += [f"guidance {cfg_scale:g}"] if cfg_scale is not None else []
    return f"sampled with {', '.join(settings)}" if settings else "sampled"


def render(
    method: Method,
    slots: Float[Tensor, "*b n d"],
    *,
    features: Float[Tensor, "*b p c"] | None = None,
    renderer: Renderer | None = None,
    steps: int | None = None,
    cfg_scale: float | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Rendered:
    """Pictures of slots, clamped to [0, 1].

    A generator starts from noise that depends on `seed`, the number of images and their size, never on the slots, so
    two sets of slots, also of different number, are rendered from the same noise.

    Args:
        method: on any device; its modes and the caller's random state are left as they were.
        slots: on any device; of a method of videos with a time axis.
        features: what `encode` returned beside the slots, for a teacher-forced decoder.
        renderer: by default `renderer_of(method)`.
        steps: of the sampler; a direct decoder takes none. By default the method's own (`sampling`), else 75.
        cfg_scale: of classifier-free guidance; 1 is without. By default the method's own, else 3.
        seed: of the starting noise.
        dtype: that the networks compute in, by autocast: their weights stay as they are.

    Raises:
        UserError: if the method cannot render slots, renders features or flow instead of pictures, or has no steps or
            guidance and is given some; if there is NaN or infinity in a picture.
    """
    how = renderer_of(method, renderer)
    with inspecting(method, seed=seed) as device, torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        slots = slots.to(device)
        if how == "sample":
            assert isinstance(method, Samples)
            generator = torch.Generator(device).manual_seed(seed)
            steps, cfg_scale = sampling_of(method, steps, cfg_scale, EDITING)
            given = {"steps": steps, "cfg_scale": cfg_scale}
            settings: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
            image = method.sample(slots, generator=generator, **settings)
            check_finite(image, "rendered pictures")  # the limits below would make white of infinity
            return Rendered(image.float().clamp(0, 1))
        assert isinstance(method, Decodes)
        decoded = method.decode(slots, *(() if features is None else (features.to(device),)))
    count = decoded.recon.shape[-3]
    colors = getattr(method, "color_channels", slice(None) if count == 3 else None)  # SAVi may render flow instead
    if colors is None:
        what = "targets" if hasattr(method, "color_channels") else "features"
        raise UserError(
            f"{type(method).__name__} renders {what} of {count} channels, no pictures; take a run whose method does, "
            "such as slot_attention."
        )
    check_finite(decoded.recon, "rendered pictures")
    return Rendered(decoded.recon[..., colors, :, :].float().clamp(0, 1), decoded.masks.float())
