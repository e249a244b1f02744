"""Who may import whom, that every announced name exists, and that `import slotworks` stays light."""

import ast
import importlib
import pkgutil
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import slotworks

ROOT = Path(slotworks.__file__).parent

# This table is the documentation, from the ground up. A folder may import itself and what stands on its right, which
# stands above it in the table: there is no circle and no arrow upward. The stages of the picture do
# not import each other: a method joins them. Methods do not import methods, `training` knows the contract and never a
# method's name, `evaluation` gets its data handed over, reports read files.
STAGES = ("encoders", "slots", "decoders", "guidance")
ALLOWED: dict[str, tuple[str, ...]] = {
    "engines": (),
    "remote": (),
    "errors": (),
    "machine": (),
    "progress": (),
    "files": (),
    "outputs": (),
    "html_text": (),
    "images": (),
    "limits": (),
    "json_text": (),
    "matching": (),
    "parts": (),
    "ranges": (),
    "yaml_text": (),
    "version": (),
    "vocabulary": (),
    "videos": (),
    "types": (),
    "nn": ("types",),
    **dict.fromkeys(STAGES, ("types", "nn")),
    "methods": ("types", "nn", *STAGES),
    "data": ("types", "nn", "encoders"),  # features of a frozen encoder are cached as a data set
    "metrics": ("types",),
    "protocols": ("types", "metrics"),
    "evaluation": ("types", "metrics", "protocols"),
    "training": ("types", "nn"),  # nn: noise that does not depend on the number of processes
    "editing": ("types", "nn", "encoders", "evaluation"),  # encoders: the diffusion model that texts are composed with
    "synthesis": ("types", "nn", "encoders", "data", "training"),  # training: seeds, settings as YAML
    "label": ("types", "data", "evaluation", "metrics", "synthesis"),  # masks of classes, as synthesis writes them
    "configs": ("types", "encoders", "decoders", "methods", "data", "training", "synthesis"),
    "tables": ("configs", "data", "evaluation"),  # written down so that the command line need not import them
    "reports": ("tables",),  # units and directions of metrics
    "zoo": ("tables", "reports"),  # reports: numbers of a record in words
    "studio": ("types", "data", "editing", "training", "evaluation", "zoo"),  # zoo: what is opened if nothing is named
    "hub": ("types", "methods", "data", "training", "reports", "zoo"),  # reports: the card
    "export": ("types", "nn", "methods", "data", "training"),
    "convert": ("types", "encoders", "decoders", "methods", "training", "configs"),  # others' checkpoints
    "plan": ("types", "encoders", "training"),  # one step on the meta device
    "__init__": ("api", "hub", "evaluation"),
}
BELOW_ALL = (  # no torch in these
    *("errors", "files", "html_text", "images", "json_text", "limits", "machine", "matching", "outputs", "parts"),
    *("engines", "progress", "ranges", "remote", "version", "videos", "vocabulary", "yaml_text"),
)
ANYTHING = {"api": {"cli"}, "cli": set(), "__main__": set()}  # assembly: everything but the parts named here

# The rooms of `data/`: the same, one level below. Readers and scenes do not know each other.
DATA_ROOMS: dict[str, tuple[str, ...]] = {
    "random": (),
    "sets": (),
    "stores": ("random",),
    "scenes": ("random", "sets", "stores"),  # stores: collages are made of files
    "readers": ("random", "sets", "stores"),
    "catalog": ("readers", "stores"),
    "__init__": ("readers", "scenes", "stores"),
}

HEAVY = ("transformers", "diffusers", "gradio", "matplotlib", "datasets", "lightning", "tensorboard")
NO_TORCH = (
    *("reports", "errors", "files", "html_text", "images", "json_text", "limits", "machine", "matching", "outputs"),
    *("engines", "parts", "progress", "ranges", "remote", "tables", "version", "vocabulary", "yaml_text", "zoo"),
)

FILES = sorted(ROOT.rglob("*.py"))
DATA_FILES = sorted((ROOT / "data").rglob("*.py"))


