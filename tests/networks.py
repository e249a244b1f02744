"""The networks that published recipes train, each once: for tests that build them all."""

import re
from collections.abc import Iterator

from slotworks.configs import recipes


def networks() -> Iterator[str]:
    """A recipe for each network that a published row trains."""
    seen = set()
    for name, function in recipes().items():
        run = function()
        if name.endswith("_mini") or not run.steps or name.startswith("painted_diffusion."):
            continue
        network = (re.sub(r"'(runs/|stabilityai)[^']*'", "", repr(run.method)), run.batch_size, run.data.size)
        if network not in seen:
            seen.add(network)
            yield name
