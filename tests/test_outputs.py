"""Results among a person's own files: what the program replaces, what it refuses, what it never reads."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from slotworks.errors import UserError
from slotworks.images import find_images
from slotworks.outputs import LIST, Outputs, without_own, writing

KINDS = ("_mask.png", "_slots.npz")


def contents(folder: Path) -> dict[str, str]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_text() for path in found if path.name != LIST}


def write(folder: Path, source: str, text: str) -> str:
    with writing(folder, doing="writing results") as outputs:
        name = outputs.name_for(folder / source, KINDS)
        for kind in KINDS:
            outputs.write_text(f"{name}{kind}", text)
    return name


def test_own_results_are_replaced_and_nothing_else(tmp_path):
    assert write(tmp_path, "../cat.jpg", "one") == write(tmp_path, "../cat.jpg", "two") == "cat"
    assert contents(tmp_path) == {"cat_mask.png": "two", "cat_slots.npz": "two"}
    (tmp_path / "dog_mask.png").write_text("mine")
    with pytest.raises(UserError, match=r"dog_mask\.png is there and was not written by this program, or was changed"):
        write(tmp_path, "../dog.jpg", "one")
    assert contents(tmp_path) == {"cat_mask.png": "two", "cat_slots.npz": "two", "dog_mask.png": "mine"}


def test_a_result_that_was_changed_belongs_to_who_changed_it(tmp_path):
    write(tmp_path, "../cat.jpg", "one")
    (tmp_path / "cat_mask.png").write_text("painted")
    assert not Outputs(tmp_path).owns("cat_mask.png")
    with pytest.raises(UserError, match="was changed since"):
        write(tmp_path, "../cat.jpg", "two")
    assert contents(tmp_path) == {"cat_mask.png": "painted", "cat_slots.npz": "one"}
    (tmp_path / "cat_mask.png").unlink()
    assert write(tmp_path, "../cat.jpg", "two") == "cat"


@pytest.mark.parametrize("kind", ["link", "folder", "dangling"])
def test_a_link_or_folder_is_never_ours(tmp_path, kind):
    write(tmp_path / "out", "../cat.jpg", "one")
    place = tmp_path / "out" / "cat_mask.png"
    place.rename(tmp_path / "elsewhere.png")
    place.mkdir() if kind == "folder" else place.symlink_to(
        tmp_path / ("elsewhere.png" if kind == "link" else "nothing")
    )
    with pytest.raises(UserError, match="was not written by this program"):
        write(tmp_path / "out", "../cat.jpg", "two")
    assert (tmp_path / "elsewhere.png").read_text() == "one"


def test_files_of_equal_stem_get_results_of_their_own(tmp_path):
    names = [write(tmp_path, f"../{name}", name) for name in ("cat.png", "cat.jpg", "Cat.png", "b/cat.png", "cat.png")]
    assert names == ["cat", "cat_jpg", "Cat_png", "cat_2", "cat"]  # some file systems do not tell Cat from cat
    with writing(tmp_path, doing="writing results") as outputs:
        assert [outputs.name_for(tmp_path / f"../{n}", KINDS) for n in ("x.png", "x.jpg", "x.png")] == [
            "x",
            "x_jpg",
            "x",
        ]
    assert contents(tmp_path)["cat_2_mask.png"] == "b/cat.png"


def test_numbered_pictures_are_replaced_as_a_whole(tmp_path):
    def write_frames(count: int, text: str) -> None:
        with writing(tmp_path / "out", doing="writing results") as outputs:
            name = outputs.name_for(tmp_path / "clip.mp4", ("_overlay.mp4",), folders=("_masks",))
            new = tmp_path / "out" / "new"
            new.mkdir()
            for k in range(count):
                (new / f"{k:06d}.png").write_text(f"{text}{k}")
            outputs.place(new, f"{name}_masks", only=True)
            new.rmdir()

    write_frames(3, "a")
    (tmp_path / "out" / "clip_masks" / "notes.png").write_text("mine")
    write_frames(2, "b")
    expected = {"clip_masks/000000.png": "b0", "clip_masks/000001.png": "b1", "clip_masks/notes.png": "mine"}
    assert contents(tmp_path / "out") == expected
    (tmp_path / "out" / "clip_masks" / "000007.png").write_text("mine")
    with pytest.raises(UserError, match=r"clip_masks/000007\.png is there and was not written by this program"):
        write_frames(1, "c")
    assert contents(tmp_path / "out") == {**expected, "clip_masks/000007.png": "mine"}


def test_results_are_not_read_as_pictures(tmp_path):
    (tmp_path / "cat.png").write_text("mine")
    (tmp_path / "cat_mask.png").write_text("mine too")
    for folder in (tmp_path / "segments", tmp_path / "segments" / "deep"):
        write(folder, "../cat.png", "one")
    with writing(tmp_path / "segments", doing="writing results") as outputs:
        outputs.write_text("cat_masks/000000.png", "frame")
    expected = [tmp_path / "cat.png", tmp_path / "cat_mask.png"]
    assert find_images([tmp_path])[0] == expected
    (tmp_path / "segments" / "cat_mask.png").write_text("painted")  # a picture of theirs by now
    assert find_images([tmp_path])[0] == [*expected, tmp_path / "segments" / "cat_mask.png"]
    named = tmp_path / "segments" / "deep" / "cat_mask.png"
    assert find_images([named])[0] == [named]  # asked for by name


def test_what_a_kill_left_is_not_read_as_a_picture(tmp_path):
    for name in (".partial.cat_mask.png", ".partial.clip_masks/000000.png", "cat.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("half of one")
    assert find_images([tmp_path]) == ([tmp_path / "cat.png"], [])


@pytest.mark.parametrize(
    "line",
    [
        b'{"name": "../mine.png", "sha256": "0"}',
        b'{"name": "/etc/passwd", "sha256": "0"}',
        b'{"source": "x", "names": ["../.partial.mine.png"]}',
        b'{"name": "cat_mask.png", "sha256"',
        b"[1]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"name": 3, "sha256": 3}',
    ],
)
def test_a_list_that_somebody_wrote_or_a_kill_cut_off(tmp_path, line):
    (tmp_path / "mine.png").write_text("mine")
    out = tmp_path / "out"
    write(out, "../cat.jpg", "one")
    with (out / LIST).open("ab") as file:
        file.write(line)
    assert write(out, "../cat.jpg", "two") == "cat"
    assert contents(tmp_path) == {"mine.png": "mine", "out/cat_mask.png": "two", "out/cat_slots.npz": "two"}
    assert write(out, "../cat.jpg", "three") == "cat"


def test_the_list_grows_only_by_what_is_new(tmp_path):
    for text in ("one", "two"):
        write(tmp_path, "../cat.jpg", text)
    before = (tmp_path / LIST).read_bytes()
    assert len(before.splitlines()) == 5
    for text in ("one", "two"):
        write(tmp_path, "../cat.jpg", text)
    assert (tmp_path / LIST).read_bytes() == before


def test_one_process_at_a_time(tmp_path):
    with writing(tmp_path, doing="writing results") as outputs:
        with pytest.raises(UserError, match="Another process is writing results in"):
            write(tmp_path, "../cat.jpg", "one")
        with writing(outputs, doing="writing results") as same:
            assert same is outputs
    assert list(tmp_path.iterdir()) == []


SCRIPT = """
import os, signal, sys
from pathlib import Path
from slotworks import files, outputs

