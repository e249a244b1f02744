"""`slotworks train`."""

import json
import os
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from statistics import mean, stdev
from textwrap import dedent, indent
from typing import TYPE_CHECKING

from rich.markup import escape

from slotworks import tables
from slotworks.cli.console import err, out, percent, print_json, take_all, take_option
from slotworks.cli.engines import run_parts, take_engine
from slotworks.engines import Engine, OneByOne, Part
from slotworks.errors import Stopped, UserError
from slotworks.outputs import Outputs, writing
from slotworks.ranges import whole_number

if TYPE_CHECKING:
    from slotworks.training import Run

HELP = """usage: slotworks train CONFIG [--out DIR] [--seeds N] [--device D] [--dry-run] [--OPTION VALUE ...]

Train a recipe. A run that was stopped goes on where it stopped when the same command is given again.

  slotworks train slot_attention.tetrominoes_mini                  minutes on a CPU, no download
  slotworks train slot_attention.tetrominoes_mini --dry-run        what it costs here; writes nothing
  slotworks train slot_attention.tetrominoes --data.root DIR       the paper's setting on the official file
  slotworks train slot_attention.clevr6 --optimizer.lr 2e-4 --method.num-slots 11
  slotworks train slot_attention.tetrominoes_mini --seeds 3        three seeds, mean and spread
  slotworks train runs/mine/run.yaml                               a run once more, into runs/mine_again
  slotworks train my_runs.py:ablation_3                            a recipe in a file of your own
  slotworks train dinosaur.scenes_mini --pictures holiday          on a folder of your own pictures
  torchrun --nproc-per-node 8 -m slotworks train slot_attention.clevr6

%s
`slotworks train CONFIG --help` lists every option of a recipe, `slotworks recipes` what each takes. Recipes:
"""

OPTIONS = """\
  --out DIR      run folder; default runs/CONFIG (with --seeds: runs/CONFIG/seed0, ...)
  --seeds N      train N seeds, from the recipe's own seed on, and report mean and spread; default 1. A second stage
                 builds on the first of its seed, if that was trained with --seeds, else all seeds on the one run
  --device D     cpu, cuda, cuda:1 or mps; default: the first GPU, or the CPU
  --pictures DIR a folder of your own pictures in place of the recipe's data, with or without masks (docs/data.md)
  --workers N, --engine ray   seeds at the same time, in processes or on a cluster (docs/guides/cluster.md)
  --dry-run      build everything and make a few steps in memory: parameters, memory, time, and where each setting
                 comes from; writes nothing
  --module FILE  Python file that defines the classes that a run.yaml names
  --callback N   file.py:NAME or module:NAME, a slotworks.training.Callback of your own; may be given several times
  --json         print the result as JSON
  --keep-memory  keep freed memory: faster on a CPU under Linux, at the cost of some memory (docs/performance.md)
"""

FLAGS = ("--json", "--keep-memory", "--dry-run")


