"""Runs that travel: a folder with `config.json`, `model.safetensors` and a card, on the Hugging Face hub or anywhere.

    save_pretrained("runs/mine", "mine")                  # the folder
    push_to_hub("runs/mine", "me/mine")                   # the folder, on the hub
    run, method = from_pretrained("me/mine")              # elsewhere: settings, and the method with its weights

What takes a run folder takes `hf://me/mine`, `hf://me/mine@REVISION` and `zoo:NAME` too: `local_run` makes a run
folder of it.

`config.json` holds all settings of the run, as run.yaml does, the steps it was trained for and a checksum of the
weights, which are the averaged ones where the run kept an average. With `half` they are float16 in the file and float32
again when they are read. Absolute paths of the machine it was trained on are left out. Nothing in the folder is a
pickle, and nothing in it can cause an import.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, fields, is_dataclass, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import slotworks.data.scenes
import slotworks.data.stores.generated
import slotworks.data.stores.latents
import slotworks.methods  # noqa: F401  (settings name classes of these packages; they never say what to import)
from slotworks import zoo
from slotworks.errors import UserError, needs_extra, quote, transport_errors
from slotworks.files import replacing, write_text
from slotworks.json_text import read_json
from slotworks.training.checkpoint import (
    LAST,
    Checkpoint,
    check_weights,
    checkpoint_seconds,
    fit,
    load_weights,
    save_checkpoint,
)
from slotworks.training.numerics import find_device
from slotworks.training.reopen import load, trained_steps
from slotworks.training.run import Run
from slotworks.training.serialize import from_plain, load_run, save_run, to_plain
from slotworks.types import Method, all_finite
from slotworks.version import __version__

FORMAT = "slotworks-pretrained"
VERSION = 1
CONFIG, WEIGHTS, CARD, PICTURE = "config.json", "model.safetensors", "README.md", "masks.png"
PREFIX = "hf://"
FOLDER = Path("runs") / "hub"
"""Where commands put the run folders of what comes from a hub."""

_NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[^@\s]+))?")
_Settings = TypeVar("_Settings")


def save_pretrained(
    run_folder: str | Path,
    out: str | Path,
    *,
    license: str | None = None,
    pictures: bool = False,
    half: bool = False,
) -> Path:
    """Write a trained run as a folder that `from_pretrained` reads, with a card made of its settings and records.

    Args:
        run_folder: with a checkpoint; its `eval/` gives the numbers of the card.
        out: made if it is missing; in one that is there only a folder of this kind is replaced.
        license: of the weights, by its name on the hub, such as `apache-2.0`; the card says so if none is given.
        pictures: also the last pictures of the run's samples. They show the data: think of whose they are.
        half: weights as float16 in the file, half as large. Numbers move a little: the records of the run are not those
            of these weights.

    Returns:
        The folder.

    Raises:
        UserError: the folder is no trained run, `out` holds something else, a weight is too large for float16, or the
            disk refuses.
    """
    return _write(Path(run_folder), Path(out), "OWNER/NAME", license, pictures, half)


def _write(source: Path, out: Path, name: str, license: str | None, pictures: bool, half: bool = False) -> Path:
    from slotworks.reports.card import card, picture_for_card

    run = load_run(source)
    if run.steps == 0 and not (source / LAST).is_file():
        raise UserError(f"The method of {source} has no weights of its own; its run.yaml is all that is needed.")
    _, weights = load_weights(source)
    weights = _halved(weights, source) if half else weights
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()) and not _is_pretrained(out):
        raise UserError(f"{out} holds something else; choose a new folder.")
    without_paths, left = _portable(run)
    with replacing(out / WEIGHTS) as beside:
        save_file({k: v.detach().cpu().clone().contiguous() for k, v in weights.items()}, beside, {"format": "pt"})
    config = {
        "format": FORMAT,
        "version": VERSION,
        "slotworks": __version__,
        "step": trained_steps(source),
        "seconds": round(checkpoint_seconds(source), 1),
        "weights": "float16" if half else "float32",
        "sha256": _sha256(out / WEIGHTS),
        "license": license,
        "left_out": left,
        "run": to_plain(without_paths),
    }
    write_text(out / CONFIG, json.dumps(config, indent=1, ensure_ascii=False) + "\n")
    picture = picture_for_card(source) if pictures else None
    if picture:
        with replacing(out / PICTURE) as beside:
            beside.write_bytes(picture.read_bytes())
    write_text(out / CARD, card(source, config, name=name, picture=PICTURE if picture else None))
    return out


def _halved(weights: dict[str, torch.Tensor], source: Path) -> dict[str, torch.Tensor]:
    half = {name: value.half() if value.dtype == torch.float32 else value for name, value in weights.items()}
    for name, value in half.items():
        if not all_finite(value):
            raise UserError(f"{source} holds a weight in {name} that float16 cannot; publish it in float32.")
    return half


def push_to_hub(
    run_folder: str | Path,
    repo: str,
    *,
    license: str | None = None,
    pictures: bool = False,
    half: bool = False,
    private: bool = False,
    token: str | None = None,
    message: str | None = None,
) -> str:
    """Put a trained run on the hub, in a repository that is made if there is none; the address of the commit.

    Args:
        run_folder: as for `save_pretrained`, and so `license`, `pictures` and `half`.
        repo: `owner/name`.
        private: of a repository that is made; one that is there keeps what it is.
        token: of somebody who may write there; by default the one that `hf auth login` stored.
        message: of the commit.

    Raises:
        UserError: as `save_pretrained`; the library huggingface_hub is missing; the hub refuses.
    """
    repo, revision = _parse(repo)
    if revision:
        raise UserError(f"A commit on the hub gets its name there; give {repo} without @{revision}.")
    with needs_extra("hub"):
        from huggingface_hub import HfApi
    with tempfile.TemporaryDirectory() as beside:  # a run may lie where nothing can be written
        _write(Path(run_folder), Path(beside), repo, license, pictures, half)
        api = HfApi(token=token)
        with _said(repo, "could not be written"):
            api.create_repo(repo, private=private or None, exist_ok=True)
            files = [CONFIG, WEIGHTS, CARD, PICTURE]
            said = message or f"A run of {type(load_run(run_folder).method).__name__.removesuffix('Config')}"
            return api.upload_folder(
                repo_id=repo, folder_path=beside, allow_patterns=files, commit_message=said
            ).commit_url


def from_pretrained(
    name: str | Path,
    *,
    revision: str | None = None,
    token: str | None = None,
    local_files_only: bool = False,
    device: str | None = None,
) -> tuple[Run, Method]:
    """Settings and method, with its weights and in evaluation mode, of a folder or of a repository on the hub.

    Args:
        name: a folder of `save_pretrained`, a run folder, `zoo:NAME`, or `owner/name` on the hub, also as
            `hf://owner/name`.
        revision: branch, tag or commit on the hub; also `owner/name@REVISION`.
        token: for a repository that is not public; by default the one that `hf auth login` stored.
        local_files_only: ask no network; also `HF_HUB_OFFLINE=1`.
        device: such as cpu or cuda:1; by default the first GPU if there is one.

    Raises:
        UserError: there is no such folder or repository, it cannot be had, or it is damaged or of another kind.
    """
    folder = zoo.folder_of(str(name)) if zoo.is_name(str(name)) else Path(name)
    if not os.path.isdir(folder):
        folder, _ = _download(str(name), revision=revision, token=token, local_files_only=local_files_only)
    elif (folder / "run.yaml").is_file():
        return load(folder, device=device)
    run, weights, _ = _read(folder)
    method = run.method.build()
    fit(method, weights, source=str(folder / WEIGHTS))
    return run, method.eval().to(find_device(device))


def local_run(name: str | Path) -> Path:
    """The run folder of what somebody gave for one: a folder as it is, or one made of `hf://owner/name[@REVISION]`.

    Of `zoo:NAME` and of a folder of `save_pretrained` one is made, too. They lie in `runs/hub`, named after repository
    and commit, and hold records and reports of this machine, and those that came along; one that is there is taken
    again, without a network if need be.

    Raises:
        UserError: as `from_pretrained`.
    """
    text = str(name)
    if text.startswith("hf:/"):  # `Path` makes one slash of two
        source, commit = _download("/".join(PurePosixPath(text.replace("\\", "/")).parts[1:]))
        repo = _parse(text)[0]
        target = FOLDER / f"{repo.replace('/', '--')}@{commit[:12]}"
    elif zoo.is_name(text):
        source = zoo.folder_of(text)
        target = FOLDER / f"zoo--{source.name}@{_config(source)['sha256'][:12]}"
    elif os.path.isdir(text) and not os.path.exists(Path(text) / "run.yaml") and _is_pretrained(Path(text)):
        source = Path(text)
        target = FOLDER / f"{source.resolve().name}@{_config(source)['sha256'][:12]}"
    else:
        return Path(name)
    if not (target / LAST).is_file():
        make_run(source, target)
    return target


def make_run(source: str | Path, target: str | Path) -> Path:
    """Make a run folder of a folder of `save_pretrained`, with the records that lie in it; gives the run folder.

    Raises:
        UserError: the folder is damaged or of another kind, or the disk refuses.
    """
    source, target = Path(source), Path(target)
    run, weights, config = _read(source)
    target.mkdir(parents=True, exist_ok=True)
    for path in (*source.glob("env.json"), *source.glob("encoder.json"), *source.glob("eval/*.json")):
        with replacing(target / path.relative_to(source)) as beside:
            shutil.copyfile(path, beside)
    save_run(run, target / "run.yaml")
    seconds = config.get("seconds", 0.0)
    save_checkpoint(Checkpoint(run=run, step=config["step"], seconds=seconds, model=weights), target / LAST)
    return target


def _parse(name: str) -> tuple[str, str | None]:
    """Repository and revision of `owner/name[@REVISION]`, also behind `hf://`."""
    bare = re.sub(r"^hf:/{1,2}", "", name)
    found = _NAME.fullmatch(bare)
    if not found:
        raise UserError(
            f"There is no folder {quote(name)}, and it is no name on the hub; give a folder, or owner/name as in "
            "hf://owner/name@main."
        )
    return found["repo"], found["revision"]


def _download(
    name: str, *, revision: str | None = None, token: str | None = None, local_files_only: bool = False
) -> tuple[Path, str]:
    """The files of a repository in the hub's cache, and their commit; without a network what is in the cache."""
    repo, asked = _parse(name)
    revision = revision or asked
    with needs_extra("hub"):
        from huggingface_hub import hf_hub_download, try_to_load_from_cache
    options: dict[str, Any] = {"token": token, "library_name": "slotworks", "library_version": __version__}
    whole = re.fullmatch(r"[0-9a-f]{40}", revision or "")
    known = try_to_load_from_cache(repo, WEIGHTS, revision=revision) if whole else None
    offline = local_files_only or isinstance(known, str)
    with _said(f"{repo}@{revision}" if revision else repo, "could not be had"):
        config = Path(hf_hub_download(repo, CONFIG, revision=revision, local_files_only=offline, **options))
        commit = config.parent.name  # both of one commit, should a new one come in between
        hf_hub_download(repo, WEIGHTS, revision=commit, local_files_only=offline, **options)
    return config.parent, commit


