"""`slotworks completion`: what a shell needs to complete verbs, recipes and options."""

import contextlib
import io
import re
from collections.abc import Sequence

from slotworks import tables
from slotworks.errors import UserError

HELP = """usage: slotworks completion bash | zsh | fish

Print what makes a shell complete verbs, recipes and options with the tabulator key. Files are completed as before.

  source <(slotworks completion bash)                                      in ~/.bashrc
  source <(slotworks completion zsh)                                       in ~/.zshrc, after compinit
  slotworks completion fish > ~/.config/fish/completions/slotworks.fish    once"""

SCRIPTS = {
    "bash": r"""_slotworks() {
  local IFS=$'\n'
  COMPREPLY=($(slotworks completion --words "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -F _slotworks slotworks""",
    "zsh": r"""_slotworks() {
  local -a found
  found=("${(@f)$(slotworks completion --words "${(@)words[2,CURRENT]}" 2>/dev/null)}")
  if [[ -n $found ]]; then compadd -a found; else _files; fi
}
compdef _slotworks slotworks""",
    "fish": "complete -c slotworks -a '(slotworks completion --words (commandline -opc)[2..] (commandline -ct))'",
}
OF_RECIPES = ("train", "sweep", "plan")  # verbs whose first word is a recipe


def main(argv: Sequence[str]) -> int:
    """The script of a shell; or, for that script, the words that may stand in the place of the last one."""
    if argv and argv[0] == "--words":
        print("\n".join(following(argv[1:])))
    elif {"-h", "--help"} & set(argv):
        print(HELP)
    elif len(argv) == 1 and argv[0] in SCRIPTS:
        print(SCRIPTS[argv[0]])
    else:
        raise UserError(
            f"`completion` takes the name of a shell, {', '.join(SCRIPTS)}; got {' '.join(argv) or 'none'}."
        )
    return 0


def following(words: Sequence[str]) -> list[str]:
    """What the last word, which may be empty or begun, can become after those before it; nothing: leave it to files.

    >>> following(["repo"])
    ['report']
    >>> following(["completion", "z"])
    ['zsh']
    """
    from slotworks.cli import ALWAYS, VERBS

    *before, begun = words or [""]
    if not before:
        known: Sequence[str] = [*VERBS, "--help", "--version"]
    elif before[0] not in VERBS:
        known = []
    elif begun.startswith("-"):
        known = [*_options(before[0]), *ALWAYS]
    elif before[0] in OF_RECIPES and len(before) == 1:
        known = [row["name"] for row in tables.read()["recipes"]]
    else:
        known = list(SCRIPTS) if before == ["completion"] else []
    return [word for word in dict.fromkeys(known) if word.startswith(begun)]


def _options(verb: str) -> list[str]:
    """Every option that the help of a verb names."""
    from slotworks.cli import main as run

    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(SystemExit):
        run([verb, "--help"])
    return re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", said.getvalue())