def main(argv: Sequence[str]) -> int:
    """Parse by hand what belongs to the verb; the rest are fields of the recipe."""
    if not argv or argv[0] in ("-h", "--help"):
        print(HELP % OPTIONS, end="")
        for row in tables.read()["recipes"]:
            print(f"  {row['name']}\n      {row['about']}")
        return 0
    name, *rest = argv
    if name.startswith("-"):
        raise UserError(f"The first word after `train` is {name}, expected a recipe; `slotworks recipes` lists them.")
    rest, folder = take_option(rest, "--out")
    rest, seeds = take_option(rest, "--seeds")
    rest, device = take_option(rest, "--device")
    rest, module = take_option(rest, "--module")
    rest, callbacks = take_all(rest, "--callback")
    rest, engine = take_engine(rest)
    flags, rest = {*FLAGS} & {*rest}, [word for word in rest if word not in FLAGS]
    if module:
        from slotworks.parts import import_file

        import_file(Path(module))
    if "--keep-memory" in flags:
        from slotworks.training.allocator import keep_freed_memory

        keep_freed_memory()
    if "--dry-run" in flags:
        if folder or seeds:
            option = "--out" if folder else "--seeds"
            raise UserError(f"A dry run writes nothing and tries one seed; leave {option} out.")
        answer = try_out(name, rest, device, quiet="--json" in flags)
    else:
        run = build(name, rest)
        base = Path(folder or folder_of(name))
        if is_file(name):
            err.print(f"Training as {name} says, into {base}.", soft_wrap=True, markup=False)
        if seeds is None:
            if not isinstance(engine, OneByOne):
                raise UserError("--workers and --engine run several seeds at once; add --seeds N, or use torchrun.")
            answer = train_one(run, base, device=device, callbacks=callbacks)
        else:
            if not whole_number(seeds):
                raise UserError(f"--seeds is {seeds}; expected a number of seeds, 1 or more.")
            answer = train_seeds(run, base, int(seeds), device=device, callbacks=callbacks, engine=engine)
    if "--json" in flags:
        print_json(answer)
    check_stopped(answer)
    return 1 if any("diverged" in one for one in answer.get("runs", ())) else 0


def is_file(name: str) -> bool:
    """Whether this is a run.yaml or a run folder, and not a recipe."""
    return name.endswith((".yaml", ".yml")) or (Path(name) / "run.yaml").is_file()


def folder_of(name: str) -> Path:
    """The run folder of a recipe where none is named; of a run that is repeated, another one beside it."""
    if is_file(name):
        path = Path(name)
        first = path.parent if path.name == "run.yaml" else path.with_suffix("") if path.suffix else path
        again = f"{first.resolve().name}_again"
        return first.with_name(again) if first.name else Path("..") / again
    return Path("runs") / name.replace(".py:", ".").replace("/", "_")


def build(name: str, overrides: Sequence[str]) -> "Run":
    """The recipe of this name, or the run of a run.yaml, with fields overridden from the command line."""
    run, about = _named(name)
    overrides, pictures = take_option(list(overrides), "--pictures")
    if pictures:
        from slotworks.cli.pictures import own_pictures

        run = replace(run, data=own_pictures(run.data, pictures))
    first, _, more = about.partition("\n")  # lines that are indented are shown as they are
    about = f"{first}\n{indent(dedent(more).rstrip(), '  ')}\n\nOptions of the command itself:\n{OPTIONS}"
    changed = override(run, overrides, prog=f"slotworks train {name}", about=about)
    changed = with_fitting_encoder(run, changed, overrides)
    if changed.protocol != run.protocol and ":" in changed.protocol:  # who names it here may have it imported
        from slotworks.protocols import get

        get(changed.protocol)
    if run.steps and not changed.steps:
        raise UserError("steps is 0; it must be 1 or more, since this recipe is one to train.")
    return changed


def _named(name: str) -> "tuple[Run, str]":
    """A run before anything is overridden, and what is known about it."""
    if is_file(name):
        import slotworks.api  # noqa: F401  (a run names classes of the package; it never says what to import)
        from slotworks.training import load_run

        run = load_run(Path(name))
        return run, f"The run of {name}. {run.expected}"
    from slotworks.configs import find

    recipe, row = find(name), tables.row(name)
    if row is None:  # in a file of one's own
        return recipe(), getattr(recipe, "about", recipe.__doc__ or "")
    facts = {"Command": "command", "Takes": "takes", "Published": "published", "Our own": "measured"}
    lines = "\n".join(f"{label + ':':<11}{row[field]}" for label, field in facts.items())
    return recipe(), "\n\n".join(filter(None, [row["about"], getattr(recipe, "notes", ""), lines]))