@contextmanager
def _said(what: str, failed: str) -> Iterator[None]:
    """Errors of the hub's client as one sentence about a repository."""
    from huggingface_hub import errors

    reasons: list[tuple[type[Exception], str]] = [
        (errors.GatedRepoError, "its owner asks who wants it; accept the terms on its page and give a token"),
        (errors.RevisionNotFoundError, "it has no such revision; look at its branches and tags"),
        (errors.RepositoryNotFoundError, "there is none of this name, or it is not public; check name and token"),
        (errors.LocalEntryNotFoundError, "it is not on this machine and the hub does not answer; check the connection"),
        (errors.EntryNotFoundError, f"it lacks {CONFIG} or {WEIGHTS}, so it is no run of slotworks"),
        (errors.OfflineModeIsEnabled, "HF_HUB_OFFLINE forbids the network and it is not on this machine"),
        (errors.HFValidationError, "this is no name of a repository; give owner/name"),
    ]
    try:
        yield
    except (ValueError, errors.EntryNotFoundError, *transport_errors()) as error:
        if isinstance(error, UserError):
            raise
        reason = next((words for kind, words in reasons if isinstance(error, kind)), None)
        if reason is None:
            first = " ".join(str(error).split())[:200].rstrip(" .")
            reason = f"{type(error).__name__}: {first}; check the connection and try again"
        raise UserError(f"{what} {failed} on the hub: {reason}.") from error


