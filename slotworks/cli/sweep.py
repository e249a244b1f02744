"""`slotworks sweep`."""

import itertools
import json
import re
import signal
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from slotworks import tables
from slotworks.cli.console import err, percent, print_json, take_all, take_option
from slotworks.cli.engines import run_parts, take_engine
from slotworks.engines import Engine, OneByOne, Part
from slotworks.errors import Stopped, UserError
from slotworks.files import write_text
from slotworks.json_text import read_json
from slotworks.outputs import Outputs
from slotworks.ranges import whole_number

if TYPE_CHECKING:
    from slotworks.training import Run

HELP = """usage: slotworks sweep RECIPE [--set FIELD=A,B ...] [--ablation NAMES] [--seeds N] [--OPTION VALUE ...]

Train a recipe in several variants, each in a run folder of its own, and compare them in one table and one plot. What is
finished is not trained again: stopped and started once more, a sweep goes on where it was. A variant whose settings do
not fit together is left out with a sentence; one that fails is a row that says so, and is tried again the next time.

  slotworks sweep set_prediction.scenes_mini --set method.num-iterations=1,3,5 --seeds 3
  slotworks sweep RECIPE --set method.update=gru,replace --set method.num-slots=4,7     all four combinations
  slotworks sweep ablations.discovery_mini --ablation all --seeds 3                     the supplement's section 2
  slotworks sweep slot_attention.clevr6 --ablation aggregation,softmax_axis             on the paper's own recipe

  --set F=A,B     a field of the recipe and its values; several make all combinations
  --ablation N    names from the list below, with commas between them, or all: each changes the recipe in one way
  --seeds N       seeds of each variant, from the recipe's own seed on; default 1
  --metric N      metrics of the plot, with commas between them; by default the first two
  --out DIR       default runs/sweeps/RECIPE; with table.csv, table.md, plot.png and a folder for each variant
  --device D      cpu, cuda, cuda:1 or mps; default: the first GPU, or the CPU
  --workers N, --engine ray   trainings at the same time, in processes or on a cluster (docs/guides/cluster.md)
  --json          print the table as JSON
  --keep-memory   keep freed memory: faster on a CPU under Linux (docs/performance.md)

Other options change a field of the recipe in all variants: --steps 500. Ablations:
"""

RESULT = "result.json"
TRACEBACK = "traceback.txt"  # of what failed for another reason than a mistake of the user


@dataclass(frozen=True)
class Variant:
    """One row of the table."""

    group: str  # of bars: the ablation, or nothing
    label: str
    settings: tuple[str, ...] = ()  # as `--set` takes them, one value each
    is_default: bool = False


def main(argv: Sequence[str]) -> int:
    """Parse by hand what belongs to the verb; the rest are fields of the recipe."""
    if not argv or argv[0] in ("-h", "--help"):
        print(HELP, end="")
        for row in tables.read()["ablations"]:
            print(f"  {row['name']:<20}{row['about']}")
        return 0
    name, *rest = argv
    if name.startswith("-"):
        raise UserError(f"The first word after `sweep` is {name}, expected a recipe; `slotworks recipes` lists them.")
    rest, values = take_all(rest, "--set")
    rest, ablations = take_option(rest, "--ablation")
    rest, seeds = take_option(rest, "--seeds")
    rest, metrics = take_option(rest, "--metric")
    rest, folder = take_option(rest, "--out")
    rest, device = take_option(rest, "--device")
    rest, engine = take_engine(rest)
    as_json, keep_memory = "--json" in rest, "--keep-memory" in rest
    rest = [word for word in rest if word not in ("--json", "--keep-memory")]
    if seeds is not None and not whole_number(seeds):
        raise UserError(f"--seeds is {seeds}; expected a number of seeds, 1 or more.")
    if bool(values) == (ablations is not None):
        raise UserError("Give --set with a field and its values, or --ablation with names or all.")
    variants = combinations(values) if ablations is None else find_ablations(name, ablations)
    if keep_memory:
        from slotworks.training.allocator import keep_freed_memory

        keep_freed_memory()
    rows = sweep(
        name,
        variants,
        overrides=rest,
        seeds=int(seeds or 1),
        out=Path(folder) if folder else Path("runs/sweeps") / name.replace(".py:", ".").replace("/", "_"),
        plotted=metrics.split(",") if metrics else None,
        device=device,
        engine=engine,
    )
    if as_json:
        print_json(rows)
    return 1 if any(row["diverged"] for row in rows) else 0