def with_fitting_encoder(before: "Run", run: "Run", words: Sequence[str]) -> "Run":
    """Where another network was named, its patch and width, unless these were named, too; also for cached features."""
    from slotworks.data import CachedFeatures
    from slotworks.encoders.vit import ViTConfig, fitted

    old, new = getattr(before.method, "encoder", None), getattr(run.method, "encoder", None)
    if not isinstance(old, ViTConfig) or not isinstance(new, ViTConfig) or old == new:
        return run
    given = {word.partition("=")[0].replace("-", "_") for word in words}
    fields = ("patch_size", "feature_dim", "position_offset")
    if old.model != new.model:
        new = fitted(new, keep=[name for name in fields if f"__method.encoder.{name}" in given])
    same = isinstance(run.data, CachedFeatures) and run.data.encoder == old
    try:
        data = replace(run.data, encoder=new) if same else run.data  # type: ignore[call-arg]
        return replace(run, method=replace(run.method, encoder=new), data=data)  # type: ignore[call-arg]
    except ValueError as error:
        raise UserError(str(error)) from None


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


def check_stopped(answer: dict) -> None:
    """After a training that Ctrl-C or SIGTERM stopped nothing that builds on it goes on.

    Raises:
        Stopped: if it was stopped.
    """
    if "signal" in answer:
        raise Stopped(answer["signal"])


def try_out(name: str, overrides: Sequence[str], device: str | None, *, quiet: bool) -> dict:
    """`--dry-run`: a few steps in memory, and every setting with where it comes from."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a download would be written
    run, (before, _) = build(name, overrides), _named(name)
    from slotworks.api import find_device
    from slotworks.progress import duration
    from slotworks.training.trial import dry_run, origins

    if device is not None:
        find_device(device)
    answer = dry_run(run, device=device)
    answer["settings"] = origins(run, before, Path(name).name if is_file(name) else "recipe")
    if quiet:
        return answer
    width = max(len(row["name"]) for row in answer["settings"]) + 2
    for row in answer["settings"]:
        out.print(f"{row['name']:<{width}}{row['value']}  ({row['from']})", soft_wrap=True, markup=False)
    out.print()
    shapes = ", ".join(f"{field} {' x '.join(map(str, shape))}" for field, shape in answer["batch"].items())
    trained, parameters, samples = (f"{answer[key]:,}" for key in ("trained", "parameters", "samples"))
    lines = {
        "device": f"{answer['device']}, {answer['threads']} threads, precision {answer['precision']}",
        "parameters": f"{trained} trained" + (f" of {parameters}" if trained != parameters else ""),
        "data": f"{answer['data']}, {samples} samples; a batch: {shapes}",
        "memory": f"{answer['memory_mib']:,.0f} MiB at its peak",
        "step": f"{answer['step_seconds']:.3g} s, and {answer['read_seconds']:.3g} s to read its samples",
    }
    if answer["once_seconds"]:
        lines["features"] = f"{duration(answer['once_seconds'])} to compute them once; a training stores them"
    lines["total"] = f"{duration(answer['total_seconds'])} for {answer['steps']:,} steps, without evaluations"
    for label, text in lines.items():
        out.print(f"{label:<12}{text}", soft_wrap=True, markup=False)
    out.print("Nothing was written.")
    return answer


def train_one(run: "Run", folder: Path, *, device: str | None = None, callbacks: Sequence[str] = ()) -> dict:
    """Train and say what came out; `callbacks` are names of one's own."""
    from slotworks.api import train
    from slotworks.training.callbacks import find_callback

    told = [find_callback(name) for name in callbacks]
    answer = train(run, folder, on_eval=_say, device=device, callbacks=told)
    if "metrics" in answer:
        protocol = escape(answer["protocol"])
        scores = ", ".join(f"{k} {percent(v['mean'])}" for k, v in answer["metrics"].items())
        of = f"{answer['images']} of the {answer['split']} split"
        scores = f"[bold]{scores}[/bold]  on {of}, {protocol}" if scores else protocol
        err.print(scores, soft_wrap=True)
        err.print(f"{answer['verdict']}  Report: {answer['report']}", soft_wrap=True, markup=False)
    return answer


