"""Names on the command line to data sets and run folders."""

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from slotworks import parts
from slotworks.cli.runs import run_of
from slotworks.data.stores.features import CachedFeatures
from slotworks.types import DataConfig, MethodConfig, UserError


def find_data(name: str, root: Path | None = None) -> DataConfig:
    """The data set of this name as `slotworks data list` prints it, optionally below another folder, or drawn scenes.

    See `slotworks.parts` for one of your own.

    Raises:
        UserError: if there is none, or drawn scenes are given a folder.
    """
    from slotworks.data import catalog, scenes

    drawn = {
        "collages": lambda **given: scenes.CollageScenes(**({"cutouts": given["root"]} if given else {})),
        "painted_scenes": scenes.PaintedScenes,
        "painted_videos": scenes.PaintedVideos,
        "scenes": scenes.ShapeScenes,
        "set_scenes": scenes.SetScenes,
        "sprite_scenes": scenes.SpriteScenes,
        "tetromino_scenes": scenes.TetrominoScenes,
        "video_scenes": scenes.VideoScenes,
    }
    if name in drawn and name != "collages" and root:
        raise UserError(f"{name} are drawn and lie in no folder; leave --root out.")
    made = parts.find("data set", name, {row.name: row.config for row in catalog.list_rows()} | drawn, object)
    found = made(**({"root": str(root)} if root else {})) if callable(made) else made
    if not isinstance(found, DataConfig):
        raise UserError(f"{name} is no data set; expected a slotworks.types.DataConfig.")
    return found


def find_all_data(names: Sequence[str], root: Path | None = None) -> list[DataConfig]:
    """Several data sets; `root` is then the folder that holds theirs, under the names `slotworks data list` gives."""
    from slotworks.data import catalog

    if len(names) < 2 or root is None:
        return [find_data(name, root) for name in names]
    folders = {row.name: row.folder for row in catalog.list_rows()}
    return [find_data(name, root / folders[name] if name in folders else None) for name in names]


def with_root(data: DataConfig, root: Path) -> DataConfig:
    """The same data set below another folder.

    Raises:
        UserError: if it lies in no folder.
    """
    data = data.images if isinstance(data, CachedFeatures) else data  # features are cached for training alone
    if "root" not in {field.name for field in fields(data)}:
        raise UserError(f"{data.name} lies in no folder; leave --root out.")
    return replace(data, root=str(root))  # type: ignore[call-arg]


def find_run(name: str, *, settings: Sequence[str] = (), out: Path | None = None) -> tuple[Path, MethodConfig | None]:
    """The run folder of this name, or of a recipe that needs no training: then one is made, `runs/NAME`.

    Args:
        name: a run folder, or a recipe such as `feature_kmeans.scenes_mini`.
        settings: fields to change, such as `method.num-slots=5`; of a run that was trained, only its method's.
        out: the recipe's run folder; means nothing for a run folder.

    Returns:
        The folder and, if settings of a trained run are changed, the method's settings to use.

    Raises:
        UserError: if the recipe is one to train, or a setting cannot be changed after training.
    """
    from slotworks.api import untrained
    from slotworks.cli.sweep import setting_words
    from slotworks.cli.train import build, folder_of, override
    from slotworks.configs import is_recipe
    from slotworks.training import load_run

    words: list[str] = []
    for setting in settings:
        words += setting_words(setting)
    folder = run_of(Path(name))
    if folder.exists() or not is_recipe(name):
        if not words:
            return folder, None
        run = load_run(folder)
        changed = override(run, words, prog="slotworks evaluate --set")
        if replace(changed, method=run.method) != run:
            raise UserError(f"{name} is trained: --set can change its method only, for example method.eval-orders=all.")
        return folder, changed.method
    run = build(name, words)
    if run.steps:
        raise UserError(f"{name} has to be trained first: `slotworks train {name}`; then give its run folder.")
    return untrained(run, out or folder_of(name)), None