def setting_words(setting: str) -> list[str]:
    """`method.layer-norm=False` as words of the command line: `--method.no-layer-norm`."""
    field, equals, value = setting.partition("=")
    if not equals or not value:
        raise UserError(f"--set {setting} has no value; write FIELD=VALUE, for example method.num-slots=5.")
    if value in ("True", "False"):
        before, _, last = field.rpartition(".")
        named = last if value == "True" else f"no-{last}"
        return [f"--{before}.{named}" if before else f"--{named}"]
    return [f"--{field}", *value.split()]


def combinations(given: Sequence[str]) -> list[Variant]:
    """All combinations of the values of each field."""
    choices = []
    for setting in given:
        field, equals, values = setting.partition("=")
        if not equals or not all(values.split(",")):
            raise UserError(f"--set {setting} has no values; write FIELD=A,B, for example method.num-slots=4,7.")
        choices.append([f"{field}={value}" for value in values.split(",")])
    variants = []
    for chosen in itertools.product(*choices):
        variants.append(Variant("", _short(chosen), tuple(chosen)))
    return variants


def _short(settings: Sequence[str]) -> str:
    """Settings by the last part of their names: `num-slots=4, update=gru`."""
    pairs = [setting.partition("=") for setting in settings]
    return ", ".join(f"{field.rpartition('.')[2]}={value}" for field, _, value in pairs)


def find_ablations(recipe: str, names: str) -> list[Variant]:
    """The variants of the named ablations that fit the recipe; the recipe itself comes first in each, trained once.

    Raises:
        UserError: for an unknown name, or one that asks for what the recipe cannot do.
    """
    from slotworks.configs import find
    from slotworks.configs.ablations import ABLATIONS

    task = "sets" if hasattr(find(recipe)().method, "categories") else "discovery"
    fitting = [name for name, ablation in ABLATIONS.items() if task in ablation.tasks]
    wanted = fitting if names == "all" else names.split(",")
    for name in wanted:
        if name not in fitting:
            raise UserError(f"There is no ablation {name!r} of {recipe}; the known ones are {', '.join(fitting)}.")
    variants = []
    for name in wanted:
        ablation = ABLATIONS[name]
        variants.append(Variant(name, ablation.default, is_default=True))
        variants += [Variant(name, label, settings) for label, settings in ablation.of(task).items()]
    return variants


