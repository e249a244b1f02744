"""`slotworks train`."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING

from slotworks import tables
from slotworks.cli.console import err, percent, print_json, take_option
from slotworks.files import write_text

if TYPE_CHECKING:
    from slotworks.training import Run
from slotworks.errors import UserError

HELP = """usage: slotworks train CONFIG [--out DIR] [--seeds N] [--json] [--keep-memory] [--OPTION VALUE ...]

Train a recipe. A run that was stopped goes on where it stopped when the same command is given again.

  slotworks train slot_attention.tetrominoes_mini                  minutes on a CPU, no download
  slotworks train slot_attention.tetrominoes --data.root DIR       the paper's setting on the official file
  slotworks train slot_attention.clevr6 --optimizer.lr 2e-4 --method.num-slots 11
  slotworks train slot_attention.tetrominoes_mini --seeds 3        three seeds, mean and spread
  slotworks train my_runs.py:ablation_3                            a recipe in a file of your own
  torchrun --nproc-per-node 8 -m slotworks train slot_attention.clevr6

  --out DIR      run folder; default runs/CONFIG (with --seeds: runs/CONFIG/seed0, ...)
  --seeds N      train N seeds, from the recipe's own seed on, and report mean and spread; default 1
  --json         print the result as JSON
  --keep-memory  keep freed memory: faster on a CPU under Linux, at the cost of some memory (docs/performance.md)

`slotworks train CONFIG --help` lists every option of a recipe. Recipes:
"""


def main(argv: Sequence[str]) -> int:
    """Parse by hand what belongs to the verb; the rest are fields of the recipe."""
    if not argv or argv[0] in ("-h", "--help"):
        print(HELP, end="")
        for row in tables.read()["recipes"]:
            print(f"  {row['name']}\n      {row['about']}")
        return 0
    name, *rest = argv
    if name.startswith("-"):
        raise UserError(f"The first word after `train` is {name}, expected a recipe; `slotworks recipes` lists them.")
    rest, folder = take_option(rest, "--out")
    rest, seeds = take_option(rest, "--seeds")
    as_json, keep_memory = "--json" in rest, "--keep-memory" in rest
    rest = [word for word in rest if word not in ("--json", "--keep-memory")]
    if keep_memory:
        from slotworks.training.allocator import keep_freed_memory

        keep_freed_memory()
    run = build(name, rest)
    base = Path(folder or folder_of(name))
    if seeds is None:
        answer = train_one(run, base)
    else:
        if not seeds.isdigit() or int(seeds) < 1:
            raise UserError(f"--seeds is {seeds}; expected a number of seeds, 1 or more.")
        answer = train_seeds(run, base, int(seeds))
    if as_json:
        print_json(answer)
    return 0


def folder_of(name: str) -> Path:
    """The run folder of a recipe where none is named."""
    return Path("runs") / name.replace(".py:", ".").replace("/", "_")


def build(name: str, overrides: Sequence[str]) -> "Run":
    """The recipe of this name with fields overridden from the command line."""
    from slotworks.configs import find

    function = find(name)
    return override(function(), overrides, prog=f"slotworks train {name}", about=function.__doc__)


def override(run: "Run", words: Sequence[str], *, prog: str, about: str | None = None) -> "Run":
    """A run with fields changed as on the command line: `["--method.num-slots", "5"]`."""
    import tyro

    from slotworks.training import Run

    try:
        return tyro.cli(Run, default=run, args=_layout_words(words), prog=prog, description=about)
    except ValueError as error:
        raise UserError(str(error)) from None


def _layout_words(words: Sequence[str]) -> list[str]:
    """`--channels-last` and `--no-channels-last` may stand without a value, like any other flag."""
    full: list[str] = []
    for word, after in zip(words, [*words[1:], ""], strict=False):
        flag = word.replace("_", "-")
        full.append("--channels-last" if flag == "--no-channels-last" else word)
        if flag == "--no-channels-last":
            full.append("False")
        elif flag == "--channels-last" and after not in ("True", "False", "auto"):
            full.append("True")
    return full


def train_one(run: "Run", folder: Path) -> dict:
    """Train and say what came out."""
    from slotworks.api import train

    answer = train(run, folder, on_eval=_say)
    if "metrics" in answer:
        scores = ", ".join(f"{k} {percent(v['mean'])}" for k, v in answer["metrics"].items())
        scores = f"[bold]{scores}[/bold]  on the test split, {answer['protocol']}" if scores else answer["protocol"]
        err.print(scores, soft_wrap=True)
        err.print(f"{answer['verdict']}  Report: {answer['report']}", soft_wrap=True)
    return answer


def train_seeds(run: "Run", base: Path, count: int) -> dict:
    """Train several seeds one after the other, each resuming by itself; report mean and spread, write summary.json.

    A seed that diverges is named and left out of the mean; the others go on.
    """
    from slotworks.progress import following
    from slotworks.training import Diverged

    answers = []
    for seed in range(run.seed, run.seed + count):
        more = run.seed + count - seed - 1
        following.set((more, more * run.steps))
        err.print(f"[bold]seed {seed}[/bold]")
        try:
            answers.append({"seed": seed, **train_one(replace(run, seed=seed), base / f"seed{seed}")})
        except Diverged as error:
            err.print(str(error), soft_wrap=True, markup=False)
            answers.append({"seed": seed, "diverged": str(error)})
        if "diverged" not in answers[-1] and "metrics" not in answers[-1]:
            break  # Ctrl-C: the remaining seeds are not wanted now
    finished = [answer for answer in answers if "metrics" in answer]
    summary = {}
    for name in finished[0]["metrics"] if finished else ():
        values = [answer["metrics"][name]["mean"] for answer in finished]
        spread = stdev(values) if len(values) > 1 else 0.0
        summary[name] = {"mean": mean(values), "std": spread, "seeds": values}
        each = ", ".join(percent(value) for value in values)
        err.print(
            f"[bold]{name} {percent(summary[name]['mean'])} ± {percent(spread)}[/bold] over {len(values)} seeds: {each}"
        )
    answer = {"folder": str(base), "summary": summary, "runs": answers}
    write_text(base / "summary.json", json.dumps(answer, indent=1) + "\n")
    return answer


def _say(step: int, metrics: dict[str, float], verdict: str) -> None:
    """The detector's word; the loop prints the metrics itself."""
    from slotworks.training.logs import console

    style = "dim" if verdict.startswith("healthy") else "yellow"
    console.print(f"step {step}  {verdict}", soft_wrap=True, style=style, highlight=False)
