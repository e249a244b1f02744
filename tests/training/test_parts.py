"""Data order, seeds, average, clipping, optimiser, logs: each alone."""

import json
import math
import multiprocessing
import sys
import types
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import torch
from training_toy import ToyConfig, toy_run

from slotworks.files import locked
from slotworks.nn.noise import batch_noise, shared_noise
from slotworks.training import Adam, open_fabric, train
from slotworks.training.devices import clip
from slotworks.training.ema import EMA
from slotworks.training.folder import write_folder
from slotworks.training.logs import Display, Log, cut_back
from slotworks.training.optimizer import build_optimizer, set_learning_rates
from slotworks.training.order import BatchOrder, read_batches
from slotworks.training.seeds import seed_for, set_seed
from slotworks.types import UserError

# ---- data order and seeds ------------------------------------------------------------------------------------------


def test_every_epoch_is_a_fresh_permutation_and_none_is_left_out():
    order = BatchOrder(20, toy_run(steps=15))  # 15 batches of 8 are six epochs of 20
    seen = torch.tensor(list(order)).flatten().reshape(6, 20)
    assert torch.equal(seen.sort(dim=1).values, torch.arange(20).expand(6, 20))
    assert len({tuple(epoch.tolist()) for epoch in seen}) == 6


def test_samples_of_later_epochs_may_be_others():
    """Their indices follow those of the first epoch; the order is the same."""
    plain, renewed = (np.array(list(BatchOrder(20, toy_run(steps=15), renewed=one))).ravel() for one in (False, True))
    assert np.array_equal(renewed, plain + 20 * np.repeat(np.arange(6), 20))


def test_order_is_a_function_of_seed_and_step():
    run = toy_run()
    batches = list(BatchOrder(20, run))
    assert list(BatchOrder(20, run, start=7)) == batches[7:]
    assert BatchOrder(20, run).batch(9) == batches[9]
    assert list(BatchOrder(20, replace(run, seed=1))) != batches
    assert batches[0] == [14, 15, 18, 13, 8, 2, 12, 10]  # pinned: another order would change every published run


def test_parts_of_ranks_and_micro_batches_join_to_the_global_batch():
    run = toy_run(accumulate=2)
    ranks = [list(BatchOrder(20, run, rank=rank, world_size=2)) for rank in range(2)]
    whole = list(BatchOrder(20, toy_run()))
    assert [len(part) for part in ranks[0]] == [2] * 20
    for step in range(10):
        parts = [ranks[rank][2 * step + micro] for micro in range(2) for rank in range(2)]
        assert [index for part in parts for index in part] == whole[step]


def test_a_batch_may_be_larger_than_the_data():
    (batch,) = BatchOrder(3, toy_run(steps=1))
    assert sorted(batch[:3]) == sorted(batch[3:6]) == [0, 1, 2]


class Refusing:
    """Data of which batch after batch can be read, until one cannot."""

    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 20

    def __getitems__(self, indices):
        if 12 in indices:
            raise self.error
        return {"row": np.asarray(indices)}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("error", [UserError("shard-3 finds no room."), ValueError("a fault")], ids=["user", "fault"])
def test_what_a_reading_process_refuses_is_said_in_its_words(workers, error):
    """A process that is left would be waited for at the end, without end: it ignores SIGTERM."""
    found, order = [], [[1, 2], [12], [3]]

    def read():
        with read_batches(Refusing(error), order, num_workers=workers, pin_memory=False) as batches:
            found.extend(batch["row"].tolist() for batch in batches)

    with pytest.raises(type(error)) as raised:
        read()
    assert found == [[1, 2]]
    assert str(error) in str(raised.value)
    assert ("Traceback" in str(raised.value)) == (workers == 1 and isinstance(error, ValueError))
    assert multiprocessing.active_children() == []


def test_seeds_differ_by_purpose_seed_and_number():
    seeds = {seed_for(p, s, n) for p in ("weights", "order", "noise", "dropout") for s in (0, 1) for n in (0, 1)}
    assert len(seeds) == 16
    assert seed_for("noise", 0, 1) == 7006255215521402662  # pinned, as the order is


def test_set_seed_is_manual_seed():
    torch.manual_seed(5)
    expected = torch.rand(3)
    set_seed(5, torch.device("cpu"))
    assert torch.equal(torch.rand(3), expected)


# ---- noise that is split with the batch ----------------------------------------------------------------------------


def test_frames_stay_with_their_sample():
    """A first axis of batch times time splits between samples."""
    with shared_noise(1, part=1, parts=2):
        second = batch_noise((2 * 3, 5))
    with shared_noise(1, part=0, parts=1):
        whole = batch_noise((4 * 3, 5))
    assert torch.equal(second, whole[6:])


