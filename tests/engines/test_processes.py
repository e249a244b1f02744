"""Parts in processes of this machine: answers, errors, processes that die."""

import multiprocessing
import os
import shutil
from pathlib import Path

import pytest
import simple_parts

from slotworks.engines import TRIES, OneByOne, Part, find_engine
from slotworks.engines.processes import Processes
from slotworks.errors import UserError


@pytest.mark.parametrize("engine", [OneByOne(), Processes(2)], ids=["one by one", "two processes"])
def test_answers_and_errors_of_parts(engine):
    parts = [Part(str(k), simple_parts.square, (k,)) for k in range(4)]
    parts += [Part(kind, simple_parts.fail, (kind,)) for kind in ("user", "fussy", "value")]
    found = dict(engine.run(parts))
    assert [found[k][0] for k in range(4)] == [0, 1, 4, 9]
    assert {found[k][1] == os.getpid() for k in range(4)} == {engine.slots() == 1}
    assert len({found[k][1] for k in range(4)}) <= engine.slots()
    assert isinstance(found[4], UserError)
    assert [str(found[k]) for k in (4, 6)] == ["Give less.", "no"]
    assert "1 and 2" in str(found[5])
    if engine.slots() > 1:
        assert all("in fail\n" in found[k].__notes__[0] for k in (5, 6))
    assert not hasattr(found[4], "__notes__")
    assert list(engine.run([])) == []


def test_a_part_whose_process_dies_is_run_again(tmp_path):
    (tmp_path / "often").mkdir()
    parts = [Part("fine", simple_parts.square, (3,)), Part("dies twice", simple_parts.die, (str(tmp_path), 2))]
    parts.append(Part("Seed 7", simple_parts.die, (str(tmp_path / "often"), TRIES)))
    found = dict(Processes(2).run(parts))
    assert (found[0][0], found[1]) == (9, "alive")
    assert str(found[2]).startswith("Seed 7 was lost with its process 4 times, as happens when memory runs out;")
    log = Path(str(found[2]).partition("What it said last is in ")[2].partition(" The same")[0].rstrip("."))
    assert "It dies." in log.read_text()
    shutil.rmtree(log.parent)


def test_each_worker_has_its_gpu_and_its_share_of_the_cores(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    monkeypatch.setattr("slotworks.engines.processes.usable_cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    parts = [Part(name, simple_parts.environment, (name,)) for name in ["CUDA_VISIBLE_DEVICES"] * 4]
    assert {answer for _, answer in Processes(2).run(parts)} == {"3", "5"}
    assert list(Processes(4)._environment(2).items()) == [("OMP_NUM_THREADS", "2"), ("CUDA_VISIBLE_DEVICES", "3")]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert "OMP_NUM_THREADS" not in Processes(4)._environment(0)


def test_workers_end_with_the_one_who_asked():
    running = Processes(2).run([Part("slow", simple_parts.environment, ("PATH",)) for _ in range(50)])
    next(running)
    running.close()
    assert not [process for process in multiprocessing.active_children() if process.is_alive()]


def test_wrong_engines_are_refused():
    with pytest.raises(UserError, match=r"--engine is slurm; there are processes and ray\."):
        find_engine("slurm")
    with pytest.raises(UserError, match=r"--address is a:1, but processes run on this machine; add --engine ray\."):
        find_engine(address="a:1")
    assert isinstance(find_engine(), OneByOne)
    assert find_engine(workers=3).slots() == 3
