"""Precision and memory layout that fit the machine, which is simulated."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from test_loop import ENVIRONMENT, SCRIPT, last, losses, same_state
from training_toy import in_processes, toy_run

from slotworks.cli.sweep import _one
from slotworks.cli.train import override
from slotworks.configs import recipes
from slotworks.training import load_run, numerics, open_fabric, train
from slotworks.training.numerics import TABLE, device_kind, fast_precision, settle, unsettled

AVX2 = {"sse4_2", "avx", "avx2", "fma"}
ZEN5 = {*AVX2, "avx512f", "avx512_bf16"}
SAPPHIRE_RAPIDS = {*AVX2, "avx512f", "amx_bf16", "amx_tile"}
ICE_LAKE = {*AVX2, "avx512f", "avx512_vnni"}
GRAVITON = {"asimd", "sve", "bf16"}


def processor(monkeypatch, flags: set[str], capability: str, **environment: str) -> None:
    """A CPU as the system and torch would show it."""
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(numerics, "cpu_flags", lambda: flags)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)


@pytest.mark.parametrize(
    ("flags", "capability", "environment", "kind"),
    [
        (AVX2, "AVX2", {}, "cpu"),
        (GRAVITON, "SVE256", {}, "cpu"),
        (ICE_LAKE, "AVX512", {}, "cpu-avx512"),
        (ZEN5, "AVX512", {}, "cpu-bf16"),
        (SAPPHIRE_RAPIDS, "AVX512", {}, "cpu-bf16"),
        (ZEN5, "AVX2", {}, "cpu"),  # ATEN_CPU_CAPABILITY=avx2
        (ZEN5, "AVX512", {"ONEDNN_MAX_CPU_ISA": "AVX2"}, "cpu"),
        (ZEN5, "AVX512", {"DNNL_MAX_CPU_ISA": "avx2_vnni"}, "cpu"),
        (ZEN5, "AVX512", {"ONEDNN_MAX_CPU_ISA": "avx512_core"}, "cpu-avx512"),
        (ZEN5, "AVX512", {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}, "cpu-bf16"),
        (SAPPHIRE_RAPIDS, "AVX512", {"ONEDNN_MAX_CPU_ISA": "DEFAULT"}, "cpu-bf16"),
    ],
)
def test_kinds_of_processors(monkeypatch, flags, capability, environment, kind):
    processor(monkeypatch, flags, capability, **environment)
    assert device_kind(torch.device("cpu")) == kind


@pytest.mark.parametrize(
    ("capability", "kind"), [((6, 1), "cuda"), ((7, 5), "cuda"), ((8, 0), "cuda-bf16"), ((9, 0), "cuda-bf16")]
)
def test_kinds_of_gpus(monkeypatch, capability, kind):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert device_kind(torch.device("cuda", 1)) == kind
    assert device_kind(torch.device("mps")) == "mps"
    assert device_kind(torch.device("xpu")) == "other"


@pytest.mark.parametrize(
    ("kind", "precision", "layout_of_that", "layouts"),
    [
        ("other", "32", False, {"32": False, "bf16": False, "16": False}),
        ("mps", "32", False, {"32": False, "bf16": False, "16": False}),
        ("cpu", "32", False, {"32": False, "bf16": False, "16": False}),
        ("cpu-avx512", "32", True, {"32": True, "bf16": False, "16": False}),
        ("cpu-bf16", "bf16", True, {"32": True, "bf16": True, "16": False}),
        ("cuda", "16", True, {"32": False, "bf16": False, "16": True}),
        ("cuda-bf16", "bf16", True, {"32": False, "bf16": True, "16": True}),
    ],
)
def test_the_table_row_by_row(kind, precision, layout_of_that, layouts):
    settled = settle(toy_run(precision="auto", channels_last="auto"), kind)
    assert (settled.precision, settled.channels_last) == (precision, layout_of_that)
    for asked, layout in layouts.items():
        assert settle(toy_run(precision=asked, channels_last="auto"), kind).channels_last is layout
        assert settle(toy_run(precision=asked, channels_last=True), kind) == toy_run(
            precision=asked, channels_last=True
        )
    assert precision not in TABLE[kind].slow


def test_every_row_is_tested_and_the_weakest_comes_first():
    assert list(TABLE) == ["other", "mps", "cpu", "cpu-avx512", "cpu-bf16", "cuda", "cuda-bf16"]


def test_flags_of_this_processor():
    flags = numerics.cpu_flags()
    if Path("/proc/cpuinfo").is_file():
        assert flags & {"sse2", "asimd"}
    assert ("avx512_bf16" in flags) == torch.cpu._is_avx512_bf16_supported()


def test_auto_becomes_what_the_machine_does_fast(tmp_path, monkeypatch):
    for name, (flags, capability, precision, layout) in {
        "avx2": (AVX2, "AVX2", "32", False),
        "zen5": (ZEN5, "AVX512", "bf16", True),
    }.items():
        processor(monkeypatch, flags, capability)
        train(toy_run(precision="auto", channels_last="auto", steps=2), tmp_path / name)
        train(toy_run(precision=precision, channels_last=layout, steps=2), tmp_path / "asked" / name)
        run = load_run(tmp_path / name)
        assert (run.precision, run.channels_last) == (precision, layout)
        assert last(tmp_path / name).run == run
        same_state(last(tmp_path / name), last(tmp_path / "asked" / name))


def test_a_run_goes_on_in_the_form_of_the_machine_and_says_so(tmp_path, monkeypatch, capsys):
    run = toy_run(precision="auto", channels_last="auto")
    processor(monkeypatch, ZEN5, "AVX512")
    train(run, tmp_path, stop_after=4)
    train(run, tmp_path, stop_after=1)
    assert "Numerics" not in capsys.readouterr().err
    processor(monkeypatch, AVX2, "AVX2")
    result = train(run, tmp_path)
    assert result.step == 10
    found = [line for line in capsys.readouterr().err.splitlines() if "Numerics" in line]
    before, after = "precision bf16, channels_last True", "precision 32, channels_last False"
    assert found == [f"Numerics change at step 5: {before} until here, {after} from here on."]
    assert load_run(tmp_path) == replace(run, precision="32", channels_last=False)


@pytest.mark.parametrize(("first", "second", "scale"), [("16", "32", None), ("32", "16", 65536.0)])
def test_a_precision_that_is_asked_for_is_obeyed(tmp_path, capsys, first, second, scale):
    """The loss scale of float16 is left behind, or begins anew."""
    train(toy_run(precision=first), tmp_path, stop_after=4)
    assert (last(tmp_path).scaler == {}) == (first == "32")
    train(toy_run(precision=second), tmp_path)
    assert last(tmp_path).scaler.get("scale") == scale
    assert last(tmp_path).run.precision == second
    assert f"precision {first}, channels_last False until here, precision {second}" in capsys.readouterr().err


def test_a_slow_precision_is_told_once_and_obeyed(tmp_path, monkeypatch, capsys):
    processor(monkeypatch, AVX2, "AVX2")
    train(toy_run(precision="bf16", steps=2), tmp_path / "slow")
    found = [line for line in capsys.readouterr().err.splitlines() if "precision is" in line]
    assert found == [
        "precision is bf16, for which this CPU has no instructions: it takes about ten times as long as precision 32, "
        "which auto would choose."
    ]
    assert load_run(tmp_path / "slow").precision == "bf16"
    processor(monkeypatch, ZEN5, "AVX512")
    train(toy_run(precision="bf16", steps=2), tmp_path / "fast")
    assert "precision is" not in capsys.readouterr().err


def test_processes_agree_on_the_weakest(tmp_path):
    """Together they decide for float32; DDP would fail, or average unlike gradients, if each decided for itself."""
    in_processes(2, SCRIPT, ["unlike", tmp_path], ENVIRONMENT)
    run = load_run(tmp_path)
    assert (run.precision, run.channels_last) == ("32", False)
    assert json.loads((tmp_path / "env.json").read_text())["processes"] == 2


def test_auto_takes_the_precision_of_a_fabric_of_ones_own(tmp_path, monkeypatch):
    processor(monkeypatch, AVX2, "AVX2")
    fabric = open_fabric(toy_run(precision="bf16"), accelerator="cpu")
    train(toy_run(precision="auto", channels_last="auto", steps=2), tmp_path, fabric=fabric)
    run = load_run(tmp_path)
    assert (run.precision, run.channels_last) == ("bf16", False)
    fsdp = SimpleNamespace(strategy=SimpleNamespace(precision=SimpleNamespace(precision="16-mixed")))
    assert numerics.settle_run(toy_run(precision="auto"), fabric=fsdp).precision == "16"  # type: ignore[arg-type]


def test_auto_repeats_bit_for_bit(tmp_path, monkeypatch):
    processor(monkeypatch, ZEN5, "AVX512")
    run = toy_run(precision="auto", channels_last="auto")
    train(run, tmp_path / "parts", stop_after=4)
    train(run, tmp_path / "parts")
    train(run, tmp_path / "whole")
    same_state(last(tmp_path / "parts"), last(tmp_path / "whole"))
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


def test_nested_settings_and_what_was_kept(monkeypatch):
    from slotworks.data import COCO
    from slotworks.synthesis import CaptionedImages, Synthesis
    from slotworks.synthesis.captions import CaptionerConfig

    asked = Synthesis(source=CaptionedImages(COCO(), CaptionerConfig(precision="auto")), precision="auto")
    settled = settle(asked, "cuda-bf16")
    assert settled == Synthesis(source=CaptionedImages(COCO(), CaptionerConfig(precision="bf16")), precision="bf16")
    assert settle(settled, "cpu") == settled
    assert settle(asked, "cpu", settled) == settled


def test_a_fast_precision(monkeypatch):
    processor(monkeypatch, ZEN5, "AVX512")
    assert [fast_precision(name, torch.device("cpu")) for name in ("auto", "16", "32")] == ["bf16", "16", "32"]
    processor(monkeypatch, AVX2, "AVX2")
    assert fast_precision("auto", torch.device("cpu")) == "32"


def test_miniatures_fit_the_machine_and_published_recipes_say_their_precision():
    measured = {"slot_diffusion.scenes_mini", "slot_diffusion.video_scenes_mini"}  # float32 was faster everywhere
    for name, recipe in recipes().items():
        run = recipe()
        if "_mini" in name and run.steps:
            assert run.precision == ("32" if name in measured else "auto"), name
            assert run.channels_last == "auto", name
        elif name != "tiny_diffusion.scenes":
            assert run.precision != "auto", name


@pytest.mark.parametrize(
    ("words", "layout"),
    [
        ([], "auto"),
        (["--channels-last", "True"], True),
        (["--channels-last", "auto"], "auto"),
        (["--channels-last"], True),
        (["--channels_last", "--steps", "3"], True),
        (["--no-channels-last", "--steps", "3"], False),
    ],
)
def test_the_layout_on_the_command_line(words, layout):
    run = override(toy_run(channels_last="auto"), words, prog="slotworks train toy")
    assert run.channels_last == layout
    assert run.steps == (3 if "3" in words else 10)


def test_a_sweep_recognises_what_it_finished(tmp_path, monkeypatch):
    run = toy_run(precision="auto", channels_last="auto", steps=2)
    calls = []

    def trained(run, folder, device):
        calls.append(folder)
        train(run, folder)
        return {"metrics": {}, "seconds": 1.0, "verdict": ""}

    monkeypatch.setattr("slotworks.api.train", trained)
    first = _one(run, tmp_path, None)
    assert _one(run, tmp_path, None) == first
    assert len(calls) == 1
    assert unsettled(load_run(tmp_path), run) == run
    _one(replace(run, steps=3), tmp_path, None)
    assert len(calls) == 2
