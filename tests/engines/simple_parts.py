"""Parts for tests of engines: small functions of a module, which other processes import."""

import os
import signal
import time
from pathlib import Path

from slotworks.errors import UserError


class Fussy(Exception):
    """Cannot be built again from what it says."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


def square(x):
    return x * x, os.getpid()


def fail(kind):
    raise {"user": UserError("Give less."), "fussy": Fussy(1, 2), "value": ValueError("no")}[kind]


def die(folder, times):
    """Ends its process so many times, and then answers."""
    for k in range(times):
        try:
            Path(folder, f"died{k}").touch(exist_ok=False)
        except FileExistsError:
            continue
        print("It dies.", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    return "alive"


def write_when_told(folder, number, first):
    """A file of known bytes; the first time that a part of `first` comes it waits for its process to be killed."""
    if number in first and not Path(folder, f"waited{number}").exists():
        Path(folder, f"waited{number}").write_text(str(os.getpid()))
        time.sleep(600)
    Path(folder, f"part{number}").write_bytes(bytes([number] * 1000))
    return number


def environment(name):
    time.sleep(0.2)  # so that one worker does not take all of them
    return os.environ.get(name)
