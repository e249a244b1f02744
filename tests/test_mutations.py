"""Mutated files for every reader: the right content or one sentence, quickly and in little memory; no other error.

A small fixed part is in the ordinary suite. The large one, 10,000 inputs in child processes whose time and memory are
bounded: `pytest -m slow tests/test_mutations.py`, one reader with `-k pictures`.
"""

import json
import os
import random
import resource
import shutil
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from mutations import SECONDS, at_most, check_sentence, mutate, mutate_text
from PIL import Image

from slotworks.errors import UserError
from slotworks.limits import VARIABLE

sys.path += [str(Path(__file__).parent / folder) for folder in ("training", "data/stores", "methods")]
FIXTURES = Path(__file__).parent / "fixtures"
BYTES = 1 << 30  # that a reader may take beside what the process has


@dataclass(frozen=True)
class Case:
    """A reader with the files that are mutated, one at a time.

    `read` gives what the files hold; `exact` says that the format has checksums: other content is a fault.
    """

    files: list[Path]
    read: Callable[[], object]
    exact: bool = False


def save_pictures(folder: Path) -> list[Path]:
    """One picture of each format and kind."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    pixels = np.kron(generator.integers(0, 256, (6, 8, 3), np.uint8), np.ones((4, 4, 1), np.uint8))
    color, grey = Image.fromarray(pixels), Image.fromarray(pixels[..., 0])
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds = {
        "png": [(color, {}), (color.quantize(9), {"transparency": 3}), (grey.convert("I;16"), {})],
        "jpg": [(color, {}), (color, {"progressive": True}), (color, {"exif": exif})],
        "webp": [(color, {}), (color.convert("RGBA"), {"lossless": True})],
        "avif": [(color, {})],
        "tif": [(color, {"compression": "tiff_lzw"}), (grey.convert("F"), {}), (color, {"exif": exif})],
        "jp2": [(color, {})],
        "bmp": [(color, {})],
        "gif": [(color, {"save_all": True, "append_images": [color.rotate(90)]})],
        "ppm": [(color, {})],
        "tga": [(color, {"compression": "tga_rle"})],
    }
    files = []
    for suffix, variants in kinds.items():
        for number, (picture, options) in enumerate(variants):
            path = folder / f"{number}.{suffix}"
            try:
                picture.save(path, **options)
            except (OSError, KeyError):  # a Pillow without this library
                continue
            files.append(path)
    return files


def pictures(folder: Path) -> Case:
    from slotworks.images import read_image

    files = [file for file in save_pictures(folder) if file.suffix != ".png"]
    return Case(files, lambda: {str(file): np.asarray(read_image(file)) for file in files})


def png(folder: Path) -> Case:
    from slotworks.images import read_image

    files = [file for file in save_pictures(folder) if file.suffix == ".png"]
    return Case(files, lambda: {str(file): np.asarray(read_image(file)) for file in files}, exact=True)


def videos(folder: Path) -> Case:
    import av

    from slotworks.videos import open_video

    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for suffix in ("mp4", "mkv", "avi", "mjpeg", "ts", "webm", "mov", "flv"):
        path = folder / f"clip.{suffix}"
        codec = {"mjpeg": "mjpeg", "webm": "libvpx", "flv": "flv"}.get(suffix, "mpeg4")
        try:
            with av.open(str(path), "w") as container:
                stream = container.add_stream(codec, rate=12)
                stream.width, stream.height = 32, 24
                stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
                for t in range(5):
                    frame = av.VideoFrame.from_ndarray(np.full((24, 32, 3), 40 * t, np.uint8), format="rgb24")
                    container.mux(stream.encode(frame))
                container.mux(stream.encode())
        except (av.error.FFmpegError, ValueError):  # a PyAV without this codec
            path.unlink(missing_ok=True)
            continue
        files.append(path)
    return Case(files, lambda: {str(file): list(open_video(file).frames()) for file in files})


def data(make: Callable[[Path], object], source: Path, patterns: tuple[str, ...], *, splits=("train", "val", "test")):
    """A data set of fixtures, opened and read as a training does."""

    def case(folder: Path) -> Case:
        shutil.copytree(FIXTURES / source, folder / source.name)
        config = make(folder / source.name)

        def read() -> dict:
            for place in folder.rglob("prepared"):
                shutil.rmtree(place)
            rows = {}
            for split in splits:
                opened = config.open(split)
                rows[split] = opened.__getitems__(range(len(opened)))
            return rows

        return Case(sorted(file for pattern in patterns for file in folder.rglob(pattern)), read)

    return case


def voc(root: Path):
    from slotworks.data import VOC

    return VOC(root=str(root), image_size=16, mask_size=16, train_masks=True)


def coco(root: Path):
    from slotworks.data import COCO

    return COCO(root=str(root), image_size=16, mask_size=16, train_masks=True)


def clevr(root: Path):
    from slotworks.data import CLEVRv1

    return CLEVRv1(root=str(root.parent), val_size=1)


def movi(root: Path):
    from slotworks.data.readers.movi import MOVi

    return MOVi(root=str(root), resolution="32x32")


def clevrtex(folder: Path) -> Case:
    from slotworks.data import CLEVRTex

    shutil.copytree(FIXTURES / "clevrtex/clevrtex_full", folder / "clevrtex_full")
    config = CLEVRTex(root=str(folder))
    files = [config.files(0)[number] for number in range(3)]
    return Case(files, lambda: config.decode(0))


def celeba(folder: Path) -> Case:
    from slotworks.data import CelebA

    (folder / "img_align_celeba").mkdir(parents=True)
    names = [f"{i + 1:06d}.jpg" for i in range(4)]
    for i, name in enumerate(names):
        Image.new("RGB", (178, 218), (40 * i, 0, 0)).save(folder / "img_align_celeba" / name)
    lists = {
        "list_eval_partition.txt": [f"{name} {(0, 0, 1, 2)[i]}" for i, name in enumerate(names)],
        "list_attr_celeba.txt": ["4", " ".join(f"A{k}" for k in range(40)), *(f"{n}  " + " -1" * 40 for n in names)],
    }
    for name, lines in lists.items():
        (folder / name).write_text("\n".join(lines) + "\n")
    config = CelebA(root=str(folder))

    def read() -> dict:
        shutil.rmtree(folder / "prepared", ignore_errors=True)
        return {split: config.open(split)[0] for split in ("train", "val", "test")}

    return Case([folder / name for name in lists], read)


def tfrecords(folder: Path) -> Case:
    from slotworks.data.readers.tfrecord import read_payloads

    folder.mkdir(parents=True)
    file = folder / "tetrominoes_train.tfrecords"
    shutil.copy(FIXTURES / "multi_object_datasets/tetrominoes/tetrominoes_train.tfrecords", file)
    whole = set(read_payloads(file))

    def read() -> bool:
        return all(payload in whole for payload in read_payloads(file))

    return Case([file], read, exact=True)


def store(folder: Path) -> Case:
    from slotworks.data.stores.store import Store, write_store

    rows = [{"image": np.full((4, 4, 3), k, np.uint8), "x": np.float32(k)} for k in range(5)]
    rows = [{name: np.asarray(value) for name, value in row.items()} for row in rows]
    write_store(folder / "store", lambda start: iter(rows[start:]), source={"name": "a file", "bytes": 10})

    def read() -> dict:
        opened = Store(folder / "store")
        opened.verify()
        return {k: opened[k] for k in range(len(opened))}

    return Case([folder / "store" / name for name in ("image.npy", "x.npy")], read, exact=True)


def store_index(folder: Path) -> Case:
    case = store(folder)
    return Case([folder / "store/index.json"], case.read)


def features(folder: Path) -> Case:
    """A whole feature cache, as a training opens it, and one that a kill left, which a training goes on with."""
    pytest.importorskip("transformers")
    from test_features import Grains
    from tiny_models import save_dinov2

    from slotworks.data.stores.features import CachedFeatures
    from slotworks.data.stores.store import write_store
    from slotworks.encoders import ViTConfig

    network = ViTConfig(str(save_dinov2(folder / "network")), image_size=56, patch_size=14, feature_dim=32)
    whole, cut_off = (CachedFeatures(Grains(side=56), network, root=str(folder / name)) for name in ("a", "b"))
    rows = whole.open("train")
    key = whole.key(whole.images.open("train"))
    store, partial = whole.store_path(key), folder / "partial"

    def stops(start: int):
        for k in range(start, len(rows)):
            if k == 4:
                raise InterruptedError
            yield rows[k]

    with suppress(UserError):  # as a full disk or a kill leaves it
        write_store(partial / "x", stops, source=key, settings={"batch_size": cut_off.batch_size}, chunk_bytes=1)

    def read() -> dict:
        shutil.rmtree(folder / "b", ignore_errors=True)
        place = cut_off.store_path(key)
        shutil.copytree(partial / ".x.partial", place.with_name(f".{place.name}.partial"))
        found = {}
        for name, cache in (("whole", whole), ("cut_off", cut_off)):
            opened = cache.open("train")
            opened.verify()
            found[name] = opened.__getitems__(range(len(opened)))
        return found

    names = ("features.npy", "index.json")
    return Case([place / name for place in (store, partial / ".x.partial") for name in names], read, exact=True)


def shards(folder: Path) -> Case:
    pytest.importorskip("pyarrow")
    from test_generated import fill

    from slotworks.data.stores.generated import Generated

    config = Generated(str(fill(folder, (3,))), image_size=8, mask_size=8, held_out=1)

    def read() -> dict:
        shutil.rmtree(folder / "prepared", ignore_errors=True)
        records = list(config.records())
        return {"records": records, "names": config.class_names, "rows": config.open("train").__getitems__([0, 1])}

    return Case([folder / "shard-00000.parquet"], read)


def run_folder(folder: Path) -> Path:
    """A finished run of two steps with everything that is read again."""
    from training_toy import toy_metric, toy_run

    from slotworks.evaluation.records import write_eval
    from slotworks.training import train

    if not (folder / "run.yaml").exists():
        train(toy_run(steps=2, save_every=1, eval_every=2), folder, evaluators=toy_metric)
        write_eval(folder, "test-toy", record(seed=0))
        (folder / "eval/doctor.json").write_text(json.dumps({"verdict": "ok", "step": 2, "stats": {}, "findings": []}))
    return folder


def record(**changes) -> dict:
    fixed = {
        "data": "toy",
        "split": "test",
        "protocol": "p",
        "rules": "r",
        "num_images": 4,
        "checkpoint": "last",
        "seed": 1,
    }
    scores = {"metrics": {"a": {"mean": 0.5, "sem": 0.1, "n": 4}}, "per_image": {"a": [0.1, 0.2, 0.9, 0.8]}}
    return fixed | scores | changes


def run_yaml(folder: Path) -> Case:
    from slotworks.training.folder import read_folder
    from slotworks.training.serialize import load_run, to_yaml

    run = load_run(run_folder(folder))

    def read() -> object:
        found = load_run(folder)
        to_yaml(found)
        read_folder(run, folder)
        return None

    return Case([folder / "run.yaml"], read)


def checkpoint(folder: Path) -> Case:
    from slotworks.training.checkpoint import LAST, checkpoint_step, load_checkpoint, load_method

    run_folder(folder)

    def read() -> object:
        checkpoint_step(folder)
        method = load_method(folder)
        assert all(bool(value.isfinite().all()) for value in method.state_dict().values())
        loaded = load_checkpoint(folder / LAST)
        parts = (loaded.model, loaded.ema, loaded.optimizer)
        assert all(bool(value.isfinite().all()) for part in parts for value in part.values())
        return None

    return Case([folder / LAST], read)


def records(folder: Path) -> Case:
    """Beside a damaged record a new one is written, and the page of the run still comes."""
    from slotworks.evaluation.doctor import read as read_doctor
    from slotworks.evaluation.records import write_eval
    from slotworks.reports import write_report
    from slotworks.training.folder import write_folder
    from slotworks.training.logs import cut_back, read_metrics
    from slotworks.training.serialize import load_run

    run_folder(folder)
    run = load_run(folder)
    kept = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    files = [folder / name for name in ("eval/test-toy.json", "metrics.jsonl", "env.json", "eval/doctor.json")]

    def read() -> object:
        before = files[0].read_bytes()
        written = write_eval(folder, "test-toy", record(seed=1))
        assert written == files[0] or files[0].read_bytes() == before
        write_report(folder)
        read_metrics(folder)
        cut_back(folder, 1)
        write_folder(run, folder, device="cpu", world_size=1, step=2)
        try:
            read_doctor(folder)
        finally:
            for file in folder.rglob("*"):
                if file.is_file() and file not in kept:
                    file.unlink()
            for file, content in kept.items():
                file.write_bytes(content)
        return None

    return Case(files, read)


def manifest(folder: Path) -> Case:
    """The list of what the program wrote: nothing that is not on it is ever its own."""
    from slotworks.outputs import LIST, Outputs, without_own

    outputs = Outputs(folder)
    for name in ("cat", "dog"):
        stem = outputs.name_for(folder / f"{name}.jpg", ["_mask.txt"])
        outputs.write_text(f"{stem}_mask.txt", name)
    (folder / "mine.txt").write_text("mine")

    def read() -> object:
        found = Outputs(folder)
        assert not found.owns("mine.txt")
        assert folder / "mine.txt" in without_own(folder.glob("*.txt"))
        found.name_for(folder / "cat.jpg", ["_mask.txt"])
        return None

    return Case([folder / LIST], read)


def synthesis(folder: Path) -> Case:
    from slotworks.configs.synthesis import RECIPES
    from slotworks.synthesis.engine import note_settings
    from slotworks.training.serialize import to_yaml

    config = RECIPES["glass.scenes"]()
    folder.mkdir(parents=True)
    (folder / "own").mkdir()
    (folder / "synthesis.yaml").write_text(to_yaml(config))

    def read() -> object:
        note_settings(config, folder, "cpu")
        return None

    return Case([folder / "synthesis.yaml"], read)


def captions(folder: Path) -> Case:
    from slotworks.synthesis.sources import read_captions

    folder.mkdir(parents=True)
    lines = [json.dumps({"index": k, "caption": f"a cat {k}", "classes": ["cat"]}) for k in range(4)]
    (folder / "rank-0.jsonl").write_text("\n".join(lines) + "\n")
    return Case([folder / "rank-0.jsonl"], lambda: {str(k): str(v) for k, v in read_captions(folder).items()})


def published(binary: bool):
    def case(folder: Path) -> Case:
        pytest.importorskip("transformers")
        from test_transfer_glass import checkpoint as write

        from slotworks.convert.glass import _read, _settings, slot_weights

        source = write(folder / "released", binary=binary)
        slots = source / "multiheadstevesa"

        def read() -> object:
            _settings(source)
            weights = slot_weights(_read(slots))
            assert all(bool(value.isfinite().all()) for value in weights.values())
            return None

        return Case(sorted(slots.iterdir()), read)

    return case


def foreign(folder: Path) -> Case:
    """A file of `torch.save` with an object of a class that is not known when it is read."""
    import torch

    from slotworks.convert.source import open_source

    folder.mkdir(parents=True)
    whole = torch.arange(12.0).view(3, 4)
    state = {"a.weight": whole, "b": whole.T, "c": torch.ones(2).half()}
    torch.save({"state_dict": state, "epoch": 3, "rest": Case([], list)}, folder / "model.ckpt")
    return Case([folder / "model.ckpt"], lambda: open_source(folder / "model.ckpt").facts)


def of_google(kind: str):
    def case(folder: Path) -> Case:
        from published import save_bundle, save_flax

        from slotworks.convert.source import open_source

        folder.mkdir(parents=True)
        named = {f"a/{i}/kernel": np.arange(6, dtype="float32").reshape(2, 3) + i for i in range(30)}
        if kind == "flax":
            return Case([save_flax(folder / "ckpt.flax", named)], lambda: list(open_source(folder).tensors)[:0])
        save_bundle(folder, named)
        files = sorted(folder.iterdir())
        return Case(files, lambda: {k: v.tolist() for k, v in open_source(folder).tensors.items()}, exact=True)

    return case


READERS: dict[str, tuple[Callable[[Path], Case], int]] = {
    "pictures": (pictures, 2_400),
    "png": (png, 800),
    "videos": (videos, 900),
    "tfrecords": (tfrecords, 600),
    "voc": (data(voc, Path("VOCdevkit"), ("*.txt", "*.png"), splits=("train", "val")), 300),
    "coco": (data(coco, Path("coco"), ("*.json",), splits=("train", "val")), 500),
    "clevr": (data(clevr, Path("CLEVR_v1.0"), ("CLEVR*.json",)), 200),
    "movi": (data(movi, Path("movi"), ("*.json", "*.tfrecord*", "*.txt"), splits=("train", "val")), 300),
    "clevrtex": (clevrtex, 500),
    "celeba": (celeba, 200),
    "store": (store, 500),
    "store_index": (store_index, 400),
    "features": (features, 400),
    "shards": (shards, 500),
    "run_yaml": (run_yaml, 500),
    "checkpoint": (checkpoint, 400),
    "records": (records, 500),
    "manifest": (manifest, 200),
    "synthesis": (synthesis, 200),
    "captions": (captions, 100),
    "published_safetensors": (published(False), 200),
    "published_bin": (published(True), 200),
    "published_foreign": (foreign, 300),
    "published_flax": (of_google("flax"), 300),
    "published_bundle": (of_google("tensorflow"), 300),
}
TEXT = (".json", ".jsonl", ".yaml", ".txt")


def read_mutated(case: Case, number: int, whole: dict[Path, bytes], content: object) -> bool:
    """Whether input `number` could be read. Raises whatever is not allowed, AssertionError for other content."""
    generator = random.Random(number)
    file = case.files[number % len(case.files)]
    change = mutate_text if file.suffix in TEXT else mutate
    file.write_bytes(change(whole[file], generator))
    try:
        with at_most(SECONDS):
            found = case.read()
    except UserError as error:
        check_sentence(str(error))
        return False
    finally:
        file.write_bytes(whole[file])
    assert not case.exact or equal(found, content), "other content, and nobody noticed"
    return True


def equal(one: object, other: object) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    return np.array_equal(np.asarray(one), np.asarray(other))


def share(make: Callable[[Path], Case], folder: Path, numbers: range, log: Path, at: Path) -> None:
    """Read these inputs in this process; what is found goes to `log`, the number in work to `at`."""
    os.environ[VARIABLE] = "0.5"
    case = make(folder)
    whole = {file: file.read_bytes() for file in case.files}
    content = case.read()
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + BYTES + (1 << 29)  # half a GB for threads' stacks, which nobody touches
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    found: dict[str, object] = {"read": 0, "refused": 0, "faults": []}
    start = resource.getrusage(resource.RUSAGE_SELF)
    for number in numbers:
        at.write_text(str(number))
        try:
            found["read" if read_mutated(case, number, whole, content) else "refused"] += 1
        except BaseException as error:
            last = traceback.extract_tb(error.__traceback__)[-4:]
            places = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(last))
            found["faults"].append([number, f"{type(error).__name__}: {str(error)[:200]} at {places}"])
            if len(found["faults"]) > 20:
                break
    end = resource.getrusage(resource.RUSAGE_SELF)
    found["mb"] = (end.ru_maxrss - start.ru_maxrss) / 1024
    found["seconds"] = end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime
    log.write_text(json.dumps(found))


def try_all(name: str, count: int, folder: Path) -> dict:
    """Inputs of a reader in child processes, one after the other; a dead child is a fault, and the next goes on."""
    total = {"read": 0, "refused": 0, "faults": [], "mb": 0.0, "seconds": 0.0}
    numbers, part = range(count), 0
    while numbers:
        log, at = folder / f"{part}.json", folder / "at"
        child = get_context("fork").Process(
            target=share, args=(READERS[name][0], folder / f"{name}{part}", numbers, log, at)
        )
        child.start()
        child.join(60 + 2 * SECONDS * len(numbers))
        if child.is_alive():
            child.kill()
            child.join()
        if log.is_file():
            found = json.loads(log.read_text())
            for key in ("read", "refused", "faults", "seconds"):
                total[key] += found[key]
            total["mb"] = max(total["mb"], found["mb"])
            break
        assert at.is_file(), f"{name} ended with {child.exitcode} before the first input"
        last = int(at.read_text())
        total["faults"].append([last, f"the process ended with {child.exitcode}"])
        numbers, part = range(last + 1, count), part + 1
        if part > 5:
            break
    return total


SMALL = {"pictures": 36, "png": 12, "tfrecords": 12, "store": 12, "store_index": 20, "run_yaml": 40, "manifest": 30,
         "records": 24, "checkpoint": 12, "synthesis": 15, "captions": 15, "features": 8, "shards": 12,
         "published_foreign": 20, "published_flax": 20, "published_bundle": 20}  # fmt: skip


@pytest.mark.parametrize("name", SMALL)
def test_a_few_mutated_inputs(name, tmp_path):
    case = READERS[name][0](tmp_path / "files")
    whole = {file: file.read_bytes() for file in case.files}
    content = case.read()
    for number in range(SMALL[name]):
        read_mutated(case, number, whole, content)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_all_mutated_inputs(name, tmp_path):
    found = try_all(name, READERS[name][1], tmp_path)
    print(name, {key: value for key, value in found.items() if key != "faults"})
    assert not found["faults"], "\n".join(f"{number}: {text}" for number, text in found["faults"])
    assert found["refused"] > 0
    assert found["mb"] < BYTES / 2**20


def test_equal_generators_give_equal_mutations():
    text = json.dumps({"a": [1, {"b": "c"}], "d": None}).encode()
    for change in (mutate, mutate_text):
        made = [change(text, random.Random(number)) for number in range(60)]
        assert made == [change(text, random.Random(number)) for number in range(60)]
        assert len(set(made)) > 50
