"""Video files: what cannot be read is said in one sentence."""

import io
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from slotworks.errors import UserError
from slotworks.videos import VideoWriter, open_video


def write(path, frames=6, size=(24, 32), fps=Fraction(12)):
    with VideoWriter(path, fps, size) as writer:
        for t in range(frames):
            writer.write(np.full((*size, 3), (20 * t + 50) % 200, np.uint8))
    return path


def jpegs(*sizes):
    """Pictures one after the other, which is a video format of its own."""
    file = io.BytesIO()
    for height, width in sizes:
        Image.new("RGB", (width, height), (200, 30, 30)).save(file, "JPEG")
    return file.getvalue()


def test_what_is_written_is_read(tmp_path):
    video = open_video(write(tmp_path / "clip.mp4"))
    frames = list(video.frames())
    assert (len(frames), frames[0].shape, video.fps, video.stated_frames) == (6, (24, 32, 3), 12, 6)
    for t, frame in enumerate(frames):
        assert abs(float(frame.mean()) - (20 * t + 50)) < 4


def test_odd_sizes(tmp_path):
    frames = list(open_video(write(tmp_path / "odd.mp4", size=(23, 31))).frames())
    assert frames[0].shape == (24, 32, 3)


def test_no_such_file(tmp_path):
    with pytest.raises(UserError, match=r"none.mp4 does not exist; give a video file"):
        open_video(tmp_path / "none.mp4")


def test_no_video(tmp_path):
    (tmp_path / "text.mp4").write_text("this is no video")
    with pytest.raises(UserError, match=r"text.mp4 cannot be read as a video \(.*\); leave it out or save it anew"):
        open_video(tmp_path / "text.mp4")
    (tmp_path / "empty.mp4").write_bytes(b"")
    with pytest.raises(UserError, match=r"empty.mp4 cannot be read as a video"):
        open_video(tmp_path / "empty.mp4")


def test_a_shortened_file(tmp_path):
    whole = write(tmp_path / "clip.mp4", frames=30).read_bytes()
    (tmp_path / "half.mp4").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"half.mp4 cannot be read as a video"):
        list(open_video(tmp_path / "half.mp4").frames())


def test_no_frames(tmp_path):
    """A header and nothing behind it."""
    import av

    with av.open(str(tmp_path / "none.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=12)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
        container.start_encoding()
    with pytest.raises(UserError, match=r"none.mp4 (holds no frame|holds no video|cannot be read as a video)"):
        list(open_video(tmp_path / "none.mp4").frames())


def test_a_changing_frame_size(tmp_path):
    (tmp_path / "two.mjpeg").write_bytes(jpegs((24, 32), (24, 32), (48, 32)))
    frames = open_video(tmp_path / "two.mjpeg").frames()
    assert next(frames).shape == (24, 32, 3)
    with pytest.raises(UserError, match=r"two.mjpeg changes from 32 x 24 to 32 x 48 pixels at frame 2; cut it there"):
        list(frames)


def test_sound_alone(tmp_path):
    import av

    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        for packet in [*stream.encode(frame), *stream.encode()]:
            container.mux(packet)
    with pytest.raises(UserError, match=r"sound.wav holds no video, only 1 other streams"):
        open_video(path)
