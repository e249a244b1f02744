"""Video files: what cannot be read is said in one sentence."""

import io
import struct
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from slotworks.errors import UserError
from slotworks.limits import VARIABLE
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


# ---- right colours, right way up, right times ----------------------------------------------------------------------


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize(("matrix", "kr", "kb"), [(1, 0.2126, 0.0722), (5, 0.299, 0.114)])  # BT.709 and BT.601
def test_colours_are_those_of_the_matrix_that_the_file_names(tmp_path, matrix, kr, kb, full_range):
    import av

    wanted = (200, 40, 60)
    r, g, b = (value / 255 for value in wanted)
    y = kr * r + (1 - kr - kb) * g + kb * b
    chroma = ((b - y) / (2 * (1 - kb)), (r - y) / (2 * (1 - kr)))
    low, luma, color = (0, 255, 255) if full_range else (16, 219, 224)
    planes = (round(low + luma * y), *(round(128 + color * value) for value in chroma))
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264" if "libx264" in av.codecs_available else "mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, 2 if full_range else 1
        frame = av.VideoFrame(64, 48, "yuv420p")
        for plane, value in zip(frame.planes, planes, strict=True):
            plane.update(bytes([value]) * plane.buffer_size)
        frame.colorspace, frame.color_range = matrix, 2 if full_range else 1
        for packet in [*stream.encode(frame), *stream.encode()]:
            container.mux(packet)
    found = next(open_video(tmp_path / "a.mp4").frames())[20, 20]
    assert np.abs(found.astype(int) - wanted).max() <= 4  # the other matrix is 15 to 20 away


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ((1, 0, 0, 1), lambda a: a),
        ((-1, 0, 0, 1), lambda a: a[:, ::-1]),  # mirrored, as cameras that face their owner store it
        ((1, 0, 0, -1), lambda a: a[::-1]),
        ((-1, 0, 0, -1), lambda a: a[::-1, ::-1]),
        ((0, 1, -1, 0), lambda a: np.rot90(a, -1)),  # clockwise
        ((0, -1, 1, 0), lambda a: np.rot90(a)),
        ((0, 1, 1, 0), lambda a: a.swapaxes(0, 1)),
        ((0, -1, -1, 0), lambda a: np.rot90(a, 2).swapaxes(0, 1)),
    ],
)
def test_turned_and_mirrored_videos_come_upright(tmp_path, matrix, expected):
    stored = np.zeros((32, 48, 3), np.uint8)
    stored[:16, :16] = 255
    with VideoWriter(tmp_path / "a.mp4", Fraction(10), (32, 48)) as writer:
        writer.write(stored)
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    at = data.index(b"tkhd") + 44
    a, b, c, d = (value << 16 for value in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    (tmp_path / "a.mp4").write_bytes(data)
    found = next(open_video(tmp_path / "a.mp4").frames())
    np.testing.assert_array_equal(found.mean(2) > 128, expected(stored).mean(2) > 128)


def test_times_of_a_varying_frame_rate(tmp_path):
    import av

    times = [0, 40, 80, 500, 540, 2000]  # ms
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for time in times:
            frame = av.VideoFrame.from_ndarray(np.zeros((24, 32, 3), np.uint8), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    assert [round(1000 * time) for time, _ in open_video(tmp_path / "a.mkv").timed_frames()] == times
    constant = open_video(write(tmp_path / "b.mp4"))
    np.testing.assert_allclose([time for time, _ in constant.timed_frames()], np.arange(6) / 12, atol=1e-6)


# ---- what is refused -----------------------------------------------------------------------------------------------


def many(path, frames=60, codec="mpeg4", **options):
    """Noise, so that half of the file is about half of the frames."""
    import av

    generator = np.random.default_rng(0)
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=12)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(frames):
            picture = generator.integers(0, 256, (48, 64, 3), np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


@pytest.mark.parametrize("cut_at", [0.3, 0.5, 0.8])
@pytest.mark.parametrize(
    ("name", "options"), [("a.mp4", {"movflags": "faststart"}), ("a.mkv", {}), ("a.mp4", {"movflags": "frag_keyframe"})]
)
def test_a_part_of_a_video_is_no_whole_one(tmp_path, name, options, cut_at):
    whole = many(tmp_path / name, **options).read_bytes()
    assert len(list(open_video(tmp_path / name).frames())) == 60
    (tmp_path / name).write_bytes(whole[: int(len(whole) * cut_at)])
    with pytest.raises(UserError, match=r"a\.m.. is cut off: it states .* and ends after \d+ frames; copy it again"):
        list(open_video(tmp_path / name).frames())


def test_sound_with_a_cover_picture(tmp_path):
    import av

    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=8000)
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 32, 24, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        picture = av.VideoFrame.from_ndarray(np.zeros((24, 32, 3), np.uint8), format="rgb24")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        for stream, one in ((cover, picture), (sound, frame)):
            for packet in [*stream.encode(one), *stream.encode()]:
                container.mux(packet)
    with pytest.raises(UserError, match=r"holds no video, only 2 other streams, one of them a cover picture; give a"):
        open_video(path)


def test_a_colon_in_a_name_is_no_protocol(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "clip.mp4").rename(tmp_path / "http:clip.mp4")
    for name in ("http:clip.mp4", tmp_path / "http:clip.mp4"):
        assert len(list(open_video(type(tmp_path)(name)).frames())) == 6
    write(type(tmp_path)("concat:other.mp4"))
    assert len(list(open_video(type(tmp_path)("concat:other.mp4")).frames())) == 6


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nother.ts\n#EXT-X-ENDLIST\n"),
        ("a.mp4", "ffconcat version 1.0\nfile other.ts\n"),
    ],
)
def test_a_list_of_other_files_is_no_video(tmp_path, name, text):
    """FFmpeg by itself opens both, and what they name."""
    import av

    write(tmp_path / "other.ts")
    (tmp_path / name).write_text(text)
    with av.open(str(tmp_path / name)) as container:
        assert len(list(container.decode(video=0))) == 6
    with pytest.raises(UserError, match=rf"{name} cannot be read as a video"):
        list(open_video(tmp_path / name).frames())


def test_the_size_of_frames_is_asked_before_they_are_decoded(tmp_path, monkeypatch):
    video = open_video(write(tmp_path / "a.mp4"))
    monkeypatch.setenv(VARIABLE, "0.0001")  # 100 kB, of which 32 x 24 pixels take 25
    assert len(list(video.frames())) == 6
    with pytest.raises(UserError, match=r"states frames of 32 x 24 pixels, 40 of them at once, which take about .* GB"):
        list(video.frames(kept=40))
    monkeypatch.setenv(VARIABLE, "0.00001")
    with pytest.raises(UserError, match=rf"a\.mp4 states frames of 32 x 24 pixels, which take .*{VARIABLE}"):
        open_video(tmp_path / "a.mp4")


def test_an_old_library_is_refused(tmp_path, monkeypatch):
    path = write(tmp_path / "a.mp4")
    monkeypatch.setattr("av.__version__", "16.1.0")
    with pytest.raises(
        UserError, match=r"PyAV 16.1.0 reads the colours .* wrongly.*pip install -U 'slotworks\[video\]'"
    ):
        open_video(path)
