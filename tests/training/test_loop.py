import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from tiny_recipes import tetrominoes
from torch.overrides import TorchFunctionMode
from training_toy import (
    STEADY,
    Toy,
    ToyConfig,
    ToyData,
    ToyImages,
    batch_normalised,
    in_processes,
    toy_metric,
    toy_run,
)

from slotworks.nn.noise import batch_noise
from slotworks.progress import following
from slotworks.training import Adam, Diverged, load_method, load_run, open_fabric, train
from slotworks.training.checkpoint import load_checkpoint, save_checkpoint
from slotworks.training.devices import Reading
from slotworks.training.order import BatchOrder
from slotworks.training.run import schedule
from slotworks.training.seeds import seed_for, set_seed
from slotworks.types import DataConfig, UserError
from slotworks.version import __version__

SCRIPT = Path(__file__).with_name("training_toy.py")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def last(folder):
    return load_checkpoint(Path(folder) / "checkpoints" / "last.safetensors")


def lines(folder):
    return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


def losses(folder):
    """Everything logged except clocks."""
    return [{k: v for k, v in line.items() if k not in ("time", "images_per_second")} for line in lines(folder)]


def same_state(a, b):
    assert a.step == b.step
    for section in ("model", "ema", "optimizer"):
        one, other = getattr(a, section), getattr(b, section)
        assert one.keys() == other.keys()
        assert len(one) > 0
        for name in one:
            assert torch.equal(one[name], other[name]), (section, name)
    assert a.scaler == b.scaler


def largest_difference(a, b):
    """Over all weights; the count of calls differs where micro-batches do."""
    return max((a.model[name] - b.model[name]).abs().max().item() for name in a.model if name != "calls")