def train_seeds(
    run: "Run",
    base: Path,
    count: int,
    *,
    device: str | None = None,
    callbacks: Sequence[str] = (),
    engine: Engine | None = None,
) -> dict:
    """Train several seeds, by default one after the other, each resuming; report mean and spread, write summary.json.

    A seed that diverges is named and left out of the mean; the others go on.
    """
    from slotworks.training import Diverged

    engine = engine or OneByOne()
    Outputs(base).check_free(["summary.json"])
    found: dict[int, dict] = {}
    runs = {seed: of_seed(run, seed) for seed in range(run.seed, run.seed + count)}  # all, before the first is trained
    for note in dict.fromkeys(note for _, notes in runs.values() for note in notes):
        err.print(note, soft_wrap=True, markup=False)
    how = {"device": device, "callbacks": callbacks}
    parts = []
    for seed, (one, _) in runs.items():
        more = run.seed + count - seed - 1
        parts.append(
            Part(f"Seed {seed}", _train_seed, (one, base / f"seed{seed}", how, more * isinstance(engine, OneByOne)))
        )
    for number, answer in run_parts(engine, "seeds", parts):
        if isinstance(answer, Diverged):
            err.print(str(answer), soft_wrap=True, markup=False)
            answer = {"diverged": str(answer)}
        elif isinstance(answer, Exception):
            raise answer
        found[number] = {"seed": run.seed + number, **answer}
        if "signal" in answer:
            break  # the remaining seeds are not wanted now
    answers = [found[number] for number in sorted(found)]
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
    signals = [one["signal"] for one in answers if "signal" in one]
    answer |= {"signal": signals[0]} if signals else {}
    with writing(base, doing="writing a summary") as outputs:
        outputs.write_text("summary.json", json.dumps(answer, indent=1) + "\n")
    return answer


def _train_seed(run: "Run", folder: Path, how: dict, more: int) -> dict:
    from slotworks.progress import following

    following.set((more, more * run.steps))
    err.print(f"[bold]seed {run.seed}[/bold]")
    return train_one(run, folder, **how)


def of_seed(run: "Run", seed: int) -> "tuple[Run, list[str]]":
    """The run with another seed, and what it builds on.

    An earlier run that the method names, such as the first stage of SPOT, is the one of the same seed where it was
    trained with `--seeds` (`runs/NAME/seed1` in the place of `runs/NAME`); a run folder serves all seeds.

    Raises:
        UserError: if the earlier run has other seeds, but not this one.
    """
    earlier, notes = {}, []
    for field in fields(run.method):
        value = getattr(run.method, field.name)
        if not isinstance(value, str) or not value:
            continue
        place = Path(value)
        if (place / "run.yaml").is_file():
            notes.append(f"All seeds build on {value}, the one run that method.{field.name} names.")
        elif trained := sorted(path.parent.name for path in place.glob("seed*/run.yaml")):
            if f"seed{seed}" not in trained:
                raise UserError(
                    f"{value} holds {', '.join(trained)}, but not seed{seed}, which seed {seed} builds on; train it "
                    f"there first, or name one run for all seeds with --method.{field.name.replace('_', '-')}."
                )
            earlier[field.name] = str(place / f"seed{seed}")
            notes.append(f"seed {seed} builds on {earlier[field.name]}.")
    return replace(run, seed=seed, method=replace(run.method, **earlier)), notes


def _say(step: int, metrics: dict[str, float], verdict: str) -> None:
    """The detector's word; the loop prints the metrics itself."""
    from slotworks.training.logs import console

    style = "dim" if verdict.startswith("healthy") else "yellow"
    console.print(f"step {step}  {verdict}", soft_wrap=True, style=style, highlight=False, markup=False)
