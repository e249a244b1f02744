"""Writes the tables of our own numbers into the pages, from the records in `docs/records`, which has a README.

    python docs/results.py                             write the tables anew; a test compares
    python docs/results.py add RUN [RUN ...]           a record of a run folder, or of one run with several seeds
    python docs/results.py add RUN --name five-slots --machine "two cores of an AMD EPYC (Zen 3)"

A table stands in a page between two comments, of which the first says what is in it:

    <!-- records: recipe, fg_ari, ari, training = minutes
    savi.scenes_mini
    blocks.savi_mini = four quadrants (`blocks.savi_mini`)
    savi.scenes_mini#seed-0 [savi-frames] = seed 0, each frame scored for itself
    -->
    <!-- end of records -->

The first line names the columns, and so do those after it while they end with a comma. The first column is the row's
own name, the others are metrics, `key` or `title = key`, with a protocol before a slash where the record has several
(`oclf/fg_ari`); `minutes`, `seconds`, `seeds` and `images`; or a remark of the record. A title with ± asks for the
standard error over images where there is one seed.

A row is a file of `docs/records`, `#` and the name of a record where it is not the recipe as it stands, a protocol in
brackets (or several, with + between) if all its numbers are of that, and after `=` what the table calls it. `[savi]` in
the row and `@12/fg_ari` in the column are the protocol `savi@12`. A page that shows earlier records says what their
mark means: `FOOT`.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from slotworks.errors import UserError
from slotworks.files import seed_folders

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "records"
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
EVALUATED = "slotworks evaluate"
EARLIER = "earlier, no record kept"
MARK = " †"
FOOT = "† marks an earlier run that left no record; its numbers stand here until they are measured again."
KEYS = ("name", "settings", "measured", "date", "commit", "machine", "command", "seeds", "seconds", "evaluations")
OPTIONAL = ("remarks",)
PARTS = ("protocol", "data", "split", "num_images", "metrics")
TITLES = {
    "fg_ari": "FG-ARI",
    "ari": "ARI",
    "mbo_i": "mBO_i",
    "miou_i": "mIoU_i",
    "corloc": "CorLoc",
    "mse_sum": "squared error",
    "ssim": "SSIM",
    "ap_inf": "AP inf",
    "ap_1": "AP 1",
    "ap_0.5": "AP 0.5",
    "ap_0.25": "AP 0.25",
}
AS_THEY_ARE = {"mse_sum": 1, "flicker": 1, "ssim": 2, "psnr": 1}  # digits after the point; all others are in percent
UNNAMED = ("cpu (x86_64)", "cpu (AMD64)", "cpu (aarch64)", "cpu (arm64)", "cpu ()")  # an architecture is no processor
_TABLE = re.compile(r"(<!-- records: ((?:[^\n]*,\n)*[^\n]*)\n(.*?)-->\n)(.*?)(<!-- end of records -->)", re.DOTALL)

_ROW = re.compile(r"(\S+)(?: \[(.+?)\])?(?: = (.+))?")


def read(recipe: str) -> list[dict[str, Any]]:
    """The records of a recipe; the first one without a name is the recipe as it stands.

    Raises:
        UserError: the file is missing, or holds something else.
    """
    path = FOLDER / f"{recipe}.json"
    if not path.is_file():
        raise UserError(f"{path} does not exist; add a record of {recipe} with `python docs/results.py add RUN`.")
    records = json.loads(path.read_text(encoding="utf-8"))
    names = [record.get("name") for record in records]
    if len(set(names)) < len(names):
        raise UserError(f"{path} holds two records of one name.")
    for record in records:
        _check(record, path)
    return records


def _check(record: dict[str, Any], path: Path) -> None:
    where = f"{path}, record {record.get('name')!r}"
    if missing := [key for key in KEYS if key not in record]:
        raise UserError(f"{where} lacks {', '.join(missing)}.")
    if unknown := set(record) - {*KEYS, *OPTIONAL}:
        raise UserError(f"{where} has keys that no record has: {', '.join(sorted(unknown))}.")
    if record["measured"] not in (EVALUATED, EARLIER):
        raise UserError(f"{where}: measured is {record['measured']!r}; expected {EVALUATED!r} or {EARLIER!r}.")
    for evaluation in record["evaluations"]:
        if set(evaluation) != set(PARTS):
            raise UserError(f"{where}: an evaluation has {', '.join(PARTS)}; this one has {', '.join(evaluation)}.")
        for name, value in evaluation["metrics"].items():
            if not value or set(value) - {"mean", "sem", "std", "seeds"}:
                raise UserError(f"{where}: {name} has {', '.join(value)}; expected some of mean, sem, std and seeds.")
            if len(value.get("seeds", record["seeds"])) != len(record["seeds"]):
                raise UserError(f"{where}: {name} has another number of values than there are seeds.")


def find(row: str) -> dict[str, Any]:
    """The record of `RECIPE` or `RECIPE#NAME`.

    Raises:
        UserError: there is none.
    """
    recipe, _, name = row.partition("#")
    found = [record for record in read(recipe) if record["name"] == name]
    if not found:
        known = ", ".join(repr(record["name"]) for record in read(recipe))
        raise UserError(f"{recipe} has no record {name!r}; the known ones are {known}.")
    return found[0]


def metric(record: dict[str, Any], key: str, protocol: str = "") -> dict[str, Any] | None:
    """Mean, spread and values of the seeds of `METRIC` or `PROTOCOL/METRIC`; None if it was not measured."""
    before, _, name = key.rpartition("/")
    wanted = [part + before for part in protocol.split(" + ")]
    for evaluation in record["evaluations"]:
        if name in evaluation["metrics"] and (wanted == [""] or evaluation["protocol"] in wanted):
            return evaluation["metrics"][name]
    return None


def written(name: str, value: dict[str, Any], *, error: bool = False) -> str:
    """A metric as the pages have it: `97.2 ± 0.2 (97.4, 97.1, 97.2)`, `91.1`, with its standard error `91.1 ± 0.6`."""

    def number(share: float) -> str:
        return f"{share:.{AS_THEY_ARE[name]}f}" if name in AS_THEY_ARE else f"{100 * share:.1f}"

    seeds = ", ".join(number(seed) for seed in value.get("seeds", []))
    if "mean" not in value:
        return seeds
    spread = value.get("sem", value.get("std")) if error else value.get("std")
    text = number(value["mean"]) + ("" if spread is None else f" ± {number(spread)}")
    return f"{text} ({seeds})" if "," in seeds else text


def cell(record: dict[str, Any], title: str, key: str, protocol: str = "") -> str:
    """What a table has under `key`: a metric, `minutes` or `seconds` of training, `seeds`, `images`, or a remark.

    A title with ± asks for the standard error over the images.
    """
    if value := metric(record, key, protocol):
        return written(key.rpartition("/")[2], value, error="±" in title)
    if key in ("minutes", "seconds"):
        parts = record["seconds"] or []
        return ", ".join(f"{part / 60:.1f}" if key == "minutes" else f"{part:.0f}" for part in parts)
    if key == "images":
        known = [one["num_images"] for one in record["evaluations"] if protocol in ("", one["protocol"])]
        return str(known[0]) if known else ""
    if key == "seeds":
        return ", ".join(str(seed) for seed in record["seeds"])
    return str(record.get("remarks", {}).get(key, ""))


def table(columns: str, rows: Sequence[str]) -> str:
    """The Markdown of a table; earlier records are marked."""
    named = [(part.partition("=")[0].strip(), part.rpartition("=")[2].strip()) for part in columns.split(",")]
    lines = [
        "| " + " | ".join(TITLES.get(title.rpartition("/")[2], title) for title, _ in named) + " |",
        "| " + " | ".join("---" for _ in named) + " |",
    ]
    for row in rows:
        parts = _ROW.fullmatch(row.strip())
        if parts is None:
            raise UserError(f"A row of a table is {row!r}; expected RECIPE#NAME [PROTOCOL] = what to call it.")
        name, protocol, label = parts.groups(default="")
        record = find(name)
        cells = [(label or f"`{name.partition('#')[0]}`") + MARK * (record["measured"] == EARLIER)]
        cells += [cell(record, title, key, protocol) for title, key in named[1:]]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def fill(text: str) -> str:
    """A page with its tables written anew."""

    def again(match: re.Match[str]) -> str:
        rows = [line for line in match[3].splitlines() if line.strip()]
        return f"{match[1]}\n{table(match[2], rows)}\n{match[5]}"

    return _TABLE.sub(again, text)


def rows_of(text: str) -> list[str]:
    """The records that the tables of a page show."""
    lines = [line for match in _TABLE.finditer(text) for line in match[3].splitlines()]
    return [line.split()[0] for line in lines if line.strip()]


def write() -> list[Path]:
    """Write all tables; gives the pages that changed."""
    changed = []
    for page in PAGES:
        before = page.read_text(encoding="utf-8")
        if (after := fill(before)) != before:
            page.write_text(after, encoding="utf-8")
            changed.append(page)
    return changed


def collect(folders: Sequence[Path], *, name: str = "", recipe: str = "", machine: str = "") -> tuple[str, dict]:
    """The recipe and the record of run folders that differ in their seed only, from what lies in them.

    Raises:
        UserError: there is no evaluation, or the runs differ in more than their seed.
    """
    import slotworks.api  # noqa: F401  (a run names classes of the package)
    from slotworks.configs import find as find_recipe
    from slotworks.training import load_run
    from slotworks.training.checkpoint import LAST, load_checkpoint
    from slotworks.training.numerics import unsettled

    folders = [found for folder in folders for found in seed_folders(folder)]
    runs = [load_run(folder) for folder in folders]
    environments = [json.loads((folder / "env.json").read_text(encoding="utf-8")) for folder in folders]
    words = [word if not word.startswith("/") else "DIR" for word in environments[0]["command"][1:]]
    recipe = recipe or next((word for word in words[1:2] if "." in word and ".py:" not in word), "")
    if not recipe:
        raise UserError(f"{folders[0]} was made by {' '.join(words)!r}, which names no recipe; give --recipe.")
    own = find_recipe(recipe)()
    settings = [_different(own, unsettled(run, own)) for run in runs]  # without what `auto` became on that machine
    if any(one != settings[0] for one in settings):
        raise UserError(f"{', '.join(map(str, folders))} differ in more than their seed: {settings}.")
    trained = [folder / LAST for folder in folders if (folder / LAST).is_file()]
    record = {
        "name": name,
        "settings": settings[0],
        "measured": EVALUATED,
        "date": environments[0]["started"][:10],
        "commit": (environments[0]["commit"] or "unknown")[:7],
        "machine": machine or _machine(environments[0], folders[0]),
        "command": " ".join(["slotworks", *words]),
        "seeds": [run.seed for run in runs],
        "seconds": [round(load_checkpoint(path).seconds, 1) for path in trained] or None,
        "evaluations": _evaluations(folders, runs[0].protocol),
    }
    verdicts = [
        json.loads(path.read_text())["verdict"] for folder in folders if (path := folder / "eval/doctor.json").is_file()
    ]
    return recipe, record | ({"remarks": {"detector": ", ".join(verdicts)}} if verdicts else {})


def _evaluations(folders: Sequence[Path], own: str) -> list[dict[str, Any]]:
    """The evaluations that all runs have, each with the values of the seeds; those under the recipe's protocol first.

    Of several of one protocol, data set and split the one with the shortest name counts: the others say in their names
    what was changed for them. A metric that one of the runs could not have is left out.
    """
    names = [{path.name for path in (folder / "eval").glob("*.json")} - {"doctor.json"} for folder in folders]
    common = sorted(set.intersection(*names), key=lambda name: (len(name), name))
    if not common:
        raise UserError(f"{folders[0]} holds no evaluation that all runs have; run `slotworks evaluate` on each.")
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for file in common:
        records = [json.loads((folder / "eval" / file).read_text(encoding="utf-8")) for folder in folders]
        first = {key: records[0][key] for key in PARTS[:-1]}
        metrics = {}
        for name in records[0]["metrics"]:
            values = [record["metrics"][name]["mean"] for record in records]
            if None in values:  # a mean of nothing: what is kept where nothing is drawn
                continue
            rounded = [round(value, 6) for value in values]
            if len(values) > 1:
                metrics[name] = {"mean": round(mean(values), 6), "std": round(stdev(values), 6), "seeds": rounded}
            else:
                sem = records[0]["metrics"][name]["sem"]
                metrics[name] = {"mean": rounded[0]} | ({} if sem is None else {"sem": round(sem, 6)})
        found.setdefault(tuple(first[key] for key in PARTS[:3]), {**first, "metrics": metrics})
    return sorted(found.values(), key=lambda evaluation: evaluation["protocol"] != own)


def _different(recipe: Any, run: Any, prefix: str = "", *, seed: int | None = None) -> dict[str, Any]:
    """Settings of a run that are not the recipe's, by dotted name; without those that say nothing of the result.

    A teacher of the same seed, `runs/RECIPE/seed1`, counts as the run of its recipe.
    """
    changed, seed = {}, run.seed if seed is None else seed
    for field in fields(recipe):
        if not prefix and field.name in ("seed", "expected", "log_every", "save_every", "tensorboard", "wandb"):
            continue
        before, after = getattr(recipe, field.name), getattr(run, field.name)
        if field.name == "teacher" and isinstance(after, str):
            after = after.removesuffix(f"/seed{seed}")
        if is_dataclass(before) and type(before) is type(after):
            changed |= _different(before, after, f"{prefix}{field.name}.", seed=seed)
        elif before != after:
            changed[f"{prefix}{field.name}"] = after if isinstance(after, int | float | str | None) else str(after)
    return changed


def _machine(environment: dict[str, Any], folder: Path) -> str:
    device = environment["device"]
    if device in UNNAMED:
        raise UserError(f"{folder} does not say on which processor it was made; give --machine.")
    return f"{environment['cores']} cores of {device}, torch {environment['torch']}"


def add(folders: Sequence[Path], **options: str) -> Path:
    """Put the record of run folders into the file of their recipe; one of the same name is replaced."""
    recipe, record = collect(folders, **options)
    path = FOLDER / f"{recipe}.json"
    before = read(recipe) if path.is_file() else []
    kept = [record if one["name"] == record["name"] else one for one in before]
    kept += [] if record in kept else [record]
    path.write_text(dump(kept), encoding="utf-8")
    return path


def dump(records: Sequence[dict[str, Any]]) -> str:
    """JSON with a metric on each line."""
    text = json.dumps(records, indent=1, ensure_ascii=False)
    flat = re.sub(r"\{\s*(\"mean\"[^{}]*?)\s*\}", lambda m: "{" + " ".join(m[1].split()) + "}", text)
    return re.sub(r"\[\s*([^\[\]{}]*?)\s*\]", lambda m: "[" + " ".join(m[1].split()) + "]", flat) + "\n"


def main(argv: Sequence[str]) -> None:
    """The command line above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", nargs="?", choices=["add"], help="leave it out to write the tables")
    parser.add_argument("runs", nargs="*", type=Path, help="run folders, or the folder of --seeds")
    parser.add_argument("--name", default="", help="of a record that is not the recipe as it stands")
    parser.add_argument("--recipe", default="", help="where the run's command does not say it")
    parser.add_argument("--machine", default="", help="in words; by default what the run folder says")
    given = parser.parse_args(argv)
    try:
        if given.verb:
            if not given.runs:
                raise UserError("add needs a run folder, or several that differ in their seed only.")
            from slotworks import tables

            print(f"Wrote {add(given.runs, name=given.name, recipe=given.recipe, machine=given.machine)}")
            tables.rewrite()  # `slotworks recipes` prints our own numbers, too
        from slotworks import tables  # `slotworks recipes` has these numbers, too

        for page in (*write(), *tables.rewrite()):
            print(f"Wrote {page}")
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(sys.argv[1:])