left = int(sys.argv[2])

def counted(real):
    def call(*arguments, **options):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **options)
    return call

for place, name in ((os, "fsync"), (Path, "replace"), (Path, "touch"), (Path, "unlink")):
    setattr(place, name, counted(getattr(place, name)))
with outputs.writing(sys.argv[1], doing="writing results") as out:
    name = out.name_for(Path(sys.argv[1]) / "../cat.jpg", ("_mask.png", "_slots.npz"))
    for kind in ("_mask.png", "_slots.npz"):
        out.write_text(name + kind, "new")
print("done")
"""


def test_killed_at_any_moment_the_next_call_goes_on(tmp_path):
    """Before each call that changes the disk, in turn. What is there is old or new, never half, and still ours."""
    root, killed = Path(__file__).parents[1], 0
    while True:
        out = tmp_path / str(killed)
        write(out, "../cat.jpg", "old")
        command = [sys.executable, "-c", SCRIPT, str(out), str(killed)]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
        if done.stdout == "done\n":
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        left = {name: text for name, text in contents(out).items() if not name.startswith(".")}
        assert left.keys() == {"cat_mask.png", "cat_slots.npz"}
        assert set(left.values()) <= {"old", "new"}
        assert write(out, "../cat.jpg", "again") == "cat"
        assert set(os.listdir(out)) == {LIST, "cat_mask.png", "cat_slots.npz"}
        assert contents(out) == {"cat_mask.png": "again", "cat_slots.npz": "again"}
        killed += 1
    assert killed > 10


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    write(tmp_path, "../cat.jpg", "old")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        write(tmp_path, "../cat.jpg", "new")
    monkeypatch.undo()
    assert contents(tmp_path) == {"cat_mask.png": "old", "cat_slots.npz": "old"}
    assert write(tmp_path, "../cat.jpg", "new") == "cat"


def test_without_own_of_nothing():
    assert without_own([]) == []