@pytest.fixture(scope="module")
def ten_steps(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    train(toy_run(), folder)
    return folder


# ---- what a run writes ---------------------------------------------------------------------------------------------


def test_run_folder(tmp_path):
    run = toy_run(log_every=4, eval_every=5, keep_every=4)
    result = train(run, tmp_path / "new" / "run", evaluators=[toy_metric, lambda method, step: {"eval/step": step}])
    folder = result.folder
    assert (result.step, result.finished) == (10, True)
    assert result.metrics == {k: v for k, v in lines(folder)[-1].items() if k.startswith("eval/")}
    assert result.metrics["eval/step"] == 10
    assert [(line["step"], "total" in line, "eval/code" in line) for line in lines(folder)] == [
        (1, True, False),
        (4, True, False),
        (5, False, True),
        (8, True, False),
        (10, True, False),
        (10, False, True),
    ]
    line = lines(folder)[1]
    assert line["weighted/recon"] == line["loss/recon"]
    assert line["weighted/size"] == pytest.approx(0.01 * line["loss/size"], rel=1e-6)
    assert line["total"] == pytest.approx(line["loss/recon"] + 0.01 * line["loss/size"], rel=1e-6)
    assert line["lr"] == schedule(run.optimizer, 3, 10)  # of the fourth update
    assert line["images_per_second"] > 0
    times = [line["time"] for line in lines(folder)]
    assert times == sorted(times)
    assert result.seconds == pytest.approx(times[-1], abs=1e-3)
    assert load_run(folder) == run
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == [
        "last.safetensors",
        "step_0000004.safetensors",
        "step_0000008.safetensors",
    ]
    assert load_checkpoint(folder / "checkpoints" / "step_0000004.safetensors").step == 4
    env = json.loads((folder / "env.json").read_text())
    assert env["torch"] == torch.__version__
    assert env["slotworks"] == __version__
    assert env["data"] == "toy"
    assert env["processes"] == 1
    assert env["from_step"] == 0
    assert env["earlier"] == []
    assert {"started", "command", "slotworks", "python", "commit", "device", "cores", "platform"} <= env.keys()


def test_it_learns(tmp_path):
    train(toy_run(steps=300, optimizer=Adam(lr=0.01), log_every=100, save_every=300), tmp_path)
    curve = [line["loss/recon"] for line in lines(tmp_path)]
    assert curve[-1] < 0.2 * curve[0]


def test_first_loss_by_hand(tmp_path):
    """The loss of step 0 from the public pieces: initial weights, the first batch, its noise."""
    run = toy_run(method=STEADY, steps=1, optimizer=Adam(lr=1e-12))
    train(run, tmp_path)
    method = load_method(tmp_path, ema=False)
    pixels = ToyImages(20).pixels[BatchOrder(20, run).batch(0)]
    image = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    noise = torch.randn(8, 6, generator=torch.Generator().manual_seed(seed_for("noise", 0, 0)))
    recon = method.up(method.encode(image).slots[:, 0] + 0.1 * noise)
    expected = (recon - image.flatten(1)).square().mean().item()
    assert lines(tmp_path)[0]["loss/recon"] == pytest.approx(expected, rel=1e-5)


def test_callbacks_get_the_numbers_of_the_lines(tmp_path):
    logged, evaluated = [], []
    train(
        toy_run(log_every=5, eval_every=5),
        tmp_path,
        evaluators=toy_metric,
        on_log=lambda step, values: logged.append((step, values["total"])),
        on_eval=lambda step, values: evaluated.append((step, values["eval/code"])),
    )
    assert logged == [(line["step"], line["total"]) for line in lines(tmp_path) if "total" in line]
    assert evaluated == [(line["step"], line["eval/code"]) for line in lines(tmp_path) if "eval/code" in line]


def test_seed_decides(tmp_path, ten_steps):
    train(toy_run(), tmp_path / "again")
    train(toy_run(seed=1), tmp_path / "other")
    same_state(last(tmp_path / "again"), last(ten_steps))
    assert losses(tmp_path / "again") == losses(ten_steps)
    assert largest_difference(last(tmp_path / "other"), last(ten_steps)) > 0.01


# ---- going on ------------------------------------------------------------------------------------------------------


def test_interrupted_and_killed_equals_whole(tmp_path, ten_steps):
    """Ctrl-C to the group after step 3, with a reading process; kill -9 after step 7; then here to step 10."""
    command = [sys.executable, str(SCRIPT), "kill", str(tmp_path)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, start_new_session=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert done.stdout == "stopped at 4\n"  # asked during step 3's log, noticed with the next update
    assert "Stopping after this step; a second Ctrl-C ends at once" in done.stderr
    assert "Stopped at step 4 of 10; the same command goes on from there." in done.stderr
    assert "Traceback" not in done.stderr
    assert last(tmp_path).step == 5
    assert lines(tmp_path)[-1]["step"] == 7
    before = last(tmp_path).seconds
    result = train(toy_run(), tmp_path)
    assert result.finished
    assert result.seconds > before
    same_state(last(tmp_path), last(ten_steps))
    assert losses(tmp_path) == losses(ten_steps)
    env = json.loads((tmp_path / "env.json").read_text())
    assert [env["from_step"], *(session["from_step"] for session in env["earlier"])] == [5, 0, 4]


@pytest.mark.parametrize("precision", ["32", "16"])
def test_going_on_with_channels_last(tmp_path, precision):
    """Weights and Adam's moments of convolutions lie in memory in another order than in the file."""
    run = toy_run(channels_last=True, precision=precision)
    train(run, tmp_path / "parts", stop_after=4)
    train(run, tmp_path / "parts")
    train(run, tmp_path / "whole")
    same_state(last(tmp_path / "parts"), last(tmp_path / "whole"))


def test_evaluation_never_disturbs_training(tmp_path, ten_steps):
    train(toy_run(eval_every=1), tmp_path, evaluators=toy_metric)
    same_state(last(tmp_path), last(ten_steps))
    assert [line for line in losses(tmp_path) if "total" in line] == losses(ten_steps)


def test_evaluators_see_the_average_in_evaluation_mode(tmp_path):
    seen = {}

    def look(method, step):
        seen[step] = (method.training, torch.is_grad_enabled(), method.up.bias.clone())
        return {}

    train(toy_run(steps=5, eval_every=5), tmp_path / "ema", evaluators=look)
    training, grad, bias = seen[5]
    assert (training, grad) == (False, False)
    assert torch.equal(bias, last(tmp_path / "ema").ema["up.bias"])
    assert torch.equal(bias, load_method(tmp_path / "ema").up.bias)
    assert not torch.equal(bias, last(tmp_path / "ema").model["up.bias"])
    train(toy_run(steps=5, eval_every=5, ema_decay=None), tmp_path / "raw", evaluators=look)
    assert torch.equal(seen[5][2], last(tmp_path / "raw").model["up.bias"])
    assert last(tmp_path / "raw").ema == {}


def test_average_by_hand(tmp_path):
    """From the weights of every step, with a break in between."""
    run = toy_run(keep_every=1, ema_decay=0.25)
    train(run, tmp_path, stop_after=4)
    train(run, tmp_path)
    set_seed(seed_for("weights", 0), torch.device("cpu"))
    expected = ToyConfig().build().up.weight.detach()
    for step, rate in enumerate([1 / 10, 2 / 11, 3 / 12, *[0.25] * 7]):
        weights = load_checkpoint(tmp_path / "checkpoints" / f"step_{step + 1:07d}.safetensors").model["up.weight"]
        expected = rate * expected + (1 - rate) * weights
    torch.testing.assert_close(last(tmp_path).ema["up.weight"], expected, rtol=1e-6, atol=1e-7)


def test_seconds_add_up_over_sessions(tmp_path):
    train(toy_run(), tmp_path, stop_after=2)
    save_checkpoint(replace(last(tmp_path), seconds=1000.0), tmp_path / "checkpoints" / "last.safetensors")
    result = train(toy_run(), tmp_path)
    assert 1000 < result.seconds < 1100
    assert [line["time"] > 1000 for line in lines(tmp_path)] == [False] * 2 + [True] * 8


def test_an_evaluation_that_was_cut_off_is_made_up_for(tmp_path):
    def crash(method, step):
        raise KeyError("a bug in an evaluator")

    run = toy_run(eval_every=5)
    with pytest.raises(KeyError):
        train(run, tmp_path, evaluators=crash)
    assert last(tmp_path).step == 5  # saved before the evaluation
    train(run, tmp_path, evaluators=toy_metric)
    train(run, tmp_path / "whole", evaluators=toy_metric)
    assert losses(tmp_path) == losses(tmp_path / "whole")


def test_a_finished_run_is_left_alone_and_can_be_made_longer(tmp_path):
    result = train(toy_run(steps=6), tmp_path, evaluators=toy_metric)
    before = (tmp_path / "checkpoints/last.safetensors").read_bytes()
    again = train(toy_run(steps=6), tmp_path, evaluators=toy_metric)
    assert (again.step, again.finished, again.metrics) == (6, True, result.metrics)
    assert (tmp_path / "checkpoints/last.safetensors").read_bytes() == before
    longer = train(toy_run(steps=8, log_every=2, num_workers=0), tmp_path)
    assert longer.step == 8
    assert load_run(tmp_path).steps == 8
    with pytest.raises(UserError, match=r"is already at step 8, beyond steps = 7; ask for at least as many, or choose"):
        train(toy_run(steps=7), tmp_path)


def test_another_run_in_the_folder(tmp_path):
    train(toy_run(), tmp_path, stop_after=1)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    other = toy_run(optimizer=Adam(lr=0.5), method=replace(STEADY, width=7, dropout=0.1))
    with pytest.raises(UserError) as caught:
        train(other, tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} holds a different run: method.width was 6 and is now 7; optimizer.lr was 0.01 and is now 0.5; "
        "optimizer.warmup_steps was 3 and is now 0; optimizer.decay was 'linear' and is now 'none'; "
        "optimizer.max_grad_norm was 1.0 and is now None. Choose another folder, or set this back to go on."
    )
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    (tmp_path / "run.yaml").unlink()  # the checkpoint knows, too
    with pytest.raises(UserError, match=r"holds a different run: method.width was 6"):
        train(other, tmp_path)


def test_a_damaged_checkpoint(tmp_path):
    train(toy_run(), tmp_path, stop_after=1)
    path = tmp_path / "checkpoints/last.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UserError, match=r"last.safetensors is cut short or not a safetensors file"):
        train(toy_run(), tmp_path)


# ---- stopping ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_stops_politely(tmp_path, ten_steps, number):
    before = signal.getsignal(number)
    result = train(toy_run(), tmp_path, on_log=lambda step, values: signal.raise_signal(number) if step == 3 else None)
    assert (result.step, result.finished) == (4, False)
    assert last(tmp_path).step == 4
    assert signal.getsignal(number) is before
    assert train(toy_run(), tmp_path).finished
    same_state(last(tmp_path), last(ten_steps))


def test_a_second_signal_ends_at_once(tmp_path):
    def twice(step, values):
        if step == 7:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)  # ignored, in a process that a shell started in the background
    with pytest.raises(KeyboardInterrupt):
        train(toy_run(), tmp_path, on_log=twice)
    assert last(tmp_path).step == 5
    assert signal.getsignal(signal.SIGINT) is before


