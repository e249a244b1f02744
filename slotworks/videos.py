"""Video files: frames out one by one, pictures in one by one, so that memory does not depend on the length."""

import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from slotworks.errors import UserError, check_extra, needs_extra
from slotworks.limits import check_decoded, max_decoded_bytes

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mjpeg", ".ogv", ".wmv")
VIDEO_SUFFIXES += (".3gp", ".3g2", ".flv", ".f4v", ".mts", ".m2ts", ".asf", ".mxf", ".vob")

# Of FFmpeg's many formats those of video files; lists of other files and addresses are none of them. Sound is there to
# be told apart.
_FORMATS = "mov,mp4,matroska,webm,avi,mpeg,mpegts,mpegvideo,mjpeg,ogg,asf,flv,m4v,h264,hevc,mxf,ivf,wav,mp3,flac,aac"
_STATING = ("mov", "matroska", "avi", "flv", "asf")  # formats whose header says how long the video is
_OLDEST = 17  # of PyAV: older ones take the colours of BT.709 for those of BT.601
_BYTES_PER_PIXEL = 32  # of a frame: itself twice as RGB, and up to 16 others that the decoder refers to
_MISSING = 1.0  # seconds that a video may be shorter than it states


def check_videos(paths: Iterable[Path]) -> None:
    """Refuse videos among these files, before any work, where the library that reads them is missing.

    Raises:
        UserError: as `check_extra`.
    """
    if any(path.suffix.lower() in VIDEO_SUFFIXES for path in paths):
        check_extra("video", "av")


