"""The README and the pages under docs hold what they say: code blocks run, commands work, links lead somewhere."""

import re
import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image

from slotworks.cli import main
from slotworks.configs import dinosaur, dvae, mae, slate, slot_attention

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = [
    path
    for part in (".", "docs", "slotworks", "tests", "benchmarks")
    for path in sorted((ROOT / part).glob("*.md" if part == "." else "**/*.md"))
]
FIXTURES = Path(__file__).parent / "fixtures"
FEW = {"num_train": 8, "num_val": 4, "num_test": 4}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[str]:
    """`slotworks` commands of a page; those with an upper-case placeholder stand for many."""
    lines = "\n".join(blocks(page, "sh")).splitlines()
    found = [line.split("#")[0].strip() for line in lines if line.startswith("slotworks ")]
    return [line for line in found if not re.search(r"\b[A-Z]{2,}\b", line)]


def files_of(page: Path) -> dict[str, str]:
    """The files that a page asks to save."""
    return dict(
        re.findall(r"Save it as\s+`(\w+\.py)`:\n\n```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    )


def few_of(data):
    """A few images, drawn or behind cached features."""
    changes = {key: value for key, value in FEW.items() if hasattr(data, key)}
    return replace(data, **changes, **({"images": few_of(data.images)} if hasattr(data, "images") else {}))


def shorten(monkeypatch, module: ModuleType, name: str) -> None:
    """Make a recipe one of two steps on a few images."""
    recipe = getattr(module, name)

    def tiny():
        run = recipe()
        data = few_of(run.data)
        return replace(run, data=data, steps=2, batch_size=2, eval_every=2, save_every=2, eval_images=4)

    monkeypatch.setattr(module, name, replace(recipe, make=tiny))


@pytest.fixture
def small(tmp_path, monkeypatch):
    """An empty folder with a few pictures and official files, where mini recipes take two steps."""
    monkeypatch.chdir(tmp_path)
    shorten(monkeypatch, slot_attention, "tetrominoes_mini")
    shorten(monkeypatch, dinosaur, "voc_mini")
    for module in (dinosaur, dvae, mae, slate):
        shorten(monkeypatch, module, "scenes_mini")
    Path("my_pictures").mkdir()
    Image.new("RGB", (60, 40), "red").save("my_pictures/photo.jpg")
    official = FIXTURES / "multi_object_datasets" / "tetrominoes" / "tetrominoes_train.tfrecords"
    Path("data/tetrominoes").mkdir(parents=True)
    shutil.copy(official, "data/tetrominoes/")
    shutil.copytree(FIXTURES / "VOCdevkit", "data/VOCdevkit")
    return tmp_path


SMALLER = {  # the fixture has four records
    'Tetrominoes(root="data/tetrominoes")': 'Tetrominoes("data/tetrominoes", train_size=2, test_size=1, val_size=1)',
    "[5, 17, 3]": "[1, 0, 1]",
    "steps=7_000": "steps=2",
}


def run_python(code: str, page: Path, **given) -> dict:
    names: dict = {"__name__": "documentation", **given}
    sys.modules["documentation"] = ModuleType("documentation")  # where its dataclasses look for their module
    exec(compile(code, str(page), "exec"), names)
    return names


@pytest.mark.parametrize("page", [p for p in PAGES if commands(p)], ids=lambda p: p.name)
def test_commands_run(page, small, monkeypatch):
    from slotworks.data import catalog

    prepare = catalog.prepare  # the fixture has four records instead of a million
    options = {"train_size": 2, "test_size": 1, "val_size": 1}

    def prepare_few(name, root=None, **given):
        return prepare(name, root, **(options if name == "tetrominoes" else {}), **given)

    monkeypatch.setattr(catalog, "prepare", prepare_few)
    for name, text in files_of(page).items():
        Path(name).write_text(text)
    for line in commands(page):
        words = [re.sub(r"^200?$", "2", word) for word in shlex.split(line)[1:]]
        if page.name == "extending.md" and words[0] == "train":
            words += "--batch-size 2 --eval-images 4 --data.num-val 4 --data.num-test 4".split()
        assert main(words) == 0 or words[:2] == ["data", "check"], line  # the fixture is a part of VOC


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=lambda p: p.name)
def test_python_blocks_run(page, small, monkeypatch, capsys):
    if page.name == "README.md":
        names = run_python(blocks(page, "python")[0], page)
        assert names["answer"]["step"] == 2
        assert "fg_ari" in capsys.readouterr().out
        return
    method = slot_attention.tetrominoes_mini().method.build()
    dataset = slot_attention.tetrominoes_mini().data.open("test")
    for code in blocks(page, "python"):
        for there, here in SMALLER.items():
            code = code.replace(there, here)
        run_python(code, page, method=method, dataset=dataset)


@pytest.mark.parametrize("page", TEXTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_prose_fits_a_screen(page):
    """Tables and pictures are one line each, however long."""
    lines = enumerate(page.read_text(encoding="utf-8").splitlines(), 1)
    long = [number for number, line in lines if len(line) > 120 and not line.lstrip().startswith(("|", "!["))]
    assert not long, f"{page}: lines {long} are longer than 120 characters; wrap them"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_extending_shows_every_kind_of_part():
    """Each in one file, which the commands of the page use."""
    page = ROOT / "docs" / "extending.md"
    kinds = ("my_method.py", "my_data.py", "my_metric.py", "my_task.py", "my_callback.py")
    assert tuple(files_of(page)) == kinds
    said = " ".join(commands(page))
    for part in ("my_method.py:tetrominoes", "my_data.py:Squares", "my_metric.py:mine", "oclf+my_metric.py:dice"):
        assert part in said
    assert "--task my_task.py:mirror --axis y" in said
    assert "--callback my_callback.py:Printer" in said


def test_extending_is_a_whole_method(small):
    """Two steps of the example method lower nothing yet, but every part of it is used."""
    names = run_python(blocks(ROOT / "docs" / "extending.md", "python")[0], Path("extending.md"))
    run = names["tetrominoes"]()
    method = run.method.build()
    terms = method.loss({"image": torch.rand(2, 3, 35, 35)}, 0)
    assert set(terms) == {"recon", "overlap"}
    assert 0 <= terms["overlap"].item() <= 1 - 1 / 4 + 1e-6
    sum(terms.values()).backward()
    assert all(p.grad is not None for p in method.parameters())


def test_nothing_names_a_place_of_one_machine():
    for page in [*PAGES, *ROOT.glob("*.md"), *(ROOT / "slotworks").rglob("*.py")]:
        assert not re.search(r"/(work|root|tmp|home)/\w", page.read_text()), page