def _is_pretrained(folder: Path) -> bool:
    try:
        return read_json((folder / CONFIG).read_text(encoding="utf-8")).get("format") == FORMAT
    except (OSError, ValueError, AttributeError):
        return False


def _config(folder: Path) -> dict[str, Any]:
    """The settings file of a folder, checked as far as its head."""
    path = folder / CONFIG
    try:
        config = read_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give a folder of `save_pretrained`.") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); load it anew.") from None
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise UserError(f"{path} is of another kind of model, not of slotworks; `slotworks convert` reads some.")
    if not isinstance(config.get("version"), int) or config["version"] > VERSION:
        raise UserError(
            f"{path} has format {quote(config.get('version'))}; this slotworks reads {VERSION}. Install a newer one."
        )
    step, digest = config.get("step"), config.get("sha256")
    seconds = config.get("seconds", 0.0)
    if not isinstance(step, int) or isinstance(step, bool) or step < 0 or not isinstance(digest, str):
        raise UserError(f"{path} does not say how long it was trained, or lacks the checksum of its weights.")
    if not isinstance(seconds, int | float) or not seconds >= 0:
        raise UserError(f"{path} says that training took {quote(seconds)} seconds; expected a number, 0 or more.")
    return config


def _read(folder: Path) -> tuple[Run, dict[str, torch.Tensor], dict[str, Any]]:
    """Settings, weights and `config.json` of a folder, checked."""
    config, path = _config(folder), folder / WEIGHTS
    run = from_plain(Run, config.get("run"), source=str(folder / CONFIG))
    try:
        if _sha256(path) != config["sha256"]:
            raise UserError(f"{path} is not what {CONFIG} was written for: it is damaged or changed; load it anew.")
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}); load it anew.") from None
    check_weights(weights, source=str(path))
    if config.get("weights") == "float16":
        weights = {name: value.float() if value.dtype == torch.float16 else value for name, value in weights.items()}
    return run, weights, config


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _portable(settings: _Settings) -> tuple[_Settings, list[str]]:
    """Settings without the absolute paths of this machine, and which were left out.

    A path with a default goes back to it; what has none keeps its last name. So does a network read from a folder: the
    default is another network, which might fit and would be wrong without a word.
    """
    changed: dict[str, Any] = {}
    left: list[str] = []
    for field in fields(settings):  # pyright: ignore[reportArgumentType]  (a dataclass)
        value = getattr(settings, field.name)
        if not field.init:
            continue
        if is_dataclass(value) and not isinstance(value, type):
            inner, names = _portable(value)
            left += [f"{field.name}.{name}" for name in names]
            changed |= {field.name: inner} if names else {}
        elif isinstance(value, str | Path) and _is_absolute(str(value)):
            network = field.name == "model"
            has_default = not network and field.default is not MISSING and isinstance(field.default, str | Path | None)
            last = PureWindowsPath(str(value)).name or "folder"
            changed[field.name] = field.default if has_default else type(value)(last)
            left.append(field.name)
    return (replace(settings, **changed) if changed else settings), left  # pyright: ignore[reportArgumentType]


def _is_absolute(text: str) -> bool:
    return text.startswith("~") or PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute()
