"""Whole jobs in a few lines of Python; the command line calls these and nothing else.

from slotworks import train, evaluate, segment
from slotworks.configs import slot_attention

answer = train(slot_attention.tetrominoes_mini(), "runs/mine")
records = evaluate("runs/mine", protocols=["oclf"], data=[slot_attention.multi_dsprites_mini().data])
for picture in segment("runs/mine", ["photo.jpg"], out="segments"):
    print(picture["written"])

A run is a folder, a name of the zoo or of the hub: "runs/mine", "zoo:dinosaur-photos", "hf://me/mine".
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import slotworks.data.scenes
import slotworks.data.stores.generated
import slotworks.data.stores.latents
import slotworks.methods  # noqa: F401  (a run folder names classes of these packages; it never says what to import)
from slotworks.errors import check_extra
from slotworks.evaluation import doctor, validation
from slotworks.evaluation.records import place_for_records, save_result
from slotworks.evaluation.resized import at_size_of, images_for, size_for
from slotworks.evaluation.segment_video import segment_files
from slotworks.evaluation.task import Job, Task
from slotworks.evaluation.task import find as find_task
from slotworks.files import check_writable
from slotworks.hub import local_run
from slotworks.images import find_images
from slotworks.machine import Precision
from slotworks.outputs import writing
from slotworks.ranges import check_options
from slotworks.reports import Records, write_lengths, write_report
from slotworks.reports.labels import run_name
from slotworks.training import Run, load_run
from slotworks.training.checkpoint import LAST
from slotworks.training.logs import console, read_metrics
from slotworks.training.numerics import DTYPES, fast_precision, find_device, slow_warning
from slotworks.training.reopen import changed_settings, load, origin_of, trained_steps
from slotworks.training.reopen import untrained as untrained
from slotworks.types import DataConfig, Method, MethodConfig, UserError
from slotworks.videos import check_videos

if TYPE_CHECKING:
    from slotworks.remote import Place
    from slotworks.synthesis import Synthesis


def train(
    run: Run,
    run_folder: str | Path,
    *,
    on_eval: Callable[[int, dict[str, float], str], None] | None = None,
    finish: bool = True,
    **options: Any,
) -> dict:
    """Train, resuming what the folder holds, and then measure on the split of `run.eval_split` and write the report.

    Args:
        run: from a function in `slotworks.configs`, or your own.
        run_folder: made if it is missing.
        on_eval: called at each evaluation with the step, the metrics and the detector's verdict.
        finish: measure and report when all steps are done.
        options: passed on to `slotworks.training.train`, such as `device="cpu"`.

    Returns:
        `folder`, `step`, `seconds` of training and, if finished, the last `metrics` (empty without true masks), their
        `split`, `images` and `protocol`, and the `verdict`; `signal` if a signal stopped it, its number.
    """
    from slotworks.training.loop import train as train_loop  # imported here: Lightning takes seconds

    folder = Path(run_folder)
    validation.check(run.protocol, wandb=run.wandb)
    check_writable(folder)
    find_device(options.get("device"))  # a wrong name is found before the data are opened
    images = run.data.open("val")
    asks = {"sets": hasattr(run.method, "categories"), "slots": run.method.finds_slots}
    if said := validation.announced(run.data.name, images, asdict(run), **asks):
        console.print(said, highlight=False, soft_wrap=True, markup=False)

    def measure(method: Method, step: int) -> dict[str, float]:
        known = {"data": run.data.name, "split": "val", "settings": asdict(run), "curves": read_metrics(folder)}
        seen = validation.validate(method, images, folder, **known, config=run.method, step=step)
        values = seen.values
        if on_eval is not None and seen.verdict != validation.NO_SLOTS:
            on_eval(step, values, seen.verdict)
        return values

    result = train_loop(run, folder, evaluators=[measure], **options)
    answer: dict[str, Any] = {"folder": str(folder), "step": result.step, "seconds": result.seconds}
    answer |= {"signal": result.signal} if result.signal else {}
    first = not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
    if finish and result.finished and first:
        answer |= _finish(folder, options.get("device"))
    return answer


def _finish(folder: Path, device: str | None) -> dict:
    """The last measurement, on the split that the run names, which chose nothing; and the report."""
    run, method = load(folder, device=device)
    method.export(folder)
    split = run.eval_split
    known = {"data": run.data.name, "split": split, "settings": asdict(run), "curves": read_metrics(folder)}
    known |= {"config": run.method, "step": run.steps, "last": True}
    seen = validation.validate(method, run.data.open(split), folder, **known)
    origin = origin_of(folder, images_for(run.data, run.data, split), split)
    for result in seen.results:
        save_result(folder, result, **origin)
    return {
        "metrics": {name: asdict(summary) for name, summary in seen.metrics.items()},
        "split": split,
        "images": seen.images,
        "protocol": seen.rules,
        "verdict": seen.verdict,
        "report": str(write_report(folder)),
    }


def evaluate(
    run_folder: str | Path,
    *,
    data: DataConfig | Sequence[DataConfig] | None = None,
    split: str | None = None,
    task: str | Task = "discovery",
    num_images: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
    device: str | None = None,
    config: MethodConfig | None = None,
    out: str | Path | None = None,
    image_size: int | None = None,
    **options: Any,
) -> Records:
    """Score a run on one or several data sets; writes `eval/DATA-SPLIT-PROTOCOL.json` for each score.

    A record measured in another way is not replaced: the new one gets a longer name, see `records.write_eval`. Images
    are brought to the method's size (`slotworks.evaluation.resized`), masks keep theirs; a method of images sees single
    frames of videos.

    Args:
        run_folder: a run with a checkpoint, or one that `untrained` made.
        data: other data sets than the run's own.
        split: of the data set; None is the run's `eval_split` of its own data, and test of others.
        task: of `slotworks.evaluation.task.TASKS`, or one of your own, by name or itself.
        num_images: how many images, from the first on; all by default.
        batch_size: images per forward pass; changes speed, memory and the random slots.
        seed: of the initial slots.
        device: where to compute.
        config: settings of the method that differ from training, such as SPOT's `eval_orders`; the record names them.
        out: folder for `eval/` in place of the run folder, for example of a run that lies where nothing can be written.
        image_size: pixels of square images, where the method takes other ones than it was trained on.
        options: of the task, such as `protocols=["all"]` of discovery: the fields of its `options`.

    Returns:
        The records written, see `slotworks.evaluation.records`, each with its `run`, in the order of the data sets. One
        that could not be saved says why under `unsaved`: the scores are not lost. A notebook shows them as a table.
    """
    folder = local_run(run_folder)
    options = {name: value for name, value in options.items() if value is not None and value != ()}
    check_options(num_images=num_images, batch_size=batch_size, seed=seed, image_size=image_size, **options)
    task = find_task(task) if isinstance(task, str) else task
    chosen = task.read(options)
    place = place_for_records(folder, out)
    run, method = load(folder, device=device, config=config)
    given = [run.data] if data is None else [data] if isinstance(data, DataConfig) else list(data)
    split = split or (run.eval_split if all(one.name == run.data.name for one in given) else "test")
    sources = [images_for(run.data, one, split) for one in given]
    size = size_for(run.data, method, image_size)
    job = Job(method, chosen, run.protocol, num_images, batch_size, seed, partial(at_size_of, run.data, size=size))
    options |= {"image_size": image_size} if image_size else {}
    changed = changed_settings(folder, config)
    records = Records()
    shown: Any = None
    for source, dataset, note in task.prepare(job, sources, split):
        results = task.score(job, source, dataset)
        shown = shown or (results[0], dataset)
        origin = origin_of(folder, source, split, batch_size=batch_size, options=options)
        for result in results:
            record = save_result(place, result, **origin, note=note, changed=changed, about=task.own, must_save=False)
            records.append({"run": str(folder), **record})
    try:
        if getattr(chosen, "lengths", ()):
            write_lengths(place)
        if task.pictures and run.steps == 0:  # nothing else writes pictures for the report
            of = {"data": sources[0].name, "split": split, "num_images": num_images, "seed": seed}
            validation.show(method, shown[0], shown[1], place, step=0, looked_at=of)
    except (UserError, OSError) as error:
        records[-1].setdefault("unsaved", str(error))
    return records


def examine(
    run_folder: str | Path,
    *,
    data: DataConfig | None = None,
    split: str | None = None,
    num_images: int = 320,
    out: str | Path | None = None,
    **how: Any,
) -> list[doctor.Finding]:
    """Look for collapsed or badly shared slots; writes `eval/doctor.json` and returns the findings, worst first.

    A file of something else stays (`doctor.write`). For `data`, `split`, `out` see `evaluate`, for `how` `load`.
    """
    folder = local_run(run_folder)
    check_options(num_images=num_images)
    place = place_for_records(folder, out)
    run, method, images = load_run(folder / "run.yaml"), None, None
    split = split or (run.eval_split if data is None else "test")
    if run.steps == 0 or (folder / LAST).is_file():  # otherwise it is judged by its curves alone
        source = run.data if data is None else images_for(run.data, data, split)
        method, images = load(folder, **how)[1], at_size_of(run.data, source, split)[0]
    known = {"curves": read_metrics(folder), "settings": asdict(run), "config": run.method}
    known |= {"split": split, "num_images": num_images, "step": trained_steps(folder), "replace": False}
    other = ([data.name] if data else []) + changed_settings(folder, how.get("config"))
    return doctor.examine(place, method=method, dataset=images, other=other, **known)[0]


def segment(
    run_folder: str | Path,
    files: Sequence[str | Path],
    *,
    out: str | Path = "segments",
    device: str | None = None,
    config: MethodConfig | None = None,
    image_size: int | None = None,
    **options: Any,
) -> Iterator[dict]:
    """Take own pictures (files or folders) apart with a trained run; yields what it wrote for each.

    For files and options see `slotworks.evaluation.segment.segment_images`, for videos `segment_video` beside it;
    `config` and `image_size` are as for `evaluate`. A method of videos sees a picture as a video of one frame. Results
    of earlier calls are not read as pictures.
    """
    check_options(num_slots=options.get("num_slots"), seed=options.get("seed"), image_size=image_size)
    check_writable(out)
    paths = find_images([Path(file) for file in files])[0]
    check_videos(paths)
    run, method = load(local_run(run_folder), device=device, config=config)
    size = size_for(run.data, method, image_size) or run.data.size
    with writing(out, doing="writing results") as outputs:
        yield from segment_files(method, paths, outputs, image_size=size, protocol=run.protocol, **options)


def synthesize(config: "Synthesis", folder: "str | Place", *, device: str | None = None, **options: Any) -> dict:
    """Generate images with pseudo-masks; goes on where it was stopped. The device is the first GPU, or the CPU.

    For options and result see `synthesis.workers.make`. Under `torchrun` the device is that of this process.
    """
    from slotworks.synthesis.workers import make

    find_device(device)
    check_writable(folder)
    check_extra("synthesis", "pyarrow.parquet")
    return make(config, folder, device=device, **options)


def edit(
    run_folder: str | Path,
    image: str | Path,
    *,
    out: str | Path = "edits",
    precision: Precision = "32",
    device: str | None = None,
    **options: Any,
) -> list[dict]:
    """Take objects out of a picture or bring them in from another, by their slots; gives what it wrote.

    For options and result see `slotworks.editing.edit_picture`: `remove_slots=[2]`, `add_slots=[("other.jpg", 3)]`, ...
    Out of a video file slots can be taken, see `edit_video` there. `precision` is that of rendering; auto: a fast one.
    """
    from slotworks.editing import edit_file

    check_options(**{name: options.get(name) for name in ("num_slots", "seed", "steps", "cfg_scale", "noise_seeds")})
    check_writable(out)
    run, method = load(local_run(run_folder), device=device)
    dtype = DTYPES[fast_precision(precision, find_device(device))]
    if warning := slow_warning(precision, find_device(device)):
        console.print(warning, highlight=False, soft_wrap=True, markup=False)
    return edit_file(method, image, out, image_size=run.data.size, dtype=dtype, **options)


def studio(*runs: str | Path, device: str | None = None, host: str = "127.0.0.1", port: int | None = None) -> Any:
    """Serve the web editor of runs, or of one of the zoo, until `close()`; its `address` holds the token.

    Raises:
        UserError: a method without slots, no `gradio`, or an address that cannot be listened on.
    """
    from slotworks.studio import Server, Studio, example_run

    check_extra("studio", "gradio")
    loaded = [(run_name(folder), *load(folder, device=device)) for folder in map(local_run, runs or [example_run()])]
    return Server([Studio(method, run, name) for name, run, method in loaded], host=host, port=port)
