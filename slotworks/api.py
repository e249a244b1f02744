"""Whole jobs in a few lines of Python; the command line calls these and nothing else.

from slotworks import train, evaluate, segment
from slotworks.configs import slot_attention

answer = train(slot_attention.tetrominoes_mini(), "runs/mine")
records = evaluate("runs/mine", protocols=["oclf"], data=[slot_attention.multi_dsprites_mini().data])
for picture in segment("runs/mine", ["photo.jpg"], out="segments"):
    print(picture["written"])
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

import slotworks.data.scenes
import slotworks.data.stores.generated
import slotworks.data.stores.latents
import slotworks.methods  # noqa: F401  (a run folder names classes of these packages; it never says what to import)
from slotworks import protocols as known_protocols
from slotworks.data.stores.features import CachedFeatures
from slotworks.errors import check_extra
from slotworks.evaluation import doctor
from slotworks.evaluation.discovery import DiscoveryResult, evaluate_discovery, evaluate_under
from slotworks.evaluation.masks import NotFinite, inspecting
from slotworks.evaluation.properties import evaluate_properties
from slotworks.evaluation.records import looks_at_something_else, write_eval
from slotworks.evaluation.removal import evaluate_removal
from slotworks.evaluation.rendering import renderer_of, sampling_of
from slotworks.evaluation.resized import Resized
from slotworks.evaluation.samples import write_samples
from slotworks.evaluation.segment import KINDS as PICTURE_KINDS
from slotworks.evaluation.segment import segment_images
from slotworks.evaluation.segment_video import FOLDERS as VIDEO_FOLDERS
from slotworks.evaluation.segment_video import KINDS as VIDEO_KINDS
from slotworks.evaluation.segment_video import segment_video
from slotworks.evaluation.sets import evaluate_sets
from slotworks.files import check_writable
from slotworks.images import find_images
from slotworks.machine import Precision
from slotworks.outputs import writing
from slotworks.ranges import check_options
from slotworks.training import Run, load_method, load_run
from slotworks.training.checkpoint import LAST, checkpoint_step
from slotworks.training.folder import device_name, read_folder, write_folder
from slotworks.training.logs import console, read_metrics
from slotworks.training.numerics import DTYPES, fast_precision, slow_warning
from slotworks.training.seeds import seed_for
from slotworks.training.serialize import to_plain
from slotworks.types import (
    DataConfig,
    Dataset,
    Decodes,
    Method,
    MethodConfig,
    PredictsSets,
    UserError,
    VideoMethod,
    to_batch,
)
from slotworks.videos import VIDEO_SUFFIXES

if TYPE_CHECKING:
    from slotworks.synthesis import Synthesis

Task = Literal["discovery", "semantic", "properties", "reconstruction", "removal", "sets"]

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


def load(
    run_folder: str | Path, *, device: str | None = None, config: MethodConfig | None = None
) -> tuple[Run, Method]:
    """Reopen a run: its settings, and its method with the trained weights (averaged ones if the run kept an average).

    A method that needs no training (`steps` 0) is built as it is. `config` takes the place of the method's settings.

    Raises:
        UserError: if the folder is no run, or holds no checkpoint yet, or its weights do not fit `config`.
    """
    folder = Path(run_folder)
    run = load_run(folder / "run.yaml")
    run = replace(run, method=config) if config else run
    if run.steps == 0:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for("weights", run.seed))
            method = run.method.build().eval()
    else:
        try:
            method = load_method(folder, config=config)
        except UserError as error:
            raise _slots_are_fixed(folder, config) or error from None
    return run, method.to(find_device(device))


def untrained(run: Run, run_folder: str | Path) -> Path:
    """Make the run folder of a method that needs no training, so that it can be evaluated like any other.

    Args:
        run: a recipe with `steps` 0.
        run_folder: made if it is missing; only `run.yaml` and `env.json` are written.

    Returns:
        The folder.

    Raises:
        UserError: if the recipe is one to train, or the folder belongs to a different run.
    """
    folder = Path(run_folder)
    if run.steps:
        raise UserError(f"This recipe takes {run.steps:,} steps of training; train it first and give its run folder.")
    read_folder(run, folder)
    if not (folder / "run.yaml").exists():
        write_folder(run, folder, device=device_name(find_device()), world_size=1, step=0)
    return folder


def train(
    run: Run,
    run_folder: str | Path,
    *,
    on_eval: Callable[[int, dict[str, float], str], None] | None = None,
    finish: bool = True,
    **options: Any,
) -> dict:
    """Train, resuming what the folder holds, and then measure on the split of `run.eval_split` and write the report.

    Where the data have no true masks, nothing can be scored: there are pictures and the detector's word only.

    Args:
        run: from a function in `slotworks.configs`, or your own.
        run_folder: made if it is missing.
        on_eval: called at each evaluation with the step, the metrics and the detector's verdict.
        finish: measure and report when all steps are done.
        options: passed on to `slotworks.training.train`, such as `device="cpu"`.

    Returns:
        `folder`, `step`, `seconds` of training and, if finished, the last `metrics` (empty without true masks), the
        `split` they are of, the `protocol` they follow and the `verdict`; `signal` if Ctrl-C or SIGTERM stopped it,
        its number.
    """
    from slotworks.training.loop import train as train_loop  # imported here: Lightning takes seconds

    folder = Path(run_folder)
    check_run(run)
    check_writable(folder)
    if options.get("device") is not None:
        find_device(options["device"])  # a wrong name is found before the data are opened
    validation = run.data.open("val")
    scored = _has_masks(validation)
    if not scored and not hasattr(run.method, "categories"):  # predicted sets are scored without masks
        console.print(_unscored(run.data, "val"), highlight=False, soft_wrap=True, markup=False)

    def measure(method: Method, step: int) -> dict[str, float]:
        if not _finds_slots(method):
            return {}
        if isinstance(method, PredictsSets):
            sets = {}
            with suppress(NotFinite):  # the training goes on
                sets = _set_metrics(method, validation, run.eval_images)
            if not _attends(method, validation):  # nothing to see, nothing for the detector
                if on_eval is not None:
                    on_eval(step, sets, "no attention to look at")
                return sets
        else:
            sets = {}
        result = None
        if scored:
            with suppress(NotFinite):  # the training goes on, and the detector says what is wrong
                result = evaluate_discovery(method, validation, protocol=run.protocol, num_images=run.eval_images)
        count = min(run.eval_images, 64)
        stats = _stats(method, validation, count)
        findings = _diagnose(folder, run, stats, {"split": "val", "num_images": count, "step": step})
        _show(method, result, validation, folder, step)
        values = sets | ({name: summary.mean for name, summary in result.metrics.items()} if result else {})
        if on_eval is not None:
            on_eval(step, values, _verdict(findings, stats))
        return values

    result = train_loop(run, folder, evaluators=[measure], **options)
    answer: dict[str, Any] = {"folder": str(folder), "step": result.step, "seconds": result.seconds}
    if result.signal:
        answer["signal"] = result.signal
    first = not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
    if finish and result.finished and first:
        answer |= _finish(folder, options.get("device"))
    return answer


def check_run(run: Run) -> None:
    """Refuse a run that would end at its first or last measurement: a protocol or a library that is not here.

    Raises:
        UserError: naming it.
    """
    known_protocols.get(run.protocol)
    if run.wandb:
        check_extra("wandb", "wandb")


def _finish(folder: Path, device: str | None) -> dict:
    """The last measurement, on the split that the run names, which chose nothing; and the report."""
    from slotworks.reports import write_report

    run, method = load(folder, device=device)
    settings = _settings(folder)
    method.export(folder)
    if not _finds_slots(method):
        return {
            "metrics": {},
            "split": run.eval_split,
            "protocol": "",
            "verdict": "no slots to look at",
            "report": str(write_report(folder)),
        }
    split = run.eval_split
    test, source = run.data.open(split), _images_for(run, run.data, split)
    sets = []
    if isinstance(method, PredictsSets):
        sets = evaluate_sets(method, test, num_images=run.eval_images)
        for one in sets:
            _record(folder, source, split, one, settings)
        if not _attends(method, test):
            return {
                "metrics": _plain(sets[0]),
                "split": split,
                "protocol": sets[0].rules,
                "verdict": "no attention to look at",
                "report": str(write_report(folder)),
            }
    results: list[DiscoveryResult] = []
    unscored = _unscored(run.data, split)
    if _has_masks(test):
        names = dict.fromkeys((run.protocol, known_protocols.DEFAULT))  # the second counts the background, too
        try:
            results = evaluate_under(list(names), method, test, num_images=run.eval_images)
        except NotFinite as error:  # the pictures and the detector's word are all there is to say
            unscored = str(error)
    for result in results:
        _record(folder, source, split, result, settings)
    result = results[0] if results else None
    stats = _stats(method, test, run.eval_images)
    of = {"split": split, "num_images": run.eval_images, "step": run.steps}
    findings = _diagnose(folder, run, stats, of)
    _show(method, result, test, folder, run.steps)
    described = [one.rules for one in sets] + ([result.protocol.describe()] if result else [])
    return {
        "metrics": {name: value for one in (*sets, *results[:1]) for name, value in _plain(one).items()},
        "split": split,
        "protocol": "; ".join(described) or unscored,
        "verdict": _verdict(findings, stats),
        "report": str(write_report(folder)),
    }


def evaluate(
    run_folder: str | Path,
    *,
    data: DataConfig | Sequence[DataConfig] | None = None,
    split: str | None = None,
    task: Task = "discovery",
    protocols: Sequence[str] | None = None,
    num_images: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
    device: str | None = None,
    config: MethodConfig | None = None,
    lengths: Sequence[int] = (),
    out: str | Path | None = None,
    **options: Any,
) -> list[dict]:
    """Score a run on one or several data sets; writes `eval/DATA-SPLIT-PROTOCOL.json` for each score.

    A record that was measured in another way (other images, seed, checkpoint, batch size, ...) is not replaced: the new
    one gets a longer name, see `slotworks.evaluation.records.write_eval`.

    Images of another size than the method was trained on are opened or drawn at its size where the data set can do
    that, otherwise resized; the record says so. Masks keep their own size. A method of images sees videos frame by
    frame.

    Args:
        run_folder: a run with a checkpoint, or one that `untrained` made.
        data: other data sets than the run's own.
        split: of the data set; None is the run's `eval_split` of its own data, and test of others.
        task: `discovery` of objects under protocols; `semantic` segmentation, over all images at once; `properties` of
            objects read from frozen slots, by probes trained on the training split; `reconstruction` of the images;
            `removal` of an object from each image by its slot; `sets` of objects that the method itself predicts.
        protocols: of discovery: names, or `["all"]`; by default the run's own.
        num_images: how many images, from the first on; all by default.
        batch_size: images per forward pass; changes speed, memory and the random slots.
        seed: of the initial slots.
        device: where to compute.
        config: settings of the method that differ from training, such as SPOT's `eval_orders`; the record names them.
        lengths: of discovery in videos: score the first so many frames of each, for every one of these numbers; also
            draws `eval/lengths-DATA-SPLIT.png`.
        out: folder for `eval/` in place of the run folder, for example of a run that lies where nothing can be written.
        options: passed on to `evaluate_semantic`, `evaluate_properties`, `evaluate_sets` or `evaluate_reconstruction`;
            for the last also `perceptual=True` for LPIPS and FID.

    Returns:
        The records written, see `slotworks.evaluation.records`, each with its `run`, in the order of the data sets. One
        that could not be saved says why under `unsaved`: the scores are not lost.
    """
    folder = Path(run_folder)
    check_options(num_images=num_images, batch_size=batch_size, seed=seed, **options)
    if task == "discovery" and protocols is not None and list(protocols) != ["all"]:
        for name in protocols:
            known_protocols.get(name)  # before the weights are read
    if options.get("perceptual"):
        check_extra("perceptual", "torchmetrics.image.fid", "torch_fidelity")
    place = _place_for_records(folder, out)
    run, method = load(folder, device=device, config=config)
    settings = _settings(folder, batch_size, **options)
    if task in ("reconstruction", "removal"):
        renderer_of(method, options.get("renderer"))
        sampling_of(method, options.get("steps"), options.get("cfg_scale"), (0, 0.0))
    if task == "sets" and not isinstance(method, PredictsSets):
        raise UserError(
            f"{type(method).__name__} predicts no sets of objects; give a run of set_prediction, slot_mlp or dspn."
        )
    if task != "sets" and not _finds_slots(method):
        raise UserError(f"{type(method).__name__} finds no slots, so there is nothing to measure in {task}.")
    changed = _changed(load_run(folder).method, config) if config else []
    names = [run.protocol] if protocols is None else protocols
    names = _all_protocols(method) if list(names) == ["all"] else names
    chosen = [known_protocols.get(name) for name in names]  # a wrong name is found before the data are opened
    if lengths:
        chosen = [protocol.with_length(length) for protocol in chosen for length in sorted(set(lengths))]
    if isinstance(method, VideoMethod) and task not in ("discovery", "reconstruction"):
        raise UserError(
            f"{type(method).__name__} takes videos, the task {task} is one for images; measure discovery or "
            "reconstruction."
        )
    if task != "discovery" and lengths:
        raise UserError(f"Lengths of videos belong to the task discovery; leave them out for {task}.")
    if task != "discovery" and protocols is not None:
        raise UserError(f"Protocols belong to the task discovery; leave them out for {task}.")
    given = [run.data] if data is None else [data] if isinstance(data, DataConfig) else data
    split = split or (run.eval_split if all(one.name == run.data.name for one in given) else "test")
    sources = [_images_for(run, one, split) for one in given]
    if task == "semantic":
        for source in sources:
            _class_names(method, source)
    how = {"num_images": num_images, "batch_size": batch_size, "seed": seed, **options}
    records: list[dict] = []
    unsaved = ""
    for source in sources:
        dataset, note = _at_size_of(run, source, split)
        if task == "discovery":
            results: list[Any] = list(evaluate_under(chosen, method, dataset, **how))
            if run.steps == 0 and source is sources[0]:
                of = {"data": source.name, "split": split, "num_images": num_images, "seed": seed}
                try:  # nothing else writes pictures for the report
                    if not looks_at_something_else(place / "samples" / "index.json", of):
                        _show(method, results[0], dataset, place, step=0, looked_at=of)
                except (UserError, OSError) as error:
                    unsaved = str(error)
        elif task == "semantic":
            results = [_semantic(method, source, dataset, how)]
        elif task == "reconstruction":
            results = [_reconstruction(method, dataset, how)]
        elif task == "removal":
            results = [evaluate_removal(method, dataset, **how)]
        elif task == "sets":
            results = list(evaluate_sets(method, dataset, **how))
        else:
            results = [_properties(method, run, source, dataset, how)]
        for result in results:
            record = _record(folder, source, split, result, settings, note, changed, place=place, must_save=False)
            records.append({"run": str(folder), **record})
    if lengths:
        from slotworks.reports import write_lengths

        try:
            write_lengths(place)
        except UserError as error:
            unsaved = str(error)
    if unsaved:
        records[-1].setdefault("unsaved", unsaved)
    return records


def _place_for_records(folder: Path, out: str | Path | None) -> Path:
    """Where `eval/` is written to.

    Raises:
        UserError: if that cannot be; says that another place can be named.
    """
    place = folder if out is None else Path(out)
    try:
        check_writable(place / "eval")
    except UserError as error:
        hint = " With `out` (`--out` on the command line) the records go there." if out is None else ""
        raise UserError(f"{error}{hint}") from None
    return place


def _all_protocols(method: Method) -> list[str]:
    """Those that differ for this kind of method: what counts frames of videos says nothing new of images."""
    known, videos = known_protocols.PROTOCOLS.values(), isinstance(method, VideoMethod)
    return [rule.name for rule in known if videos or (rule.first_frame and rule.frames == "together")]


def _semantic(method: Method, source: DataConfig, dataset: Dataset, how: Mapping[str, Any]) -> Any:
    from slotworks.evaluation.semantic import evaluate_semantic

    return evaluate_semantic(method, dataset, class_names=_class_names(method, source), **how)


def _class_names(method: Method, source: DataConfig) -> Sequence[str]:
    names = getattr(source, "class_names", None) or getattr(getattr(method, "config", None), "class_names", None)
    if names is None:
        raise UserError(f"{source.name} does not name classes; semantic scores need data that do, such as voc2012.")
    return names


def _reconstruction(method: Method, dataset: Dataset, how: Mapping[str, Any]) -> Any:
    from slotworks.evaluation.reconstruction import evaluate_reconstruction

    how = dict(how)
    if how.pop("perceptual", False):
        from slotworks.metrics.image import inception_network, lpips_network

        device = next(method.parameters()).device
        how |= {"perceptual": lpips_network("vgg", device), "perceptual_name": "VGG, torchmetrics"}
        how |= {"inception": inception_network(device), "inception_name": "Inception v3, torch-fidelity"}
    return evaluate_reconstruction(method, dataset, **how)


def _properties(method: Method, run: Run, source: DataConfig, dataset: Dataset, how: Mapping[str, Any]) -> Any:
    known = {field.name for field in fields(source)}
    labelled = {"train_masks": True, "crop": "center"}  # probes need labels, and pictures that batches would show whole
    changes = {name: value for name, value in labelled.items() if name in known}
    if changes.get("crop") and getattr(source, "crop", "") != "random":
        del changes["crop"]
    train, _ = _at_size_of(run, replace(source, **changes), "train")
    label = dataset.__getitems__([0]).get(how.get("label", "class"))
    rows = 0 if label is None or label.ndim != 2 or source.max_objects is None else label.shape[1] - source.max_objects
    return evaluate_properties(method, train, dataset, background_row=rows > 0, **how)


def examine(
    run_folder: str | Path,
    *,
    split: str | None = None,
    num_images: int = 320,
    device: str | None = None,
    out: str | Path | None = None,
) -> list[doctor.Finding]:
    """Look for collapsed or badly shared slots; writes `eval/doctor.json` and returns the findings, worst first.

    A file that is of another split, number of images or step stays; see `slotworks.evaluation.doctor.write`. A run
    without a checkpoint is judged by its curves alone. `split` is the run's `eval_split` where it is None. `out` takes
    the place of the run folder for what is written.
    """
    folder = Path(run_folder)
    check_options(num_images=num_images)
    place = _place_for_records(folder, out)
    run, stats = load_run(folder / "run.yaml"), {}
    split = split or run.eval_split
    if run.steps == 0 or (folder / LAST).is_file():
        _, method = load(folder, device=device)
        stats = _stats(method, run.data.open(split), num_images)
    findings = doctor.diagnose(stats, read_metrics(folder), asdict(run), run.method)
    of = {"split": split, "num_images": num_images, "step": _settings(folder)["step"]}
    try:
        doctor.write(place, stats, findings, looked_at=of, replace=False)
    except UserError as error:
        said = " ".join(f"{finding.name.replace('_', ' ')}: {finding.evidence}" for finding in findings)
        raise UserError(f"{error} What was found is not saved: {said}") from None
    return findings


def segment(
    run_folder: str | Path,
    files: Sequence[str | Path],
    *,
    out: str | Path = "segments",
    device: str | None = None,
    **options: Any,
) -> Iterator[dict]:
    """Take own pictures (files or folders) apart with a trained run; yields what it wrote for each.

    For files and options see `slotworks.evaluation.segment.segment_images`, for videos `segment_video` beside it. A
    method of videos sees a picture as a video of one frame. Results of earlier calls are not read as pictures.
    """
    check_options(num_slots=options.get("num_slots"), seed=options.get("seed"))
    check_writable(out)
    paths = find_images([Path(file) for file in files])[0]
    if any(path.suffix.lower() in VIDEO_SUFFIXES for path in paths):
        check_extra("video", "av")
    run, method = load(run_folder, device=device)
    with writing(out, doing="writing results") as outputs:
        if not (paths := [path for path in paths if not outputs.made(path)]):
            raise UserError(
                f"All that was given are results in {out}; give other pictures, or another folder for them."
            )
        videos = [path for path in paths if path.suffix.lower() in VIDEO_SUFFIXES]
        pictures = [path for path in paths if path not in videos]
        for path in pictures:  # whatever is in the way is said before the work starts
            outputs.name_for(path, PICTURE_KINDS)
        for path in videos:
            outputs.name_for(path, VIDEO_KINDS, folders=VIDEO_FOLDERS)
        if pictures:
            kept = {name: value for name, value in options.items() if name != "boxes"}
            yield from segment_images(method, pictures, outputs, image_size=run.data.size, **kept)
        skip = options.pop("skip_damaged", False)
        for path in videos:
            try:
                yield segment_video(method, path, outputs, image_size=run.data.size, **options)
            except UserError as error:
                if not skip or len(paths) == 1:
                    raise
                yield {"file": str(path), "error": str(error)}


def _finds_slots(method: Method) -> bool:
    """Whether it is a method, and not a network that methods build on, such as an encoder."""
    return type(method).encode is not Method.encode


def _attends(method: Method, dataset: Dataset) -> bool:
    """Whether there are maps to look at: of a decoder, or of attention, which leaves its iterations in the output."""
    if isinstance(method, Decodes):
        return True
    with inspecting(method, seed=0) as device:
        return bool(method.encode_batch(to_batch(dataset.__getitems__([0]), device)).attn_steps)


def _set_metrics(method: Method, dataset: Dataset, num_images: int) -> dict[str, float]:
    result = evaluate_sets(method, dataset, num_images=num_images)[0]
    return {name: summary.mean for name, summary in result.metrics.items()}


def _plain(result: Any) -> dict[str, dict]:
    return {name: asdict(summary) for name, summary in result.metrics.items()}


def _slots_are_fixed(folder: Path, config: MethodConfig | None) -> UserError | None:
    """What to say where weights do not fit because another number of slots was asked for; None for other reasons."""
    own = load_run(folder / "run.yaml").method
    trained, wanted = getattr(own, "num_slots", None), getattr(config, "num_slots", None)
    if config is None or trained == wanted:
        return None
    return UserError(
        f"{folder} was trained with {trained} slots and has weights for each of them, so it cannot be run with "
        f"{wanted}; only slots that share one initialiser (method.initializer=gaussian) can be of another number."
    )


def _has_masks(dataset: Dataset) -> bool:
    return len(dataset) > 0 and "mask" in dataset.__getitems__([0])


def _unscored(data: DataConfig, split: str) -> str:
    return f"{data.name} has no true masks in its split {split}: nothing is scored, see the pictures and the detector."


def _images_for(run: Run, source: DataConfig, split: str) -> DataConfig:
    """Whose images a split shows: those behind cached features, real ones where training images are generated, and for
    a method of images the single frames of videos."""
    if isinstance(source, CachedFeatures):
        source = source.source_images
    if split != "train" and getattr(source, "real", None) is not None:
        source = source.real  # type: ignore[attr-defined]
    if getattr(source, "frames", "") == "video" and getattr(run.data, "frames", "single") == "single":
        whole = {"clip_length": None, "clip_stride": None}  # clips are of videos
        return replace(source, frames="single", **whole)  # type: ignore[call-arg]
    return source


def _at_size_of(run: Run, source: DataConfig, split: str) -> tuple[Dataset, str]:
    """A split with images of the size that the run's method takes, and what was done for that."""
    try:
        wanted, own = run.data.size, source.size
    except NotImplementedError:  # not every source knows before it is opened
        return source.open(split), ""
    if wanted == own:
        return source.open(split), ""
    if wanted[0] == wanted[1] and isinstance(getattr(source, "image_size", None), int):
        try:
            return replace(source, image_size=wanted[0]).open(split), ""  # type: ignore[call-arg]
        except ValueError:  # larger than the official images, or too small to draw
            pass
    note = f"; images resized from {own[0]} x {own[1]} to {wanted[0]} x {wanted[1]} pixels"
    return Resized(source.open(split), wanted), note


