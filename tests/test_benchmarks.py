"""The benchmark for a person with a GPU: what it writes, and that nothing stops it. Its figures need a GPU."""

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import gpu, peers


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Runs jobs that a test gives, and reads the file."""

    def run(jobs, *words):
        monkeypatch.setattr(gpu, "jobs", lambda device, **options: iter(jobs))
        gpu.main(["--device", "cpu", "--out", str(tmp_path / "gpu.json"), *words])
        return json.loads((tmp_path / "gpu.json").read_text())

    return run


def test_each_figure_is_written_as_it_comes(written, tmp_path):
    """One that fails is named with its error, and the next ones are there all the same."""
    file, seen = tmp_path / "gpu.json", []

    def fail():
        seen.append(len(json.loads(file.read_text())["rows"]))
        raise RuntimeError("out of memory")

    found = written([("a", "one", lambda: {"ms": 1.0}), ("b", "two", fail), ("c", "", lambda: {"ms": 3.0})])
    assert seen == [1]
    assert [row.get("ms") for row in found["rows"]] == [1.0, None, 3.0]
    assert found["rows"][1]["error"] == "RuntimeError: out of memory"
    assert found["machine"]["torch"] == torch.__version__
    assert found["left_out"] == []


def test_what_the_time_does_not_allow_is_named(written, monkeypatch):
    monkeypatch.setattr(gpu, "MINUTES", -1.0)
    jobs = [("steps", "one", lambda: {"ms": 1.0})]
    assert written(jobs)["left_out"] == ["steps one"]
    assert len(written(jobs, "--long")["rows"]) == 1


def test_every_method_has_a_job_and_the_comparison_with_the_cpu_comes_first():
    kinds = [(kind, name) for kind, name, _ in gpu.jobs("cuda", tiny=False, everything=False)]
    first = [name for kind, name in kinds if kind == "against the CPU"]
    assert [name for _, name in kinds][: len(first)] == first
    assert {name.partition(".")[0] for name in first} >= {"slot_attention", "slate", "steve", "savi", "glass", "dspn"}
    published = {name for kind, name in kinds if kind == "first steps"}
    assert {name.partition(".")[0] for name in published} >= {"slot_attention", "slot_diffusion", "dinosaur", "glass"}
    assert not any(name.endswith("_mini") for name in published)


def test_losses_on_the_same_device_are_the_same():
    found = gpu.against_cpu("slot_attention.tetrominoes_mini", "cpu")
    assert found["float32_off"] == 0
    assert 0 < found["bfloat16_off"] < 0.02


def test_both_sides_are_timed_as_often_and_the_warm_up_is_not(monkeypatch):
    calls = []
    job = peers.Job("work", lambda: calls.append("ours"), lambda: calls.append("theirs"), "nothing", None)
    row = peers.compare(job, rounds=2)
    assert calls == ["theirs", "ours", "ours", "theirs", "theirs", "ours"]  # in turns
    assert row["ours"]["cpu_min"] <= row["ours"]["cpu_median"] <= row["ours"]["cpu_max"]


def test_modules_of_one_repository_do_not_stay_for_the_next(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "their_layers.py").write_text(f"import not_installed.deep\nNAME = {name!r}\n")
    for name in ("one", "two"):
        with peers.their_modules(tmp_path / name, stand_ins=("not_installed",)):
            import their_layers  # pyright: ignore[reportMissingImports]

            assert name == their_layers.NAME
    assert not {"their_layers", "not_installed"} & set(sys.modules)