def test_in_a_thread_signals_are_left_alone(tmp_path):
    results = []
    thread = threading.Thread(target=lambda: results.append(train(toy_run(), tmp_path)))
    thread.start()
    thread.join()
    assert results[0].finished


def test_a_loss_that_is_not_finite(tmp_path, ten_steps):
    run = toy_run(method=ToyConfig(loss_weights={"size": 0.01}, explode_at=7))
    with pytest.raises(Diverged) as caught:
        train(run, tmp_path)
    message = str(caught.value)
    assert message.startswith("Step 7 gave a loss or gradient that is not finite (recon inf, size 0.")
    assert "its samples are in nan_batch.json. The last good state is in checkpoints/last.safetensors." in message
    record = json.loads((tmp_path / "nan_batch.json").read_text())
    assert record["step"] == 7
    assert record["indices"] == BatchOrder(20, run).batch(7)
    assert record["losses"]["recon"] == "inf"
    state = last(tmp_path)
    assert state.step == 5
    assert all(value.isfinite().all() for value in state.model.values())
    assert lines(tmp_path)[-1]["step"] == 7  # seven good updates


def test_a_loss_without_gradient_that_is_not_finite(tmp_path):
    class Constant(Toy):
        def loss(self, batch, step):
            return super().loss(batch, step) | {"constant": torch.tensor(torch.nan)}

    config = type("ConstantConfig", (ToyConfig,), {"build": lambda self: Constant(self)})
    with pytest.raises(Diverged, match=r"Step 0 .* constant nan, gradient norm 0\.\d+\)"):
        train(toy_run(method=config()), tmp_path)


