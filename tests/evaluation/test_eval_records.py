"""RUN/eval/NAME.json."""

import json

import pytest

from slotworks.evaluation.records import KEYS, write_eval
from slotworks.types import UserError

RECORD = {
    "data": "tetrominoes",
    "split": "test",
    "protocol": "oclf",
    "rules": "oclf: FG-ARI",
    "num_images": 2,
    "checkpoint": "checkpoints/last",
    "seed": 0,
    "metrics": {"mbo_i": {"mean": 0.25, "sem": float("nan"), "n": 1}},
    "per_image": {"mbo_i": [0.25, float("nan")]},
}


def test_record_is_read_back(tmp_path):
    path = write_eval(tmp_path, "test-oclf[attention]", RECORD)
    assert path == tmp_path / "eval" / "test-oclf[attention].json"

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    stored = json.loads(path.read_text(), parse_constant=refuse)
    assert tuple(stored) == KEYS
    assert stored["per_image"] == {"mbo_i": [0.25, None]}
    assert stored["metrics"] == {"mbo_i": {"mean": 0.25, "sem": None, "n": 1}}
    assert {key: stored[key] for key in KEYS[:7]} == {key: RECORD[key] for key in KEYS[:7]}


def test_nothing_is_lost_and_nothing_left_behind(tmp_path):
    path = write_eval(tmp_path, "test", RECORD)
    with pytest.raises(TypeError):
        write_eval(tmp_path, "test", RECORD | {"seed": object()})
    assert json.loads(path.read_text())["seed"] == 0
    write_eval(tmp_path, "test", RECORD | {"seed": 1})
    assert json.loads(path.read_text())["seed"] == 1
    assert [file.name for file in path.parent.iterdir()] == ["test.json"]


def test_mistakes(tmp_path):
    with pytest.raises(UserError, match="nowhere is not a run folder"):
        write_eval(tmp_path / "nowhere", "test", RECORD)
    for name in ("a/b", "../x", "", ".."):
        with pytest.raises(UserError, match="is not a plain file name"):
            write_eval(tmp_path, name, RECORD)
    with pytest.raises(ValueError, match="A record has the keys data, split, protocol"):
        write_eval(tmp_path, "test", {key: RECORD[key] for key in KEYS[1:]})
