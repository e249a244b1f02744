"""Does it learn at all? Minutes of training: run with `-m slow`."""

from dataclasses import replace

import pytest

from slotworks import train
from slotworks.configs import slot_attention


@pytest.mark.slow
@pytest.mark.parametrize("seed", [10, 11])
def test_tetrominoes_mini_finds_objects_in_a_third_of_its_steps(seed, tmp_path):
    run = replace(slot_attention.tetrominoes_mini(), steps=3_000, eval_every=3_000, seed=seed)
    answer = train(run, tmp_path / "run")
    assert answer["metrics"]["fg_ari"]["mean"] > 0.85
    assert not answer["verdict"].startswith("collapsed")
