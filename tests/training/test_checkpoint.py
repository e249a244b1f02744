import json
import resource
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from training_toy import ToyConfig, toy_run

from slotworks.training import load_method, load_weights, train
from slotworks.training.checkpoint import Checkpoint, checkpoint_step, load_checkpoint, save_checkpoint
from slotworks.types import UserError


@pytest.fixture
def checkpoint():
    torch.manual_seed(0)
    method = ToyConfig(width=64).build()
    average = {name: p.detach() + 1 for name, p in method.named_parameters() if p.requires_grad}
    run = replace(toy_run(), method=ToyConfig(width=64))
    optimizer = {"up.bias.step": torch.tensor(3.0), "up.bias.exp_avg": torch.arange(48.0)}
    return Checkpoint(run, 3, 1.25, method.state_dict(), average, optimizer, {"scale": 1024.0})


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name
        assert a[name].dtype == b[name].dtype


def test_round_trip(checkpoint, tmp_path):
    path = tmp_path / "checkpoints" / "last.safetensors"
    save_checkpoint(checkpoint, path)
    loaded = load_checkpoint(path)
    assert (loaded.run, loaded.step, loaded.seconds, loaded.scaler) == (checkpoint.run, 3, 1.25, {"scale": 1024.0})
    same(loaded.model, checkpoint.model)
    same(loaded.ema, checkpoint.ema)
    same(loaded.optimizer, checkpoint.optimizer)
    assert [file.name for file in path.parent.iterdir()] == ["last.safetensors"]


def test_weights_with_and_without_the_average(checkpoint, tmp_path):
    save_checkpoint(checkpoint, tmp_path / "checkpoints" / "last.safetensors")
    config, averaged = load_weights(tmp_path)  # a run folder stands for its last checkpoint
    assert config == checkpoint.run.method
    _, raw = load_weights(tmp_path / "checkpoints" / "last.safetensors", ema=False)
    same(raw, checkpoint.model)
    assert torch.equal(averaged["up.bias"], checkpoint.model["up.bias"] + 1)
    assert torch.equal(averaged["frozen.weight"], checkpoint.model["frozen.weight"])  # only trainable ones are averaged
    method = load_method(tmp_path)
    same(method.state_dict(), averaged)
    assert not method.training
    same(load_method(tmp_path, ema=False).state_dict(), raw)


def test_the_data_class_need_not_be_known(checkpoint, tmp_path):
    save_checkpoint(checkpoint, tmp_path / "a.safetensors")
    edit(tmp_path / "a.safetensors", lambda metadata: metadata["run"].replace("ToyData", "Gone"))
    assert load_weights(tmp_path / "a.safetensors")[0] == checkpoint.run.method
    with pytest.raises(UserError, match="data is of class Gone, which is not known here"):
        load_checkpoint(tmp_path / "a.safetensors")


def test_tied_weights_are_saved_twice(checkpoint, tmp_path):
    weight = torch.arange(4.0)
    tied = replace(checkpoint, model={"a": weight, "b": weight, "c": weight[::2]}, ema={}, optimizer={})
    save_checkpoint(tied, tmp_path / "a.safetensors")
    same(load_checkpoint(tmp_path / "a.safetensors").model, tied.model)


def edit(path, change_run=None, **metadata):
    with safe_open(path, "pt") as file:
        old = file.metadata()
    if change_run:
        old["run"] = change_run(old)
    save_file(load_file(path), path, metadata={k: v for k, v in {**old, **metadata}.items() if v is not None})


