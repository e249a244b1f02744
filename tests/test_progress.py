"""What long work shows, with a clock of our own."""

import io
import subprocess
import sys
from contextlib import suppress
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from slotworks import progress as module
from slotworks.cli import main
from slotworks.data.scenes import TetrominoScenes
from slotworks.evaluation.task import Job, Needs, Task, batches
from slotworks.progress import cpu_advice, duration, progress, warning, whole_training
from slotworks.types import Method


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only when it is told to."""
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    monkeypatch.setattr(module, "_load_advice", list)
    return now


def shown(monkeypatch, **options) -> io.StringIO:
    text = io.StringIO()
    monkeypatch.setattr(module, "console", Console(file=text, width=80, **options))
    return text


def test_a_log_file_gets_at_most_a_hundred_lines(monkeypatch, clock):
    text = shown(monkeypatch)
    with progress("features", 10_000, done=2_000) as advance:
        for _ in range(8_000):
            advance(1)
            clock.seconds += 1
    lines = text.getvalue().splitlines()
    assert lines[0] == "features: about 2.2 hours for 8,000 images. This is long."
    assert lines[1] == "features: 2,100 of 10,000 images, 1 images/s, about 2.2 hours left"
    assert lines[-1].startswith("features: 10,000 of 10,000 images")
    assert 70 <= len(lines) <= 101
    assert not any(ord(letter) < 32 for line in lines for letter in line)


def test_work_that_comes_in_batches_is_estimated_from_whole_ones(monkeypatch, clock):
    """Loading a network before the first batch does not count."""
    text = shown(monkeypatch)
    with progress("latents", 640, advice=lambda: ["a GPU"]) as advance:
        clock.seconds += 500
        for _ in range(20):
            for _ in range(32):
                advance(1)
            clock.seconds += 200
    [line] = [line for line in text.getvalue().splitlines() if "for 640" in line]
    assert line == "latents: about 67 minutes for 640 images. This is long. Shorter: a GPU."


def test_short_work_is_silent(monkeypatch, clock):
    text = shown(monkeypatch)
    with progress("scenes", 100) as advance:
        for _ in range(100):
            advance(1)
            clock.seconds += 0.09
    assert text.getvalue() == ""


def test_an_unknown_end_gives_ever_fewer_lines(monkeypatch, clock):
    text = shown(monkeypatch)
    with progress("files", None) as advance:
        for _ in range(100_000):
            advance(1)
            clock.seconds += 1
    assert 5 <= len(text.getvalue().splitlines()) <= 20


def test_a_terminal_has_a_bar_and_the_estimate(monkeypatch, clock):
    text = shown(monkeypatch, force_terminal=True)
    with progress("features", 1_000) as advance:
        for _ in range(50):
            advance(1)
            clock.seconds += 1
    assert "features: about 17 minutes for 1,000 images." in text.getvalue()
    assert "50 of 1,000" not in text.getvalue()
    assert "\x1b[" in text.getvalue()


def test_a_notebook_gets_lines(monkeypatch, clock):
    """Rich shows them through IPython; a bar would need widgets."""
    written = []
    monkeypatch.setattr("slotworks.progress.find_spec", lambda name: None)
    monkeypatch.setattr("rich.jupyter.display", lambda segments, text: written.append(text))
    shown(monkeypatch, force_jupyter=True)
    with progress("features", 1_000) as advance:
        for _ in range(1_000):
            advance(1)
            clock.seconds += 5
    assert "features: about 83 minutes for 1,000 images. This is long.\n" in written
    assert 50 <= len(written) <= 101
    assert not any("\x1b" in text for text in written)


def test_a_pipe_gets_no_control_characters():
    code = (
        "import time\nfrom slotworks import progress\nprogress.PAUSE = progress.SETTLED = 0.0\n"
        "with progress.progress('work', 1000) as advance:\n"
        "    for _ in range(1000):\n        advance(1)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert 50 <= done.stderr.count(b"\n") <= 101
    assert not any(byte < 32 and byte != 10 for byte in done.stderr)
    assert done.stdout == b""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((1.0, "1 second"), (40.0, "40 seconds"), (720.0, "12 minutes"), (5e3, "83 minutes"), (12_600.0, "3.5 hours")),
        *((9e4, "25 hours"), (181_440.0, "2.1 days")),
    ],
)
def test_times_in_words(seconds, text):
    assert duration(seconds) == text


def test_advice_is_true_for_the_case(monkeypatch):
    monkeypatch.setattr(module, "usable_cores", lambda: 2)
    monkeypatch.setattr(module.os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    assert cpu_advice(2) == ["a GPU"]
    assert cpu_advice(1) == ["more threads (OMP_NUM_THREADS=2; there are 1)", "a GPU"]
    assert warning(3_599.0, lambda: cpu_advice(2)) == ""
    assert warning(3_601.0, lambda: cpu_advice(2)) == " This is long. Shorter: a GPU."
    monkeypatch.setattr(module.os, "getloadavg", lambda: (8.0, 0.0, 0.0))
    text = warning(3_601.0, lambda: cpu_advice(2))
    assert text == " This is long. Shorter: a GPU; less other work beside it (the load is 8 on 2 cores)."


def test_a_training_counts_its_evaluations():
    assert whole_training(0.1, 1_000, 3, 20.0) == pytest.approx(0.1 * (1_000 + 3 * 20 / 3))


def test_an_evaluation_shows_its_images_and_a_training_does_not(monkeypatch, clock):
    task = Task("own", "", lambda job, source, dataset: [], ())
    job = Job(Method())

    def look(dataset):
        for _ in batches(dataset, 40, 10, torch.device("cpu"), Needs(fields=("image",))):
            clock.seconds += 30

    text = shown(monkeypatch)
    monkeypatch.setattr(Needs, "check_method", lambda *args: None)
    for _, dataset, _ in task.prepare(job, [TetrominoScenes(num_test=40)], "test"):
        look(dataset)
    lines = text.getvalue().splitlines()
    assert [line.partition(",")[0] for line in lines if " of " in line] == [
        f"tetromino_scenes: {k} of 40 images" for k in (20, 30, 40)
    ]
    text = shown(monkeypatch)
    look(dataset)
    with suppress(KeyError):  # what was measured failed
        for _ in task.prepare(job, [TetrominoScenes(num_test=40)], "test"):
            raise KeyError
    look(dataset)
    with module.silent():
        for _ in task.prepare(job, [TetrominoScenes(num_test=40)], "test"):
            look(dataset)
    assert not module.console.quiet
    assert text.getvalue() == ""


def test_evaluate_with_json_is_silent(monkeypatch, tmp_path, capsys):
    quiet = []
    record = {"metrics": {}, "rules": "", "data": "a", "split": "test", "num_images": 1, "protocol": "p", "run": "r"}
    monkeypatch.setattr(
        "slotworks.api.evaluate", lambda *args, **options: quiet.append(module.console.quiet) or [record]
    )
    monkeypatch.setattr("slotworks.cli.sources.find_run", lambda run, **options: (tmp_path, None))
    monkeypatch.setattr("slotworks.cli.evaluate._print", lambda *args, **options: None)
    for flags in ([], ["--json"], ["--quiet"], []):
        assert main(["evaluate", str(tmp_path), "--task", "properties", *flags]) == 0
    assert quiet == [False, True, True, False]
    assert '"data": "a"' in capsys.readouterr().out
