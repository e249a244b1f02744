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
        write_eval(tmp_path, "test", RECORD | {"metrics": object()})
    assert json.loads(path.read_text())["seed"] == 0
    assert write_eval(tmp_path, "test", RECORD | {"metrics": {"mbo_i": {"mean": 0.5, "sem": 0.1, "n": 2}}}) == path
    assert json.loads(path.read_text())["metrics"]["mbo_i"]["mean"] == 0.5
    assert [file.name for file in path.parent.iterdir()] == ["test.json"]


MADE = {"step": 1000, "batch_size": 64, "options": {}, "data": {"kind": "ClevrConfig", "root": "/data/one", "size": 64}}


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"num_images": 8}, "test-8-images"),
        ({"seed": 1}, "test-seed-1"),
        ({"num_images": 8, "seed": 1}, "test-8-images-seed-1"),
        ({"settings": MADE | {"step": 2000}}, "test-step-2000"),
        ({"settings": MADE | {"batch_size": 8}}, "test-batch-size-8"),
        ({"settings": MADE | {"options": {"steps": 50}}}, "test-steps-50"),
        ({"settings": MADE | {"data": MADE["data"] | {"root": "/data/two"}}}, "test-root-two"),
        ({"settings": MADE | {"data": MADE["data"] | {"root": "/data/" + 100 * "x"}}}, "test-2"),
        ({"rules": "oclf: FG-ARI; void pixels dropped"}, "test-2"),
        ({"checkpoint": "none: nothing was trained"}, "test-2"),
        ({"settings": None}, "test-2"),
    ],
)
def test_a_record_made_in_another_way_is_not_replaced(tmp_path, changed, name):
    first = RECORD | {"settings": MADE}
    path = write_eval(tmp_path, "test", first)
    before = path.read_bytes()
    other = write_eval(tmp_path, "test", first | changed)
    assert other == tmp_path / "eval" / f"{name}.json"
    assert path.read_bytes() == before
    assert write_eval(tmp_path, "test", first | changed) == other  # the same way again takes its own place
    assert write_eval(tmp_path, "test", first) == path
    third = write_eval(tmp_path, "test", first | changed | {"split": "val"})
    assert third not in (path, other)
    assert len(list(path.parent.iterdir())) == 3


def test_records_of_older_versions_and_damaged_ones_stay(tmp_path):
    """They do not say how they were made, so nothing is known to be the same."""
    old = write_eval(tmp_path, "test", RECORD)
    damaged = tmp_path / "eval" / "val.json"
    damaged.write_text("{")
    assert write_eval(tmp_path, "test", RECORD | {"settings": MADE}).name == "test-2.json"
    assert write_eval(tmp_path, "val", RECORD | {"settings": MADE}).name == "val-2-images-seed-0.json"
    assert "settings" not in json.loads(old.read_text())
    assert damaged.read_text() == "{"


def test_mistakes(tmp_path):
    with pytest.raises(UserError, match="nowhere is not a run folder"):
        write_eval(tmp_path / "nowhere", "test", RECORD)
    for name in ("a/b", "../x", "", ".."):
        with pytest.raises(UserError, match="is not a plain file name"):
            write_eval(tmp_path, name, RECORD)
    with pytest.raises(ValueError, match="A record has the keys data, split, protocol"):
        write_eval(tmp_path, "test", {key: RECORD[key] for key in KEYS[1:]})


@pytest.mark.parametrize("depth", [900, 100_000])
def test_a_record_of_great_depth_stays(tmp_path, depth):
    """Less deep it can be parsed, but not walked through; deeper not even that."""
    (tmp_path / "eval").mkdir()
    deep = '{"num_images": 2, "seed": 0, "settings": ' + '{"a": ' * depth + "1" + "}" * depth + "}"
    (tmp_path / "eval" / "test.json").write_text(deep)
    assert write_eval(tmp_path, "test", {**RECORD, "settings": {"step": 1}}).name != "test.json"
    assert (tmp_path / "eval" / "test.json").read_text() == deep
