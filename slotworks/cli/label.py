"""`slotworks label`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.markup import escape

from slotworks.cli.console import err, parse, print_json

Split = Literal["train", "val", "test"]


def main(argv: Sequence[str]) -> int:
    """Parse and run."""
    parse(label, argv, verb="label")
    return 0


def label(
    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    /,
    out_folder: Annotated[Path | None, tyro.conf.arg(name="out")] = None,
    root: Path | None = None,
    split: Split = "train",
    known: Split = "val",
    images: int | None = None,
    clusters: int | None = None,
    batch_size: int = 16,
    seed: int = 0,
    device: str | None = None,
    set_fields: Annotated[tuple[str, ...], tyro.conf.arg(name="set")] = (),
    module: Path | None = None,
    json: bool = False,
) -> None:
    """Cluster the segments of a method over its data, name the clusters by images with classes, and write the masks of
    the others as shards, to train a segmenter on (`Generated`): DeepSpectral's self-training.

    RUN is a run folder, or a recipe that needs no training.

    Examples:
      slotworks label deep_spectral.voc_crf --root DIR      then: slotworks train deep_spectral.voc_stage2
      slotworks label deep_spectral.scenes_mini             drawn scenes, minutes on a CPU

    Args:
        run: run folder, or a recipe that needs no training.
        out_folder: folder for the shards; by default data/generated/NAME.
        root: folder of the data set.
        split: the images that get masks.
        known: the split whose true classes name the clusters.
        images: how many get masks, from the first on; all by default.
        clusters: how many; by default one for each class and one for the background.
        batch_size: images at once.
        seed: of k-means, and of random slots.
        device: for example cuda:0 or cpu; the first GPU if there is one.
        set_fields: fields to change, for example method.crf-iterations=0.
        module: Python file that defines the run's own classes.
        json: print the result as JSON.
    """
    from slotworks.cli.sources import find_run, with_root
    from slotworks.evaluation.task import class_names
    from slotworks.label import label as write
    from slotworks.parts import import_file
    from slotworks.ranges import check_options
    from slotworks.training.reopen import load

    if module:
        import_file(module)
    check_options(num_images=images, num_clusters=clusters, batch_size=batch_size, seed=seed)
    folder, config = find_run(run, settings=set_fields)
    loaded, method = load(folder, device=device, config=config)
    data = with_root(loaded.data, root) if root else loaded.data
    names = class_names(method, data)
    place = out_folder or Path("data") / "generated" / folder.name
    given, marked = data.open(split), data.open(known)
    how = {"class_names": names, "num_images": images, "num_clusters": clusters}
    answer = write(method, given, marked, place, **how, batch_size=batch_size, seed=seed)
    if json:
        print_json(answer)
        return
    err.print(
        f"[bold]{answer['images']:,} images[/bold] in {answer['shards']} shards below {escape(str(place))}; "
        f"{answer['named']} of {answer['clusters']} clusters got a class; {answer['seconds']:,.0f} s. "
        f"Look at them: {escape(answer['sheet'])}",
        soft_wrap=True,
    )