def test_a_gradient_that_is_not_finite(tmp_path):
    """The loss of the first step is a finite number whose gradient overflows float32."""

    class Steep(Toy):
        def loss(self, batch, step):
            return {"recon": torch.sqrt((self.up.bias * 0).sum())}  # derivative infinity at zero, times zero

    config = type("SteepConfig", (ToyConfig,), {"build": lambda self: Steep(self)})
    with pytest.raises(Diverged, match=r"Step 0 .* \(recon 0, gradient norm nan\).* Nothing had been saved yet"):
        train(toy_run(method=config()), tmp_path)


def test_weights_that_are_no_longer_finite_are_not_saved(tmp_path):
    """A finite gradient and a learning rate beyond float32: the update itself throws the weights out."""
    train(toy_run(steps=2), tmp_path, stop_after=1)
    before = last(tmp_path)
    with pytest.raises(Diverged, match=r"After step 1 the weight .* is no longer finite. Nothing had been saved yet"):
        train(toy_run(steps=1, optimizer=Adam(lr=1e39)), tmp_path / "other")
    assert before.step == 1
    assert not (tmp_path / "other" / "checkpoints").exists()


class Asked(TorchFunctionMode):
    """Notes each call with which code asks for a tensor's numbers; on a GPU it would wait there."""

    NAMES = ("item", "tolist", "cpu", "equal", "nonzero", "__bool__", "__int__", "__float__", "__index__")

    def __init__(self, events):
        super().__init__()
        self.events = events

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in self.NAMES:
            self.events.append(func.__name__)
        return func(*args, **kwargs or {})


def test_the_loop_asks_for_numbers_a_step_late(tmp_path, monkeypatch, ten_steps):
    """Between the lines of the log nothing is asked of a step before the next one has been sent to the device."""
    events = []

    class Noted(Reading):
        def __init__(self, values):
            super().__init__(values)
            events.append("sent")

        def numbers(self):
            events.append("read")
            return super().numbers()

    monkeypatch.setattr("slotworks.training.loop.Reading", Noted)
    with Asked(events):
        train(toy_run(log_every=4, save_every=100), tmp_path, stop_after=8, device="cpu")
    numbers = ["read", "tolist"]
    first, sent, logged = ["sent", *numbers], ["sent", *numbers], ["sent", *numbers, *numbers]
    steps = [*first, "sent", *sent, *logged, "sent", *sent, *sent, *logged]
    assert events[events.index("sent") :][: len(steps)] == steps
    assert losses(tmp_path) == [line for line in losses(ten_steps) if line["step"] in (1, 4, 8)]


