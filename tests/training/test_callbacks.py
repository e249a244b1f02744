"""Callbacks: told at the right steps, also of a run that goes on, and unable to change what is trained."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from training_toy import toy_metric, toy_run

from slotworks.training import Callback, load_method, train
from slotworks.training.callbacks import find_callback
from slotworks.training.checkpoint import LAST, load_checkpoint
from slotworks.types import UserError

RUN = toy_run(steps=6, eval_every=4, save_every=3, log_every=5)


class Recorder(Callback):
    """Notes what it is told, and does whatever could disturb a training."""

    def __init__(self):
        self.told = []

    def on_step(self, step, values):
        self.told.append(("step", step))
        assert set(values) == {"loss/recon", "loss/size", "total", "lr", "grad_norm"}
        assert values["total"] == pytest.approx(values["loss/recon"] + 0.01 * values["loss/size"])
        self._disturb(values)

    def on_evaluation(self, step, metrics):
        self.told.append(("evaluation", step))
        assert set(metrics) == {"eval/code"}
        self._disturb(metrics)

    def on_checkpoint(self, step, path):
        self.told.append(("checkpoint", step))
        assert load_checkpoint(path).step == step
        method = load_method(path)
        with torch.no_grad():
            for parameter in method.parameters():
                parameter.zero_()

    def on_end(self, result):
        self.told.append(("end", result.step, result.finished))

    def _disturb(self, values):
        values.clear()
        torch.rand(7), np.random.rand(7), random.random()
        torch.manual_seed(5)


def test_told_at_the_right_steps(tmp_path):
    recorder = Recorder()
    train(RUN, tmp_path, evaluators=toy_metric, callbacks=[recorder])
    steps = [("step", n) for n in range(1, 7)]
    assert [one for one in recorder.told if one[0] == "step"] == steps
    assert recorder.told == [
        *steps[:3],
        ("checkpoint", 3),
        steps[3],
        ("evaluation", 4),
        *steps[4:],
        ("checkpoint", 6),
        ("evaluation", 6),
        ("end", 6, True),
    ]


def test_a_run_that_goes_on_is_told_where_it_is(tmp_path):
    first, second = Recorder(), Recorder()
    train(RUN, tmp_path, evaluators=toy_metric, callbacks=[first], stop_after=4)
    assert first.told[-4:] == [("step", 4), ("checkpoint", 4), ("evaluation", 4), ("end", 4, False)]
    train(RUN, tmp_path, evaluators=toy_metric, callbacks=[second])
    assert second.told == [("step", 5), ("step", 6), ("checkpoint", 6), ("evaluation", 6), ("end", 6, True)]


def test_checkpoints_that_are_kept_are_named(tmp_path):
    class Names(Callback):
        def __init__(self):
            self.names = []

        def on_checkpoint(self, step, path):
            self.names.append(path.name)

    names = Names()
    train(replace(RUN, keep_every=3, save_every=2), tmp_path, callbacks=[names])
    assert names.names == [
        "last.safetensors",
        "step_0000003.safetensors",
        "last.safetensors",
        "step_0000006.safetensors",
    ]


def test_weights_are_the_same_to_the_bit(tmp_path):
    train(RUN, tmp_path / "watched", evaluators=toy_metric, callbacks=[Recorder(), Recorder()])
    train(RUN, tmp_path / "alone", evaluators=toy_metric)
    watched, alone = (load_checkpoint(tmp_path / name / LAST) for name in ("watched", "alone"))
    for kind in ("model", "ema", "optimizer"):
        ours, theirs = getattr(watched, kind), getattr(alone, kind)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    values = [load_checkpoint(tmp_path / name / LAST).model["up.weight"] for name in ("watched", "alone")]
    assert values[0].abs().sum() > 0


def test_an_error_ends_the_training_and_the_checkpoint_stays(tmp_path):
    class Breaks(Callback):
        def on_step(self, step, values):
            if step == 5:
                raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        train(RUN, tmp_path, callbacks=[Breaks()])
    assert load_checkpoint(tmp_path / LAST).step == 3
    assert train(RUN, tmp_path).finished


def test_callbacks_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "from slotworks.training import Callback\nclass Mine(Callback):\n    pass\nREADY = Mine()\nOTHER = 3\n"
    (tmp_path / "my_callbacks.py").write_text(text)
    assert type(find_callback("my_callbacks.py:Mine")).__name__ == "Mine"
    assert find_callback("my_callbacks.py:READY") is find_callback("my_callbacks.py:READY")
    with pytest.raises(UserError, match=r"my_callbacks.py:OTHER is no callback; expected a subclass of slotworks"):
        find_callback("my_callbacks.py:OTHER")
    with pytest.raises(UserError, match=r"my_callbacks.py has no 'Nothing'"):
        find_callback("my_callbacks.py:Nothing")
    with pytest.raises(UserError, match="There is no callback 'mine'"):
        find_callback("mine")
