"""What a shell completes, and what `--quiet` leaves out."""

import contextlib
import shutil
import subprocess
import sys

import pytest

from slotworks import tables
from slotworks.cli import VERBS, main
from slotworks.cli.completion import SCRIPTS, following
from slotworks.progress import console, say


def test_verbs_recipes_and_options():
    assert following([""]) == [*VERBS, "--help", "--version"]
    assert following(["se"]) == ["segment"]
    assert following(["train", ""]) == [row["name"] for row in tables.read()["recipes"]]
    assert following(["segment", "--num-s"]) == ["--num-slots"]
    assert following(["train", "slot_attention.clevr6", "--se"]) == ["--seeds"]
    assert following(["recipes", "--"]) == ["--published", "--json", "--help", "--quiet"]
    assert following(["completion", ""]) == list(SCRIPTS)


@pytest.mark.parametrize("words", [["segment", "pict"], ["no-verb", ""], ["report", ""]])
def test_files_are_left_to_the_shell(words):
    assert following(words) == []


def test_bash_completes(tmp_path):
    """The script itself, with a program of that name on the path."""
    bash = shutil.which("bash")
    program = tmp_path / "slotworks"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m slotworks "$@"\n')
    program.chmod(0o755)
    script = """
    PATH="$1:$PATH"; source <(slotworks completion bash)
    COMP_WORDS=(slotworks rec); COMP_CWORD=1; _slotworks; printf '%s\\n' "${COMPREPLY[@]}"
    COMP_WORDS=(slotworks train dspn.scenes); COMP_CWORD=2; _slotworks; printf '%s\\n' "${COMPREPLY[@]}"
    complete -p slotworks
    """
    found = subprocess.run([bash, "-c", script, "bash", str(tmp_path)], capture_output=True, text=True, check=True)
    recipes = [row["name"] for row in tables.read()["recipes"] if row["name"].startswith("dspn.scenes")]
    assert found.stdout.split("\n") == ["recipes", *recipes, "complete -o default -F _slotworks slotworks", ""]


def test_an_unknown_shell_is_one_sentence(capsys):
    assert main(["completion", "csh"]) == 2
    assert "takes the name of a shell, bash, zsh, fish; got csh." in capsys.readouterr().err


def test_quiet_shows_results_and_errors_alone(monkeypatch, capsys):
    from slotworks.cli import recipes

    def speaks(argv):
        say("on the way")
        print("result", *argv)
        return 0

    monkeypatch.setattr(recipes, "main", speaks)
    assert main(["recipes", "--quiet", "mini"]) == 0
    quiet = capsys.readouterr()
    assert (quiet.out, quiet.err) == ("result mini\n", "")
    assert not console.quiet
    assert main(["recipes", "mini"]) == 0
    assert "on the way" in capsys.readouterr().err
    monkeypatch.undo()
    assert main(["recipes", "--quiet", "--nothing"]) == 2
    assert "has no option --nothing" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["recipes", "mini"], ["segment", "--nothing"], ["train", "--help"]])
def test_there_are_no_colours_but_on_a_terminal(words, capsys):
    with contextlib.suppress(SystemExit):
        main(words)
    said = capsys.readouterr()
    assert said.out + said.err
    assert "\x1b" not in said.out + said.err
