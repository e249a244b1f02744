"""What is decided about the machine before torch is imported. Imports nothing heavy."""

import math
import os
import platform
import time
from collections.abc import Mapping, MutableMapping
from pathlib import Path, PurePosixPath
from typing import Literal

Precision = Literal["auto", "32", "bf16", "16"]
"""`auto` is what the device computes fast, decided when work starts: `slotworks.training.numerics`."""

_OURS = "SLOTWORKS_THREADS"  # what we set OMP_NUM_THREADS to, so that a user's can be told from it


def prepare_threads(environment: MutableMapping[str, str] = os.environ, root: Path = Path("/")) -> None:
    """Let torch's threads share the processor: OpenMP reads these variables when torch is imported, and never again.

    Threads that wait for one another soon sleep (`GOMP_SPINCOUNT=3000`, some microseconds). By default they spin for
    milliseconds, and beside another busy process they spin while the thread that they wait for has no core to run on.
    To sleep at once would cost a third of the speed on an idle machine, where waking takes longer than most waits.
    Where a cgroup allows this process less than its cores, as in a container, there are only as many threads as that.
    What is set already stays. Without effect if torch was imported before, or with another OpenMP than GNU's.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & environment.keys():
        environment["GOMP_SPINCOUNT"] = "3000"
    allowed = cgroup_cpus(root)
    if allowed is not None and allowed < usable_cores() and "OMP_NUM_THREADS" not in environment:
        environment["OMP_NUM_THREADS"] = environment[_OURS] = str(math.ceil(allowed))


def threads_given(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the user, or whoever started this process, said how many threads there shall be."""
    return "OMP_NUM_THREADS" in environment and environment.get(_OURS) != environment["OMP_NUM_THREADS"]


def busy_elsewhere(seconds: float = 0.3, root: Path = Path("/")) -> float:
    """How many of the usable cores other processes keep busy, measured for a moment; 0 where that cannot be told.

    Only Linux says so (`/proc/stat`). Processes that gave way of themselves (`nice`) do not count. This process should
    rest meanwhile.
    """
    before = _ticks(root)
    time.sleep(seconds)
    after = _ticks(root)
    found = 0.0
    for core, (busy, total) in after.items():
        was_busy, was_total = before.get(core, (0, 0))
        if total > was_total:
            found += (busy - was_busy) / (total - was_total)
    return found


def _ticks(root: Path) -> dict[int, tuple[int, int]]:
    """For every usable core the ticks since the start in which it worked, and all of them."""
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    found = {}
    for line in _read(root / "proc/stat").splitlines():
        name, *values = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and (usable is None or int(name[3:]) in usable):
            user, _, system, _, _, irq, softirq, stolen = map(int, (values + ["0"] * 8)[:8])
            busy = user + system + irq + softirq + stolen
            found[int(name[3:])] = busy, sum(map(int, values[:8]))
    return found


def usable_cores() -> int:
    """Cores that the system lets this process run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cgroup_cpus(root: Path = Path("/")) -> float | None:
    """The processor time that Linux's control groups allow this process, in cores; None without a limit.

    The smallest limit counts, of the process's own group and all above it, in version 1 and 2. In a container the
    path of the group may be one that only the host knows; then the top, which is the container's own, is left.
    """
    limits = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2
            tops = [root / "sys/fs/cgroup", root / "sys/fs/cgroup/unified"]
        elif "cpu" in controllers.split(","):
            tops = [root / "sys/fs/cgroup" / controllers, root / "sys/fs/cgroup/cpu"]
        else:
            continue
        group = PurePosixPath(path.lstrip("/"))
        for top in tops:
            for place in (top / group, *(top / above for above in group.parents)):
                quota = _read(place / "cpu.max").split() if not controllers else []
                quota = quota or [_read(place / name).strip() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")]
                if all(quota) and quota[0] not in ("max", "-1"):
                    limits.append(int(quota[0]) / int(quota[1]))
    return min(limits, default=None)


def processor(root: Path = Path("/")) -> str:
    """The processor and those of its instructions that decide how fast it is, as Linux says them: `AMD EPYC, avx2`.

    Elsewhere the architecture.
    """
    said: dict[str, str] = {}
    for line in _read(root / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        said.setdefault(key.strip(), value.strip())
    name = said.get("model name") or platform.processor() or platform.machine()
    known = said.get("flags", "").split()
    return ", ".join([name, *(flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in known)])


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
