"""The networks that published recipes train, each once: for tests that build them all."""

import re
from collections.abc import Iterator

from slotworks.configs import recipes
from slotworks.types import MethodConfig


def networks() -> Iterator[str]:
    """A recipe for each network that a published row trains."""
    seen = set()
    for name, function in recipes().items():
        run = function()
        if "_mini" in name or not run.steps or name.startswith("painted_diffusion."):
            continue
        network = (described(run.method), run.batch_size, run.data.size)
        if network not in seen:
            seen.add(network)
            yield name


def described(method: MethodConfig) -> str:
    """A method without the names of run folders and of diffusion models, which say nothing of its network."""
    return re.sub(r"'(runs/|stabilityai)[^']*'", "", repr(method))