def part(path: Path) -> str:
    """`slotworks/slots/attention.py` belongs to `slots`, `slotworks/types.py` to `types`."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> list[tuple[int, str]]:
    """Line and dotted name of every import in a file, also inside functions; names of `from` imports included."""
    package = ["slotworks", *path.relative_to(ROOT).parts[:-1]]
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
    return found


def forbidden(path: Path) -> list[str]:
    """Imports of a file that the table does not allow."""
    own = part(path)
    wrong = []
    for line, name in imported(path):
        words = name.split(".")
        if words[0] != "slotworks":
            continue
        target = words[1] if len(words) > 1 else ""
        if not target or not ((ROOT / target).is_dir() or (ROOT / f"{target}.py").is_file()):
            target = "__init__"  # the package itself, such as its __version__, stands above its parts
        fine = target not in ANYTHING[own] if own in ANYTHING else target in (own, *BELOW_ALL, *ALLOWED[own])
        same_method = own != "methods" or target != "methods" or path.name == "__init__.py"
        if not fine or not same_method:
            wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    return wrong


def test_no_arrow_leads_upward():
    """So there is no circle between rooms either: what a room may import stands above it in the table."""
    order = [*ALLOWED, *ANYTHING]
    for name, allowed in ALLOWED.items():
        assert [one for one in allowed if name != "__init__" and order.index(one) >= order.index(name)] == [], name
    assert [name for name in BELOW_ALL if ALLOWED[name]] == []
    assert list(ANYTHING) == ["api", "cli", "__main__"]


def test_no_two_files_import_each_other():
    """A circle of files cannot be read from one end; imports inside of functions count, too."""
    modules = {".".join(["slotworks", *path.relative_to(ROOT).with_suffix("").parts]): path for path in FILES}
    modules = {name.removesuffix(".__init__"): path for name, path in modules.items()}
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        wanted = {line[1] if line[1] in modules else line[1].rpartition(".")[0] for line in imported(path)}
        graph[name] = {one for one in wanted if one in modules and one != name and modules[one].name != "__init__.py"}
    list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the files


def test_every_part_is_in_the_table():
    assert {part(path) for path in FILES} <= ALLOWED.keys() | ANYTHING.keys()


@pytest.mark.parametrize("name", sorted({part(path) for path in FILES}))
def test_imports_follow_the_table(name):
    assert [line for path in FILES if part(path) == name for line in forbidden(path)] == []


@pytest.mark.parametrize("room", sorted({path.relative_to(ROOT / "data").parts[0] for path in DATA_FILES}))
def test_the_rooms_of_data_follow_their_table(room):
    own = room.removesuffix(".py")
    wrong = []
    for path in DATA_FILES:
        if path.relative_to(ROOT / "data").parts[0] == room:
            for line, name in imported(path):
                target = name.removeprefix("slotworks.data.").split(".")[0]
                if name.startswith("slotworks.data.") and target not in (own, *DATA_ROOMS[own]):
                    wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert wrong == []


@pytest.mark.parametrize(
    ("file", "code", "lines"),
    [
        ("slots/attention.py", "import slotworks.decoders", [1]),
        ("slots/attention.py", "from slotworks import decoders", [1]),
        ("slots/attention.py", "from ..decoders import spatial_broadcast", [1]),
        ("slots/attention.py", "def late():\n    from slotworks.methods import SlotAttentionConfig", [2]),
        ("slots/attention.py", "from .initializers import GaussianInit\nfrom slotworks.types import Batch", []),
        ("methods/steve.py", "from slotworks.methods.slate import SLATE", [1]),
        ("methods/steve.py", "from slotworks.slots import SlotAttention", []),
        (
            "training/loop.py",
            "import torch\nfrom slotworks import __version__\nfrom slotworks.methods import SLATE",
            [2, 3],
        ),
        ("api.py", "from slotworks.methods import SLATE\nfrom slotworks.cli import main", [2]),
    ],
)
def test_the_check_sees_each_kind_of_import(file, code, lines, tmp_path, monkeypatch):
    for known in ("slots", "decoders", "methods", "training", "cli"):
        (tmp_path / known).mkdir()
    (tmp_path / "types.py").touch()
    path = tmp_path / file
    path.write_text(code)
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    assert [int(line.split(":")[1].split()[0]) for line in forbidden(path)] == lines


@pytest.mark.parametrize("name", NO_TORCH)
def test_parts_that_read_files_do_without_torch(name):
    assert [
        line for path in FILES if part(path) == name for line in imported(path) if line[1].split(".")[0] == "torch"
    ] == []


def modules() -> list[str]:
    return ["slotworks", *(info.name for info in pkgutil.walk_packages([str(ROOT)], "slotworks."))]


@pytest.mark.parametrize("name", [name for name in modules() if not name.endswith("__main__")])
def test_every_announced_name_exists(name):
    module = importlib.import_module(name)
    announced = getattr(module, "__all__", [])
    assert [wanted for wanted in announced if not hasattr(module, wanted)] == []
    assert len(set(announced)) == len(announced)


def test_import_is_light():
    code = f"import sys, slotworks; print([name for name in {HEAVY} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


FOREIGN = (
    *(ROOT / "cli" / "sweep.py", ROOT / "engines" / "__init__.py"),  # variants and parts that go on without one
    *(ROOT / "parts.py", ROOT / "remote.py"),  # a person's own files; storages with errors of their own libraries
)


def test_no_exception_is_caught_that_is_not_named():
    """`except Exception` and `suppress(Exception)` swallow what nobody thought of; one that raises again is fine.

    `sweep` alone may: whatever ends one variant is said in its row, and the others go on.
    """
    found = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.ExceptHandler) and not isinstance(node.body[-1], ast.Raise):
                names = (
                    ["Exception"]
                    if node.type is None
                    else [n.id for n in ast.walk(node.type) if isinstance(n, ast.Name)]
                )
            elif isinstance(node, ast.ExceptHandler) and node.type is not None:
                names = [n.id for n in ast.walk(node.type) if isinstance(n, ast.Name) and n.id == "Exception"]
            elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "suppress":
                names = [argument.id for argument in node.args if isinstance(argument, ast.Name)]
            if {"Exception", "BaseException"} & set(names) and path not in FOREIGN:
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not found
