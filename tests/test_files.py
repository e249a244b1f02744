"""Files that are written beside and renamed: permissions, what a kill leaves, locks, and a disk that is full."""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from slotworks.errors import UserError
from slotworks.files import locked, remove_partial, replacing, replacing_tree, same_file, write_text


@pytest.fixture(params=[0o022, 0o027])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_files_follow_the_umask_whatever_writes_them(tmp_path, umask):
    """safetensors makes files for their owner alone."""
    with replacing(tmp_path / "weights.safetensors") as beside:
        save_file({"x": torch.zeros(2)}, beside)
    write_text(tmp_path / "a.txt", "a")
    same_file(tmp_path / "weights.safetensors", tmp_path / "same.safetensors")
    with replacing_tree(tmp_path / "tree") as beside:
        (beside / "part").mkdir()
        save_file({"x": torch.zeros(2)}, beside / "part" / "weights.safetensors")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 4
    assert {mode(path) for path in files} == {0o666 & ~umask}
    assert mode(tmp_path / "tree" / "part") == 0o777 & ~umask


def test_a_tree_replaces_its_own_files_one_by_one(tmp_path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "mine.txt").write_text("mine")
    (tmp_path / "unet" / "config.json").write_text("old")
    with replacing_tree(tmp_path / "unet") as beside:
        (beside / "config.json").write_text("new")
    assert {path.name: path.read_text() for path in (tmp_path / "unet").iterdir()} == {
        "mine.txt": "mine",
        "config.json": "new",
    }
    with suppress(ZeroDivisionError), replacing_tree(tmp_path / "unet") as beside:
        (beside / "config.json").write_text("half")
        raise ZeroDivisionError
    assert (tmp_path / "unet" / "config.json").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["unet"]


def test_a_lock_leaves_nothing_where_nothing_was_written(tmp_path):
    with locked(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b" / ".lock").exists()
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "file").touch()
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["file"]


def test_a_lock_that_its_holder_removed_is_not_taken(tmp_path, monkeypatch):
    """Between opening the file and locking it, the holder may have removed it: then it guards nothing."""
    import fcntl

    real, calls = fcntl.flock, []

    def removed_meanwhile(file, how):
        if not calls:
            (tmp_path / ".lock").unlink()
        calls.append(how)
        real(file, how)

    monkeypatch.setattr(fcntl, "flock", removed_meanwhile)
    with locked(tmp_path):
        monkeypatch.undo()
        assert len(calls) == 2
        with pytest.raises(UserError, match="Another process"), locked(tmp_path):
            pass


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written to"), locked(tmp_path / "file"):
        pass
    with pytest.raises(UserError, match="could not be written"):
        write_text(tmp_path / "file" / "a.txt", "a")
    with pytest.raises(UserError, match="could not be written"):
        write_text(tmp_path / ("n" * 300), "a")


def test_what_a_kill_leaves_is_removed(tmp_path):
    script = (
        "import os, signal, sys; from slotworks.files import replacing\n"
        "with replacing(sys.argv[1]) as beside:\n"
        "    beside.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    (tmp_path / "a.txt").write_text("old")
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "a.txt")], check=False, cwd=Path(__file__).parents[1])
    assert sorted(path.name for path in tmp_path.iterdir()) == [".partial.a.txt", "a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"
    (tmp_path / "partial.txt").touch()
    remove_partial(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "partial.txt"]


def test_a_full_disk_is_one_sentence_and_keeps_the_old_file(tmp_path):
    """The kernel's own: /dev/full says at every write that no space is left."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    (tmp_path / "a.txt").write_text("old")

    def write() -> None:
        with replacing(tmp_path / "a.txt") as beside:
            beside.unlink()
            beside.symlink_to("/dev/full")
            beside.write_text("new")

    with pytest.raises(UserError, match=r"No space left on device\); the file that was there is untouched\.$"):
        write()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.txt": "old"}


@pytest.mark.parametrize("writing", [replacing, replacing_tree])
def test_what_a_library_in_rust_was_refused_is_one_sentence(tmp_path, writing):
    """The kernel's own: files may not grow beyond 1,000 bytes."""
    resource = pytest.importorskip("resource")
    (tmp_path / "a").mkdir()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, before[1]))
    try:
        with (
            pytest.raises(UserError, match=r"weights could not be written \(File too large\)"),
            writing(tmp_path / "a" / "weights") as beside,
        ):
            save_file({"x": torch.zeros(1_000)}, beside / "x" if beside.is_dir() else beside)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list((tmp_path / "a").iterdir()) == []