def test_a_step_that_nobody_looks_at_is_found_when_it_diverges(tmp_path):
    """Its own numbers are named, though the next step was on its way; weights that took part are not saved."""
    run = toy_run(method=ToyConfig(explode_at=7), log_every=100)
    with pytest.raises(Diverged, match=r"^Step 7 gave a loss or gradient that is not finite \(recon inf"):
        train(run, tmp_path)
    record = json.loads((tmp_path / "nan_batch.json").read_text())
    assert (record["step"], record["indices"]) == (7, BatchOrder(20, run).batch(7))
    assert last(tmp_path).step == 5


def test_a_step_that_diverges_while_somebody_stops_is_named(tmp_path, monkeypatch):
    """Stopping saves, and what is saved has been looked at."""

    class Stopping(Reading):
        def __init__(self, values):
            super().__init__(values)
            Stopping.made = getattr(Stopping, "made", 0) + 1
            if Stopping.made == 8:
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("slotworks.training.loop.Reading", Stopping)
    with pytest.raises(Diverged, match=r"^Step 7 gave a loss"):
        train(toy_run(method=ToyConfig(explode_at=7), log_every=100), tmp_path)
    assert last(tmp_path).step == 5


# ---- one batch, split in different ways ----------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [2, 4, 8])
def test_accumulation_is_one_batch(tmp_path, accumulate):
    """Same samples, same noise: only the order of float32 additions differs."""
    train(toy_run(method=STEADY, accumulate=accumulate), tmp_path / "parts")
    train(toy_run(method=STEADY), tmp_path / "whole")
    assert largest_difference(last(tmp_path / "parts"), last(tmp_path / "whole")) < 1e-6


def test_two_processes_are_one(tmp_path):
    """As torchrun starts them, on gloo: half of each micro-batch each. A signal to one stops both at the same step."""
    in_processes(2, SCRIPT, ["ddp", tmp_path / "two"], ENVIRONMENT)
    result = train(toy_run(method=STEADY, eval_every=5), tmp_path / "one", evaluators=toy_metric)
    assert largest_difference(last(tmp_path / "two"), last(tmp_path / "one")) < 1e-6
    for line, expected in zip(losses(tmp_path / "two"), losses(tmp_path / "one"), strict=True):
        assert line == pytest.approx(expected, rel=1e-4)
    ranks = [(tmp_path / "two" / f"rank{rank}.txt").read_text().split() for rank in range(2)]
    assert ranks[0] == ranks[1]
    assert ranks[0][:2] == ["4", "10"]
    assert float(ranks[0][2]) == pytest.approx(result.metrics["eval/code"], rel=1e-4)
    assert json.loads((tmp_path / "two" / "env.json").read_text())["processes"] == 2


def test_processes_that_share_weights_are_one(tmp_path):
    """FSDP on gloo: two processes until the middle, then one; the average and its measurement come along."""
    in_processes(2, SCRIPT, ["share", tmp_path / "two"], ENVIRONMENT)
    for folder, accumulate in (("two", 1), ("one", 2)):
        train(toy_run(method=STEADY, accumulate=accumulate, eval_every=5), tmp_path / folder, evaluators=toy_metric)
    two, one = last(tmp_path / "two"), last(tmp_path / "one")
    assert largest_difference(two, one) < 1e-6
    assert one.ema.keys() == two.ema.keys()
    assert max((one.ema[name] - two.ema[name]).abs().max().item() for name in one.ema) < 1e-6
    for line, expected in zip(losses(tmp_path / "two"), losses(tmp_path / "one"), strict=True):
        assert line == pytest.approx(expected, rel=1e-5)
    assert "eval/code" in losses(tmp_path / "two")[5]

    network, x = batch_normalised()
    halves = [load_file(tmp_path / "two" / f"norm{rank}.safetensors") for rank in range(2)]
    out = network(x)
    (sum(out[rank::2].square().mean() * out[rank::2, 0].mean() for rank in range(2))).backward()
    for rank, half in enumerate(halves):
        torch.testing.assert_close(half["out"], out[rank::2].detach(), rtol=0, atol=1e-6)
        for name, value in network[1].state_dict().items():
            torch.testing.assert_close(half[name], value, rtol=0, atol=1e-6)
        torch.testing.assert_close(half["deviation"], x.std(), rtol=0, atol=1e-6)
    slope = halves[0]["slope"] + halves[1]["slope"]
    torch.testing.assert_close(slope, network[0].weight.grad, rtol=1e-5, atol=1e-6)