def _settings(folder: Path, batch_size: int = 64, **options: Any) -> dict[str, Any]:
    """What decides about the numbers beside data, protocol and seed: which checkpoint, and how it was asked."""
    step = checkpoint_step(folder) if (folder / LAST).is_file() else 0
    given = {name: value for name, value in options.items() if isinstance(value, bool | int | float | str)}
    return {"step": step, "batch_size": batch_size, "options": given}


def _record(
    folder: Path,
    data: DataConfig,
    split: str,
    result: Any,
    settings: Mapping[str, Any],
    note: str = "",
    changed: Sequence[str] = (),
    *,
    place: Path | None = None,
    must_save: bool = True,
) -> dict:
    checkpoint = str(LAST) if (folder / LAST).is_file() else "none: nothing was trained"
    record = result.record(data=data.name, split=split, checkpoint=checkpoint)
    record["rules"] += note + (f"; not as in training: {', '.join(changed)}" if changed else "")
    record["settings"] = {**settings, "data": to_plain(data)}
    name = "-".join([record["data"], split, record["protocol"], *changed])
    try:
        if place is not None:
            place.mkdir(parents=True, exist_ok=True)
        write_eval(place or folder, name.replace("/", "-").replace(" ", "-"), record)
    except (UserError, OSError) as error:
        if must_save:
            raise
        return record | {"unsaved": str(error)}
    return record


