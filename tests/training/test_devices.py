"""Threads of a training beside other programs."""

import json

import pytest
import torch
from training_toy import toy_run

from slotworks.training import open_fabric, train
from slotworks.training.devices import shared_processor

FEWER = "Other programs keep this processor busy, so this trains with {} of 4 threads; start it with "


@pytest.fixture
def four_cores(monkeypatch):
    """A processor of four cores with a thread on each, of which others use as many as the test says."""
    usual, busy = torch.get_num_threads(), [0.0]
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("slotworks.training.devices.usable_cores", lambda: 4)
    monkeypatch.setattr("slotworks.training.devices.busy_elsewhere", lambda: busy[0])
    torch.set_num_threads(4)
    yield busy
    torch.set_num_threads(usual)


@pytest.mark.parametrize(("others", "threads"), [(0.0, 4), (0.69, 4), (0.71, 3), (2.0, 2), (4.0, 1)])
def test_a_thread_for_each_free_core(four_cores, tmp_path, others, threads):
    four_cores[0] = others
    with shared_processor(open_fabric(toy_run(), device="cpu"), tmp_path) as note:
        assert torch.get_num_threads() == threads
    assert torch.get_num_threads() == 4
    assert note == (None if threads == 4 else FEWER.format(threads) + "OMP_NUM_THREADS=4 to take all.")


def test_what_the_user_chose_stays(four_cores, tmp_path, monkeypatch):
    four_cores[0] = 4.0
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    with shared_processor(open_fabric(toy_run(), device="cpu"), tmp_path) as note:
        assert torch.get_num_threads() == 4
    assert note is None


def test_a_run_goes_on_with_the_threads_it_had(four_cores, tmp_path, capsys):
    def threads():
        return json.loads((tmp_path / "env.json").read_text())["threads"]

    four_cores[0] = 2.0
    train(toy_run(), tmp_path, stop_after=2, device="cpu")
    assert threads() == 2
    assert FEWER.format(2) in " ".join(capsys.readouterr().err.split())
    four_cores[0] = 0.0
    train(toy_run(), tmp_path, stop_after=2, device="cpu")
    assert threads() == 2
    assert "threads" not in capsys.readouterr().err
    (tmp_path / "env.json").write_text("{}")  # of a version that did not note them
    train(toy_run(), tmp_path, device="cpu")
    assert threads() == 4
