"""Tracks of a video in COCO's format for videos (YouTube-VIS, Yang et al. 2019), and its contact sheet.

A track has a mask, a box and an area for every frame, or null where its slot owns no pixel. Both are gathered frame by
frame in files and in a bounded number of small pictures, so that memory does not grow with the length of a video.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from tempfile import TemporaryFile
from typing import IO

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from slotworks.evaluation.samples import Places
from slotworks.evaluation.segment_results import thumbnails
from slotworks.outputs import Outputs

SHOWN = 24  # most frames on a contact sheet
FIELDS = ("segmentations", "bboxes", "areas")


class Tracks:
    """Masks of the slots of a video as COCO's run-length codes, frame by frame; to be used in a `with` block."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._files: dict[int, IO[str]] = {}
        self._seen: dict[int, int] = {}  # by slot: how many frames its file tells of
        self.frames, self.size = 0, (0, 0)

    def __enter__(self) -> "Tracks":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def add(self, labels: UInt8[np.ndarray, "h w"]) -> None:
        """The slot of each pixel of the next frame."""
        from pycocotools import mask as coco_mask

        self.size = (labels.shape[0], labels.shape[1])
        for slot in np.unique(labels).tolist():
            code = coco_mask.encode(np.asfortranarray(labels == slot))
            counts = code["counts"].decode("ascii") if isinstance(code["counts"], bytes) else code["counts"]
            box = [float(value) for value in coco_mask.toBbox(code)]
            if slot not in self._files:
                file = TemporaryFile("w+", encoding="ascii")  # noqa: SIM115  (the stack closes it)
                self._files[slot] = self._stack.enter_context(file)
            self._skip(slot, self.frames)
            values = ({"size": list(self.size), "counts": counts}, box, int(coco_mask.area(code)))
            self._files[slot].write("\t".join(map(json.dumps, values)) + "\n")
            self._seen[slot] = self.frames + 1
        self.frames += 1

    def _skip(self, slot: int, until: int) -> None:
        """Frames in which a slot owns nothing."""
        for _ in range(self._seen.get(slot, 0), until):
            self._files[slot].write("\t".join(["null"] * len(FIELDS)) + "\n")
        self._seen[slot] = until

    def _values(self, slot: int, field: int) -> Iterator[str]:
        self._files[slot].seek(0)
        for line in self._files[slot]:
            yield line.rstrip("\n").split("\t")[field]

    def write(self, outputs: Outputs, name: str, video: str) -> None:
        """One JSON file: `videos`, `annotations` (a track for each slot, with its `slot`) and `categories`.

        Args:
            outputs: the folder of the results.
            name: of the file.
            video: name of the video; its frames are called as the pictures of its masks.
        """
        height, width = self.size
        about = {"id": 1, "file_name": video, "width": width, "height": height, "length": self.frames}
        with outputs.replacing(name) as path, path.open("w", encoding="utf-8") as file:
            file.write(f'{{"videos": [{json.dumps(about)[:-1]}, "file_names": [')
            for frame in range(self.frames):
                file.write(f'{", " if frame else ""}"{frame:06d}.png"')
            file.write(']}],\n"annotations": [')
            for number, slot in enumerate(sorted(self._files), 1):
                self._skip(slot, self.frames)
                head = {"id": number, "video_id": 1, "category_id": 1, "iscrowd": 0, "slot": slot}
                head |= {"height": height, "width": width}
                file.write(("" if number == 1 else ",") + "\n" + json.dumps(head)[:-1])
                for field, key in enumerate(FIELDS):
                    file.write(f', "{key}": [')
                    for frame, value in enumerate(self._values(slot, field)):
                        file.write((", " if frame else "") + value)
                    file.write("]")
                file.write("}")
            file.write('\n],\n"categories": [{"id": 1, "name": "segment"}]}\n')


class Filmstrip:
    """Frames beside their segments, evenly chosen from a video of unknown length: at most `SHOWN`, at least half."""

    def __init__(self) -> None:
        self.pairs: list[tuple[Image.Image, Image.Image]] = []
        self._every, self._frames = 1, 0

    def add(self, picture: UInt8[np.ndarray, "h w 3"], overlay: UInt8[np.ndarray, "h w 3"], places: Places) -> None:
        """The next frame, and the places of the numbers that are written into its overlay."""
        if self._frames % self._every == 0:
            if len(self.pairs) == SHOWN:
                self.pairs, self._every = self.pairs[::2], 2 * self._every
            if self._frames % self._every == 0:
                self.pairs.append(thumbnails(Image.fromarray(picture), Image.fromarray(overlay), places))
        self._frames += 1
