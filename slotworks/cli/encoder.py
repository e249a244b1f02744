"""The frozen network under a run, where it lies on this machine: another folder, or downloaded once somebody agreed."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slotworks.cli.console import err
from slotworks.errors import UserError

if TYPE_CHECKING:
    from slotworks.types import MethodConfig


def with_encoder(folder: Path, encoder: str | None, *, ask: bool = False) -> "MethodConfig | None":
    """Settings of a run's method with its encoder elsewhere, and a warning if that is another one; None: as trained.

    Args:
        folder: run folder.
        encoder: folder or hub id; None: as the run has it.
        ask: of a run that nobody named: ask before a download.

    Raises:
        UserError: the method has no encoder, it cannot be had, or nobody agreed to a download.
    """
    if encoder is None and not ask:
        return None
    import slotworks.methods  # noqa: F401  (a run folder names its classes)
    from slotworks.encoders import ViTConfig, ViTEncoder
    from slotworks.encoders.known import warn_of_another
    from slotworks.encoders.vit import is_here
    from slotworks.training import load_run

    method: Any = load_run(folder).method
    own = getattr(method, "encoder", None)
    if not isinstance(own, ViTConfig):
        raise UserError(f"{type(method).__name__} has no encoder that could lie elsewhere; leave --encoder out.")
    chosen = replace(own, model=encoder or own.model)
    if encoder is None and not is_here(chosen.model):
        _agree(chosen.model)
    warn_of_another(ViTEncoder(chosen), folder)
    return replace(method, encoder=chosen)


def _agree(model: str) -> None:
    """Ask before a network is downloaded.

    Raises:
        UserError: if there is nobody to ask, or the answer is no.
    """
    from slotworks.encoders.vit import VARIABLE

    how = f"give --encoder FOLDER or --encoder {model}, or set {VARIABLE} to a folder"
    if not sys.stdin.isatty():
        raise UserError(f"This needs the network {model}, which is not on this machine; {how}.")
    err.print(f"This needs the network {model} (88 MB for DINOv2 ViT-S/14). Download it? [y/N] ", markup=False, end="")
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UserError(f"Nothing was downloaded; {how}.")