@dataclass(frozen=True)
class VideoFile:
    """A video that can be read: how fast it runs, and how many frames it says it has (0: it does not say).

    `fps` is the average; where frames come at varying times, `timed_frames` says when.
    """

    path: Path
    fps: Fraction
    stated_frames: int

    def frames(self, *, kept: int = 1) -> Iterator[np.ndarray]:
        """Every frame as uint8 `h w 3`, upright; arguments and errors as of `timed_frames`."""
        for _, picture in self.timed_frames(kept=kept):
            yield picture

    def timed_frames(self, *, kept: int = 1) -> Iterator[tuple[float, np.ndarray]]:
        """Every frame as uint8 `h w 3`, upright, with its time in seconds since the first.

        Turns and mirror images that the file notes are applied; colours are those of the matrix it names.

        Args:
            kept: how many frames the caller holds at once, for the limit of memory.

        Raises:
            UserError: if the file is damaged, ends before the number of frames or the time that it states, holds no
                frame, its frames change their size, or they would take more memory than `slotworks.limits` allows.
                A file of a format that states neither, such as MPEG-TS, may end early without being noticed.
        """
        from av.error import FFmpegError

        first: tuple[int, int] | None = None
        start = Fraction(0)
        count = packets = 0
        last, cut = 0.0, False
        with _opened(self.path, kept=kept) as (container, stream):
            try:
                for packet in container.demux():
                    if packet.pts is not None and packet.time_base:
                        last = max(last, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                    if packet.stream.index != stream.index:
                        continue
                    packets += bool(packet.size)
                    if cut := packet.is_corrupt:  # the file ends inside
                        break
                    frame: Any
                    for frame in packet.decode():
                        picture = _upright(frame.to_ndarray(format="rgb24"), frame)
                        size = (picture.shape[1], picture.shape[0])
                        first = first or size
                        if size != first:
                            raise UserError(
                                f"{self.path} changes from {first[0]} x {first[1]} to {size[0]} x {size[1]} pixels at "
                                f"frame {count}; cut it there, or save it anew in one size."
                            )
                        time = Fraction(count) / self.fps if frame.pts is None else frame.pts * frame.time_base
                        start = start if count else time
                        count += 1
                        yield float(time - start), picture
            except (FFmpegError, OSError, ValueError) as error:
                raise _damaged(self.path, error, f" after frame {count}" if count else "") from None
            stated = (container.duration or 0) / 1e6 if container.format.name.startswith(_STATING) else 0.0
            begun = (container.start_time or 0) / 1e6
        if cut or packets < self.stated_frames or last - begun < stated - _MISSING:
            stating = f"{self.stated_frames:,} frames" if self.stated_frames else f"{stated:.1f} seconds"
            stating = f"it states {stating} and" if self.stated_frames or stated else "it"
            raise UserError(
                f"{self.path} is cut off: {stating} ends after {count:,} frames; copy it again, or save what there is "
                "anew."
            )
        if not count:
            raise UserError(f"{self.path} holds no frame; give a video with at least one.")


def open_video(path: Path) -> VideoFile:
    """Look into a video file.

    Raises:
        UserError: if it does not exist, is no video, its frames are too large, or the extra `video` is not installed.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist; give a video file.")
    with _opened(path) as (_, stream):
        fps = stream.average_rate or stream.guessed_rate or Fraction(25)
        return VideoFile(path, Fraction(fps), stream.frames)


@contextmanager
def _opened(path: Path, *, kept: int = 1) -> "Iterator[tuple[InputContainer, VideoStream]]":
    av = _library()
    try:
        options = {"protocol_whitelist": "file", "format_whitelist": _FORMATS}
        container = av.open(_local(path), options=options)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise _damaged(path, error) from None
    with container:
        covers = av.stream.Disposition.attached_pic
        moving = [stream for stream in container.streams.video if not stream.disposition & covers]
        if not moving:
            others = f"only {len(container.streams)} other streams"
            others += ", one of them a cover picture" if container.streams.video else ""
            raise UserError(f"{path} holds no video, {others}; give a video file.")
        stream = moving[0]
        codec = stream.codec_context
        if codec is None:
            raise UserError(
                f"{path} is coded in a way that cannot be decoded here; save it anew, for example as H.264."
            )
        pixels, each = codec.width * codec.height, _BYTES_PER_PIXEL + 3 * (kept - 1)
        what = f"frames of {codec.width:,} x {codec.height:,} pixels{f', {kept} of them at once' if kept > 1 else ''}"
        check_decoded(pixels * each, path, what)
        codec.options = {"max_pixels": str(min(max_decoded_bytes() // each, 2**31 - 1))}  # of later frames
        yield container, stream


def _library() -> Any:
    with needs_extra("video"):
        import av
    if int(av.__version__.partition(".")[0]) < _OLDEST:
        raise UserError(
            f"PyAV {av.__version__} reads the colours and turns of some videos wrongly, expected is {_OLDEST} or "
            "newer; run `pip install -U 'slotworks[video]'`."
        )
    return av


def _local(path: Path) -> str:
    """A path as FFmpeg takes it; what stands before a colon would else be a protocol, such as `http` or `concat`."""
    return f"file:{path.absolute()}"


def _upright(picture: np.ndarray, frame: Any) -> np.ndarray:
    """A frame `h w 3`, turned and mirrored as its display matrix says.

    The matrix takes row and column of the stored frame to those of the shown one, by quarter turns or mirrored:
    `x' = a x + c y`, `y' = b x + d y`. Other angles are not applied.
    """
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            a, b, _, c, d, *_ = struct.unpack("=9i", bytes(data))
            if abs(b) + abs(c) > abs(a) + abs(d):
                picture, a, d = picture.swapaxes(0, 1), c, b
            picture = picture[:, ::-1] if a < 0 else picture
            picture = picture[::-1] if d < 0 else picture
    return picture


def _damaged(path: Path, error: Exception, where: str = "") -> UserError:
    reason = " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())
    return UserError(f"{path} cannot be read as a video{where} ({reason}); leave it out or save it anew.")


class VideoWriter:
    """Writes an MP4 file that browsers play, frame by frame; to be used in a `with` block.

    Odd sizes lose nothing: the last row and column are repeated, since the format stores colours of 2 x 2 pixels.
    """

    def __init__(self, path: Path, fps: Fraction, size: tuple[int, int]):
        av = _library()
        codec = next((name for name in ("libx264", "libopenh264", "mpeg4") if name in av.codecs_available), "mpeg4")
        self._av = av
        self._container = av.open(_local(path), "w", format="mp4")
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
