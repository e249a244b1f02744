from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from training_toy import ToyConfig, toy_run

from slotworks.training import Adam, Run, load_run, save_run
from slotworks.training.serialize import from_yaml, to_plain, to_yaml
from slotworks.types import MethodConfig, UserError


@dataclass(frozen=True)
class Part:
    width: int = 3
    rate: float = 1e-4


@dataclass(frozen=True)
class EverythingConfig(MethodConfig):
    rate: float = 1e-4
    scale: float | None = None
    name: str = "1e-4"
    flag: bool = True
    kind_of: Literal["a", "b"] = "a"
    sizes: tuple[int, ...] = (1, 2)
    pair: tuple[float, str] = (1.0, "no")
    names: list[str] = field(default_factory=lambda: ["null", "yes", "ä"])
    table: dict[str, tuple[float, ...]] = field(default_factory=lambda: {"x": (1.0, 2.5)})
    counts: dict[int, float] = field(default_factory=lambda: {3: 0.5})
    part: Part = Part()
    parts: tuple[Part, ...] = (Part(1), Part(2, 1e300))
    maybe: Part | None = None
    folder: Path = Path("a/b")


def typed(value):
    """Equality that tells 1 from 1.0 and a tuple from a list."""
    if isinstance(value, (list, tuple)):
        return type(value), [typed(item) for item in value]
    if isinstance(value, dict):
        return {key: typed(item) for key, item in value.items()}
    return type(value), value if not hasattr(value, "__dict__") or isinstance(value, Path) else typed(vars(value))


def through_yaml(config):
    return from_yaml(MethodConfig, to_yaml(config), source="run.yaml")


def test_round_trip_of_every_kind_of_value():
    config = EverythingConfig(loss_weights={"recon": 1e-7})
    assert typed(through_yaml(config)) == typed(config)
    other = EverythingConfig(scale=float("inf"), sizes=(), names=[], table={}, maybe=Part(), flag=False, kind_of="b")
    assert typed(through_yaml(other)) == typed(other)


@given(st.floats(allow_nan=False), st.text(), st.lists(st.integers(), max_size=3))
def test_round_trip_is_exact(number, text, sizes):
    config = EverythingConfig(rate=number, scale=-number, name=text, sizes=tuple(sizes), pair=(number, text))
    assert typed(through_yaml(config)) == typed(config)


def test_run_file(tmp_path):
    run = toy_run(seed=3, ema_decay=0.999, expected="FG-ARI 99.5 ± 0.2: see docs")
    save_run(run, tmp_path / "run.yaml")
    assert load_run(tmp_path) == load_run(tmp_path / "run.yaml") == run
    text = (tmp_path / "run.yaml").read_text()
    assert text.startswith("format: 1\nkind: Run\nmethod:\n  kind: ToyConfig\n")
    assert "  lr: 0.01\n" in text
    assert "  betas: [0.9, 0.999]\n" in text
    assert "expected: 'FG-ARI 99.5 ± 0.2: see docs'\n" in text


def test_numbers_as_people_write_them():
    """YAML reads 1e-4 as text and 1 as an integer; a float field makes them what was meant."""
    plain = yaml.safe_load(to_yaml(EverythingConfig())) | {"rate": "1e-4", "scale": 2}
    config = from_yaml(MethodConfig, yaml.safe_dump(plain), source="x")
    assert typed((config.rate, config.scale)) == typed((1e-4, 2.0))


def test_numpy_numbers_become_plain():
    import numpy as np

    assert typed(to_plain({"a": np.float64(0.1)})) == typed({"a": 0.1})


def edited(**changes):
    plain = to_plain(toy_run())
    for name, value in changes.items():
        *sections, last = name.split("__")
        inner = plain
        for section in sections:
            inner = inner[section]
        if value is ...:
            del inner[last]
        else:
            inner[last] = value
    return yaml.safe_dump(plain)


def test_a_field_younger_than_the_file_takes_its_default():
    run = from_yaml(Run, edited(optimizer__lr=..., ema_decay=...), source="old.yaml")
    assert run.optimizer.lr == 4e-4
    assert run.ema_decay is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (edited(stepz=3), "Run has no field stepz; its fields are method, data, steps,"),
        (
            edited(method__widht=3),
            "ToyConfig has no field method.widht; its fields are loss_weights, image_size, width,",
        ),
        (edited(steps=...), "the field steps of Run is missing; its fields are method,"),
        (
            edited(method__kind="OtherConfig"),
            "method is of class OtherConfig, which is not known here; import the module that defines it first. Known: ",
        ),
        (edited(data__kind="ToyConfig"), "data is of class ToyConfig, which is not known here"),
        (edited(method__kind=...), "method should be a mapping with `kind` and the fields of a MethodConfig."),
        (edited(data=3), "data should be a mapping"),
        (edited(steps="many"), "steps is 'many'; expected int."),
        (edited(steps=10.0), "steps is 10.0; expected int."),
        (edited(compile=1), "compile is 1; expected bool."),
        (edited(steps=True), "steps is True; expected int."),
        (edited(optimizer__lr="fast"), "optimizer.lr is 'fast'; expected float."),
        (edited(optimizer__lr=None), "optimizer.lr is None; expected float."),
        (edited(optimizer__betas=[0.9]), r"optimizer.betas is \[0.9\]; expected tuple\[float, float\]."),
        (edited(optimizer__betas=[0.9, "x"]), "optimizer.betas is 'x'; expected float."),
        (edited(ema_decay="on"), "ema_decay is 'on'; expected float."),
        (edited(precision="64"), r"precision is '64'; expected Literal\['auto', '32', 'bf16', '16'\]."),
        (edited(method__loss_weights={"recon": "x"}), "method.loss_weights.recon is 'x'; expected float."),
        (edited(batch_size=0), "batch_size is 0; it must be 1 or more."),
        ("kind: [", "is not valid YAML: "),
        ('kind: "\\ud800"', "is not valid YAML: .* surrogates not allowed"),
        ("", "the file should be a mapping with `kind`"),
    ],
)
def test_mistakes_in_the_file(tmp_path, text, sentence):
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(UserError, match=sentence) as caught:
        load_run(tmp_path)
    assert str(caught.value).startswith(str(tmp_path / "run.yaml"))


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"does not exist; give the folder of a run, or its run.yaml"):
        load_run(tmp_path)


def test_a_file_never_imports():
    """A kind with a path of modules is a name like any other, and an unknown one."""
    with pytest.raises(UserError, match=r"method is of class os.path.Evil, which is not known here"):
        from_yaml(Run, edited(method__kind="os.path.Evil"), source="x")
    with pytest.raises(UserError, match="is not valid YAML"):
        from_yaml(Run, "!!python/object/apply:os.getcwd []", source="x")


def test_a_class_defined_again_replaces_the_older_one():
    @dataclass(frozen=True)
    class AgainConfig(MethodConfig):
        old: int = 1

    old = AgainConfig

    @dataclass(frozen=True)
    class AgainConfig(MethodConfig):
        new: int = 2

    assert through_yaml(AgainConfig(new=5)).new == 5
    assert old().old == 1


def test_what_cannot_be_written():
    run = replace(toy_run(), method=ToyConfig(loss_weights={"recon": 1 + 2j}))  # type: ignore[dict-item]
    with pytest.raises(ValueError, match=r"loss_weights.recon is a complex, which run.yaml cannot hold"):
        to_yaml(run)


def test_adam_defaults_are_kept():
    assert from_yaml(Adam, to_yaml(Adam()), source="x") == Adam()
