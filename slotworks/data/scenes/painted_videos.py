"""Painted scenes in motion: the world of `VideoScenes` in the paint of `PaintedScenes`."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8, UInt64

from slotworks.data.scenes.painted import GROUND, brushes_of, composed, light
from slotworks.data.scenes.stamps import Stamps
from slotworks.data.scenes.videos import VideoScenes

_CHUNK = 128  # frames painted at once: their pixels stay in the cache of one core


@dataclass(frozen=True)
class PaintedVideos(VideoScenes):
    """Shaded shapes with shadows that move, hide one another, come in and leave; fields as those of `VideoScenes`.

    Shadows move with their objects, and the light stays where it is in the world. Flow is that of the foremost object
    at a pixel, so that a shadow that glides over the ground has none.

    Raises:
        ValueError: as `VideoScenes`, or if the picture is smaller than 32 or larger than 256 pixels.
    """

    sizes: tuple[float, ...] = (0.26, 0.33, 0.40)  # diameters as shares of the image
    leaving: float = 0.25  # share of objects that no wall holds, so that they may leave for good

    def __post_init__(self):
        super().__post_init__()
        if not 32 <= self.image_size <= 256:
            raise ValueError(f"image_size is {self.image_size}; painted scenes have 32 to 256 pixels.")

    @property
    def name(self) -> str:
        """`painted_videos_plain` and so on; `..._frames` for single frames."""
        return super().name.replace("video_scenes", "painted_videos")

    def _stamps(self) -> Stamps:
        return brushes_of(self.image_size, self.shapes, self.sizes).silhouettes

    def _background_colors(self) -> Float[np.ndarray, "n 3"]:
        return GROUND

    def _painted(
        self,
        key: UInt64[np.ndarray, " b"],
        frames: Int[np.ndarray, "b t"],
        image: UInt8[np.ndarray, "b t h w 3"],
        mask: UInt8[np.ndarray, "b t h w"],
        present: Bool[np.ndarray, "b m"],
        stamp: Int[np.ndarray, "b m"],
        color: Int[np.ndarray, "b m"],
        corner: Int[np.ndarray, "b t m 2"],
    ) -> UInt8[np.ndarray, "b t h w 3"]:
        (b, t), side = frames.shape, self.image_size
        brushes = brushes_of(side, self.shapes, self.sizes)
        moved = self._camera(key, frames).reshape(b * t, 2)
        top, left = corner.reshape(b * t, -1, 2).transpose(2, 0, 1)
        ground, video = image.reshape(b * t, side, side, 3), np.empty((b * t, side, side, 3), np.uint8)
        for start in range(0, b * t, _CHUNK):
            some = slice(start, start + _CHUNK)
            which = np.arange(b * t)[some] // t  # the video of each frame
            lit = ground[some] * light(key[which], side, moved[some])[..., None]
            objects = present[which], stamp[which], color[which], top[some], left[some]
            video[some] = composed(lit, brushes, *objects)
        return video.reshape(image.shape)
