"""What a family of checkpoints is, and how its conversion becomes a run folder."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch
from torch import Tensor

from slotworks.configs import find
from slotworks.convert.source import Source
from slotworks.encoders.reports import quiet
from slotworks.errors import UserError, quote
from slotworks.files import check_writable, locked, replacing_tree
from slotworks.training import Run
from slotworks.training.checkpoint import LAST, Checkpoint, fit, save_checkpoint
from slotworks.training.folder import check_unused, device_name, read_folder, write_folder
from slotworks.types import MethodConfig

Config = TypeVar("Config", bound=MethodConfig)


@dataclass(frozen=True)
class Options:
    """What a checkpoint may not tell; None: as in the recipe that it becomes."""

    out: Path
    recipe: str | None = None  # whose data, protocol and settings the run takes where the checkpoint does not tell
    encoder: str | None = None  # pretrained network: hub id, folder, or `own`, the one in the checkpoint
    num_slots: int | None = None
    num_iterations: int | None = None
    num_heads: int | None = None  # of the decoder's attentions
    image_size: int | None = None  # pixels
    changes: Mapping[str, Any] = field(default_factory=dict)  # other settings of the method, by name

    def run(self, name: str, kind: type[MethodConfig]) -> Run:
        """The run of `recipe`, or of the recipe `name`; its method is of class `kind`.

        Raises:
            UserError: the recipe is one of another method.
        """
        run = find(self.recipe or name)()
        if type(run.method) is not kind:
            raise UserError(
                f"The recipe {self.recipe} is one of {type(run.method).__name__}, but the checkpoint is one of "
                f"{kind.__name__}; give another, such as {name}."
            )
        return run

    def given(self, *, slots: int | None = None, **names: str) -> dict[str, Any]:
        """Settings of a method from options that are given: `given(num_heads="decoder_heads")`.

        Args:
            slots: how many there are, where the checkpoint tells.
            names: the method's settings by the options it has beside numbers of slots and iterations; "" for one that
                is read elsewhere.

        Raises:
            UserError: an option means nothing for this checkpoint, or contradicts it.
        """
        own = {"num_slots": "num_slots", "num_iterations": "num_iterations"} | names
        if slots is not None and self.num_slots not in (None, slots):
            raise UserError(
                f"num_slots is {self.num_slots}, but the checkpoint has {slots} slots of its own; leave it out."
            )
        for name in ("num_slots", "num_iterations", "num_heads", "image_size", "encoder"):
            if name not in own and getattr(self, name) is not None:
                raise UserError(
                    f"{name} is {getattr(self, name)}, which means nothing for this checkpoint; leave it out."
                )
        found = {its: value for name, its in own.items() if its and (value := getattr(self, name)) is not None}
        return found | ({} if slots is None else {"num_slots": slots}) | dict(self.changes)


@dataclass(frozen=True)
class Made:
    """A run and its weights by our names, not yet written."""

    run: Run
    weights: dict[str, Tensor]
    parts: tuple[str, ...] = ()  # what was found beside the slots
    extras: Mapping[str, Any] | None = None  # networks that are written beside them: setting and folder -> model


@dataclass(frozen=True)
class Converted:
    """What was made of a checkpoint."""

    folder: Path
    run: Run
    parts: tuple[str, ...]  # what was found: slots, feature_decoder, unet
    family: str = "glass"
    foreign: tuple[str, ...] = ()  # classes and functions that the file names; they were not called


@dataclass(frozen=True)
class Family:
    """One kind of published checkpoint."""

    name: str
    about: str
    signs: tuple[str, ...]  # tensors that all its checkpoints have, and together no other; a|b: one of the two
    convert: Callable[[Source, Options], Made]
    layouts: tuple[str, ...] = ("torch", "safetensors")
    test: Callable[[Source], bool] = bool  # what else must be true of a file

    def is_of(self, source: Source) -> bool:
        """Whether this is one of its checkpoints."""
        found = all(any(map(source.has, sign.split("|"))) for sign in self.signs)
        return source.layout in self.layouts and found and self.test(source)


def settings(config: Config, *, source: Path, **changes: Any) -> Config:
    """The settings of a method with changes.

    Raises:
        UserError: they do not fit together.
    """
    unknown = changes.keys() - {one.name for one in fields(config)}
    if unknown:
        raise UserError(f"{type(config).__name__} has no setting {sorted(unknown)[0]}; look at its fields.")
    try:
        return replace(config, **changes)
    except ValueError as error:
        raise UserError(f"The settings of {source} do not fit together: {error}") from None


def completed(run: Run, method: MethodConfig, source: Path) -> Run:
    """The run with this method, on images of its size.

    Raises:
        UserError: the data of the recipe have another size.
    """
    data: Any = run.data
    size = getattr(method, "image_size", None)
    if size is not None and "image_size" in {one.name for one in fields(data)}:
        square = isinstance(size, tuple) and len(set(size)) == 1 and not isinstance(data.image_size, tuple)
        data = replace(data, image_size=size[0] if square else size)
    try:
        return replace(run, method=method, data=data, expected=f"converted from {source.name}", last_eval_all=False)
    except ValueError as error:
        raise UserError(f"The recipe does not fit {source}: {error} Name another with --recipe.") from None


def check_place(out: Path) -> None:
    """Refuse a folder that cannot become the run folder.

    Raises:
        UserError: it holds a run or somebody else's files, or nothing can be written there.
    """
    check_writable(out)
    if (out / LAST).exists():
        raise UserError(f"{out} holds a run already; choose another folder.")
    if not (out / "run.yaml").exists():  # else a kill left it, or it is another run's, which `write_run` sees
        check_unused(out)


def write_run(run: Run, weights: dict[str, Tensor], out: Path, *, extras: Mapping[str, Any] | None = None) -> None:
    """Write the run folder.

    Raises:
        UserError: it holds another run, or the disk refuses.
    """
    with locked(out, doing="writing a run"):
        if read_folder(run, out):
            raise UserError(f"Another process wrote a run to {out} meanwhile; choose another folder.")
        for name, network in (extras or {}).items():
            with replacing_tree(out / name) as beside:
                save_network(network, beside)
        write_folder(run, out, device=device_name(torch.device("cpu")), world_size=1, step=run.steps)
        save_checkpoint(Checkpoint(run=run, step=run.steps, seconds=0.0, model=weights), out / LAST)


def expected_of(config: MethodConfig) -> dict[str, Tensor]:
    """Names and shapes of the weights of a method with these settings."""
    return config.build().state_dict()


def checked(made: Made, *, source: str) -> Made:
    """The same after its weights were put into its method.

    Raises:
        UserError: naming the first weight that does not fit.
    """
    probe: Any = made.run.method
    with TemporaryDirectory() as folder:
        for name, network in (made.extras or {}).items():  # a method may load its network when it is built
            save_network(network, Path(folder) / name)
            probe = replace(probe, **{name: replace(getattr(probe, name), model=str(Path(folder) / name))})
        fit(probe.build(), made.weights, source=source)
    return made


def save_network(network: Any, folder: Path) -> None:
    """Write a model of `transformers`, without its bars of progress."""
    with quiet():
        network.save_pretrained(folder)


def side_of(count: int, what: str, source: Path) -> int:
    """The side of a square of so many patches.

    Raises:
        UserError: there is none.
    """
    side = round(count**0.5)
    if side * side != count or not count:
        raise UserError(f"{source}: {what} says {quote(count)} patches, which are no square.")
    return side