def test_what_cannot_be_shared_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"shard is set, but SlotAttentionAutoencoder trains no large network"):
        train(replace(tetrominoes(), shard=True), tmp_path / "small")
    with pytest.raises(UserError, match=r"shard is set with precision 16, .* take bf16 or 32\."):
        train(toy_run(shard=True, precision="16"), tmp_path / "scaled")


def test_dropout_differs_between_micro_batches_and_repeats_with_the_step(tmp_path):
    masks = []

    class Drop(Toy):
        def loss(self, batch, step):
            masks.append((step, torch.rand(3).tolist(), batch_noise((4, 1)).flatten().tolist()))
            return super().loss(batch, step)

    config = type("DropConfig", (ToyConfig,), {"build": lambda self: Drop(self)})
    run = toy_run(method=config(), accumulate=2, steps=3)
    train(run, tmp_path / "a")
    train(run, tmp_path / "b")
    assert masks[:6] == masks[6:]
    assert len({str(draw) for _, draw, _ in masks[:6]}) == 6
    assert len({str(noise) for _, _, noise in masks[:6]}) == 6


# ---- precision and layout ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 5e-3), ("16", 1e-3)])
def test_mixed_precision_is_near_float32(tmp_path, ten_steps, precision, tolerance):
    train(toy_run(precision=precision), tmp_path)
    for line, expected in zip(lines(tmp_path), lines(ten_steps), strict=True):
        assert line["total"] == pytest.approx(expected["total"], rel=tolerance)
        assert line["grad_norm"] == pytest.approx(
            expected["grad_norm"], rel=20 * tolerance
        )  # before clipping, unscaled
        assert line["total"] != expected["total"]
    state = last(tmp_path)
    assert {value.dtype for name, value in state.model.items() if name != "calls"} == {torch.float32}
    assert state.scaler.get("scale") == (65536.0 if precision == "16" else None)


def test_images_stay_float32_in_mixed_precision(tmp_path):
    seen = []

    class Looking(Toy):
        def loss(self, batch, step):
            seen.append(batch["image"])
            return super().loss(batch, step)

    config = type("LookingConfig", (ToyConfig,), {"build": lambda self: Looking(self)})
    train(toy_run(method=config(), precision="bf16", steps=1), tmp_path)
    assert seen[0].dtype == torch.float32
    assert seen[0].shape == (8, 3, 4, 4)
    assert (seen[0] * 255).round().div(255).equal(seen[0])


def test_float16_leaves_out_updates_until_the_scale_fits(tmp_path):
    """Gradients times 65536 overflow: the scale is halved until they do not, and weights wait for it."""
    biases = {}
    config = ToyConfig(loss_scale=100.0)
    run = toy_run(method=config, precision="16", eval_every=1, ema_decay=None, optimizer=Adam(lr=0.01))

    def look(method, step):
        biases[step] = method.up.bias.clone()
        return {}

    train(run, tmp_path, evaluators=look)
    skipped = [line["step"] for line in lines(tmp_path) if "total" in line and line["grad_norm"] is None]
    assert len(skipped) >= 1
    assert skipped == list(range(1, len(skipped) + 1))
    assert last(tmp_path).scaler["scale"] == 65536 / 2 ** len(skipped)
    assert torch.equal(biases[1], biases[len(skipped)])
    assert not torch.equal(biases[len(skipped)], biases[len(skipped) + 1])


def test_channels_last_reaches_images_and_weights(tmp_path, ten_steps):
    seen = []

    class Looking(Toy):
        def loss(self, batch, step):
            seen.append((batch["image"].stride(), self.stem.weight.stride()))
            return super().loss(batch, step)

    config = type("LayoutConfig", (ToyConfig,), {"build": lambda self: Looking(self)})
    run = toy_run(method=config(loss_weights={"size": 0.01}, dropout=0.1), channels_last=True)
    train(run, tmp_path)
    assert seen[0] == ((48, 1, 12, 3), (27, 1, 9, 3))
    assert largest_difference(last(tmp_path), last(ten_steps)) < 1e-6


