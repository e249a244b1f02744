"""The evaluation protocols of papers and their released code, by name: what exactly a printed number counts.

FG-ARI, mBO and mIoU are computed in several incompatible ways under the same names, and a table that mixes them
compares nothing. A `Protocol` holds the choices, `slotworks.evaluation.discovery.score_masks` applies them to hard
masks, so that one set of masks can be scored under all of them, and `Protocol.describe()` is the line to print beside a
number. See docs/protocols.md; docs/extending.md adds one, and a metric, from outside.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal, get_origin

from slotworks.metrics.checks import check_choice, check_share
from slotworks.metrics.coverage import KINDS, CoverageRule
from slotworks.metrics.metric import MaskMetric
from slotworks.parts import find
from slotworks.types import Batch, UserError

MaskSource = Literal["decoder", "attention"]

LABELS = {
    "fg_ari": "FG-ARI",
    "ari": "ARI",
    "ari_c": "ARI_c",
    "mbo_i": "mBO_i",
    "miou_i": "mIoU_i",
    "mbo_c": "mBO_c",
    "miou_c": "mIoU_c",
    "corloc": "CorLoc",
    "recovery": "recovery",
    "so": "SO",
    "po": "PO",
    "go": "GO",
    "bg": "BG",
}
"""Every metric a protocol can name, as papers print it. `_i`: instance masks; `_c`: one mask per class of the image."""

MEANINGS = {
    "fg_ari": "Are two pixels of objects in one slot if and only if they are of one object? 100 is perfect, 0 chance; "
    "the background does not count.",
    "ari": "FG-ARI over all pixels: the background is one more object.",
    "ari_c": "ARI with one mask for each class of the image.",
    "mbo_i": "Is each object covered by a slot? Mean over objects of the best IoU (overlap) with a slot.",
    "miou_i": "Has each object a slot of its own? As mBO_i, with one slot for one object.",
    "mbo_c": "Is each class of the image covered by a slot? As mBO_i.",
    "miou_c": "Has each class of the image a slot of its own? As mIoU_i.",
    "corloc": "Share of images in which some object overlaps with a slot by more than half.",
    "recovery": "Share of objects that overlap with a slot by more than half.",
    "so": "Share of slots that hold a single object.",
    "po": "Share of slots that hold a part of an object; fewer are better.",
    "go": "Share of slots that hold several objects; fewer are better.",
    "bg": "Share of slots that hold background; fewer are better.",
}
"""What each of them asks, in a sentence; `docs/protocols.md` says how it is computed."""


@dataclass(frozen=True)
class Protocol:
    """How masks become numbers. The defaults are the rules of DINOSAUR's code."""

    name: str
    source: str  # the code these rules were read from and tested against
    used_by: str  # whose tables print numbers of this kind
    metrics: tuple[str, ...]  # of `LABELS`, or names of `own`
    masks: MaskSource = "decoder"  # which soft masks of a method are scored
    published_size: int | None = None  # pixels, short side of the true masks in the published VOC and COCO tables
    background_in: tuple[str, ...] = ()  # metrics of overlap in which the background is one more object
    ignore_void: bool = True  # False: void pixels count as what the mask says there, usually background
    overlap_in: tuple[str, ...] = ()  # metrics that keep pixels of several objects; the others drop them
    class_owner: Literal["last", "highest"] = "last"  # owner of such a pixel in a class map: last object, highest id
    removed: Literal["drop", "background"] = "drop"  # or: true background, covered by one more slot
    background_id: Literal["zero", "lowest"] = "zero"  # or: the lowest id of the image, even if it is an object
    matching: Literal["iou", "cosine"] = "iou"  # cosine: by cosine of the masks, unmatched objects are not counted
    mean_over: Literal["images", "objects"] = "images"
    crowds: Literal["background", "objects"] = "background"  # what COCO's `crowd` regions are
    first_frame: bool = True  # False: the first frame of a video, about which a method was told, does not count
    frames: Literal["together", "apart"] = "together"  # a video is one image with more pixels, or each frame is one
    length: int | None = None  # frames of a video that count, from its first one on; None: all
    coverage: CoverageRule = "iou"  # behind SO, PO and GO; see slotworks.metrics.coverage
    coverage_threshold: float = 0.5  # on the IoU, in (0, 1]
    merge: float | None = None  # slots of images whose cosine is above it are joined first; None: none are
    own: tuple[MaskMetric, ...] = ()  # metrics that the package does not have

    def __post_init__(self) -> None:
        """Refuse what no rule is about: a misspelt choice would be taken for another.

        Raises:
            ValueError: for an unknown metric or choice, or a coverage threshold outside (0, 1].
        """
        known = [*LABELS, *(one.name for one in self.own)]
        for name in (*self.metrics, *self.background_in, *self.overlap_in):
            if name not in known:
                raise ValueError(f"There is no metric {name!r}; expected some of {', '.join(known)}.")
        if taken := [one.name for one in self.own if one.name in LABELS]:
            raise ValueError(f"A metric of your own is called {taken[0]}, as one of the package is; rename it.")
        for one in fields(self):
            if get_origin(one.type) is Literal:
                check_choice(getattr(self, one.name), one.name, one.type)
        check_share(self.coverage_threshold, "coverage_threshold")

    def with_masks(self, masks: MaskSource) -> "Protocol":
        """The same rules for other masks; the name says so, as in `oclf[attention]`."""
        if masks == self.masks:
            return self
        base, end = re.fullmatch(r"(.*?)(?:\[\w+\])?((?:~[-\d.]+)?(?:@\d+)?)", self.name).groups()  # pyright: ignore
        return replace(self, masks=masks, name=f"{base}[{masks}]{end}")

    def with_metrics(self, names: Sequence[str], *, importing: bool = True) -> "Protocol":
        """The same rules with more metrics: of `LABELS`, or of one's own; the name says so, as in `oclf+dice`.

        Raises:
            UserError: for a metric that is not known.
        """
        found = {
            name: find("metric", name, {}, MaskMetric, importing=importing) for name in names if name not in LABELS
        }
        more = [found[name].name if name in found else name for name in names]
        own, metrics = (*self.own, *found.values()), tuple(dict.fromkeys((*self.metrics, *more)))
        return replace(self, metrics=metrics, own=own, name="+".join([self.name, *more]))

    def with_merging(self, merge: float) -> "Protocol":
        """The same rules after similar slots were joined; the name says so, as in `oclf~0.9`."""
        if not -1 <= merge <= 1:
            raise UserError(f"merge is {merge:g}; it is a cosine, from -1 to 1, above which slots are joined.")
        base, at, length = self.name.partition("@")
        kept = re.sub(r"~[-\d.]+$", "", base)
        return replace(self, merge=merge, name=f"{kept}~{merge:g}{at}{length}")

    def with_length(self, length: int) -> "Protocol":
        """The same rules for the first frames of a video; the name says so, as in `savi@12`."""
        if length < 2 - self.first_frame:
            raise UserError(f"{self.name} cannot score {length} frames of a video; give a larger number.")
        return replace(self, length=length, name=f"{self.name.split('@')[0]}@{length}")

    def of_video(self, values: Batch) -> Batch:
        """Maps `b t h w` as one image `b (t h) w`, or as one for each frame, `(b t) h w`; others are left out.

        Frames that do not count are left out, too.
        """
        kept = slice(0 if self.first_frame else 1, self.length)
        maps = {name: value[:, kept] for name, value in values.items() if value.ndim == 4}
        if self.frames == "apart":
            return {name: value.flatten(0, 1) for name, value in maps.items()}
        return {name: value.flatten(1, 2) for name, value in maps.items()}

    def describe(self) -> str:
        """All choices in one line, to print beside a number."""
        dropped = "dropped" if self.removed == "drop" else "made background of no slot"
        with_background = [m for m in self.metrics if m in self.background_in]
        with_overlap = [m for m in self.metrics if m in self.overlap_in]
        owner = "last object" if self.class_owner == "last" else "last object, in class maps the highest class id"
        parts = [self._names(self.metrics)]
        if with_background:
            parts.append(f"background is one more object in {self._names(with_background)}")
        elif any(m in _OVERLAPS for m in self.metrics):
            parts.append("mBO and mIoU over foreground objects")
        if any(m in KINDS for m in self.metrics):
            parts.append(f"share of all slots, by our own definition since no code is public: {self._coverage_rule()}")
        parts.append(f"void pixels {dropped if self.ignore_void else 'as labelled'}")
        if len(with_overlap) == len(self.metrics):
            parts.append(f"overlap pixels kept (owner: {owner})")
        else:
            kept = f", kept in {self._names(with_overlap)} (owner: {owner})" if with_overlap else ""
            parts.append(f"overlap pixels {dropped}{kept}")
        if self.crowds == "objects":
            parts.append("COCO's crowd regions are objects")
        if self.background_id == "lowest":
            parts.append("background is the lowest id of an image")
        if self.matching == "cosine":
            parts.append("matched by mask cosine, unmatched objects dropped")
        size = f" (VOC and COCO tables: {self.published_size} px)" if self.published_size else ""
        parts.append(f"{self.masks} masks at the truth's size{size}")
        if self.merge is not None:
            parts.append(f"slots with a cosine above {self.merge:g} joined first")
        if not self.first_frame or self.length:
            begin = "first" if self.first_frame else "second"
            end = f" to number {self.length}" if self.length else ""
            parts.append(f"of videos the frames from the {begin} one{end}")
        if self.frames == "apart":
            parts.append("each frame of a video is an image of its own, so that tracking does not count")
        parts.append(f"mean over {self.mean_over}")
        return f"{self.name}: " + "; ".join(parts)

    def _coverage_rule(self) -> str:
        limit = f"{self.coverage_threshold:g}"
        if self.coverage == "iou":
            return f"IoU of at least {limit} with one object SO, with several GO, any pixel of an object PO, else BG"
        if self.coverage == "combined":
            first = "no pixel of an object BG"
            last = f"IoU above {limit} SO, over half of several objects and little background GO, else PO"
            return f"{first}, {last}"
        return f"mostly background BG, IoU above {limit} SO, over half of several objects GO, else PO"

    def _names(self, metrics: Sequence[str]) -> str:
        labels = {**{one.name: one.label or one.name for one in self.own}, **LABELS}
        return ", ".join(labels[name] for name in metrics)


