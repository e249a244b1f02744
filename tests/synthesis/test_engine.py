import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_sam2 import save_tiny_sam2

from slotworks.data.scenes import ShapeScenes
from slotworks.data.stores.generated import find_shards, read_facts, read_rows
from slotworks.encoders.sam2 import Sam2, Sam2Config
from slotworks.files import only_one
from slotworks.synthesis import SceneCaptions, WrittenCaptions, engine, synthesize
from slotworks.types import UserError

COLUMNS = ("image", "mask", "caption", "prompt", "classes", "class_ids", "index", "seed", "settings")


def shards(folder):
    return {file.name: file.read_bytes() for file in find_shards(folder)}


def rows(folder, columns=COLUMNS):
    return [row for file in find_shards(folder) for row in read_rows(file, columns)]


def pixels(data):
    return np.asarray(Image.open(BytesIO(data)))


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    """What one process makes without being disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    config = engine.Synthesis(
        source=SceneCaptions(ShapeScenes(num_train=8)),
        model=str(model),
        image_size=64,
        steps=2,
        cross_sizes=(8,),
        self_size=8,
        batch_size=2,
        shard_size=3,
    )
    return synthesize(config, folder)


def test_a_shard_holds_everything_about_its_images(whole, config):
    folder = Path(whole["folder"])
    assert (whole["images"], whole["made"], whole["shards"], whole["left_out"]) == (8, 8, 3, 0)
    found = rows(folder)
    assert [row["index"] for row in found] == list(range(8))
    assert len({row["seed"] for row in found}) == 8
    names = read_facts(find_shards(folder)[0])["class_names"]
    for row in found:
        assert row["prompt"].endswith("; " + " ".join(row["classes"]))
        assert [names[k - 1] for k in row["class_ids"]] == row["classes"]
        assert pixels(row["image"]).shape == (64, 64, 3)
        mask = pixels(row["mask"])
        assert mask.shape == (64, 64)
        assert set(np.unique(mask)) <= {0, 255, *row["class_ids"]}
        assert {255, *row["class_ids"]} & set(np.unique(mask))
    assert read_facts(find_shards(folder)[2])["stop"] == 8
    assert Image.open(whole["sheet"]).size == (4 * 328, 2 * 196)


def test_the_caption_alone_draws_the_image(whole, config, tmp_path):
    """OVDiff's prompts; masks are still read from the attention to the class. Older folders keep their hash."""
    synthesize(replace(config, append_classes=False, num_images=3), tmp_path / "alone")
    alone, first = rows(tmp_path / "alone"), rows(Path(whole["folder"]))[:3]
    assert [row["prompt"] for row in alone] == [row["caption"] for row in first]
    assert all(a["image"] != b["image"] for a, b in zip(alone, first, strict=True))
    assert alone[0]["settings"] != first[0]["settings"]
    assert engine.settings_hash(engine.Synthesis()) == "a9d23efc93ec34c3"


def test_one_rank_does_what_the_others_leave(whole, config, tmp_path):
    made = []
    answer = synthesize(config, tmp_path, rank=1, world_size=2, on_shard=lambda path: made.append(path.name))
    assert made == ["shard-00001.parquet", "shard-00002.parquet", "shard-00000.parquet"]
    assert (answer["made"], answer["shards"]) == (8, 3)
    assert shards(tmp_path) == shards(Path(whole["folder"]))
    assert (tmp_path / "sheet.png").read_bytes() == Path(whole["sheet"]).read_bytes()
    assert [path.name for path in tmp_path.iterdir() if path.name[0] == "."] == [engine.LOCK]


def test_processes_that_end_at_once_do_not_spoil_the_sheet(whole, config, tmp_path, monkeypatch):
    """Each draws it at its end, beside its place and under the same name, so one after the other."""
    drawing, most = [], []
    real = engine.contact_sheet

    def draw(folder):
        drawing.append(1)
        most.append(len(drawing))
        time.sleep(0.2)
        sheet = real(folder)
        drawing.pop()
        return sheet

    monkeypatch.setattr(engine, "contact_sheet", draw)
    synthesize(config, tmp_path)
    with ThreadPoolExecutor(3) as threads:
        answers = [threads.submit(synthesize, config, tmp_path) for _ in range(3)]
        assert [answer.result()["images"] for answer in answers] == [8, 8, 8]
    assert most == [1, 1, 1, 1]
    assert (tmp_path / "sheet.png").read_bytes() == Path(whole["sheet"]).read_bytes()


