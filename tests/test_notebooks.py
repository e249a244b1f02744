"""The notebooks run from top to bottom at small size, show what they promise, and agree with their `.ipynb` files."""

import ast
import importlib.util
import json
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("website", ROOT / "docs" / "website.py")
assert spec is not None
assert spec.loader is not None
website = importlib.util.module_from_spec(spec)
spec.loader.exec_module(website)

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))
NEEDS = {"glass_editing": ("diffusers", "transformers")}
SHOWN = {  # what the cells end in, in order
    "glass_editing": ["Run", "Pictures", "Pictures", "Pictures"],
    "new_method": ["Run", "Records", "Pictures"],
    "own_pictures": ["Run", "PngImageFile", "Pictures"],
    "slot_attention": ["Pictures", "Pictures"],
}


def run_cells(file: Path, name: str) -> list[object]:
    """What the last lines of its cells show, as a notebook would."""
    module = sys.modules[name] = ModuleType(name)  # where classes look for what defines them
    shown = []
    for kind, body in website.cells(file.read_text(encoding="utf-8")):
        if kind == "code":
            tree = ast.parse(body)
            last = ast.Expression(tree.body.pop().value) if isinstance(tree.body[-1], ast.Expr) else None
            exec(compile(tree, str(file), "exec"), module.__dict__)
            if last is not None and (value := eval(compile(last, str(file), "eval"), module.__dict__)) is not None:
                shown.append(value)
    return shown


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_runs_and_shows(file, tmp_path, monkeypatch):
    for package in NEEDS.get(file.stem, ()):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLOTWORKS_SMALL", "1")
    monkeypatch.delenv("PICTURES", raising=False)
    try:
        shown = run_cells(file, f"notebook_{file.stem}")
    finally:
        sys.modules.pop(f"notebook_{file.stem}", None)
    named = [type(one).__name__ for one in shown]
    assert [name for name in named if name in SHOWN[file.stem]] == SHOWN[file.stem]
    for one in shown:
        if hasattr(one, "_repr_html_"):
            assert "<td" in one._repr_html_()


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_both_forms_of_a_notebook_agree(file):
    """`make notebooks` writes the `.ipynb` from the `.py`; it holds no results."""
    pair = json.loads(file.with_suffix(".ipynb").read_text(encoding="utf-8"))
    written = [(cell["cell_type"], "".join(cell["source"])) for cell in pair["cells"]]
    assert written == website.cells(file.read_text(encoding="utf-8"))
    assert all(cell.get("outputs", []) == [] for cell in pair["cells"])


@pytest.mark.slow
def test_in_a_kernel_pictures_and_bars_show(tmp_path, monkeypatch):
    """As a person opens it, with the bar of `slotworks.train` as a widget."""
    for package in ("nbformat", "nbclient", "ipykernel", "ipywidgets"):
        if find_spec(package) is None:
            pytest.skip("the extra notebooks is not installed")
    import nbclient
    import nbformat

    monkeypatch.setenv("SLOTWORKS_SMALL", "1")
    notebook = nbformat.read(ROOT / "notebooks" / "new_method.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert [output for output in outputs if output.output_type == "error"] == []
    pages = [output.data["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    assert any("data:image/png;base64," in page for page in pages)
    assert any("<summary>CrispSlotsConfig</summary>" in page for page in pages)
    assert any("application/vnd.jupyter.widget-view+json" in output.get("data", {}) for output in outputs)
