"""Parts on a Ray cluster, which places them by cores and GPUs and starts those of a lost machine again."""

import logging
import os
import pickle
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from slotworks.engines import TRIES, Part, lost
from slotworks.errors import UserError, needs_extra
from slotworks.machine import usable_cores
from slotworks.version import __version__

STORE = 80 << 20  # bytes of the object store of a cluster of our own: arguments and answers are small


class Ray:
    """A cluster by its address, or one on this machine that ends with the parts."""

    def __init__(
        self, address: str | None = None, *, cpus: float = 1, gpus: float | None = None, workers: int | None = None
    ):
        self.address, self.cpus, self.gpus, self.workers = address, cpus, gpus, workers

    def run(self, parts: Sequence[Part]) -> Iterator[tuple[int, Any]]:
        """As they are finished. Parts run in the folder of this process, which all machines see by the same name."""
        ours = self._begin()
        import ray  # type: ignore[import-not-found]
        from ray.exceptions import RayError, RaySystemError, RayTaskError  # type: ignore[import-not-found]

        gpus = min(1, ray.cluster_resources().get("GPU", 0)) if self.gpus is None else self.gpus
        remote = ray.remote(num_cpus=self.cpus, num_gpus=gpus, max_retries=TRIES - 1)(_shipped())
        context = (__version__, os.getcwd())
        waiting, running = list(enumerate(parts))[::-1], {}
        try:
            while waiting or running:
                while waiting and len(running) < (self.workers or len(parts)):
                    number, part = waiting.pop()
                    running[remote.remote(*context, part.packed())] = number
                for done in ray.wait(list(running))[0]:
                    number = running.pop(done)
                    try:
                        kind, answer = ray.get(done)
                        answer = UserError(answer) if kind == "refused" else pickle.loads(answer)  # of our own process
                    except (RayTaskError, RaySystemError) as error:  # what no part says itself
                        answer = UserError(f"{parts[number].name} failed on Ray: {str(error).splitlines()[-1]}")
                    except RayError:  # its process or machine died
                        answer = lost(parts[number], "machine or process", "Ray's session_latest/logs")
                    yield number, answer
        finally:
            for task in running:
                with suppress(RayError):
                    ray.cancel(task)
            if ours:
                ray.shutdown()

    def slots(self) -> int:
        """How many parts fit on the cluster as it is now; 1 or more."""
        if self.workers:
            return self.workers
        if self.address is None:
            return max(1, int(usable_cores() // (self.cpus or 1)))
        ours = self._begin()
        import ray  # type: ignore[import-not-found]

        try:
            there = ray.cluster_resources()
            gpus = min(1, there.get("GPU", 0)) if self.gpus is None else self.gpus
            fit = [there.get(kind, 0) // need for kind, need in (("CPU", self.cpus), ("GPU", gpus)) if need]
            return max(1, int(min(fit, default=1)))
        finally:
            if ours:
                ray.shutdown()

    def _begin(self) -> bool:
        """Connect; whether it was done here, and not by a program that this one is part of.

        Raises:
            UserError: Ray is missing, no cluster is there, or it is of another version of Ray or Python.
        """
        if self.address:
            _reach(self.address)
        with needs_extra("ray"):
            import ray  # type: ignore[import-not-found]

        if ray.is_initialized():
            return False
        options = {} if self.address else {"object_store_memory": STORE, "include_dashboard": False}
        try:
            address = self.address or "local"
            ray.init(
                address=address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=True, **options
            )
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
            raise UserError(
                f"Ray could not be reached or started at {self.address or 'this machine'} ({reason}); start it with "
                "`ray start --head`, or leave --address out for a cluster on this machine. A cluster that asks for a "
                "token wants RAY_AUTH_MODE=token here, too, and the token that `ray get-auth-token` shows there."
            ) from None
        return True


def _reach(address: str) -> None:
    """Ask for the port first: Ray itself waits for minutes.

    Raises:
        UserError: nobody answers.
    """
    place = address.removeprefix("ray://")
    host, colon, port = place.rpartition(":")
    if not colon or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UserError(f"--address is {address}; expected HOST:PORT of a Ray cluster, such as 10.0.0.1:6379.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError as error:
        raise UserError(
            f"No Ray cluster answers at {address} ({error.strerror or error}); start one there with `ray start --head "
            f"--port {port}`, or leave --address out for a cluster on this machine."
        ) from None


def _shipped() -> Callable[[str, str, bytes], tuple[str, Any]]:
    """What runs on a machine of the cluster. It travels as code: a machine without slotworks can say so."""

    def run(version: str, folder: str, part: bytes) -> tuple[str, Any]:
        import os
        import platform

        where = platform.node()
        try:
            from slotworks.version import __version__ as found
        except ImportError:
            return "refused", f"{where} has no slotworks; install version {version} there, as on this machine."
        if found != version:
            return "refused", f"{where} has slotworks {found}, this machine {version}; install the same on both."
        try:
            os.chdir(folder)
        except OSError as error:
            return "refused", f"{where} does not see {folder} ({error.strerror}); all machines need one shared folder."
        from slotworks.engines import carry_out

        return "done", carry_out(part)

    return run
