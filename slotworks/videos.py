"""Video files: frames out one by one, pictures in one by one, so that memory does not depend on the length."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from slotworks.errors import UserError, needs_extra

if TYPE_CHECKING:
    from av.container import InputContainer

VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mjpeg", ".ogv", ".wmv")


@dataclass(frozen=True)
class VideoFile:
    """A video that can be read: how fast it runs, and how many frames it says it has (0: it does not say)."""

    path: Path
    fps: Fraction
    stated_frames: int

    def frames(self) -> Iterator[np.ndarray]:
        """Every frame as uint8 `h w 3`, upright.

        Raises:
            UserError: if the file is damaged, holds no frame, or its frames change their size.
        """
        import av
        from av.error import FFmpegError

        first: tuple[int, int] | None = None
        count = 0
        with _opened(self.path) as container:
            try:
                for frame in container.decode(video=0):
                    picture = np.rot90(frame.to_ndarray(format="rgb24"), round(getattr(frame, "rotation", 0) / 90))
                    size = (picture.shape[1], picture.shape[0])
                    first = first or size
                    if size != first:
                        raise UserError(
                            f"{self.path} changes from {first[0]} x {first[1]} to {size[0]} x {size[1]} pixels at "
                            f"frame {count}; cut it there, or save it anew in one size."
                        )
                    count += 1
                    yield picture
            except (FFmpegError, av.error.InvalidDataError, ValueError) as error:  # type: ignore[attr-defined]
                raise _damaged(self.path, error, f" after frame {count}" if count else "") from None
        if not count:
            raise UserError(f"{self.path} holds no frame; give a video with at least one.")


def open_video(path: Path) -> VideoFile:
    """Look into a video file.

    Raises:
        UserError: if it does not exist, is no video, or the extra `video` is not installed.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist; give a video file.")
    with _opened(path) as container:
        stream = container.streams.video[0]
        fps = stream.average_rate or stream.guessed_rate or Fraction(25)
        return VideoFile(path, Fraction(fps), stream.frames)


@contextmanager
def _opened(path: Path) -> "Iterator[InputContainer]":
    with needs_extra("video"):
        import av
    try:
        container = av.open(str(path))
    except (av.error.FFmpegError, OSError, ValueError) as error:  # type: ignore[attr-defined]
        raise _damaged(path, error) from None
    with container:
        if not container.streams.video:
            raise UserError(f"{path} holds no video, only {len(container.streams)} other streams; give a video file.")
        yield container


def _damaged(path: Path, error: Exception, where: str = "") -> UserError:
    reason = " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())
    return UserError(f"{path} cannot be read as a video{where} ({reason}); leave it out or save it anew.")


class VideoWriter:
    """Writes an MP4 file that browsers play, frame by frame; to be used in a `with` block.

    Odd sizes lose nothing: the last row and column are repeated, since the format stores colours of 2 x 2 pixels.
    """

    def __init__(self, path: Path, fps: Fraction, size: tuple[int, int]):
        with needs_extra("video"):
            import av

        codec = next((name for name in ("libx264", "libopenh264", "mpeg4") if name in av.codecs_available), "mpeg4")
        self._av = av
        self._container = av.open(str(path), "w", format="mp4")
        self._stream = self._container.add_stream(codec, rate=fps)
        height, width = size
        self._pad = (height % 2, width % 2)
        self._stream.height, self._stream.width = height + height % 2, width + width % 2  # type: ignore[union-attr]
        self._stream.pix_fmt = "yuv420p"  # type: ignore[union-attr]

    def __enter__(self) -> "VideoWriter":
        return self

    def write(self, picture: np.ndarray) -> None:
        """Add a frame, uint8 `h w 3`."""
        picture = np.pad(picture, ((0, self._pad[0]), (0, self._pad[1]), (0, 0)), mode="edge")
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        for packet in self._stream.encode(frame):  # type: ignore[union-attr]
            self._container.mux(packet)

    def __exit__(self, kind: object, *rest: object) -> None:
        if kind is None:
            for packet in self._stream.encode():  # type: ignore[union-attr]
                self._container.mux(packet)
        self._container.close()
