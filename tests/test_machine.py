"""What is set for torch's threads before it is imported, on simulated systems."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from slotworks.machine import (
    busy_elsewhere,
    cgroup_cpus,
    prepare_threads,
    processor,
    threads_given,
    usable_cores,
)


def system(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


V1 = "12:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc\n"


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/\n"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
        (  # a slice of systemd with a limit on the group above
            {
                "proc/self/cgroup": "0::/user.slice/job.scope\n",
                "sys/fs/cgroup/user.slice/cpu.max": "200000 100000\n",
                "sys/fs/cgroup/user.slice/job.scope/cpu.max": "400000 100000\n",
            },
            2.0,
        ),
        (  # a container of version 1: the path is the host's
            {
                "proc/self/cgroup": V1,
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "50000\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            0.5,
        ),
        (
            {
                "proc/self/cgroup": V1 + "0::/\n",
                "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_quota_us": "300000\n",
                "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            3.0,
        ),
    ],
)
def test_limits_of_control_groups(tmp_path, files, cores):
    assert cgroup_cpus(system(tmp_path, files)) == cores


def test_threads_follow_the_limit_and_what_is_set_stays(tmp_path, monkeypatch):
    monkeypatch.setattr("slotworks.machine.usable_cores", lambda: 4)
    root = system(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"})

    def prepared(**environment: str) -> dict[str, str]:
        prepare_threads(environment, root)
        return environment

    assert prepared() == {"GOMP_SPINCOUNT": "3000", "OMP_NUM_THREADS": "2", "SLOTWORKS_THREADS": "2"}
    assert prepared(OMP_NUM_THREADS="3")["OMP_NUM_THREADS"] == "3"
    assert prepared(GOMP_SPINCOUNT="1000")["GOMP_SPINCOUNT"] == "1000"
    assert "GOMP_SPINCOUNT" not in prepared(OMP_WAIT_POLICY="active")
    monkeypatch.setattr("slotworks.machine.usable_cores", lambda: 1)  # affinity is the smaller one: OpenMP sees that
    assert "OMP_NUM_THREADS" not in prepared()


def test_it_happens_before_torch_is_imported():
    """In a process of its own, on one core: torch takes no more threads than there are cores."""
    names = ("OMP_WAIT_POLICY", "OMP_NUM_THREADS", "GOMP_SPINCOUNT")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    code = (
        "import os; hasattr(os, 'sched_setaffinity') and os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "import sys, slotworks, json; early = 'torch' in sys.modules; import torch;"
        "print(json.dumps([early, os.environ['GOMP_SPINCOUNT'], torch.get_num_threads()]))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    early, spins, threads = json.loads(done.stdout)
    assert (early, spins) == (False, "3000")
    assert threads == 1 or not hasattr(os, "sched_setaffinity")
    assert usable_cores() >= 1


def test_the_processor_is_named_with_its_instructions(tmp_path):
    cores = "processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: fpu avx2 avx512f avx512_bf16\n\n"
    root = system(tmp_path, {"proc/cpuinfo": cores + cores.replace("EPYC", "other")})
    assert processor(root) == "AMD EPYC, avx2, avx512f, avx512_bf16"
    assert processor(tmp_path / "none") != ""


def stat(*cores: tuple[int, ...]) -> dict[str, str]:
    lines = ["cpu  1 2 3 4", *(f"cpu{i} {' '.join(map(str, ticks))} 0 0" for i, ticks in enumerate(cores)), "intr 5 6"]
    return {"proc/stat": "\n".join(lines) + "\n"}


def test_what_other_programs_take(tmp_path, monkeypatch):
    """Of ten ticks core 0 worked nine, core 1 five that gave way and two that did not, core 2 is not ours."""
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1}, raising=False)
    root = system(tmp_path, stat((100, 0, 50, 800, 5, 0, 0, 0), (7, 0, 3, 990, 0, 0, 0, 0), (0,) * 8))

    def later(seconds):
        assert seconds == 0.25
        system(root, stat((105, 0, 52, 801, 5, 1, 0, 1), (8, 5, 4, 993, 0, 0, 0, 0), (10, 0, 0, 0, 0, 0, 0, 0)))

    monkeypatch.setattr("slotworks.machine.time.sleep", later)
    assert busy_elsewhere(0.25, root) == pytest.approx(0.9 + 0.2)
    assert busy_elsewhere(0.25, tmp_path / "nothing") == 0


def test_threads_that_the_user_chose():
    assert not threads_given({})
    assert threads_given({"OMP_NUM_THREADS": "2"})
    assert not threads_given({"OMP_NUM_THREADS": "2", "SLOTWORKS_THREADS": "2"})
    assert threads_given({"OMP_NUM_THREADS": "1", "SLOTWORKS_THREADS": "2"})
