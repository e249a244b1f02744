"""The networks that published recipes train, each once: for tests that build them all."""

import re

import pytest

from slotworks.configs import recipes


def networks():
    """A recipe for each network that a published row trains. Of the large ones all but the first of a kind are slow."""
    seen, kinds = set(), set()
    for name, function in recipes().items():
        run = function()
        if name.endswith("_mini") or not run.steps or name.startswith("painted_diffusion."):
            continue
        method = run.method
        network = (re.sub(r"'(runs/|stabilityai)[^']*'", "", repr(method)), run.batch_size, run.data.size)
        if network in seen:
            continue
        kind = (type(method), bool(getattr(method, "phase_1", "")))
        large = hasattr(method, "diffusion") or hasattr(method, "autoencoder")
        slow = large and kind in kinds
        seen.add(network)
        kinds.add(kind)
        yield pytest.param(name, marks=pytest.mark.slow if slow else ())