def test_damaged_files(checkpoint, tmp_path):
    path = tmp_path / "a.safetensors"
    save_checkpoint(checkpoint, path)
    whole = path.read_bytes()
    for name, data in {
        "short": whole[:-1],
        "half": whole[: len(whole) // 2],
        "empty": b"",
        "text": b"not it " * 9,
    }.items():
        path.write_bytes(data)
        for load in (load_checkpoint, load_weights, load_method):
            with pytest.raises(
                UserError, match=r"a.safetensors is cut short or not a safetensors file \(.*\); use"
            ) as e:
                load(path)
            assert "\n" not in str(e.value), name


def test_files_that_are_something_else(checkpoint, tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(UserError, match="is a safetensors file, but not a checkpoint of slotworks"):
        load_weights(path)
    save_checkpoint(checkpoint, path)
    edit(path, step=None)
    with pytest.raises(UserError, match="is a safetensors file, but not a checkpoint of slotworks"):
        load_checkpoint(path)
    save_checkpoint(checkpoint, path)
    edit(path, version="2")
    with pytest.raises(UserError, match=r"has checkpoint format 2; this slotworks reads 1. Install a newer one"):
        load_checkpoint(path)
    with pytest.raises(UserError, match="nowhere does not exist; give a checkpoint, or the folder of a run"):
        load_weights(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"checkpoints/last.safetensors does not exist"):
        load_weights(tmp_path)


@pytest.mark.parametrize(
    "metadata", [{"step": "many"}, {"seconds": "x"}, {"scaler": "{"}, {"scaler": "[" * 5000}], ids=range(4)
)
def test_a_checkpoint_that_does_not_say_how_far_it_is(checkpoint, tmp_path, metadata):
    save_checkpoint(checkpoint, tmp_path / "a.safetensors")
    edit(tmp_path / "a.safetensors", **metadata)
    with pytest.raises(UserError, match=r"a\.safetensors does not say how far it is"):
        load_checkpoint(tmp_path / "a.safetensors")


@pytest.mark.parametrize("run", ["&a [*a]", "[", "3", "{}", "method: [1]"])
def test_settings_in_a_checkpoint_that_are_none(checkpoint, tmp_path, run):
    save_checkpoint(checkpoint, tmp_path / "a.safetensors")
    edit(tmp_path / "a.safetensors", lambda metadata: run)
    with pytest.raises(UserError, match=r"a\.safetensors: "):
        load_weights(tmp_path / "a.safetensors")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_names_of_a_wrapped_module(checkpoint, tmp_path, prefix):
    wrapped = {prefix + name: value for name, value in checkpoint.model.items()}
    save_checkpoint(replace(checkpoint, model=wrapped, ema={}), tmp_path / "a.safetensors")
    same(load_method(tmp_path / "a.safetensors").state_dict(), checkpoint.model)


def test_weights_that_do_not_fit(checkpoint, tmp_path):
    path = tmp_path / "a.safetensors"
    save_checkpoint(replace(checkpoint, run=toy_run(), ema={}), path)  # the settings say width 6, the weights are 64
    with pytest.raises(
        UserError, match=r"holds down.weight with shape \(64, 48\) but the settings of Toy ask for \(6, 48\)"
    ):
        load_method(path)
    lacking = {name: value for name, value in checkpoint.model.items() if name != "up.bias"}
    save_checkpoint(replace(checkpoint, model=lacking, ema={}), path)
    with pytest.raises(UserError, match=r"lacks the weight up.bias of Toy; it was written for other settings or code"):
        load_method(path)
    save_checkpoint(replace(checkpoint, model=checkpoint.model | {"extra": torch.zeros(1)}), path)
    with pytest.raises(UserError, match="has a weight extra that Toy lacks"):
        load_method(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    ("section", "name", "loads"),
    [
        ("model", "down.weight", (load_checkpoint, load_method)),
        ("ema", "up.bias", (load_checkpoint, load_method)),
        ("optimizer", "up.bias.exp_avg", (load_checkpoint,)),
    ],
)
def test_tensors_that_hold_no_numbers(checkpoint, tmp_path, section, name, loads, value):
    path = tmp_path / "a.safetensors"
    tensors = {key: one.clone() for key, one in getattr(checkpoint, section).items()}
    tensors[name].flatten()[-1] = value
    save_checkpoint(replace(checkpoint, **{section: tensors}), path)
    for load in loads:
        with pytest.raises(UserError, match=rf"a.safetensors holds NaN or infinity in the tensor {section}.{name}: "):
            load(path)
    assert checkpoint_step(path) == 3  # the tensors are not read
    if section == "optimizer":
        load_method(path)  # which does not need it


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.int32])
def test_tensors_of_another_dtype(checkpoint, tmp_path, dtype):
    """The same bytes under another name, or digits that were cut off, would be copied without a word."""
    path = tmp_path / "a.safetensors"
    weights = checkpoint.model | {"up.bias": checkpoint.model["up.bias"].to(dtype)}
    save_checkpoint(replace(checkpoint, model=weights, ema={}), path)
    own = str(dtype).removeprefix("torch.")
    with pytest.raises(UserError, match=rf"a.safetensors holds up.bias as {own} but Toy has float32"):
        load_method(path)


@pytest.fixture
def full_disk():
    """Files may not grow beyond a limit: the system refuses the write, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_keeps_the_old_checkpoint(checkpoint, tmp_path, full_disk):
    path = tmp_path / "a.safetensors"
    full_disk(10_000)
    with pytest.raises(UserError, match=r"a.safetensors could not be written \(.*\); nothing was there before"):
        save_checkpoint(checkpoint, path)
    assert list(tmp_path.iterdir()) == []
    full_disk(resource.RLIM_INFINITY)
    save_checkpoint(checkpoint, path)
    before = path.read_bytes()
    full_disk(10_000)
    with pytest.raises(UserError, match=r"could not be written .*; the file that was there is untouched"):
        save_checkpoint(replace(checkpoint, step=4), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_training_on_a_full_disk_ends_with_a_sentence_and_goes_on_later(tmp_path, full_disk, monkeypatch):
    monkeypatch.setattr("sys.argv", ["pytest"])  # env.json holds it, and shall be small
    run = toy_run(steps=20)
    train(run, tmp_path, stop_after=5)
    last = tmp_path / "checkpoints" / "last.safetensors"
    before, lines = last.read_bytes(), (tmp_path / "metrics.jsonl").read_bytes()
    full_disk(len(before) - 1)
    with pytest.raises(UserError, match=r"last.safetensors could not be written"):
        train(run, tmp_path)
    assert last.read_bytes() == before
    full_disk(len(lines) + 500)  # the next lines do not fit
    with pytest.raises(
        UserError, match=r"metrics.jsonl could not be extended \(File too large\); the last checkpoint is u"
    ):
        train(run, tmp_path)
    assert last.read_bytes() == before
    full_disk(resource.RLIM_INFINITY)
    train(run, tmp_path)
    train(run, tmp_path / "whole")
    assert last.read_bytes()[-1000:] == (tmp_path / "whole/checkpoints/last.safetensors").read_bytes()[-1000:]
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 21))


def test_an_error_of_our_own_also_leaves_nothing_half_written(checkpoint, tmp_path, monkeypatch):
    def interrupted(tensors, path, metadata):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("slotworks.training.checkpoint.save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(checkpoint, tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("key", "text"), [("step", "\u00b2"), ("step", "1" * 5_000), ("version", "\u00b2")])
def test_digits_that_are_no_number(checkpoint, tmp_path, key, text):
    path = tmp_path / "a.safetensors"
    save_checkpoint(checkpoint, path)
    edit(path, **{key: text})
    for load in (load_checkpoint, checkpoint_step):
        with pytest.raises(UserError, match=r"does not say how far it is|has checkpoint format \u00b2"):
            load(path)
