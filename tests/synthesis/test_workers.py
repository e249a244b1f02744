"""Several workers at once, of which one is killed, make the same files as one process."""

import multiprocessing
import os
import signal
import threading
import time
from dataclasses import replace

import pytest

from slotworks.data.scenes import ShapeScenes
from slotworks.data.stores.generated import find_shards
from slotworks.engines import OneByOne
from slotworks.engines.processes import Processes
from slotworks.progress import console
from slotworks.synthesis import SceneCaptions, synthesize, synthesize_with
from slotworks.types import UserError


def shards(folder):
    return {file.name: file.read_bytes() for file in find_shards(folder)}


def test_one_worker_is_synthesize(config, tmp_path):
    answer = synthesize_with(OneByOne(), config, tmp_path / "with")
    assert not console.quiet  # it is this very process
    synthesize(config, tmp_path / "alone")
    assert shards(tmp_path / "with") == shards(tmp_path / "alone")
    assert (answer["made"], answer["images"], answer["folder"]) == (8, 8, str(tmp_path / "with"))
    with pytest.raises(UserError, match="num_images is 9, but the source has 8 prompts"):
        synthesize_with(OneByOne(), replace(config, num_images=9), tmp_path / "with")


@pytest.mark.slow
def test_a_worker_killed_in_the_middle_costs_nothing_but_time(config, tmp_path, monkeypatch):
    """Each worker is a new interpreter, which takes seconds to start."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    config = replace(config, source=SceneCaptions(ShapeScenes(num_train=60)), shard_size=4, steps=20)
    killed = []

    def kill():
        while len(find_shards(tmp_path / "many")) < 3:
            time.sleep(0.05)
        killed.append(multiprocessing.active_children()[0].pid)
        os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    answer = synthesize_with(Processes(2), config, tmp_path / "many")
    thread.join()
    assert (answer["images"], answer["shards"]) == (60, 15)
    assert answer["made"] < 60  # what the killed one had made nobody counts
    synthesize_with(Processes(1), config, tmp_path / "one")  # in one process with as many threads
    assert shards(tmp_path / "many") == shards(tmp_path / "one")
    assert not list((tmp_path / "many").glob(".claims*"))