def sweep(
    recipe: str,
    variants: Sequence[Variant],
    *,
    overrides: Sequence[str] = (),
    seeds: int = 1,
    out: Path,
    plotted: Sequence[str] | None = None,
    device: str | None = None,
    engine: Engine | None = None,
) -> list[dict[str, Any]]:
    """Train every variant with every seed, then write `table.csv`, `table.md` and `plot.png` into `out`.

    A variant that cannot be, since its settings do not fit together, is left out with a sentence. One that diverges or
    fails is a row that says so, with the means of its other seeds.

    Returns:
        The rows of the table: `group`, `variant`, `settings`, and `metrics` with `mean`, `std` and `seeds` of each.

    Raises:
        UserError: if no variant can be, or the data are missing.
        Stopped: after Ctrl-C or SIGTERM, once the table is written.
    """
    from slotworks.api import find_device
    from slotworks.cli.train import of_seed
    from slotworks.evaluation import validation
    from slotworks.files import check_writable
    from slotworks.reports.sweep import FILES, write_sweep

    if device is not None:
        find_device(device)
    runs, left_out = _runs(recipe, variants, overrides)
    for run in runs.values():
        validation.check(run.protocol, wandb=run.wandb)
        check_metrics(run, plotted or ())
    check_writable(out)
    Outputs(out).check_free(FILES)
    rows: list[dict[str, Any]] = []
    tried: dict[Path, dict[str, Any]] = {}
    stopped = None
    first = next(iter(runs.values()))
    if not list(out.glob(f"*/*/{RESULT}")):  # what no variant can be trained without is no failure of each
        first.data.open("train")
    engine = engine or OneByOne()
    wanted = {v: [_place(out, v) / f"seed{seed}" for seed in _seeds(run, seeds)] for v, run in runs.items()}
    jobs: dict[Path, tuple[Run, str]] = {}  # the recipe itself stands in every group, and is trained once
    for variant, run in runs.items():
        for folder, seed in zip(wanted[variant], _seeds(run, seeds), strict=True):
            jobs.setdefault(folder, (of_seed(run, seed)[0], f"{variant.group or recipe}: {variant.label}"))
    waiting = {folder: run.steps for folder, (run, _) in jobs.items() if not (folder / RESULT).is_file()}
    parts = []
    for folder, (run, title) in jobs.items():
        waiting.pop(folder, None)
        more = (len(waiting), sum(waiting.values())) if isinstance(engine, OneByOne) else (0, 0)
        parts.append(Part(title, _one, (run, folder, device, title, more)))
    order = list(jobs)
    try:
        for number, answer in run_parts(engine, "trainings", parts):
            if isinstance(answer, UserError) and not isinstance(engine, OneByOne):  # lost, or refused by a machine
                answer = {"seed": jobs[order[number]][0].seed, "failed": str(answer)}
            if isinstance(answer, Exception):
                raise answer
            if "signal" in answer:
                raise Stopped(answer["signal"])
            tried[order[number]] = answer
            for variant, folders in list(wanted.items()):
                if all(folder in tried for folder in folders):
                    rows.append(_row(variant, [tried[folder] for folder in folders]))
                    del wanted[variant]
    except KeyboardInterrupt as interrupt:
        stopped = interrupt if isinstance(interrupt, Stopped) else Stopped(signal.SIGINT)
        err.print("Stopped; the same command goes on from there. The table holds what is finished.")
    rows.sort(key=lambda row: [(v.group, v.label) for v in runs].index((row["group"], row["variant"])))
    if rows:
        written = write_sweep(rows, out, title=recipe, plotted=plotted, notes=left_out)
        err.print("Wrote " + ", ".join(str(path) for path in written), soft_wrap=True, highlight=False, markup=False)
    if stopped:
        raise stopped
    return rows


def check_metrics(run: "Run", names: Sequence[str]) -> None:
    """Refuse metrics that a run will not have.

    Raises:
        UserError: for the first one.
    """
    from slotworks.metrics.sets import THRESHOLDS
    from slotworks.protocols import get

    known = list(get(run.protocol).metrics)
    if hasattr(run.method, "categories"):
        known = [*(f"ap_{threshold:g}" for threshold in THRESHOLDS), *known]
    for name in names:
        if name not in known:
            raise UserError(f"There is no metric {name!r} to plot; there are {', '.join(known)}.")


def _runs(recipe: str, variants: Sequence[Variant], overrides: Sequence[str]) -> "tuple[dict[Variant, Run], list[str]]":
    """The run of each variant, all built before the first is trained; and a sentence for each that cannot be."""
    from slotworks.cli.train import build

    runs, left_out = {}, []
    itself: Run | None = None
    error: UserError | None = None
    for variant in variants:
        words = [word for setting in variant.settings for word in setting_words(setting)]
        try:
            run = build(recipe, [*overrides, *words])
            if variant.is_default:
                itself = run
            elif run == itself:
                raise UserError("That is the recipe itself.")
            _try_to_build(run)
        except UserError as mistake:
            if variant.is_default:  # all others are changes of it
                raise
            error = mistake
            left_out.append(f"Left out: {': '.join(filter(None, (variant.group, variant.label)))}. {mistake}")
            err.print(left_out[-1], soft_wrap=True, highlight=False, markup=False)
        else:
            runs[variant] = run
    if not runs:
        raise error or UserError("There is no variant to train.")
    return runs, left_out