@pytest.mark.slow
def test_compiled_loss_is_the_same(tmp_path):
    """In a process of its own: checked annotations and torch.compile do not go together."""
    command = [sys.executable, str(SCRIPT), "compile", str(tmp_path)]
    done = subprocess.run(command, env=ENVIRONMENT, check=True, timeout=300, stdout=subprocess.PIPE)
    assert int(done.stdout) == 2  # of the first step, and of all others: the noise cuts neither
    train(toy_run(method=STEADY), tmp_path / "plain")
    assert largest_difference(last(tmp_path), last(tmp_path / "plain")) < 1e-6


def test_reading_processes_change_nothing(tmp_path, ten_steps):
    train(toy_run(num_workers=2), tmp_path)
    same_state(last(tmp_path), last(ten_steps))


# ---- mistakes ------------------------------------------------------------------------------------------------------


def test_loss_weights_of_terms_that_do_not_exist(tmp_path):
    run = toy_run(method=ToyConfig(loss_weights={"sise": 1.0}))
    with pytest.raises(UserError, match=r"method.loss_weights names sise, but the loss terms are recon, size"):
        train(run, tmp_path)


def test_no_training_samples(tmp_path):
    with pytest.raises(UserError, match="The training split of toy is empty"):
        train(toy_run(data=ToyData(length=0)), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_batch_that_processes_cannot_share(tmp_path):
    fabric = open_fabric(toy_run(), accelerator="cpu")
    fabric.strategy.world_size = 3  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="batch_size is 8 in 1 micro-batches, which 3 processes cannot share equally"):
        train(toy_run(), tmp_path, fabric=fabric)


