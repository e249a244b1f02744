"""Every recipe builds, its numbers are the paper's, and it learns from two steps."""

from dataclasses import replace

import pytest
import torch

from slotworks.configs import recipes
from slotworks.training import schedule

PARAMETERS = {  # counted by hand from tables 3 to 6 of the supplement
    "slot_attention.tetrominoes": 235_812,
    "slot_attention.multi_dsprites": 235_812,
    "slot_attention.clevr6": 890_308,
    "slot_attention.clevrtex": 890_308,
}
PUBLISHED = {"tetrominoes": "99.5", "multi_dsprites": "91.3", "clevr6": "98.8", "clevrtex": "67.9"}


@pytest.mark.parametrize("name", recipes())
def test_two_steps_lower_the_loss_of_one_batch(name):
    run = recipes()[name]()
    torch.manual_seed(0)
    method = run.method.build()
    image = torch.rand(1, 3, *run.data.size)
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-4)
    losses = []
    for step in range(3):
        torch.manual_seed(1)
        loss = method.loss({"image": image}, step)["recon"]
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[2] < losses[0]
    used = {name: p.grad is not None for name, p in method.named_parameters()}
    assert all(used.values()), [name for name, has in used.items() if not has]


@pytest.mark.parametrize("name", PARAMETERS)
def test_published_recipes_are_the_papers(name):
    run = recipes()[name]()
    assert sum(p.numel() for p in run.method.build().parameters()) == PARAMETERS[name]
    assert (run.steps, run.batch_size) == (500_000, 64)
    assert schedule(run.optimizer, 10_000, run.steps) == pytest.approx(3.732e-4, rel=1e-3)
    assert PUBLISHED[name.split(".")[1]] in run.expected


def test_each_published_recipe_has_a_mini_that_needs_no_file():
    names = recipes()
    for name in PARAMETERS:
        data = names[f"{name}_mini"]().data
        data = replace(data, num_train=2)
        assert data.open("train").__getitems__([1])["image"].shape == (1, *data.size, 3)


@pytest.mark.parametrize("name", recipes())
def test_recipes_say_command_and_enough_slots(name):
    function = recipes()[name]
    assert f"slotworks train {name}" in (function.__doc__ or "")
    run = function()
    if run.data.max_objects is not None:
        assert run.method.num_slots > run.data.max_objects
