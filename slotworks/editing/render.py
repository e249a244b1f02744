"""One picture, taken apart once and rendered again and again with changed slots.

    scene = take_apart(method, image)                              image 3 h w -> slots n d, masks n y x
    edit = render_edit(method, scene, remove(scene.slots[None], 2)[0])
    edit.original, edit.recon, edit.edited                         3 h w, s 3 h w, s 3 h w

Reconstruction and edit start from the same noise, whatever the number of slots, so they differ by the edit alone.
A method of videos sees a picture as a video of one frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import interpolate

from slotworks.evaluation.masks import decode, inspecting, merge_similar, similar_slots, soft_masks
from slotworks.evaluation.removal import going
from slotworks.evaluation.rendering import Rendered, Renderer, render, renderer_of
from slotworks.evaluation.segment import upsampled_argmax
from slotworks.evaluation.segment_video import boxes_tensor, encode_frames
from slotworks.types import Method, UserError, VideoMethod


@dataclass(frozen=True)
class Scene:
    """A picture and its slots. Slot `k` is slot `k` of `slotworks segment` with the same seed."""

    image: Float[Tensor, "3 h w"]
    slots: Float[Tensor, "n d"]
    masks: Float[Tensor, "n y x"]  # of the decoder, or attention where there is none; they sum to one over slots
    features: Float[Tensor, "p c"] | None = None  # for teacher-forced decoders
    owners: Int64[Tensor, " n"] | None = None  # where slots are joined: into which each; `masks` are added up there

    def joined(self, index: int) -> list[int]:
        """A slot and those that are joined into it."""
        return [index] if self.owners is None else (self.owners == index).nonzero()[:, 0].tolist()


@dataclass(frozen=True)
class Edit:
    """A picture, its reconstruction and its edit, all in [0, 1]; `s` starting noises (1 for a direct decoder)."""

    original: Float[Tensor, "3 h w"]
    recon: Float[Tensor, "s 3 y x"]
    edited: Float[Tensor, "s 3 y x"]
    slots: Float[Tensor, "n2 d"]  # those of the edit
    masks: Float[Tensor, "n i j"]  # of the picture's own slots
    edited_masks: Float[Tensor, "n2 y x"] | None = None  # of a direct decoder


def take_apart(
    method: Method,
    image: Float[Tensor, "3 h w"],
    *,
    num_slots: int | None = None,
    boxes: Sequence[Sequence[float]] | None = None,
    merge: float | None = None,
    seed: int = 0,
) -> Scene:
    """A picture in [0, 1], at the size the method looks at, to its slots.

    Initial slots are random for most methods, and with them which slot holds which object: `seed` decides. With the
    same seed, device and number of slots they are those of `slotworks segment`, whose seed is 0 by default.

    Args:
        method: on any device; left in the modes it had.
        image: in [0, 1], at the size the method looks at.
        num_slots: another number of slots than in training, where the method allows it.
        boxes: of the objects, `x0 y0 x1 y1` in [0, 1], for a method whose slots start from them.
        merge: join the masks of slots whose cosine is above this, see `slotworks.evaluation.masks.merge_similar`; the
            slots stay as they are, and are taken out together.
        seed: of the initial slots.

    Raises:
        UserError: if the method cannot be given so many slots, or boxes, or is given none and needs them; if `merge` is
            no cosine.
    """
    options: dict[str, Any] = {} if num_slots is None else {"num_slots": num_slots}
    with inspecting(method, seed=seed) as device:
        if boxes is not None:
            options["boxes"] = boxes_tensor(boxes).to(device)
        output = encode_frames(method, image[None, None].to(device), None, options)
        masks, owners = soft_masks(output, decode(method, output))[0].float(), None
        if merge is not None:
            owners = similar_slots(masks, output.slots[0], merge)[0]
            masks = merge_similar(masks, output.slots[0], merge)
    return Scene(
        image, output.slots[0, 0], masks[0], None if output.features is None else output.features[0, 0], owners
    )


def slot_at(scene: Scene, x: int, y: int, size: tuple[int, int] | None = None) -> int:
    """The slot that owns a pixel: the value of the mask that `slotworks segment` writes.

    Args:
        scene: a picture taken apart.
        x: column of the pixel, from the left.
        y: row of the pixel, from the top.
        size: height and width that `x` and `y` count in; by default the scene's own.

    Raises:
        UserError: if the pixel lies outside.
    """
    height, width = size or (scene.image.shape[-2], scene.image.shape[-1])
    if not (0 <= x < width and 0 <= y < height):
        raise UserError(
            f"The pixel {x},{y} lies outside the picture of {width} x {height} pixels; x runs from 0 to {width - 1}, "
            f"y from 0 to {height - 1}."
        )
    return int(upsampled_argmax(scene.masks.cpu(), (height, width))[y, x])


def object_at(scene: Scene, x: int, y: int, size: tuple[int, int] | None = None) -> list[int]:
    """All slots to take out with the object at a pixel: its owner, those joined into it, others that look there.

    Arguments and errors are those of `slot_at`.
    """
    index = slot_at(scene, x, y, size)
    height, width = scene.image.shape[-2:]
    masks = interpolate(scene.masks[None].float(), (height, width), mode="bilinear", align_corners=False)
    drop = going(masks, torch.tensor([index], device=masks.device))[0]
    joined = scene.joined(index)
    also = [k for k in drop.nonzero()[:, 0].tolist() if k not in joined and scene.joined(k) == [k]]
    return [*joined, *also]


def render_slots(method: Method, scene: Scene, slots: Float[Tensor, "n2 d"], **options: Any) -> Rendered:
    """One picture `1 3 y x` of any number of slots beside what else is known of a scene; `options` of `render`."""
    if not isinstance(method, VideoMethod):
        features = None if scene.features is None else scene.features[None]
        return render(method, slots[None], features=features, **options)
    found = render(method, slots[None, None], **options)
    return Rendered(found.image[0], None if found.masks is None else found.masks[0])


def render_edit(
    method: Method,
    scene: Scene,
    slots: Float[Tensor, "n2 d"],
    *,
    renderer: Renderer | None = None,
    steps: int | None = None,
    cfg_scale: float | None = None,
    seeds: Sequence[int] = (0,),
    dtype: torch.dtype = torch.float32,
) -> Edit:
    """Render a scene with its own slots and with changed ones, from the same noise.

    The defaults for StableLSD and GLASS are those of GLASS's composition script, which however draws new noise for the
    edit, and takes 20 steps after removing a slot.

    Args:
        method: that took the scene apart.
        scene: from `take_apart`.
        slots: any number of them, such as from `slotworks.editing.remove`.
        renderer: "sample" or "decode" for a method that can do both; by default it samples.
        steps: of the sampler; a direct decoder takes none. By default the method's own (`sampling`), else 75.
        cfg_scale: of classifier-free guidance; 1 is without. By default the method's own, else 3.
        seeds: of the starting noise, one picture for each. A direct decoder has no noise and renders once.
        dtype: that the networks render in, by autocast.

    Raises:
        UserError: if the method cannot render slots, or renders features instead of pictures.
    """
    how = renderer_of(method, renderer)
    if not seeds:
        raise ValueError("There are no seeds; give one for each picture.")
    options: dict[str, Any] = {"renderer": how, "steps": steps, "cfg_scale": cfg_scale, "dtype": dtype}
    pairs = [
        [render_slots(method, scene, of, seed=seed, **options) for of in (scene.slots, slots)]
        for seed in seeds[: 1 if how == "decode" else None]
    ]
    masks = pairs[0][1].masks
    return Edit(
        original=scene.image,
        recon=torch.cat([recon.image for recon, _ in pairs]),
        edited=torch.cat([edited.image for _, edited in pairs]),
        slots=slots,
        masks=scene.masks,
        edited_masks=None if masks is None else masks[0],
    )
