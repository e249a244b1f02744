"""Whole jobs in a few lines of Python; the command line calls these and nothing else.

from slotworks import train, evaluate, segment
from slotworks.configs import slot_attention

answer = train(slot_attention.tetrominoes_mini(), "runs/mine")
records = evaluate("runs/mine", protocols=["oclf"])
for picture in segment("runs/mine", ["photo.jpg"], out="segments"):
    print(picture["written"])
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import slotworks.data.scenes
import slotworks.methods  # noqa: F401  (a run folder names classes of these packages; it never says what to import)
from slotworks import protocols as known_protocols
from slotworks.evaluation import doctor
from slotworks.evaluation.discovery import DiscoveryResult, evaluate_discovery, evaluate_under
from slotworks.evaluation.records import write_eval
from slotworks.evaluation.samples import write_samples
from slotworks.evaluation.segment import find_images, segment_images
from slotworks.training import Run, load_method, load_run
from slotworks.training import train as train_loop
from slotworks.training.checkpoint import LAST
from slotworks.training.logs import read_metrics
from slotworks.types import DataConfig, Dataset, Method, UserError

SAMPLES = 8  # images shown in the report: the worst four and the first four of the evaluated ones


def find_device(name: str | None = None) -> torch.device:
    """The device of this name; by default the first CUDA device, or the CPU.

    Raises:
        UserError: if there is no such device here.
    """
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(
            f"device is {name!r}, which cannot be used here ({reason}); give cpu, or leave it out."
        ) from None


def load(run_folder: str | Path, *, device: str | None = None) -> tuple[Run, Method]:
    """Reopen a run: its settings, and its method with the trained weights (averaged ones if the run kept an average).

    Raises:
        UserError: if the folder is no run, or holds no checkpoint yet.
    """
    folder = Path(run_folder)
    run = load_run(folder / "run.yaml")
    return run, load_method(folder).to(find_device(device))


def train(
    run: Run,
    run_folder: str | Path,
    *,
    on_eval: Callable[[int, dict[str, float], str], None] | None = None,
    finish: bool = True,
    **options: Any,
) -> dict:
    """Train, resuming what the folder holds, and then measure on the test split and write the report.

    Args:
        run: from a function in `slotworks.configs`, or your own.
        run_folder: made if it is missing.
        on_eval: called at each evaluation with the step, the metrics and the detector's verdict.
        finish: measure and report when all steps are done.
        options: passed on to `slotworks.training.train`.

    Returns:
        `folder`, `step`, `seconds` of training and, if finished, the test `metrics` and the `verdict`.
    """
    folder = Path(run_folder)
    validation = run.data.open("val")

    def measure(method: Method, step: int) -> dict[str, float]:
        result = evaluate_discovery(method, validation, protocol=run.protocol, num_images=run.eval_images)
        stats = doctor.stats_of(method, validation, num_images=min(run.eval_images, 64))
        findings = _diagnose(folder, run, stats, step)
        _show(method, result, validation, folder, step)
        values = {name: summary.mean for name, summary in result.metrics.items()}
        if on_eval is not None:
            on_eval(step, values, doctor.verdict(findings))
        return values

    result = train_loop(run, folder, evaluators=[measure], **options)
    answer: dict[str, Any] = {"folder": str(folder), "step": result.step, "seconds": result.seconds}
    first = not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
    if finish and result.finished and first:
        answer |= _finish(folder)
    return answer


def _finish(folder: Path) -> dict:
    """The last measurement, on the test split, which chose nothing; and the report."""
    from slotworks.reports import write_report

    run, method = load(folder)
    test = run.data.open("test")
    names = dict.fromkeys((run.protocol, known_protocols.DEFAULT))  # the second counts the background, too
    results = evaluate_under(list(names), method, test, num_images=run.eval_images)
    for result in results:
        _record(folder, run.data, "test", result)
    result = results[0]
    findings = _diagnose(folder, run, doctor.stats_of(method, test, num_images=run.eval_images), run.steps)
    _show(method, result, test, folder, run.steps)
    return {
        "metrics": {name: asdict(summary) for name, summary in result.metrics.items()},
        "protocol": result.protocol.describe(),
        "verdict": doctor.verdict(findings),
        "report": str(write_report(folder)),
    }


def evaluate(
    run_folder: str | Path,
    *,
    data: DataConfig | None = None,
    split: str = "test",
    protocols: Sequence[str] = ("slot-attention",),
    num_images: int | None = None,
    seed: int = 0,
    device: str | None = None,
) -> list[dict]:
    """Score a run under named protocols; writes `eval/DATA-SPLIT-PROTOCOL.json` for each.

    Args:
        run_folder: a run with a checkpoint.
        data: another data set than the run's own.
        split: of the data set.
        protocols: names, or `["all"]`.
        num_images: how many images, from the first on; all by default.
        seed: of the initial slots.
        device: where to compute.

    Returns:
        The records written, see `slotworks.evaluation.records`.
    """
    run, method = load(run_folder, device=device)
    names = list(known_protocols.PROTOCOLS) if list(protocols) == ["all"] else protocols
    chosen = [known_protocols.get(name) for name in names]  # a wrong name is found before the data are opened
    source = data or run.data
    results = evaluate_under(chosen, method, source.open(split), num_images=num_images, seed=seed)
    return [_record(Path(run_folder), source, split, result) for result in results]


def examine(
    run_folder: str | Path, *, split: str = "test", num_images: int = 320, device: str | None = None
) -> list[doctor.Finding]:
    """Look for collapsed or badly shared slots; writes `eval/doctor.json` and returns the findings, worst first.

    A run without a checkpoint is judged by its curves alone.
    """
    folder = Path(run_folder)
    run, stats = load_run(folder / "run.yaml"), {}
    if (folder / LAST).is_file():
        method = load_method(folder).to(find_device(device))
        stats = doctor.stats_of(method, run.data.open(split), num_images=num_images)
    return _diagnose(folder, run, stats)


def segment(
    run_folder: str | Path,
    files: Sequence[str | Path],
    *,
    out: str | Path = "segments",
    device: str | None = None,
    **options: Any,
) -> Iterator[dict]:
    """Take own pictures (files or folders) apart with a trained run; yields what it wrote for each.

    For files and options see `slotworks.evaluation.segment.segment_images`.
    """
    paths = find_images([Path(file) for file in files])
    run, method = load(run_folder, device=device)
    yield from segment_images(method, paths, Path(out), image_size=run.data.size, **options)


def _record(folder: Path, data: DataConfig, split: str, result: DiscoveryResult) -> dict:
    record = result.record(data=data.name, split=split, checkpoint=str(LAST))
    write_eval(folder, f"{data.name}-{split}-{result.protocol.name}".replace("/", "-").replace(" ", "-"), record)
    return record


def _show(method: Method, result: DiscoveryResult, dataset: Dataset, folder: Path, step: int) -> None:
    """Pictures of the worst images and of the first ones, which no score chose."""
    values = result.per_image.get("fg_ari")
    worst = values.nan_to_num(2).argsort()[: SAMPLES // 2].tolist() if values is not None else []
    first = [i for i in range(min(result.num_images, SAMPLES)) if i not in worst][: SAMPLES - len(worst)]
    indices = [*worst, *first]
    scores = {i: {name: per_image[i].item() for name, per_image in result.per_image.items()} for i in indices}
    write_samples(method, dataset, folder, indices=indices, step=step, scores=scores)


def _diagnose(
    folder: Path, run: Run, stats: Mapping[str, float | None], step: int | None = None
) -> list[doctor.Finding]:
    """Judge statistics together with the run's curves and settings; leaves `eval/doctor.json`."""
    findings = doctor.diagnose(stats, read_metrics(folder), asdict(run))
    doctor.write(folder, stats, findings, step=step)
    return findings