_OVERLAPS = ("mbo_i", "miou_i", "mbo_c", "miou_c")

PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="oclf",
            source="amazon-science/object-centric-learning-framework",
            used_by="DINOSAUR; the reference here",
            metrics=("fg_ari", "ari", *_OVERLAPS, "corloc", "recovery"),
            published_size=320,
            overlap_in=("ari", "mbo_c", "miou_c"),
            class_owner="highest",
        ),
        Protocol(
            name="slot-attention",
            source="google-deepmind/multi_object_datasets",
            used_by="IODINE and Slot Attention, printed as ARI",
            metrics=("fg_ari",),
            ignore_void=False,
            overlap_in=("fg_ari",),
        ),
        Protocol(
            name="spot",
            source="gkakogeorgiou/spot",
            used_by="SPOT",
            metrics=("fg_ari", "mbo_i", "miou_i", "mbo_c"),
            published_size=320,
            ignore_void=False,
            crowds="objects",
        ),
        Protocol(
            name="glass-release",
            source="visinf/glass, default options",
            used_by="what the released GLASS script prints; the options behind the paper's tables are not stated",
            metrics=("fg_ari", "ari_c", *_OVERLAPS, "corloc", "recovery"),
            masks="attention",
            published_size=256,
            background_in=(*_OVERLAPS, "corloc", "recovery"),
            ignore_void=False,
            overlap_in=("fg_ari", "ari_c", *_OVERLAPS, "corloc", "recovery"),
            background_id="lowest",
        ),
        Protocol(
            name="slot-diffusion",
            source="Wuziyi616/SlotDiffusion",
            used_by="SlotDiffusion",
            metrics=("fg_ari", *_OVERLAPS),
            masks="attention",
            background_in=("miou_i", "miou_c"),
            removed="background",
            background_id="lowest",
        ),
        Protocol(
            name="savi",
            source="google-research/slot-attention-video, from commit ba8f15e on: all frames",
            used_by="SAVi, SAVi++ and STEVE: FG-ARI and ARI; mBO and mIoU, which their code lacks, by the same rules",
            metrics=("fg_ari", "ari", "mbo_i", "miou_i"),
            overlap_in=("fg_ari", "ari", "mbo_i", "miou_i"),
        ),
        Protocol(
            name="savi-without-first",
            source="google-research/slot-attention-video; the rules of `savi` without the first frame",
            used_by="for methods that are told where objects are in the first frame",
            metrics=("fg_ari", "ari", "mbo_i", "miou_i"),
            overlap_in=("fg_ari", "ari", "mbo_i", "miou_i"),
            first_frame=False,
        ),
        Protocol(
            name="savi-frames",
            source="the rules of `savi`, frame by frame",
            used_by="beside `savi`: what is lost there and not here is lost by tracking",
            metrics=("fg_ari", "ari", "mbo_i", "miou_i"),
            overlap_in=("fg_ari", "ari", "mbo_i", "miou_i"),
            frames="apart",
        ),
        Protocol(
            name="lsd-object",
            source="JindongJiang/latent-slot-diffusion",
            used_by="StableLSD",
            metrics=("fg_ari", "mbo_i", "miou_i"),
            masks="attention",
            ignore_void=False,
            overlap_in=("fg_ari", "mbo_i", "miou_i"),
            matching="cosine",
            mean_over="objects",
        ),
        Protocol(
            name="lsd-image",
            source="JindongJiang/latent-slot-diffusion",
            used_by="printed beside lsd-object by the StableLSD script",
            metrics=("fg_ari", "mbo_i", "miou_i"),
            masks="attention",
            ignore_void=False,
            overlap_in=("fg_ari", "mbo_i", "miou_i"),
            matching="cosine",
        ),
        Protocol(
            name="so-po-go",
            source="our reading of Fan et al. 2023 and of the GLASS paper; no code is public",
            used_by="none by these limits: GLASS, table 3, does not state its own",
            metrics=KINDS,
        ),
        Protocol(
            name="so-po-go-majority",
            source="our reading of Fan et al. 2023 and of the GLASS paper; no code is public",
            used_by="none by these limits: GLASS, table 3, does not state its own",
            metrics=KINDS,
            coverage="background_majority",
        ),
        Protocol(
            name="so-po-go-combined",
            source="our reading of Fan et al. 2023 and of the GLASS paper; no code is public",
            used_by="none that is known: GLASS, table 3, prints shares of this size, without its limits",
            metrics=KINDS,
            coverage="combined",
        ),
    )
}
"""All protocols by name."""