def _try_to_build(run: "Run") -> None:
    """Find settings that do not fit together where only the method knows; on no device, so that it costs nothing.

    Raises:
        UserError: with the method's own sentence.
    """
    import torch

    from slotworks.training.run import check_objects

    check_objects(run)
    try:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            run.method.build()
    except ValueError as error:
        raise UserError(str(error)) from None
    except (
        RuntimeError,
        OSError,
        ImportError,
    ):  # not every network can be built without memory; its training will tell
        return


def _seeds(run: "Run", count: int) -> range:
    return range(run.seed, run.seed + count)


def _place(out: Path, variant: Variant) -> Path:
    """Where the seeds of a variant are; the recipe itself comes first in each ablation and is trained once."""
    return out / (_folder(variant) if not variant.is_default else "default")


def _folder(variant: Variant) -> str:
    name = f"{variant.group}={variant.label}" if variant.group else variant.label
    return re.sub(r"[^\w.=,+-]+", "_", name)


def _one(
    run: "Run", folder: Path, device: str | None, title: str = "", more: tuple[int, int] = (0, 0)
) -> dict[str, Any]:
    """Train and measure one run, or read what an earlier sweep left; a failure is said and not kept."""
    from slotworks.api import train
    from slotworks.progress import following
    from slotworks.training import Diverged, load_run
    from slotworks.training.numerics import unsettled

    following.set(more)
    err.print(title, style="bold", highlight=False, markup=False)
    done = folder / RESULT
    if done.is_file() and unsettled(load_run(folder), run) == run:
        try:
            return dict(read_json(done.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{done} is damaged ({error}); delete it to have the run measured anew.") from None
    (folder / TRACEBACK).unlink(missing_ok=True)
    try:
        answer = train(run, folder, device=device)
    except Diverged as error:
        err.print(str(error), soft_wrap=True, markup=False)
        answer = {"diverged": str(error)}
    except Exception as error:  # whatever it was, the other variants go on
        words, where = str(error), ""
        if not isinstance(error, UserError):
            words, where = f"{type(error).__name__}: {error}", f" ({folder / TRACEBACK} says where)"
            write_text(folder / TRACEBACK, traceback.format_exc())
        err.print(f"Failed: {words}{where}", soft_wrap=True, markup=False, highlight=False)
        return {"seed": run.seed, "failed": words}
    if "signal" in answer:
        return answer
    kept = {key: answer[key] for key in ("metrics", "seconds", "verdict", "diverged") if key in answer}
    result = {"seed": run.seed, **kept}
    write_text(done, json.dumps(result, indent=1) + "\n")
    return result


def _row(variant: Variant, answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    finished = [answer for answer in answers if "metrics" in answer]
    metrics = {}
    for name in finished[0]["metrics"] if finished else ():
        values = [answer["metrics"][name]["mean"] for answer in finished]
        metrics[name] = {"mean": mean(values), "std": stdev(values) if len(values) > 1 else 0.0, "seeds": values}
    shown = ", ".join(f"{name} {percent(value['mean'])}" for name, value in list(metrics.items())[:2])
    failed = [answer["failed"] for answer in answers if "failed" in answer]
    err.print(f"{variant.label}: {shown or ('failed' if failed else 'diverged')}", highlight=False, markup=False)
    return {
        "group": variant.group,
        "variant": variant.label,
        "settings": " ".join(variant.settings),
        "diverged": sum("diverged" in answer for answer in answers),
        "failed": failed,
        "seconds": sum(answer.get("seconds", 0) for answer in answers) / len(answers),
        "metrics": metrics,
    }