def test_data_that_cannot_be_opened_leaves_no_folder(tmp_path):
    class Missing(DataConfig):
        name = "missing"

        def open(self, split="train"):
            raise UserError("data/missing does not exist.")

    with pytest.raises(UserError, match="data/missing does not exist"):
        train(replace(toy_run(), data=Missing()), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# ---- two commands on one folder, kills, other people's files -------------------------------------------------------


def test_the_folder_is_locked_before_it_is_read(tmp_path, monkeypatch):
    """A command that read an empty folder and got the lock after another had finished would begin again at step 0."""
    from slotworks.training import loop

    real, seen = loop.read_folder, []

    def read_folder(run, folder):
        if not seen:
            seen.append(folder)
            with pytest.raises(UserError, match="Another process is training in"):
                train(run, folder)
        return real(run, folder)

    monkeypatch.setattr(loop, "read_folder", read_folder)
    assert train(toy_run(), tmp_path).finished
    assert seen == [tmp_path]
    assert json.loads((tmp_path / "env.json").read_text())["earlier"] == []


def test_a_refusal_ends_the_other_processes_too(tmp_path, monkeypatch):
    """They hold no lock, and learn from the first one that it was refused."""
    fabric = open_fabric(toy_run(), accelerator="cpu")
    monkeypatch.setattr(type(fabric), "is_global_zero", False)
    monkeypatch.setattr(fabric, "broadcast", lambda text: "Another process is training in runs/x; wait for it.")
    with pytest.raises(UserError, match="Another process is training in runs/x"):
        train(toy_run(), tmp_path / "run", fabric=fabric)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("killed_after", [2, 3])
def test_kept_checkpoints_survive_a_kill_between_two_files(tmp_path, monkeypatch, killed_after):
    """The first file is of step 2, the second and third of step 4, which is kept."""
    written = []

    class Killed(BaseException):
        pass

    def killing(source):
        real = getattr(loop, source)

        def write(first, second):
            real(first, second)
            written.append(second.name)
            if len(written) == killed_after:
                raise Killed

        return write

    from slotworks.training import loop

    run = toy_run(save_every=2, keep_every=4)
    train(run, tmp_path / "whole")
    for name in ("save_checkpoint", "same_file"):
        monkeypatch.setattr(loop, name, killing(name))
    with pytest.raises(Killed):
        train(run, tmp_path / "killed")
    monkeypatch.undo()
    train(run, tmp_path / "killed")
    names = ["last.safetensors", "step_0000004.safetensors", "step_0000008.safetensors"]
    for folder in ("whole", "killed"):
        assert sorted(path.name for path in (tmp_path / folder / "checkpoints").iterdir()) == names
    for name in names:
        same_state(*(load_checkpoint(tmp_path / folder / "checkpoints" / name) for folder in ("whole", "killed")))
    assert [load_checkpoint(tmp_path / "killed" / "checkpoints" / name).step for name in names] == [10, 4, 8]


def test_what_a_kill_left_is_removed_at_the_next_start(tmp_path):
    train(toy_run(), tmp_path, stop_after=2)
    (tmp_path / "checkpoints" / ".partial.step_0000100.safetensors").write_bytes(b"half")
    train(toy_run(), tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["last.safetensors"]


@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_a_run_folder_follows_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        train(toy_run(keep_every=5), tmp_path)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.is_file()}
    assert modes == dict.fromkeys(modes, 0o666 & ~umask)
    assert {"last.safetensors", "step_0000005.safetensors", "run.yaml", "metrics.jsonl"} <= modes.keys()


@pytest.mark.parametrize("name", ["metrics.jsonl", "checkpoints/mine.txt", "samples/step_1/cat.png", "report.html"])
def test_a_folder_with_files_of_somebody_else(tmp_path, name):
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("mine")
    with pytest.raises(UserError, match=rf"is no run folder, but holds {Path(name).parts[0]}, which a run would"):
        train(toy_run(), tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [file]
    assert file.read_text() == "mine"


def test_a_run_folder_may_lie_among_other_files(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    assert train(toy_run(), tmp_path).finished
    (tmp_path / "run.yaml").unlink()
    assert train(toy_run(), tmp_path).finished  # the checkpoint says what it is


# ---- how long it takes ---------------------------------------------------------------------------------------------


def estimate(monkeypatch, tmp_path, capsys, run, speed):
    """What is said about the time, with a step that takes `speed` seconds."""
    steps = iter(range(10**6))
    monkeypatch.setattr("slotworks.training.loop.time", SimpleNamespace(perf_counter=lambda: speed * next(steps)))
    monkeypatch.setattr("slotworks.progress._load_advice", list)
    monkeypatch.setattr("slotworks.progress.usable_cores", torch.get_num_threads)
    train(run, tmp_path, stop_after=30)
    return [line for line in capsys.readouterr().err.splitlines() if "steps that are left" in line]


def test_a_training_says_how_long_it_will_take(monkeypatch, tmp_path, capsys):
    run = toy_run(steps=1_025, eval_every=500, eval_images=240, log_every=1_000)
    [line] = estimate(monkeypatch, tmp_path, capsys, run, 1.0)
    # 1,000 steps of 1 s, and 4 evaluations of 30 batches at a third of a step
    assert line == "About 17 minutes for the 1,000 steps that are left, evaluations included."


def test_with_several_runs_it_counts_them_all_and_gives_advice(monkeypatch, tmp_path, capsys):
    run = toy_run(steps=1_025, eval_every=500, eval_images=240, log_every=1_000)
    token = following.set((2, 2_050))
    monkeypatch.setattr("slotworks.training.allocator.keeps", True)
    try:
        [line] = estimate(monkeypatch, tmp_path, capsys, run, 2.0)
    finally:
        following.reset(token)
    assert line == (
        "About 35 minutes for the 1,000 steps that are left, evaluations included; with the 2 runs that follow about "
        "1.8 hours. This is long. Shorter: fewer --steps; a GPU."
    )


def test_a_method_is_shown_training_samples_once_before_the_first_step(tmp_path, monkeypatch):
    """All of a small set in pieces of a batch, as a step sees them, without gradients; not again after a pause."""
    shown = []
    monkeypatch.setattr(Toy, "fit", lambda self, batches: shown.append(([*batches], torch.is_grad_enabled())))
    run = toy_run(steps=4)
    train(run, tmp_path, stop_after=2)
    train(run, tmp_path)
    [(batches, grad)] = shown
    sizes = [len(batch["image"]) for batch in batches]
    assert sum(sizes) == len(run.data.open("train"))
    assert max(sizes) == run.batch_size
    assert all(batch["image"].is_floating_point() for batch in batches)
    assert not grad