def test_what_another_process_has_in_hand_is_waited_for(whole, config, tmp_path):
    """Another process holds shard 1; when it is done, or dies, this one goes on."""
    synthesize(config, tmp_path)
    (tmp_path / "shard-00001.parquet").rename(tmp_path / "away")
    claimed, made = tmp_path / engine.CLAIMS, []
    claimed.mkdir()
    with ThreadPoolExecutor(1) as thread, ExitStack() as held:
        held.enter_context(only_one(claimed / "00001"))
        answer = thread.submit(synthesize, config, tmp_path, on_shard=made.append)
        with pytest.raises(TimeoutError):
            answer.result(timeout=1)
        held.close()
        assert answer.result()["made"] == 3
    assert [path.name for path in made] == ["shard-00001.parquet"]
    assert (tmp_path / "shard-00001.parquet").read_bytes() == (tmp_path / "away").read_bytes()


def test_captions_images_and_files_go_on_at_the_same_time(config, tmp_path, monkeypatch):
    """The captions of a shard are read before the images of the one before are there; files of that come later."""
    told, started = [], threading.Event()
    real, write = engine._Generator.__call__, engine.write_shard

    class Source(SceneCaptions):
        def open(self, folder, device):
            source = super().open(folder, device)
            prompts = source.prompts

            def reading(indices):
                if indices[0] == 3:
                    started.set()
                return prompts(indices)

            monkeypatch.setattr(source, "prompts", reading)
            return source

    def generate(self, prompts):
        assert started.wait(20)  # would wait in vain if captions came one after the other with images
        told.append(("images", prompts[0].index))
        return real(self, prompts)

    def writing(path, rows, facts):
        told.append(("file", facts["start"]))
        write(path, rows, facts)

    monkeypatch.setattr(engine._Generator, "__call__", generate)
    monkeypatch.setattr(engine, "write_shard", writing)
    synthesize(replace(config, source=Source(ShapeScenes(num_train=8))), tmp_path)
    assert {("file", 0), ("file", 3), ("file", 6)} < set(told)


