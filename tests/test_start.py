"""What may be imported to answer a command: each library that a verb does not need costs every user its time."""

import subprocess
import sys

import pytest

import slotworks
import slotworks.training
from slotworks.cli import VERBS

SLOW = (  # the first seconds of a process, and what they are for
    *("torch", "scipy", "tyro"),
    *("lightning", "torchmetrics", "tensorboard", "wandb"),  # training
    *("transformers", "diffusers", "gradio", "av", "nltk", "pyarrow", "h5py", "pycocotools", "jinja2", "matplotlib"),
)
PARSED = tuple(name for name in SLOW if name != "tyro")  # options that are read by tyro
COMPUTING = tuple(name for name in PARSED if name not in ("torch", "pycocotools"))

COMMANDS = {  # one process for each set of libraries: what a command imports is still there after the next
    SLOW: (
        *("--help", "--version", "recipes", "recipes mini cpu --json", "data list", "data list --json"),
        *("train --help", "sweep --help", "synthesize --help", "data --help", "recipes --help"),
    ),
    PARSED: (*(f"{verb} --help" for verb in VERBS), "demo glass --help", "data check --help"),
    COMPUTING: ("train slot_attention.tetrominoes_mini --help", "segment nofolder .", "evaluate nofolder"),
}
CODE = """
import contextlib, io, sys
from slotworks.cli import main
for command in {commands!r}:
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        main(command.split())
    if found := {names!r} & sys.modules.keys():
        break
print("imported:", *(f"{{name}} by {{command}}," for name in found))
"""


def imported(code: str) -> str:
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return run.stdout.splitlines()[-1].removeprefix("imported:").strip()


@pytest.mark.parametrize("names", COMMANDS, ids=("at once", "help", "computing"))
def test_a_verb_imports_only_what_it_needs(names):
    assert imported(CODE.format(commands=COMMANDS[names], names=set(names))) == ""


def test_the_library_imports_lightning_when_it_trains_and_a_recipe_without_the_others():
    code = "import sys; from slotworks.configs import find; find('dspn.clevr10')\n"
    code += "found = {'slotworks.configs.glass'} & sys.modules.keys()\n"
    code += "import slotworks.api, slotworks.training\n"
    code += f"print('imported:', *found, *({set(COMPUTING)!r} & sys.modules.keys()))"
    assert imported(code) == ""


def test_import_slotworks_imports_nothing():
    code = "import sys; old = {*sys.modules}; import slotworks; print('imported:', *({*sys.modules} - old))"
    assert {name.split(".")[0] for name in imported(code).split()} <= {"slotworks", *sys.stdlib_module_names}


@pytest.mark.parametrize("package", [slotworks, slotworks.training])
def test_dir_shows_what_a_package_offers(package):
    assert set(dir(package)) == set(package.__all__)