def _changed(own: MethodConfig, used: MethodConfig) -> list[str]:
    """Settings that differ, as `name=value`."""
    names = [field.name for field in fields(own)]
    return [f"{name}={getattr(used, name)}" for name in names if getattr(own, name) != getattr(used, name)]


def _show(
    method: Method,
    result: DiscoveryResult | None,
    dataset: Dataset,
    folder: Path,
    step: int,
    looked_at: Mapping[str, Any] | None = None,
) -> None:
    """Pictures of the worst images and of the first ones, which no score chose."""
    per_image = result.per_image if result else {}
    values = per_image.get("fg_ari")
    worst = values.nan_to_num(2).argsort()[: SAMPLES // 2].tolist() if values is not None else []
    count = result.num_images if result else len(dataset)
    first = [i for i in range(min(count, SAMPLES)) if i not in worst][: SAMPLES - len(worst)]
    indices = [*worst, *first]
    scores = {i: {name: values[i].item() for name, values in per_image.items()} for i in indices}
    write_samples(method, dataset, folder, indices=indices, step=step, scores=scores, looked_at=looked_at)


def _stats(method: Method, dataset: Dataset, num_images: int) -> dict[str, float]:
    """What the detector looks at; nothing where there is one image, which no other can be compared with."""
    return doctor.stats_of(method, dataset, num_images=num_images) if min(num_images, len(dataset)) > 1 else {}


def _verdict(findings: Sequence[doctor.Finding], stats: Mapping[str, float | None]) -> str:
    return doctor.verdict(findings) + ("" if stats else " (by the losses alone: one image does not show more)")


def _diagnose(folder: Path, run: Run, stats: Mapping[str, float | None], of: Mapping[str, Any]) -> list[doctor.Finding]:
    """Judge statistics together with the run's curves and settings; leaves `eval/doctor.json`, which says what of."""
    findings = doctor.diagnose(stats, read_metrics(folder), asdict(run), run.method)
    doctor.write(folder, stats, findings, step=of["step"], looked_at=of)
    return findings


def synthesize(
    config: "Synthesis",
    folder: str | Path,
    *,
    rank: int = 0,
    world_size: int = 1,
    device: str | None = None,
    on_shard: Callable[[Path], None] | None = None,
) -> dict:
    """Generate images with pseudo-masks, shard after shard; goes on where it was stopped.

    For arguments and result see `slotworks.synthesis.engine.synthesize`. Without `device` it is the first GPU, under
    `torchrun` the one of this process, or the CPU.
    """
    from slotworks.synthesis import synthesize as make

    if device is None and torch.cuda.is_available():
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    place = find_device(device)
    check_writable(folder)
    check_extra("synthesis", "pyarrow.parquet")
    return make(config, folder, rank=rank, world_size=world_size, device=place, on_shard=on_shard)


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
    Out of a video file slots can be taken, see `slotworks.editing.edit_video`. A method of videos sees a picture as a
    video of one frame. `precision` is what pictures are rendered in; auto: what the device computes fast.
    """
    from slotworks.editing import edit_picture, edit_video

    check_options(**{name: options.get(name) for name in ("num_slots", "seed", "steps", "cfg_scale", "noise_seeds")})
    check_writable(out)
    run, method = load(run_folder, device=device)
    options["dtype"] = DTYPES[fast_precision(precision, find_device(device))]
    if warning := slow_warning(precision, find_device(device)):
        console.print(warning, highlight=False, soft_wrap=True, markup=False)
    if Path(image).suffix.lower() not in VIDEO_SUFFIXES:
        return edit_picture(method, image, out, image_size=run.data.size, **options)
    seeds = options.pop("noise_seeds", (0,))
    others = [options.pop(name, None) for name in ("add_slots", "replace_slots", "swap_slots", "move_slot")]
    if any(others):
        raise UserError("Slots can only be taken out of a video; for pictures there are also add, swap and move.")
    if len(seeds) != 1:
        raise UserError(f"{len(seeds)} noise seeds were given; a video is rendered once, give one.")
    return [edit_video(method, image, out, image_size=run.data.size, noise_seed=seeds[0], **options)]


def studio(
    run_folder: str | Path, *, device: str | None = None, host: str = "127.0.0.1", port: int | None = None
) -> Any:
    """Serve the web editor of a run until `close()`; the result's `address` holds the token that lets one in.

    For `host` and `port` see `slotworks.studio.Server`; the page alone, as `gradio.Blocks`, is what
    `slotworks.studio.build_page` gives.

    Raises:
        UserError: if the folder is no run, its method renders no pictures, `gradio` is not installed, or the address
            cannot be listened on.
    """
    from slotworks.studio import Server, Studio

    check_extra("studio", "gradio")
    run, method = load(run_folder, device=device)
    return Server(Studio(method, run), host=host, port=port)
