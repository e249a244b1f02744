"""`slotworks segment`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from slotworks.cli.console import err, out, parse, print_json
from slotworks.cli.encoder import with_encoder
from slotworks.cli.runs import run_of
from slotworks.errors import UserError
from slotworks.progress import progress

DEFAULT = "zoo:dinosaur-photos"
"""The run that is taken where none is named."""


def main(argv: Sequence[str]) -> int:
    """Parse and run."""
    return parse(segment, argv, verb="segment")


def segment(
    run: Annotated[Path, tyro.conf.Positional],
    images: Annotated[tuple[Path, ...], tyro.conf.Positional],
    /,
    out_folder: Annotated[Path, tyro.conf.arg(name="out")] = Path("segments"),
    num_slots: int | None = None,
    image_size: int | None = None,
    encoder: str | None = None,
    masks: Literal["decoder", "attention"] | None = None,
    merge: float | None = None,
    edges: bool = False,
    cut_outs: bool = False,
    boxes: tuple[str, ...] = (),
    seed: int = 0,
    device: str | None = None,
    module: Path | None = None,
    json: bool = False,
) -> int:
    """Take own pictures and videos of any size apart with a trained run.

    For cat.jpg it writes cat_mask.png (palette, value = slot), cat_overlay.png, cat_slots.npz (slot vectors and soft
    masks) and cat_rle.json (COCO run-length masks); about all pictures segments.json, their masks in one COCO file, and
    of several contact_sheet.png. For clip.mp4 (extra `video`): clip_overlay.mp4, the folder clip_masks with a picture
    per frame, clip_tracks.json (every slot's masks, boxes and areas, COCO for videos), clip_tracks.jsonl (boxes and
    areas, a line per frame), clip_sheet.png (frames beside their segments) and clip_slots.npy. A file that
    cannot be read is named and skipped; the exit code is then 1.

    Examples:
      slotworks segment runs/slot_attention.tetrominoes_mini photo.jpg
      slotworks segment RUN holiday/ --out masks --num-slots 8
      slotworks segment RUN holiday/ --edges --cut-outs              clean borders; objects with transparency
      slotworks segment holiday/                                     no run: that of zoo:dinosaur-photos
      slotworks segment RUN clip.mp4 --boxes 0.1,0.2,0.4,0.5 0.6,0.6,0.9,0.8

    Args:
        run: run folder; may be left out: then zoo:dinosaur-photos, which needs DINOv2 ViT-S/14 (88 MB).
        images: picture or video files, or folders of pictures.
        out_folder: folder for the results.
        num_slots: another number of slots than in training, where the method allows it.
        image_size: pixels of the square that pictures are resized to, where the method takes other ones than it was
            trained on: DINOSAUR with --masks attention; larger ones give finer masks and take longer.
        encoder: folder or hub id of the network under a run whose method has one, in place of where it was trained.
            The environment variable SLOTWORKS_DINOV2 names a folder for all that ask for DINOv2 ViT-S/14.
        masks: what the decoder mixes with, or the attention of the slots; by default what the run's protocol scores.
        merge: of pictures: join slots whose cosine is above this, for too many slots; such as 0.9.
        edges: of pictures: borders follow the picture's edges; by default masks are enlarged smoothly.
        cut_outs: of pictures: also each segment with transparency, OUT/cutouts/cat_3.png, but not the one that owns
            most of the picture's border; slotworks.data.CollageScenes makes new pictures of them.
        boxes: of videos: x0,y0,x1,y1 from 0 to 1 of each object in the first frame, for a run that is told them.
        seed: of the initial slots; `slotworks edit` means the same slots with the same seed.
        device: for example cuda:0 or cpu; the first GPU if there is one.
        module: Python file that defines the run's own classes.
        json: print what was written as JSON.
    """
    from slotworks import api
    from slotworks.images import find_images
    from slotworks.parts import import_file

    if module:
        import_file(module)
    default = is_picture(run)
    if default:
        images, run = (run, *images), Path(DEFAULT)
    files, notes = find_images(images)
    for note in notes:
        err.print(note, soft_wrap=True, markup=False)
    options = {"num_slots": num_slots, "masks": masks, "seed": seed, "device": device, "skip_damaged": True}
    options |= {"merge": merge, "edges": edges, "cut_outs": cut_outs, "image_size": image_size}
    if boxes:
        options["boxes"] = [read_box(text) for text in boxes]
    folder = run_of(run)
    config = with_encoder(folder, encoder, ask=default)
    found = api.segment(folder, files, out=out_folder, config=config, **options)
    results = []
    with progress("segmenting", len(files), unit="files") as advance:
        for result in found:
            results.append(result)
            advance(1)
    if json:
        print_json(results)
    else:
        for result in results:
            what = f"{result['frames']} frames, {result['slots']} tracks" if "frames" in result else ""
            what = what or f"{result.get('slots')} segments"
            text = result.get("error") or f"{result['file']}: {what}, {result['written'][1]}"
            out.print(text, soft_wrap=True, markup=False)
    return 1 if any("error" in result for result in results) else 0


def is_picture(path: Path) -> bool:
    """Whether what stands in the place of the run is a picture, or a folder of some: then a run of the zoo is taken."""
    if path.is_dir():
        return not (path / "run.yaml").exists() and not (path / "config.json").exists()
    return path.is_file()


def read_box(text: str) -> tuple[float, ...]:
    """Four numbers with commas between them.

    Raises:
        UserError: if the text is something else.
    """
    try:
        return tuple(float(value) for value in text.split(","))
    except ValueError:
        raise UserError(f"The box {text!r} is not four numbers; write x0,y0,x1,y1 with commas.") from None
