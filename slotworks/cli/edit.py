"""`slotworks edit`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from slotworks.cli.console import out, parse, print_json
from slotworks.cli.runs import run_of
from slotworks.errors import UserError
from slotworks.machine import Precision


def main(argv: Sequence[str]) -> int:
    """Parse and run."""
    parse(edit, argv, verb="edit")
    return 0


def edit(
    run: Annotated[Path, tyro.conf.Positional],
    image: Annotated[Path, tyro.conf.Positional],
    /,
    remove: tuple[int, ...] = (),
    remove_at: Annotated[tuple[str, ...], tyro.conf.arg(metavar="X,Y [X,Y ...]")] = (),
    add: Annotated[tuple[str, ...], tyro.conf.arg(metavar="OTHER:K [OTHER:K ...]")] = (),
    replace: tuple[int, ...] = (),
    swap: Annotated[str | None, tyro.conf.arg(metavar="K:OTHER:L")] = None,
    move: Annotated[str | None, tyro.conf.arg(metavar="K:OTHER")] = None,
    how: Literal["drop", "zero", "mean"] = "drop",
    out_folder: Annotated[Path, tyro.conf.arg(name="out")] = Path("edits"),
    steps: int | None = None,
    cfg_scale: float | None = None,
    noise_seeds: tuple[int, ...] = (0,),
    seed: int = 0,
    num_slots: int | None = None,
    boxes: Annotated[tuple[str, ...], tyro.conf.arg(metavar="X0,Y0,X1,Y1 [...]")] = (),
    renderer: Literal["sample", "decode"] | None = None,
    precision: Precision = "32",
    device: str | None = None,
    module: Path | None = None,
    json: bool = False,
) -> None:
    """Take objects out of a picture, bring them in from another, exchange or move them, by their slots.

    For cat.jpg it writes cat_original.png, cat_recon.png, cat_edited.png, cat_mask.png (palette, value = slot) and
    cat_sheet.png with all of them and every slot under its number. Slots are numbered as in `slotworks segment`.
    Which slot holds which object depends on --seed for most methods: use the same for both.

    With a run that was trained on videos, slots can be taken out of a video (extra `video`): for clip.mp4 it writes
    clip_original.mp4, clip_recon.mp4, clip_edited.mp4 and clip_sheet.png with the first frames. A picture is a video of
    one frame to such a run.

    Examples:
      slotworks edit runs/slot_attention.tetrominoes_mini photo.jpg --remove 2
      slotworks edit RUN photo.jpg --remove-at 120,80        the slot that owns this pixel
      slotworks edit RUN photo.jpg --add other.jpg:3         slot 3 of another picture
      slotworks edit RUN photo.jpg --swap 1:other.jpg:3      exchange slots; both pictures are written
      slotworks edit RUN photo.jpg --move 1:other.jpg --noise-seeds 0 1 2
      slotworks edit RUN clip.mp4 --remove 2                 out of every frame

    Args:
        run: run folder.
        image: picture file, or a video file.
        remove: slots to take out.
        remove_at: pixels of the picture, or of a video's first frame, column and row from the top left; the slots that
            own them are taken out, and in a picture also those that own nothing and look there.
        add: slot K of another picture.
        replace: with --add, the slots whose place they take; by default they are added behind the others.
        swap: slot K of the picture and slot L of another.
        move: slot K of the picture, to another.
        how: what becomes of a slot that is taken out: dropped, set to zero, or to the mean of the others.
        out_folder: folder for the results.
        boxes: x0,y0,x1,y1 from 0 to 1 of each object in the picture, or in a video's first frame, for a run that is
            told them.
        steps: of the sampler, for methods that denoise; by default the method's own, else 75.
        cfg_scale: of classifier-free guidance, for methods that denoise; by default the method's own, else 3.
        noise_seeds: of the sampler's starting noise, a picture for each.
        seed: of the initial slots.
        num_slots: another number of slots than in training, where the method allows it.
        renderer: for methods that can both generate and decode.
        precision: that pictures are rendered in, 32, bf16 or 16 (mixed); auto: what the device computes fast.
        device: for example cuda:0 or cpu; the first GPU if there is one.
        module: Python file that defines the run's own classes.
        json: print what was written as JSON.
    """
    from slotworks import api
    from slotworks.cli.segment import read_box
    from slotworks.parts import import_file

    pixels = [_pixel(text) for text in remove_at]
    added = [_other_slot(text, f"--add {text}", "OTHER:K, for example other.jpg:3") for text in add]
    swapped = moved = None
    if swap is not None:
        first, _, rest = swap.partition(":")
        form = "K:OTHER:L, for example 1:other.jpg:3; exchanging two slots of one picture changes nothing"
        swapped = (_slot(first, f"--swap {swap}"), *_other_slot(rest, f"--swap {swap}", form))
    if move is not None:
        first, _, other = move.partition(":")
        if not other:
            raise UserError(f"--move {move} names no other picture; write K:OTHER, for example 1:other.jpg.")
        moved = (_slot(first, f"--move {move}"), Path(other))
    if module:
        import_file(module)
    answers = api.edit(
        run_of(run),
        image,
        out=out_folder,
        remove_slots=remove,
        remove_at=pixels,
        how=how,
        add_slots=added,
        replace_slots=replace,
        swap_slots=swapped,
        move_slot=moved,
        num_slots=num_slots,
        boxes=[read_box(text) for text in boxes] or None,
        seed=seed,
        renderer=renderer,
        steps=steps,
        cfg_scale=cfg_scale,
        noise_seeds=noise_seeds or (0,),
        precision=precision,
        device=device,
    )
    if json:
        print_json(answers)
        return
    for answer in answers:
        text = f"{answer['file']}: {answer['edit']}; {answer['slots']} slots before, {answer['edited_slots']} now; "
        out.print(text + answer["written"][-1], soft_wrap=True, markup=False)


def _pixel(text: str) -> tuple[int, int]:
    x, _, y = text.partition(",")
    try:
        return int(x), int(y)
    except ValueError:
        raise UserError(f"--remove-at {text} is no pixel; write X,Y, for example 120,80.") from None


def _other_slot(text: str, given: str, form: str) -> tuple[Path, int]:
    path, _, index = text.rpartition(":")
    if not path:
        raise UserError(f"{given} names no slot of another picture; write {form}.")
    return Path(path), _slot(index, given)


def _slot(text: str, given: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UserError(f"{given} has {text!r} for a slot; slots are numbered from 0.") from None