def test_killed_and_started_again_it_ends_with_the_same_bytes(whole, config, model, tmp_path):
    script = f"""
import os, signal
from slotworks.data.scenes import ShapeScenes
from slotworks.synthesis import SceneCaptions, Synthesis, engine, synthesize
calls, real = [], engine.png
def png(pixels):
    calls.append(0)
    if len(calls) == 9:  # two pictures for each of three images, and in the middle of the second shard
        os.kill(os.getpid(), signal.SIGKILL)
    return real(pixels)
engine.png = png
config = Synthesis(source=SceneCaptions(ShapeScenes(num_train=8)), model={str(model)!r}, image_size=64, steps=2,
                   cross_sizes=(8,), self_size=8, batch_size=2, shard_size=3)
synthesize(config, {str(tmp_path)!r})
"""
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    killed = subprocess.run([sys.executable, "-c", script], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    kept = shards(tmp_path)
    assert list(kept) == ["shard-00000.parquet"]
    (tmp_path / ".partial.shard-00001.parquet").write_bytes(b"half of a file")
    written = (tmp_path / "shard-00000.parquet").stat().st_mtime_ns
    made = []
    answer = synthesize(config, tmp_path, on_shard=made.append)
    assert [file.name for file in made] == ["shard-00001.parquet", "shard-00002.parquet"]
    assert answer["made"] == 5
    assert (tmp_path / "shard-00000.parquet").stat().st_mtime_ns == written
    assert shards(tmp_path) == shards(Path(whole["folder"]))
    assert not list(tmp_path.glob(".partial*"))
    assert synthesize(config, tmp_path)["made"] == 0


def test_more_images_can_be_asked_for_later(whole, config, tmp_path):
    assert synthesize(replace(config, num_images=4), tmp_path)["images"] == 4
    assert synthesize(config, tmp_path)["made"] == 5  # the short shard is made again
    assert shards(tmp_path) == shards(Path(whole["folder"]))
    assert synthesize(replace(config, num_images=4), tmp_path)["made"] == 0  # fewer: nothing is taken away
    with pytest.raises(UserError, match="num_images is 9, but the source has 8 prompts"):
        synthesize(replace(config, num_images=9), tmp_path)


def test_another_batch_size_changes_nothing_but_rounding(whole, config, tmp_path):
    synthesize(replace(config, batch_size=3, num_images=3), tmp_path)
    for row, same in zip(rows(tmp_path), rows(Path(whole["folder"])), strict=False):
        assert {k: row[k] for k in COLUMNS[2:]} == {k: same[k] for k in COLUMNS[2:]}
        assert np.abs(pixels(row["image"]).astype(int) - pixels(same["image"])).max() <= 1
        assert (pixels(row["mask"]) != pixels(same["mask"])).mean() < 0.01


def test_a_folder_of_other_settings_is_refused(whole, config):
    with pytest.raises(UserError, match="made with other settings: power was 4 and is now 2; seed was 0 and is now 1"):
        synthesize(replace(config, power=2, seed=1), whole["folder"])


def test_settings_show_in_the_masks_and_not_in_the_images(whole, config, tmp_path):
    before = rows(Path(whole["folder"]))[:2]
    changes = ({"class_prompts": "per_class"}, {"class_prompts": "caption"}, {"power": 0}, {"low": 0.2, "high": 0.8})
    for number, change in enumerate(changes):
        folder = tmp_path / str(number)
        synthesize(replace(config, num_images=2, **change), folder)
        for row, same in zip(rows(folder), before, strict=True):
            assert row["image"] == same["image"]
            assert row["settings"] != same["settings"]
        assert any(row["mask"] != same["mask"] for row, same in zip(rows(folder), before, strict=True))


def test_prompts_without_a_class_are_left_out(config, tmp_path):
    (tmp_path / "captions.txt").write_text("a cat\nnothing\n\ntwo dogs and a cat\n")
    config = replace(config, source=WrittenCaptions(str(tmp_path / "captions.txt")))
    answer = synthesize(config, tmp_path / "out")
    assert (answer["images"], answer["left_out"], answer["shards"]) == (2, 2, 2)
    assert [row["index"] for row in rows(tmp_path / "out")] == [0, 3]
    assert read_facts(find_shards(tmp_path / "out")[0])["left_out"] == [1, 2]
    (tmp_path / "captions.txt").write_text("nothing\nat all\n")
    with pytest.raises(UserError, match=r"None of 2 prompts can be used; the first: no class is named in 'nothing'\."):
        synthesize(config, tmp_path / "none")
    every = "person bicycle car motorcycle airplane bus train truck boat bench bird cat dog horse sheep"
    (tmp_path / "captions.txt").write_text(f"a cat\n{every}\n")
    answer = synthesize(config, tmp_path / "many")  # 77 letters cannot hold 15 names: no mask rather than a wrong one
    assert (answer["images"], answer["left_out"]) == (1, 1)


def test_sam2_gives_segments_instead_of_classes(config, whole, tmp_path):
    sam2 = Sam2Config(str(save_tiny_sam2(tmp_path / "sam2")))
    config = replace(config, masks="sam2", sam2=sam2, points_per_side=3, num_images=2)
    synthesize(config, tmp_path / "out")
    assert read_facts(find_shards(tmp_path / "out")[0])["masks"] == "segments"
    for row, same in zip(rows(tmp_path / "out"), rows(Path(whole["folder"])), strict=False):
        assert row["image"] == same["image"]
        ids = np.unique(pixels(row["mask"]))
        assert ids.max() <= 27


def test_segments_are_painted_from_large_to_small(monkeypatch):
    masks = torch.zeros(3, 4, 4, dtype=torch.bool)
    masks[0, :2, :2], masks[1], masks[2, 0, 0] = True, True, True
    monkeypatch.setattr(Sam2, "automatic_masks", lambda *a, **k: type("M", (), {"masks": masks}))
    painted = engine.segments(object.__new__(Sam2), np.zeros((4, 4, 3), np.uint8), 32)
    assert painted.tolist() == [[3, 2, 1, 1], [2, 2, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]]


def test_a_full_disk_keeps_what_is_finished(config, tmp_path, monkeypatch):
    def full(path, rows, facts):
        if path.name == "shard-00001.parquet":
            raise UserError(f"{path} could not be written (No space left on device); nothing was there before.")
        return write(path, rows, facts)

    write = engine.write_shard
    monkeypatch.setattr(engine, "write_shard", full)
    with pytest.raises(UserError, match="No space left"):
        synthesize(config, tmp_path)
    assert list(shards(tmp_path)) == ["shard-00000.parquet"]


def test_a_disk_that_takes_no_claim_is_named(config, tmp_path, monkeypatch):
    def full(lock, *, wait=True):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(engine, "only_one", full)
    with pytest.raises(
        UserError, match=r"out cannot be written to \(No space left on device\); finished shards are kept"
    ):
        synthesize(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_too_little_memory_says_what_to_set(config, tmp_path, monkeypatch):
    def fails(*args, **options):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(engine._Generator, "_images", fails)
    with pytest.raises(
        UserError, match=r"2 images of 64 pixels do not fit the memory of cpu; set a smaller batch_size"
    ):
        synthesize(config, tmp_path)


def test_wrong_settings_are_refused(config):
    for change, message in (
        ({"steps": 0}, "steps is 0"),
        ({"low": 0.7}, "low is 0.7 and high 0.6"),
        ({"cross_sizes": ()}, "cross_sizes is empty"),
        ({"num_images": 0}, "num_images is 0"),
        ({"power": -1}, "power is -1"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(config, **change)
    with pytest.raises(ValueError, match="rank is 2 of 2"):
        synthesize(config, "nowhere", rank=2, world_size=2)
