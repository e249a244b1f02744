"""Files of `torch.save` are read without calling what they name."""

import collections
import os
import pickle
import zipfile

import pytest
import torch

from slotworks.convert.pickles import Inert, read_saved
from slotworks.convert.source import open_source
from slotworks.types import UserError


class Foreign:
    """Stands for a class of Lightning: pickled by name and state."""

    def __init__(self):
        self.kept = {"lr": 1.0}


class Harmful:
    def __init__(self, folder):
        self.command = f"touch {folder}/harmed"

    def __reduce__(self):
        return os.system, (self.command,)


def state():
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(6, 4, generator=generator)
    return collections.OrderedDict(
        {
            "layer.weight": whole,
            "layer.rows": whole[2:4],  # shares its numbers with the first
            "layer.turned": whole.T,
            "layer.half": torch.randn(3, generator=generator).half(),
            "layer.steps": torch.tensor(7),
            "layer.mask": torch.ones(2, 2, dtype=torch.bool).triu(),
            "layer.none": torch.empty(0, 3),
            "layer.brain": torch.randn(2, generator=generator).bfloat16(),
            "layer.parameter": torch.nn.Parameter(torch.randn(3, generator=generator)),
        }
    )


def test_tensors_are_those_that_were_saved(tmp_path):
    file = tmp_path / "model.ckpt"
    torch.save({"state_dict": state(), "epoch": 3, "callbacks": {"a": Foreign()}}, file)
    saved = read_saved(file)
    for name, value in state().items():
        found = saved.load(saved.contents["state_dict"][name])
        assert found.dtype == value.dtype
        assert torch.equal(found, value)
    source = open_source(file)
    assert source.facts == {"epoch": 3}
    assert source.foreign == (f"{__name__}.Foreign",)
    assert source.tensors["layer.half"].dtype == torch.float32
    assert source.tensors["layer.mask"].dtype == torch.bool


def test_a_harmful_file_does_nothing_and_is_named(tmp_path):
    file = tmp_path / "harmful.ckpt"
    torch.save({"state_dict": state(), "hyper_parameters": Harmful(tmp_path)}, file)
    source = open_source(file)
    assert source.foreign == (f"{os.system.__module__}.system",)
    assert torch.equal(source.tensors["layer.weight"], state()["layer.weight"])
    assert not (tmp_path / "harmed").exists()
    torch.load(file, weights_only=False)  # so it is harmful
    assert (tmp_path / "harmed").exists()


def test_a_harmful_weight_is_refused(tmp_path):
    file = tmp_path / "harmful.pt"
    torch.save(state() | {"other": Harmful(tmp_path)}, file)
    with pytest.raises(UserError, match=r"cannot be read as plain tensors \('other' is \w+.system and no tensor\)"):
        open_source(file)
    assert not (tmp_path / "harmed").exists()


PROGRAMS = {
    "a function called on what it made": b"\x80\x02cos\nsystem\n(X\x01\x00\x00\x00atR(X\x01\x00\x00\x00btR.",
    "a class made by a function": b"\x80\x02cbuiltins\neval\n(X\x03\x00\x00\x001+1tR.",
    "an attribute of an attribute": b"\x80\x04\x8c\x02os\x94\x8c\x0bpath.exists\x94\x93\x94\x8c\x01/\x85R.",
    "an object with a state": b"\x80\x02csubprocess\nPopen\n)\x81X\x01\x00\x00\x00ab.",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_way_to_call_something_gives_a_placeholder(tmp_path, name):
    file = tmp_path / "archive.pt"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", PROGRAMS[name])
    saved = read_saved(file)
    assert isinstance(saved.contents, Inert)
    assert len(saved.foreign) == 1


@pytest.mark.parametrize("size", [(6, 5), (7, 4), (2**40,), (-1,)])
def test_a_tensor_outside_of_its_numbers_is_refused(tmp_path, size):
    """Nothing beyond the file's numbers may be read, whatever shape it states."""
    file = tmp_path / "model.pt"

    class Wide:
        def __reduce__(self):
            stride = (4, 1)[-len(size) :]
            storage = torch.zeros(6, 4).untyped_storage()
            return torch._utils._rebuild_tensor_v2, (
                torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True),
                0,
                size,
                stride,
                False,
                collections.OrderedDict(),
            )

    torch.save({"weight": Wide()}, file)
    with pytest.raises(UserError, match=r"cannot be read as plain tensors \(a tensor (of shape|has the shape) "):
        open_source(file)


def test_a_cut_or_empty_file(tmp_path):
    file = tmp_path / "model.pt"
    torch.save(state(), file)
    whole = file.read_bytes()
    for cut in (0, 10, len(whole) // 2, len(whole) - 40):
        file.write_bytes(whole[:cut])
        with pytest.raises(UserError, match="cannot be read as plain tensors"):
            open_source(file)
    torch.save({"epoch": 3}, file)
    with pytest.raises(UserError, match="holds no named tensors"):
        open_source(file)
    with pytest.raises(UserError, match="There is no file"):
        open_source(tmp_path / "nowhere.pt")


def test_a_file_of_an_older_torch(tmp_path):
    """Before 1.6 there was no archive; torch's own reader of weights alone takes these."""
    file = tmp_path / "model.pt"
    torch.save({"model": state()}, file, _use_new_zipfile_serialization=False)
    assert torch.equal(open_source(file).tensors["layer.turned"], state()["layer.turned"])
    file.write_bytes(pickle.dumps(Harmful(tmp_path)))
    with pytest.raises(UserError, match="cannot be read as plain tensors"):
        open_source(file)
    assert not (tmp_path / "harmed").exists()


def test_a_folder_with_one_checkpoint(tmp_path):
    torch.save(state(), tmp_path / "best_model.pt")
    assert open_source(tmp_path).tensors.keys() == state().keys()
    torch.save(state(), tmp_path / "checkpoint.pt.tar")
    with pytest.raises(UserError, match="holds 2 of them; name the file of one checkpoint"):
        open_source(tmp_path)