def test_shared_noise_leaves_the_global_generator_alone_and_ends_with_an_error_too():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    with suppress(KeyError), shared_noise(1, part=0, parts=2):
        first, second = batch_noise((2,)), batch_noise((2,))
        raise KeyError
    assert torch.equal(torch.get_rng_state(), state)
    draws = torch.Generator().manual_seed(1)
    assert torch.equal(first, torch.randn(4, generator=draws)[:2])
    assert torch.equal(second, torch.randn(4, generator=draws)[:2])
    expected = torch.randn(2)
    torch.set_rng_state(state)
    assert torch.equal(batch_noise((2,)), expected)


# ---- average, optimiser, clipping ----------------------------------------------------------------------------------


def test_average_closed_form():
    """Weights 1, 2, 3, 4: the rates are (1 + k) / (10 + k) until the decay of 0.2 caps them."""
    method = ToyConfig().build()
    start = method.up.bias.detach().clone()
    ema = EMA(method, 0.2)
    expected = start.clone()
    for step, rate in enumerate((0.1, 2 / 11, 0.2, 0.2)):
        with torch.no_grad():
            method.up.bias.fill_(step + 1.0)
        ema.update(step)
        expected = rate * expected + (1 - rate) * (step + 1.0)
    torch.testing.assert_close(ema.average["up.bias"], expected, rtol=1e-6, atol=1e-7)
    assert "frozen.weight" not in ema.average


def test_average_is_applied_and_undone_exactly():
    method = ToyConfig().build()
    ema = EMA(method, 0.5)
    with torch.no_grad():
        method.up.bias.fill_(2.0)
    address = method.up.bias.data_ptr()
    before = ema.average["up.bias"].clone()
    with ema.applied():
        assert torch.equal(method.up.bias, before)
    with suppress(KeyError), ema.applied():
        raise KeyError
    assert torch.equal(method.up.bias, torch.full((48,), 2.0))
    assert method.up.bias.data_ptr() == address
    assert torch.equal(ema.average["up.bias"], before)


def test_average_of_another_run():
    with pytest.raises(UserError, match=r"average in a.safetensors does not fit the method"):
        EMA(ToyConfig().build(), 0.5).load(EMA(ToyConfig(width=3).build(), 0.5).average, "a.safetensors")


@pytest.mark.parametrize(
    ("norm_type", "limit", "norm", "factor"),
    [
        ("l2", None, 13.0, 1.0),
        ("l2", 20.0, 13.0, 1.0),
        ("l2", 6.5, 13.0, 6.5 / (13 + 1e-6)),
        ("inf", 6.0, 12.0, 6.0 / (12 + 1e-6)),
        ("inf", 12.5, 12.0, 1.0),
    ],
)
def test_clipping_by_hand(norm_type, limit, norm, factor):
    """Gradients 3, 4 in one tensor and 12 in another: L2 norm 13, largest entry 12."""
    run = toy_run(optimizer=Adam(max_grad_norm=limit, grad_norm_type=norm_type))
    fabric = open_fabric(run, accelerator="cpu")
    module = torch.nn.Linear(2, 1)
    module.weight.grad, module.bias.grad = torch.tensor([[3.0, -4.0]]), torch.tensor([12.0])
    optimizer = torch.optim.Adam(module.parameters())
    model, wrapped = fabric.setup(module, optimizer)
    assert clip(fabric, model, wrapped, run) == norm
    torch.testing.assert_close(module.weight.grad, torch.tensor([[3.0, -4.0]]) * factor)
    torch.testing.assert_close(module.bias.grad, torch.tensor([12.0]) * factor)


def one_update(**adam):
    method = ToyConfig().build()
    run = toy_run(optimizer=Adam(lr=0.01, eps=1e-12, **adam))
    optimizer = build_optimizer(method, run)
    before = {name: p.detach().clone() for name, p in method.named_parameters()}
    for p in method.parameters():
        p.grad = torch.full_like(p, -0.5) if p.requires_grad else None
    assert set_learning_rates(optimizer, run, 0) == 0.01
    optimizer.step()
    return before, dict(method.named_parameters())


def test_first_adam_step_has_the_size_of_each_groups_learning_rate():
    """The first bias-corrected step is lr * sign(gradient)."""
    before, after = one_update(lr_scales={"encoder": 0.5})
    torch.testing.assert_close(
        after["down.weight"] - before["down.weight"], torch.full((6, 48), 0.005), rtol=1e-4, atol=0
    )
    torch.testing.assert_close(after["up.bias"] - before["up.bias"], torch.full((48,), 0.01), rtol=1e-4, atol=0)
    assert torch.equal(after["frozen.weight"], before["frozen.weight"])


def test_weight_decay_is_decoupled():
    before, after = one_update(weight_decay=0.1)
    torch.testing.assert_close(after["up.bias"], before["up.bias"] * (1 - 0.01 * 0.1) + 0.01, rtol=0, atol=1e-7)