DEFAULT = "oclf"
"""The protocol used where none is named."""


_NAME = re.compile(
    r"(?P<base>[^+@\[\]]+?)(?P<metrics>(\+[^+@\[\]]+?)*)(\[(?P<masks>attention|decoder)\])?"
    r"(~(?P<merge>-?[01](\.\d{1,4})?))?(@(?P<length>\d{1,9}))?",
    re.ASCII,
)


def get(name: str, *, importing: bool = True) -> Protocol:
    """The protocol of this name; one of your own is named as `slotworks.parts` says, such as `my_rules.py:MINE`.

    `oclf[attention]` is `oclf` scored on attention masks instead of its own, `savi@12` is `savi` on the first 12 frames
    of each video, `oclf~0.9` is `oclf` after slots whose cosine is above 0.9 were joined, `oclf+ari_c` is `oclf`
    with one more metric, which may be your own, too.

    Args:
        name: base, metrics, masks, merging and length, in this order: `oclf+ari_c[attention]~0.9@12`.
        importing: False for a name that a file gives, such as that of a run folder.

    Raises:
        UserError: for an unknown name.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        raise UserError(
            f"There is no protocol {name!r}. Known: {', '.join(PROTOCOLS)}; behind the name may stand +NAME for one "
            "more metric, [attention] or [decoder] for other masks than its own, ~0.9 to join slots whose cosine is "
            "above 0.9, @12 for 12 frames of a video."
        )
    protocol = find("protocol", found["base"], PROTOCOLS, Protocol, importing=importing)
    if found["metrics"]:
        protocol = protocol.with_metrics(found["metrics"][1:].split("+"), importing=importing)
    if found["masks"]:
        protocol = protocol.with_masks("decoder" if found["masks"] == "decoder" else "attention")
    if found["merge"]:
        protocol = protocol.with_merging(float(found["merge"]))
    return protocol.with_length(int(found["length"])) if found["length"] else protocol
