"""`slotworks export`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from slotworks.cli.console import err, out, parse, print_json
from slotworks.cli.runs import run_of


def main(argv: Sequence[str]) -> int:
    """Parse and run."""
    parse(export, argv, verb="export")
    return 0


def export(
    run: Annotated[Path, tyro.conf.Positional],
    /,
    to: Literal["onnx", "torch"] = "onnx",
    out_folder: Annotated[Path, tyro.conf.arg(name="out")] = Path("exported"),
    module: Path | None = None,
    json: bool = False,
) -> None:
    """Write a trained run as programs that need no slotworks: pictures to slots and masks, and slots to pictures.

    Each program is compared with the run itself before it is kept, and takes batches of any size. export.json says what
    they take and give. What cannot be exported, such as a sampler, is named with the reason.

    Examples:
      slotworks export zoo:dinosaur-scenes --to onnx --out exported     extra `export`
      slotworks export RUN --to torch                                   for torch.export.load

    Args:
        run: run folder.
        to: onnx, or torch for exported programs of torch (.pt2).
        out_folder: folder for the programs.
        module: Python file that defines the run's own classes.
        json: print what stands in export.json.
    """
    from slotworks.export import export as write
    from slotworks.parts import import_file

    if module:
        import_file(module)
    facts = write(run_of(run), out_folder, to=to)
    if json:
        print_json(facts)
    else:
        for one in facts["programs"]:
            takes = ", ".join(f"{name} {' x '.join(map(str, shape))}" for name, shape in one["inputs"].items())
            gives = ", ".join(f"{name} {' x '.join(map(str, shape))}" for name, shape in one["outputs"].items())
            same = f"differs by {one['difference']:.1g}" if one["checked"] else "not compared: onnxruntime is missing"
            opset = f", opset {one['opset']}" if "opset" in one else ""
            size = f"{one['bytes'] / 2**20:.1f} MiB{opset}"
            out.print(f"{out_folder / one['file']}: {takes} -> {gives}; {size}, {same}", soft_wrap=True, markup=False)
    for name, reason in facts["left_out"].items():
        err.print(f"Left out: {name}. {reason}", soft_wrap=True, markup=False)
