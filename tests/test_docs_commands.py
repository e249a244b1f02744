"""Every `slotworks` command that a page names: its verb, recipe, options, data, protocols and tasks are there.

Nothing is trained or read: what a command would do is put aside, what it asks for is looked up. The commands of `sh`
blocks are also run, in `test_docs.py`.
"""

import functools
import re
import shlex
from pathlib import Path

import pytest
import tyro

from slotworks import cli, protocols, tables
from slotworks.cli import evaluate, main, sources, sweep, synthesize, train
from slotworks.configs import find, is_recipe
from slotworks.configs.synthesis import find_synthesis
from slotworks.data import catalog

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PLACES = {  # what stands in a page for something of the reader's own
    "RECIPE": "slot_attention.tetrominoes_mini",
    "F=A,B": "method.num-slots=4,5",
    "SEEDS": "3",
    "S": "1",
    **{name: name.lower() for name in ("RUN", "RUN_A", "RUN_B", "DIR", "FOLDER", "FILE", "FILES")},
}
COMMAND = re.compile(r"^(?:torchrun .*-m )?slotworks +(.*)$")


def commands() -> dict[str, list[str]]:
    """The words behind `slotworks` of each command of the pages, under what is written there."""
    found = {}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        blocks = re.findall(r"^```(?:sh|bash|text)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        lines = [line for block in blocks for line in re.sub(r"\\\n\s*", " ", block).splitlines()]
        prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
        lines += [" ".join(words.split()) for words in re.findall(r"`((?:torchrun|slotworks) [^`]+)`", prose)]
        for line in lines:
            written = COMMAND.match(line)
            if not written or "->" in line or " ... " in line or ".py" in line or "run.yaml" in line:
                continue  # a drawing; files of one's own, which docs/extending.md makes and test_docs.py runs
            words = re.split(r" {2,}| *#", written[1])[0]
            given = re.sub(r" --pictures \S+", "", words)  # a folder of the reader's, which would be read
            found[f"{page.name}: {words}"] = [PLACES.get(word, word) for word in shlex.split(given)]
    named = (["data", "check"], ["evaluate", "--task"])  # in a sentence, without what they are of
    return {
        said: words for said, words in found.items() if words not in named and (words[1:] or words[0] not in cli.VERBS)
    }


@pytest.fixture
def nothing_done(monkeypatch, tmp_path):
    """Commands are read to the end, and then do nothing."""
    monkeypatch.chdir(tmp_path)

    def read_only(function, argv, *, verb):
        @functools.wraps(function)
        def stub(*args, **options):
            if function is evaluate_itself:
                check_evaluation(*args, **options)
            return 0

        return tyro.cli(stub, args=list(argv), prog=f"slotworks {verb}", config=(tyro.conf.FlagCreatePairsOff,))

    evaluate_itself = evaluate.evaluate
    for module, _ in cli.VERBS.values():
        loaded = __import__(f"slotworks.cli.{module}", fromlist=["main"])
        if hasattr(loaded, "parse"):
            monkeypatch.setattr(loaded, "parse", read_only)
    monkeypatch.setattr("slotworks.cli.demo_glass.parse", read_only)
    done = {"folder": "", "runs": []}
    for name in ("train_one", "train_seeds", "try_out"):
        monkeypatch.setattr(train, name, lambda *args, **options: done)
    monkeypatch.setattr(synthesize, "_run", lambda *args, **options: 0)
    monkeypatch.setattr(synthesize, "_measure", lambda *args, **options: 0)
    monkeypatch.setattr(sweep, "sweep", lambda *args, **options: [])
    monkeypatch.setattr(catalog, "stores", lambda *args, **options: [])
    monkeypatch.setattr("slotworks.cli.data._compute", lambda *args: "")


def check_evaluation(runs, tasks, **options):
    """What tyro leaves to the command: names of recipes, data, protocols and settings."""
    given = evaluate._given(options.get("task", "discovery"), tasks)
    for name in runs:
        assert not re.fullmatch(r"\w+\.\w+", name) or is_recipe(name), name
    sources.find_all_data(options.get("data", ()), options.get("root"))
    for name in given.get("protocols", ()):
        assert name == "all" or protocols.get(name)
    for setting in options.get("set_fields", ()):
        assert sweep.setting_words(setting)


@pytest.mark.parametrize("said", commands())
def test_what_a_command_names_is_there(said, nothing_done, capsys):
    words = commands()[said]
    if words[0] == "train" and not words[1].startswith("runs/"):
        assert find(words[1])
    if words[0] == "synthesize":
        assert find_synthesis(words[1])
    try:
        code = main(words) or 0
    except SystemExit as stopped:  # of the parser: 0 after --help
        code = stopped.code or 0
    assert code == 0, capsys.readouterr().err


def test_recipes_that_pages_name_exist():
    """In backticks: `glass.coco` and the like, of a method that has recipes."""
    methods = {name.partition(".")[0] for name in (row["name"] for row in tables.read()["recipes"])}
    known = {row["name"] for kind in ("recipes", "synthesis") for row in tables.read()[kind]}
    named = {}
    for page in PAGES:
        for name in re.findall(rf"`((?:{'|'.join(methods)})\.[a-z0-9_]+)`", page.read_text(encoding="utf-8")):
            named.setdefault(name, page.name)
    assert len(named) > 50
    missing = {name: page for name, page in named.items() if name not in known and not name.endswith(".py")}
    assert not missing
