"""The examples in docstrings run and print what they say."""

import doctest
import importlib
import pkgutil

import pytest

import slotworks


def examples() -> dict[str, doctest.DocTest]:
    """Every docstring with an example, by its dotted name."""
    found = {}
    for info in pkgutil.walk_packages(slotworks.__path__, "slotworks."):
        if not info.name.endswith("__main__"):
            module = importlib.import_module(info.name)
            found |= {test.name: test for test in doctest.DocTestFinder().find(module) if test.examples}
    return found


EXAMPLES = examples()


def test_the_parts_of_slot_attention_have_examples():
    assert {
        "slotworks.slots.attention.SlotAttention",
        "slotworks.slots.initializers.GaussianInit",
        "slotworks.encoders.cnn.CNNEncoder",
        "slotworks.decoders.spatial_broadcast.SpatialBroadcastDecoder",
        "slotworks.nn.conv.same_padding",
    } <= EXAMPLES.keys()


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = doctest.DocTestRunner().run(EXAMPLES[name], clear_globs=False)
    assert results.attempted > 0
    assert results.failed == 0
