"""Mistakes: found before the work, told in a sentence, with the exit code that scripts count on."""

import errno
import os
import re
import signal
import subprocess
import sys
import typing
from copy import deepcopy
from dataclasses import fields, is_dataclass, replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from slotworks import api, cli
from slotworks.cli import main
from slotworks.configs import find, recipes
from slotworks.data.scenes.base import SceneConfig
from slotworks.errors import MESSAGE, Stopped, UserError, printable, quote
from slotworks.files import check_writable
from slotworks.json_text import read_json
from slotworks.ranges import RANGES
from slotworks.training import Run
from slotworks.training.folder import _commit
from slotworks.training.serialize import from_plain, load_run, to_yaml
from slotworks.types import DataConfig, MethodConfig
from slotworks.yaml_text import DEPTH, LIMIT, NODES, read_yaml

RECIPE = "slot_attention.tetrominoes_mini"
SMALL = "--steps 2 --eval-every 2 --save-every 2 --eval-images 4 --batch-size 2 --data.num-test 4 --data.num-val 4"
SMALL += " --precision 32"


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
    """A run of two steps."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    assert main(["train", RECIPE, "--out", str(folder), *SMALL.split()]) == 0
    return folder


@pytest.fixture
def no_work(monkeypatch):
    """Nothing may be opened, loaded or trained: a mistake has to be found before."""

    def work(*args, **kwargs):
        raise AssertionError("the work began")

    monkeypatch.setattr(SceneConfig, "open", work)
    monkeypatch.setattr(api, "load", work)


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (f"train {RECIPE} --method.num-slots 0", "method.num_slots is 0; it must be from 1 to 256."),
        (f"train {RECIPE} --method.num-slots -1", "method.num_slots is -1; it must be from 1 to 256."),
        (f"train {RECIPE} --method.num-slots 257", "method.num_slots is 257; it must be from 1 to 256."),
        (f"train {RECIPE} --method.num-iterations 0", "method.num_iterations is 0; it must be 1 or more."),
        (f"train {RECIPE} --method.eps nan", "method.eps is nan; it must be a number."),
        (f"train {RECIPE} --data.num-val -1", "data.num_val is -1; it must be 0 or more."),
        (f"train {RECIPE} --batch-size 0", "batch_size is 0; it must be 1 or more."),
        (f"train {RECIPE} --steps 0", "steps is 0; it must be 1 or more, since this recipe is one to train."),
        (f"train {RECIPE} --steps 99999999999", "steps is 99999999999; it must be from 0 to 2147483647."),
        (f"train {RECIPE} --optimizer.lr inf --seeds 0", "--seeds is 0"),
        (f"train {RECIPE} --protocol nonsense", "There is no protocol 'nonsense'"),
        (f"train {RECIPE} --out /dev/null/run", "/dev/null/run cannot be written to (Not a directory)"),
        (f"train {RECIPE} --out /dev/null", "/dev/null cannot be written to (Not a directory)"),
        (f"train {RECIPE} --out LONG", "cannot be written to (File name too long)"),
        (f"sweep {RECIPE} --set method.num-slots=4,0", "method.num_slots is 0; it must be from 1 to 256."),
        (f"sweep {RECIPE} --set seed=0 --protocol nonsense", "There is no protocol 'nonsense'"),
        (f"sweep {RECIPE} --set seed=0 --metric fg_ary", "There is no metric 'fg_ary' to plot; there are fg_ari"),
        (f"sweep {RECIPE} --set seed=0 --out /dev/null/x", "/dev/null/x cannot be written to"),
        (f"sweep {RECIPE} --set seed=0 --seeds 0", "--seeds is 0"),
        ("evaluate RUN --batch-size 0", "batch_size is 0; it must be 1 or more."),
        ("evaluate RUN --images 0", "num_images is 0; it must be 1 or more."),
        ("evaluate RUN --images -3", "num_images is -3; it must be 1 or more."),
        ("evaluate RUN --seed -1", "seed is -1; it must be 0 or more."),
        ("evaluate RUN --protocol oclf nonsense", "There is no protocol 'nonsense'"),
        ("evaluate RUN --task properties --epochs 0", "epochs is 0; it must be 1 or more."),
        ("evaluate RUN --task removal --looks-above 1.5", "looks_above is 1.5; it must be from 0 to 1."),
        ("evaluate RUN --task removal --cfg-scale nan", "cfg_scale is nan; it must be a number."),
        ("segment RUN PICTURE --num-slots 0", "num_slots is 0; it must be from 1 to 256."),
        ("segment RUN PICTURE --num-slots 257", "num_slots is 257; it must be from 1 to 256."),
        ("segment RUN PICTURE --out /dev/null/x", "/dev/null/x cannot be written to"),
        ("segment RUN missing.png", "missing.png does not exist"),
        ("edit RUN PICTURE --remove 1 --steps 0", "steps is 0; it must be 1 or more."),
        ("edit RUN PICTURE --remove 1 --noise-seeds -1", "noise_seeds is -1; it must be 0 or more."),
        ("edit RUN PICTURE --remove 1 --out /dev/null/x", "/dev/null/x cannot be written to"),
        ("doctor RUN --images 0", "num_images is 0; it must be 1 or more."),
        ("demo --steps 0", "steps is 0; it must be 1 or more."),
        ("demo --seed -1", "seed is -1; it must be 0 or more."),
        ("demo --out /dev/null/x", "/dev/null/x cannot be written to"),
        ("demo glass --images 0", "num_images is 0; it must be 1 or more."),
        ("demo glass --out /dev/null/x", "/dev/null/x cannot be written to"),
        ("synthesize glass.scenes --num-images 0", "num_images is 0; give 1 or more"),
        ("synthesize glass.scenes --num-images 4 --out /dev/null/x", "/dev/null/x cannot be written to"),
        ("studio RUN --port 70000", "port is 70000; it must be from 1 to 65535."),
        ("bench --steps 0", "steps is 0; it must be 1 or more."),
    ],
)
def test_found_before_the_work(command, sentence, run_folder, tmp_path, no_work, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    words = [
        {"RUN": str(run_folder), "PICTURE": "a.png", "LONG": "x" * 300}.get(word, word) for word in command.split()
    ]
    try:
        code = main(words)
    except SystemExit as end:  # how the parser ends; it draws a box around the sentence
        code = end.code
    assert code == 2
    said = capsys.readouterr().err
    assert sentence in " ".join(re.sub("[│╭╮╰╯─]", " ", said).split())
    assert len(said.splitlines()) == 1 or "Value error" in said
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    ("task", "sentence"),
    [
        ("sets", "SlotAttentionAutoencoder predicts no sets of objects"),
        ("semantic", "tetromino_scenes does not name classes"),
    ],
)
def test_a_task_that_the_method_or_the_data_cannot_do(task, sentence, run_folder, capsys, monkeypatch):
    monkeypatch.setattr(api, "at_size_of", lambda *args: pytest.fail("the data were opened"))
    assert main(["evaluate", str(run_folder), "--task", task]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "missing", "extra"),
    [
        (f"train {RECIPE} --wandb", "wandb", "wandb"),
        ("evaluate RUN --task reconstruction --perceptual", "torch_fidelity", "perceptual"),
        ("segment RUN clip.mp4", "av", "video"),
        ("synthesize glass.scenes --num-images 4", "pyarrow.parquet", "synthesis"),
        ("studio RUN", "gradio", "studio"),
    ],
)
def test_an_extra_that_is_missing_is_named_before_the_work(
    command, missing, extra, run_folder, tmp_path, no_work, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clip.mp4").write_bytes(b"")
    monkeypatch.setitem(sys.modules, missing, None)
    assert main([str(run_folder) if word == "RUN" else word for word in command.split()]) == 2
    assert f"pip install 'slotworks[{extra}]'" in capsys.readouterr().err


def whole_numbers(cls, found):
    """Names of the whole numbers in a class of settings and in the classes it holds."""
    for field in fields(cls):
        hint = typing.get_type_hints(cls)[field.name]
        for part in (hint, *typing.get_args(hint)):
            if is_dataclass(part):
                whole_numbers(part, found)
            elif part is int or int in typing.get_args(part):
                found[field.name] = cls.__name__
    return found


def test_every_whole_number_of_a_method_or_data_set_has_a_range():
    recipes()
    found, classes = {}, [MethodConfig, DataConfig]
    for cls in classes:
        classes += cls.__subclasses__()
        if cls.__module__.startswith("slotworks."):
            whole_numbers(cls, found)
    assert len(found) > 90
    assert {name: cls for name, cls in found.items() if name not in RANGES} == {}


# ---- run.yaml ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a: &x [1]\nb: *x", "an anchor"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]", "an anchor"),
        ("[" * 5000, f"more than {DEPTH} mappings"),
        ("{a: " * 5000, f"more than {DEPTH} mappings"),
        ("- " * 5000, f"more than {DEPTH} mappings"),
        (f"[{'1,' * (NODES + 1)}]", f"more than {NODES:,} values"),
        ("a" * (LIMIT + 1), "300,001 characters"),
        ("9" * 5000, "a number of 5000 digits"),
        ("1" + ":1" * 5000, "a number of 10001 digits"),
        ("!!binary abcd", "could not determine a constructor"),
        ("!!timestamp 2020-01-01", "could not determine a constructor"),
        ("!!bool maybe", "does not fit its tag"),
        ("a: 1\na: 2", "'a' twice"),
        ("{[1]: 2}", "unhashable key"),
    ],
    ids=range(14),
)
def test_yaml_that_settings_cannot_hold(text, what):
    with pytest.raises(ValueError, match=what):
        read_yaml(text)


def test_yaml_without_dates():
    assert read_yaml("{a: 2020-01-01, b: 1.5, c: [yes, null, 3], d: '3'}") == {
        "a": "2020-01-01",
        "b": 1.5,
        "c": [True, None, 3],
        "d": "3",
    }


STRANGE = [
    None,
    True,
    -1,
    0,
    10**400,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "\0",
    "[1]",
    [],
    [1],
    {},
    {"kind": [1]},
]
STRANGE += [{"kind": "Run"}, {1: 2}, [[1, [2]]]]


def places(plain, path=()):
    """The way to every value in a tree."""
    yield path
    for key, value in plain.items() if isinstance(plain, dict) else enumerate(plain) if isinstance(plain, list) else ():
        yield from places(value, (*path, key))


def test_every_value_of_a_run_replaced_by_strange_ones():
    """At most a sentence: no other exception, no hang."""
    whole = read_yaml(to_yaml(find(RECIPE)()))
    ways = [way for way in places(whole) if way]
    refused = 0
    for way in ways:
        for value in STRANGE:
            plain = deepcopy(whole)
            inner = plain
            for key in way[:-1]:
                inner = inner[key]
            inner[way[-1]] = value
            try:
                from_plain(Run, plain, source="run.yaml")
            except UserError:
                refused += 1
    assert len(ways) > 60
    assert refused > 0.5 * len(ways) * len(STRANGE)


@pytest.mark.parametrize(
    "content", [b"\xff\xfek\0i\0", b"\x80" * 50, b"\0", b"kind: Run\nsteps: " + b"9" * 9_000], ids=range(4)
)
def test_a_run_file_in_another_encoding(content, tmp_path):
    (tmp_path / "run.yaml").write_bytes(content)
    with pytest.raises(UserError, match=r"run\.yaml is not"):
        load_run(tmp_path)


def test_a_run_file_with_a_byte_order_mark(tmp_path):
    run = find(RECIPE)()
    (tmp_path / "run.yaml").write_text(to_yaml(run), encoding="utf-8-sig")
    assert load_run(tmp_path) == run


def test_json_with_a_byte_order_mark():
    assert read_json(b'\xef\xbb\xbf{"a": [1]}') == {"a": [1]}


def test_what_is_quoted_is_cut(tmp_path):
    (tmp_path / "run.yaml").write_text("kind: '" + "x" * 200_000 + "'")
    with pytest.raises(UserError, match="is of class xxx") as caught:
        load_run(tmp_path)
    assert len(str(caught.value)) < 1000
    whole = str(UserError("begin " + "x" * 20_000_000 + " what to do"))
    assert len(whole) < MESSAGE + 10
    assert whole.startswith("begin ")
    assert whole.endswith(" what to do")
    assert quote(10**5000) == "a huge int"


# ---- the machine ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/x"), "runs/x: No space left on device; make room"),
        (PermissionError(errno.EACCES, "Permission denied", "data"), "data: Permission denied; change its permissions"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS), "/ro"), "/ro: Read-only file system; choose another place."),
        (
            OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), "xx"),
            "xx: File name too long; choose a shorter",
        ),
        (OSError(errno.EFBIG, os.strerror(errno.EFBIG), "x"), "x: File too large; allow larger files"),
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), "Too many open files; allow more open files"),
        (MemoryError(), "The memory does not suffice (MemoryError)"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "The memory does not"),
        (RuntimeError("the shapes do not fit"), None),
        (FileNotFoundError(errno.ENOENT, "No such file", "a"), None),
        (OSError("a library's own"), None),
        (ValueError("a fault of the program"), None),
    ],
)
def test_refusals_of_the_machine_and_faults_of_the_program(error, sentence, monkeypatch, capsys):
    def fail(*args):
        raise error

    monkeypatch.setattr("slotworks.cli.report.main", fail)
    if sentence is None:
        with pytest.raises(type(error)):
            main(["report", "x"])
        return
    assert main(["report", "x"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("slotworks report: ")
    assert sentence in said
    assert len(said.splitlines()) == 1


def test_a_folder_is_tried_and_left_as_it_was(tmp_path):
    check_writable(tmp_path / "a" / "b" / "c")
    check_writable(tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    for name in ("file", "file/x", "nowhere", "x" * 300, "a\0b"):
        with pytest.raises(UserError, match="cannot be written to"):
            check_writable(tmp_path / name)


@pytest.mark.parametrize("options", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_an_output_without_the_signs_of_a_table(options, run_folder):
    command = [sys.executable, "-m", "slotworks", "evaluate", str(run_folder), "--images", "4", "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, env=os.environ | options, check=False)
    assert done.returncode == 0, done.stderr
    assert b"fg_ari" in done.stdout
    assert b"Traceback" not in done.stderr


# ---- names ---------------------------------------------------------------------------------------------------------


def test_names_cannot_colour_or_move_the_cursor(tmp_path, capsys, run_folder):
    assert printable("a\x1b[31mb\x07\n\u202ec") == "a\\x1b[31mb\\x07\n\\u202ec"
    assert main(["segment", str(run_folder), str(tmp_path / "\x1b[31mred.png")]) == 2
    assert "\\x1b[31mred.png does not exist" in capsys.readouterr().err
    name = "[red]cat[bold]\x1b[2J.png"
    Image.fromarray(np.zeros((35, 35, 3), np.uint8)).save(tmp_path / name)
    assert main(["segment", str(run_folder), str(tmp_path / name), "--out", str(tmp_path / "[blue]")]) == 0
    said = capsys.readouterr().out
    assert "[red]cat[bold]\\x1b[2J.png" in said
    assert "\x1b" not in said


def test_markup_in_the_name_of_a_run_folder(run_folder, tmp_path, capsys):
    folder = tmp_path / "[bold]x[red]"
    folder.symlink_to(run_folder)
    for command in ("evaluate --images 4", "report", "doctor --images 4"):
        verb, *options = command.split()
        assert main([verb, str(folder), *options]) in (0, 1)
    assert "[bold]x[red]" in capsys.readouterr().out


def test_no_console_shows_what_moves_the_cursor(monkeypatch):
    """Names reach consoles from the bar of a training, from progress and from notes about data."""
    from slotworks import progress
    from slotworks.cli import console
    from slotworks.data.stores import prepared
    from slotworks.training import logs

    monkeypatch.setenv("TERM", "xterm")  # of a dumb terminal there would be no bar
    name, shown = "[bold]a\x1b[2Jb[red]\u202e", StringIO()
    for place in (progress.console, console.out, console.err):
        monkeypatch.setattr(place, "_file", shown)
        monkeypatch.setattr(place, "_force_terminal", True)
        monkeypatch.setattr(place, "_width", 200)
    monkeypatch.setattr(progress.console, "_color_system", None)
    run = replace(find(RECIPE)(), steps=2)
    with logs.Display(run, Path(name), step=0, device=torch.device("cpu"), quiet=False) as display:
        display.say(name)
        display.advance(1, 1.0)
    with progress.progress(name, 3) as advance:
        advance(1)
        prepared.say(f"{name} holds one image")
    console.out.print(name, markup=False)
    said = re.sub(r"\x1b\[[0-9;?]*[A-Zhlm]", lambda code: "<2J>" if code[0] == "\x1b[2J" else "", shown.getvalue())
    assert said.count("[bold]a\\x1b[2Jb[red]\\u202e") >= 4
    assert "<2J>" not in said
    assert "\u202e" not in said


def test_there_is_no_other_kind_of_console():
    """`PlainConsole`, which writes control characters out, is the one."""
    found = Path(cli.__file__).parents[1].rglob("*.py")
    assert [path for path in found if re.search(r"\bConsole\(", path.read_text())] == []


# ---- a person's own Python files -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("def run(:\n", "own.py, line 1: invalid syntax (SyntaxError)"),
        ("\n\n  x = 1\n", "own.py, line 3: unexpected indent (IndentationError)"),
        ("x = 1\n\0", "own.py: "),
        ("x = '\xe4'\n".encode("latin-1"), "own.py, line 1: (unicode error) 'utf-8' codec"),
        ("import nothing_of_this_name\n", "own.py, line 1: ModuleNotFoundError(\"No module named 'nothing_of_this"),
        ("def run():\n    return unknown\n", "own.py, line 2: NameError(\"name 'unknown' is not defined\")"),
        ("def run(needed):\n    pass\n", "own.py: TypeError("),
        ("def run():\n    return 3\n", "run of own.py returns a value of the type int, not a Run."),
        ("run = 3\n", "own.py has no function 'run' that returns a Run."),
    ],
)
def test_a_mistake_in_a_file_of_ones_own(text, sentence, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own", raising=False)
    Path("own.py").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert main(["train", "own.py:run"]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert len(said.splitlines()) == 1
    sys.modules.pop("own", None)


def test_a_file_of_ones_own_that_is_no_python(tmp_path, capsys):
    (tmp_path / "own.txt").write_text("run = 3")
    for command in (
        ["train", f"{tmp_path}/own.txt:run"],
        ["doctor", "run", "--module", f"{tmp_path}/own.txt"],
    ):
        assert main(command) == 2
        assert "own.txt is not a Python file; its name must end in .py." in capsys.readouterr().err
    (tmp_path / "own.py").write_text("raise ValueError('no')")
    assert main(["synthesize", f"{tmp_path}/own.py:run"]) == 2
    assert "own.py, line 1: ValueError('no'); correct it there." in capsys.readouterr().err
    assert "own" not in sys.modules


# ---- exit codes ----------------------------------------------------------------------------------------------------


@pytest.fixture
def stopping(monkeypatch):
    """Trainings that end as if this signal had come after their first step."""
    from slotworks.training import loop

    def use(number):
        class Asked(loop.Interrupt):
            def __enter__(self):
                self.asked = number
                return self

        monkeypatch.setattr(loop, "Interrupt", Asked)

    return use


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("more", [[], ["--seeds", "2"]])
def test_a_training_that_was_stopped(more, number, code, stopping, tmp_path):
    stopping(number)
    assert main(["train", RECIPE, "--out", str(tmp_path / "run"), *SMALL.split(), *more]) == code
    assert not (tmp_path / "run" / "seed1").exists()
    assert list((tmp_path / "run").rglob("last.safetensors"))


def test_a_sweep_that_was_stopped(stopping, tmp_path):
    stopping(signal.SIGINT)
    command = ["sweep", RECIPE, "--set", "method.num-slots=3,4", "--out", str(tmp_path / "s")]
    assert main([*command, *SMALL.split()]) == 130
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["num-slots=3"]


def test_a_demo_that_was_stopped(stopping, tmp_path, monkeypatch):
    stopping(signal.SIGINT)
    recipe = find(RECIPE)()
    small = replace(recipe, batch_size=2, precision="32", eval_every=9)
    monkeypatch.setattr("slotworks.configs.find", lambda name: lambda: small)
    assert main(["demo", "--steps", "2", "--out", str(tmp_path), "--no-open"]) == 130


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (Stopped(signal.SIGTERM), 143), (UserError("no"), 2)]
)
@pytest.mark.parametrize("verb", cli.VERBS)
def test_exit_codes_of_every_verb(verb, error, code, monkeypatch, capsys):
    def fail(*args):
        raise error

    monkeypatch.setattr(f"slotworks.cli.{cli.VERBS[verb][0]}.main", fail)
    assert main([verb, "x"]) == code
    capsys.readouterr()


# ---- git -----------------------------------------------------------------------------------------------------------


def git(folder, *words):
    names = {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    return subprocess.run(
        ["git", *words], cwd=folder, check=True, capture_output=True, text=True, env=os.environ | names
    ).stdout.strip()


def test_the_commit_is_read_without_running_what_the_repository_names(tmp_path, monkeypatch):
    marks, evil = tmp_path / "marks", tmp_path / "evil.sh"
    repository = tmp_path / "repository"
    repository.mkdir()
    git(repository, "init", "-q")
    (repository / "file").write_text("one\n")
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "one")
    commit = git(repository, "rev-parse", "HEAD")
    evil.write_text(f'#!/bin/sh\necho "$0 $@" >> {marks}\ncat\n')
    evil.chmod(0o755)
    for hook in ("post-index-change", "reference-transaction"):
        (repository / ".git" / "hooks").mkdir(exist_ok=True)
        (repository / ".git" / "hooks" / hook).write_text(evil.read_text())
        (repository / ".git" / "hooks" / hook).chmod(0o755)
    settings = (
        "core.fsmonitor",
        "filter.x.clean",
        "filter.x.smudge",
        "filter.y.process",
        "diff.external",
        "core.pager",
    )
    with (repository / ".git" / "config").open("a") as config:
        for name in (*settings, "core.sshCommand", "core.alternateRefsCommand"):
            section, _, key = name.rpartition(".")
            head, _, part = section.partition(".")
            config.write(f'[{head} "{part}"]\n' if part else f"[{head}]\n")
            config.write(f"\t{key} = {evil}\n")
        config.write('[filter "x"]\n\trequired = true\n')
    (repository / ".git" / "info" / "attributes").write_text("file filter=x\nother filter=y\n")
    monkeypatch.chdir(repository)
    os.utime(repository / "file", (1, 1))  # git has to read it to know that it is the same
    assert _commit() == commit
    (repository / "file").write_text("two\n")
    assert _commit() == f"{commit}-dirty"
    assert not marks.exists()
    subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, check=False)
    assert marks.exists()  # the trap works
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    assert _commit() is None
