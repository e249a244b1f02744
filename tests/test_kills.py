"""Commands that are killed, interrupted or refused the disk at random moments, then given once more: see `kills.py`.

The large part, every command in every way: `pytest -m slow tests/test_kills.py`, or `python tests/kills.py --help`.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from kills import JOBS, WAYS, Watch, contents, run
from PIL import Image

from slotworks.cli import main

KILLS = Path(__file__).with_name("kills.py")
SMALL = "--steps 2 --eval-every 2 --save-every 2 --eval-images 2 --batch-size 2 --data.num-test 2 --data.num-val 2"


def trials(*words: str) -> dict[str, dict]:
    """What the driver found, in a process that started no thread yet: it forks."""
    command = [sys.executable, str(KILLS), *words, "--json"]
    environment = os.environ | {"PYTHONPATH": str(KILLS.parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode in (0, 1), done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_preparing_killed_and_refused():
    """Five seconds, most of it the start of Python: whole commands are what is killed."""
    found = trials("prepare_records", "--how", "kill", "kill_before_a_change", "full", "--trials", "3")
    report = found["prepare_records"]
    assert report["faults"] == []
    assert report["trials"] == 9
    assert report["ended"]["kill_before_a_change"] >= 3
    assert report["ended"]["full"] >= 2


@pytest.mark.slow
@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("job", JOBS)
def test_every_command_in_every_way(job, how):
    report = trials(job, "--how", how, "--trials", "3")[job]
    assert report["faults"] == []


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS)
def test_every_command_on_a_disk_that_is_full(job):
    if subprocess.run(["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], check=False).returncode:
        pytest.skip("no file system may be mounted here")
    assert trials(job, "--how", "disk", "--trials", "5")[job]["faults"] == []


# ---- a disk that is full from some change on, in this process ------------------------------------------------------


@pytest.fixture(scope="module")
def watch():
    return Watch("")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run, a picture, official files in miniature, and something of a person's own."""
    folder = tmp_path_factory.mktemp("made").resolve()
    assert main(["train", "slot_attention.tetrominoes_mini", "--out", str(folder / "run"), *SMALL.split()]) == 0
    Image.new("RGB", (40, 32), "red").save(folder / "cat.png")
    (folder / "mine.txt").write_text("mine")
    fixture = KILLS.parent / "fixtures/multi_object_datasets/tetrominoes"
    shutil.copytree(fixture, folder / "data")
    return folder


SIZES = "--train-size 2 --val-size 1 --test-size 1"
COMMANDS = {
    "evaluate": "evaluate run --images 2",
    "segment": "segment run cat.png --out .",
    "edit": "edit run cat.png --remove 1 --out edits",
    "doctor": "doctor run --images 2 --split val",
    "report": "report run",
    "data": f"data prepare tetrominoes --root data {SIZES}",
    "train": f"train slot_attention.tetrominoes_mini --out new {SMALL}",
}


@pytest.mark.parametrize("verb", COMMANDS)
def test_a_full_disk_in_each_verb(verb, made, watch, tmp_path, monkeypatch, capsys):
    """Refused in the middle and near the end: a sentence, 2, what was there stays; then it goes on."""
    work = tmp_path.resolve() / "work"
    shutil.copytree(made, work)
    monkeypatch.chdir(work)
    watch.folder, watch.how, watch.done = str(work), "", 0
    words = COMMANDS[verb].split()
    code = main(words)
    total, whole = watch.done, contents(work)
    watch.how = "full"
    for at in sorted({total // 3, total - 3} if verb != "train" else {total // 3}):
        watch.folder = ""
        monkeypatch.chdir(tmp_path)
        shutil.rmtree(work)
        shutil.copytree(made, work)
        monkeypatch.chdir(work)
        capsys.readouterr()
        watch.folder, watch.at, watch.done = str(work), at, 0
        refused = main(words)
        watch.folder = ""
        printed = capsys.readouterr()
        if refused != code:  # what is left out at the very end may need no room
            assert refused == 2
            assert "No space left on device" in printed.err or "The disk is full" in printed.err
            assert "Traceback" not in printed.err
            assert verb != "evaluate" or "fg_ari" in printed.out
        assert not list(work.rglob(".partial.*"))
        before, now = contents(made), contents(work)
        assert {name: now.get(name) for name in before if whole[name] == before[name]} == {
            name: data for name, data in before.items() if whole[name] == data
        }
        assert main(words) == code
        assert contents(work) == whole
    assert refused in (2, code)


def test_a_command_that_is_killed_says_so(made, tmp_path):
    assert run(["report", str(made / "run")], tmp_path, how="kill", at=0.0).code == -9
    assert set(COMMANDS) <= {words.words[0] for words in JOBS.values()}