def test_groups_that_do_not_exist_or_do_not_add_up():
    method = ToyConfig().build()
    with pytest.raises(UserError, match="lr_scales names dvae, but the parameter groups of Toy are encoder, decoder"):
        build_optimizer(method, toy_run(optimizer=Adam(lr_scales={"dvae": 2.0})))
    for groups in ({"a": list(method.up.parameters())}, {"a": list(method.parameters())}):
        method.param_groups = lambda groups=groups: groups
        with pytest.raises(ValueError, match=r"Toy.param_groups must hold each trainable parameter once, and no other"):
            build_optimizer(method, toy_run())


# ---- logs ----------------------------------------------------------------------------------------------------------


def test_metrics_are_cut_back_to_the_checkpoint(tmp_path):
    log = Log(toy_run(), tmp_path, step=0)
    log.write(1, 0.5, {"total": 2.0})
    log.write(2, 1.0, {"total": math.nan, "lr": math.inf})
    log.write(2, 1.0, {"eval/fg_ari": 0.5, "eval/miou": math.nan})
    log.write(3, 1.5, {"total": 1.0})
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 4, "ti')  # killed while writing
    last = cut_back(tmp_path, 2)
    assert last["step"] == 2
    assert last["eval/fg_ari"] == 0.5
    assert math.isnan(last["eval/miou"])
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 1, "time": 0.5, "total": 2.0},
        {"step": 2, "time": 1.0, "total": None, "lr": None},
        {"step": 2, "time": 1.0, "eval/fg_ari": 0.5, "eval/miou": None},
    ]
    assert cut_back(tmp_path, 1) == {}
    assert cut_back(tmp_path / "new", 0) == {}


def test_tensorboard_has_the_same_numbers(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(toy_run(tensorboard=True, log_every=5), tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    shown = {event.step: event.value for event in events.Scalars("loss/recon")}
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert shown == pytest.approx({line["step"]: line["loss/recon"] for line in lines}, rel=1e-6)
    assert list(shown) == [1, 5, 10]


def test_wandb_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(
        UserError, match=r"wandb is set, but the package is missing; install it with `pip install 'slotw"
    ):
        Log(toy_run(wandb=True), tmp_path, step=0)


def test_wandb_gets_the_numbers_and_the_same_run_again(tmp_path, monkeypatch):
    calls = []
    run = types.SimpleNamespace(
        log=lambda values, step: calls.append((step, values)), finish=lambda: calls.append("end")
    )
    fake = types.ModuleType("wandb")
    fake.init = lambda **options: calls.append(options) or run
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for _ in range(2):
        log = Log(toy_run(wandb=True), tmp_path, step=0)
        log.write(3, 1.0, {"total": 2.0})
        log.close()
    assert calls[1:3] == [(3, {"total": 2.0}), "end"]
    assert calls[0]["id"] == calls[3]["id"]
    assert calls[0]["config"]["method"]["width"] == 6


def test_at_most_a_hundred_lines_where_there_is_no_terminal(tmp_path, capfd):
    run = toy_run(steps=5000)
    with Display(run, tmp_path, step=0, device=torch.device("cpu"), quiet=False) as display:
        for step in range(1, 5001):
            display.advance(step, step * 0.1)
            display.losses(step, 1.5, 10.0)
        display.evaluation(5000, {"eval/fg_ari": 0.875, "eval/miou": 0.5})
    lines = capfd.readouterr().err.splitlines()
    assert lines.pop(1) == "About 8 minutes for the 4,975 steps that are left, evaluations included."
    assert len(lines) <= 102
    assert lines[0] == "step 1/5000  loss 1.5  10 it/s  500 s left"
    assert lines[-2] == "step 5000/5000  loss 1.5  10 it/s  0 s left"
    assert lines[-1] == "step 5000  fg_ari 0.875  miou 0.5"


def test_one_training_per_folder(tmp_path):
    with locked(tmp_path), pytest.raises(UserError, match=r"Another process is training in .*; wait for it, or choose"):
        train(toy_run(), tmp_path)
    assert train(toy_run(), tmp_path).finished


@pytest.mark.parametrize(
    "line", [b'{"step": 2, "eval/a": "\xed\xa0\x80"}', b'{"step": 2, "eval/a": "x"}', b"[" * 100_000]
)
def test_lines_that_no_run_wrote_say_nothing(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1, "eval/a": 0.5}\n' + line + b'\n{"step": 3}\n')
    assert cut_back(tmp_path, 2) == {"step": 1, "eval/a": 0.5}


@pytest.mark.parametrize("text", ["[1]", "null", '{"earlier": 5}', '{"earlier": null}', "[" * 100_000])
def test_a_damaged_note_about_earlier_sessions_says_nothing(tmp_path, text):
    (tmp_path / "env.json").write_text(text)
    write_folder(toy_run(), tmp_path, device="cpu", world_size=1, step=0)
    assert json.loads((tmp_path / "env.json").read_text())["earlier"] == []
