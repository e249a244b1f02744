"""The evaluation protocols of papers and their released code, by name: what exactly a printed number counts.

FG-ARI, mBO and mIoU are computed in several incompatible ways under the same names, and a table that mixes them
compares nothing. A `Protocol` holds the choices; `Protocol.score` applies them to hard masks, so that one set of masks
can be scored under all of them; `Protocol.describe()` is the line to print beside a number. See docs/protocols.md.
"""

from dataclasses import dataclass, fields, replace
from typing import Literal, get_origin

from jaxtyping import Bool, Float64, Int64, Integer
from torch import Tensor

from slotworks.metrics.ari import ari_of_table
from slotworks.metrics.checks import check_choice, check_ids, check_like, check_share
from slotworks.metrics.contingency import check_numbers, contingency, objects_of
from slotworks.metrics.coverage import KINDS, CoverageRule, coverage_of_table
from slotworks.metrics.overlap import FOUND, iou_of_table, match, mean_best, mean_matched
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


@dataclass(frozen=True)
class Score:
    """One metric for every image. The mean over a data set is `sum(weights * values) / sum(weights)`, without NaN."""

    values: Float64[Tensor, " b"]  # NaN: the image does not count
    weights: Float64[Tensor, " b"]  # 1, or 0 where the image does not count; or the number of objects behind the value


@dataclass(frozen=True)
class Protocol:
    """How masks become numbers. The defaults are the rules of DINOSAUR's code."""

    name: str
    source: str  # the code these rules were read from and tested against
    used_by: str  # whose tables print numbers of this kind
    metrics: tuple[str, ...]
    masks: MaskSource = "decoder"  # which soft masks of a method are scored
    published_size: int | None = None  # pixels, short side of the true masks in the published VOC and COCO tables
    background_in: tuple[str, ...] = ()  # mBO and mIoU in which the background is one more object
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

    def __post_init__(self) -> None:
        """Refuse what no rule is about: a misspelt choice would be taken for another.

        Raises:
            ValueError: for an unknown metric or choice, or a coverage threshold outside (0, 1].
        """
        for name in (*self.metrics, *self.background_in, *self.overlap_in):
            if name not in LABELS:
                raise ValueError(f"There is no metric {name!r}; expected some of {', '.join(LABELS)}.")
        for field in fields(self):
            if get_origin(field.type) is Literal:
                check_choice(getattr(self, field.name), field.name, field.type)
        check_share(self.coverage_threshold, "coverage_threshold")

    def with_masks(self, masks: MaskSource) -> "Protocol":
        """The same rules for other masks; the name says so, as in `oclf[attention]`."""
        if masks == self.masks:
            return self
        base, at, length = self.name.partition("@")
        return replace(self, masks=masks, name=f"{base.split('[')[0]}[{masks}]{at}{length}")

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
        parts = [_names(self.metrics)]
        if with_background:
            parts.append(f"background is one more object in {_names(with_background)}")
        elif any(m in _OVERLAPS for m in self.metrics):
            parts.append("mBO and mIoU over foreground objects")
        if any(m in KINDS for m in self.metrics):
            parts.append(f"share of all slots, by our own definition since no code is public: {self._coverage_rule()}")
        parts.append(f"void pixels {dropped if self.ignore_void else 'as labelled'}")
        if len(with_overlap) == len(self.metrics):
            parts.append(f"overlap pixels kept (owner: {owner})")
        else:
            kept = f", kept in {_names(with_overlap)} (owner: {owner})" if with_overlap else ""
            parts.append(f"overlap pixels {dropped}{kept}")
        if self.crowds == "objects":
            parts.append("COCO's crowd regions are objects")
        if self.background_id == "lowest":
            parts.append("background is the lowest id of an image")
        if self.matching == "cosine":
            parts.append("matched by mask cosine, unmatched objects dropped")
        size = f" (VOC and COCO tables: {self.published_size} px)" if self.published_size else ""
        parts.append(f"{self.masks} masks at the truth's size{size}")
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
        return f"mostly background BG, IoU above {limit} SO, over half of several objects GO, else PO"

    def score(self, pred: Integer[Tensor, "b h w"], truth: Batch, *, num_slots: int) -> dict[str, Score]:
        """Score hard masks. Class metrics are left out where the data has no classes.

        Args:
            pred: slot ids from 0; time of a video is merged with its height, see `of_video`.
            truth: in the shape of `pred`: `mask` object ids (the last object owns what several cover); optionally bool
                `void` and `overlap`, `class_mask` (of the last object) and `class_mask_highest` (highest class id);
                optionally `crowd`, ids of crowd regions that are background in all of these and are no id of `mask`,
                with `category` `b m`, the class of each id.
            num_slots: slots of the method, empty ones included: they can be matched.

        Raises:
            ValueError: if `pred` holds ids that are not below `num_slots`; if a map is none of ids or differs from
                `pred` in shape; if objects overlap and `class_mask_highest`, which these rules need, is missing.
        """
        pred = check_ids(pred, "pred").long()
        check_numbers(pred, "slot", num_slots)
        truth = _checked(truth, pred)
        if self.crowds == "objects" and "crowd" in truth:
            truth = _with_crowds(truth)
        void = truth["void"].bool() if self.ignore_void and "void" in truth else None
        overlap = truth["overlap"].bool() if "overlap" in truth else None
        tables: dict[tuple[str, bool], _Table] = {}
        scores = {}
        for metric in self.metrics:
            key = self._truth_key(metric, truth, overlap)
            if key is None:
                continue
            keep_overlap = overlap is None or metric in self.overlap_in
            if (key, keep_overlap) not in tables:
                removed = [pixels for pixels in (void, None if keep_overlap else overlap) if pixels is not None]
                tables[key, keep_overlap] = self._count(pred, truth[key], removed, num_slots)
            scores[metric] = self._metric(metric, tables[key, keep_overlap])
        return scores

    def _truth_key(self, metric: str, truth: Batch, overlap: Bool[Tensor, "b h w"] | None) -> str | None:
        if not metric.endswith("_c"):
            return "mask"
        if "class_mask" not in truth or self.class_owner == "last":
            return "class_mask" if "class_mask" in truth else None
        if "class_mask_highest" in truth:
            return "class_mask_highest"
        if metric in self.overlap_in and overlap is not None and overlap.any():
            raise ValueError(
                f"{metric} under protocol {self.name} gives overlap pixels to the highest class id, but the data has "
                "no class_mask_highest; add it or use a protocol that drops overlap pixels, such as spot."
            )
        return "class_mask"

    def _count(
        self, pred: Int64[Tensor, "b h w"], true: Integer[Tensor, "b h w"], removed: list[Tensor], num_slots: int
    ) -> "_Table":
        # Removed pixels go to a slot of their own first: rules differ in what becomes of them.
        for pixels in removed:
            pred = pred.masked_fill(pixels, num_slots)
        table = contingency(pred, true, num_slots=num_slots + 1)
        if self.background_id == "lowest":  # ids renumbered 0, 1, 2, ... as met in the image: empty columns last
            order = (table.sum(1) == 0).byte().argsort(dim=1, stable=True)
            table = table.gather(2, order.unsqueeze(1).expand_as(table))
        if self.removed == "drop":
            table = table[:, :num_slots]
            return _Table(table, objects_of(table, count_background=True))
        table[:, num_slots, 0] = table[:, num_slots].sum(1)
        table[:, num_slots, 1:] = 0
        # An object that lost all its pixels still counts, with IoU 0, if one with a higher id is left.
        left = objects_of(table, count_background=True)
        return _Table(table, left.flip(1).byte().cummax(1).values.flip(1).bool())

    def _metric(self, metric: str, counted: "_Table") -> Score:
        table, objects = counted.table, counted.objects.clone()
        if metric in KINDS:
            kinds = coverage_of_table(table, rule=self.coverage, threshold=self.coverage_threshold)
            return _per_image(kinds[metric])
        if metric not in self.background_in:
            objects[:, 0] = False
        if metric == "fg_ari":
            return _per_image(ari_of_table(table[:, :, 1:]))
        if metric.startswith("ari"):
            return _per_image(ari_of_table(table))
        iou = iou_of_table(table)
        if metric in ("corloc", "recovery"):
            recovery = mean_best((iou > FOUND).double(), objects)
            return _per_image(recovery if metric == "recovery" else recovery.where(recovery.isnan(), recovery > 0))
        if self.matching == "iou":
            return _per_image((mean_matched if metric.startswith("miou") else mean_best)(iou, objects))
        cosine = table / (table.sum(2, keepdim=True) * table.sum(1, keepdim=True)).clamp(min=1).double().sqrt()
        matched = match(cosine, objects)
        values = mean_best((iou * matched) if metric.startswith("miou") else iou, matched.any(1))
        num_objects = matched.sum((1, 2)).double()
        return Score(values, num_objects if self.mean_over == "objects" else num_objects.clamp(max=1))


@dataclass(frozen=True)
class _Table:
    table: Int64[Tensor, "b n m"]
    objects: Bool[Tensor, "b m"]  # ids that count, background included


def _checked(truth: Batch, pred: Int64[Tensor, "b h w"]) -> Batch:
    """The maps of a batch that rules read, each known to be one of the pixels of `pred`."""
    for name in ("mask", "class_mask", "class_mask_highest", "crowd"):
        if name in truth:
            truth = {**truth, name: check_ids(truth[name], name)}
    for name in ("mask", "class_mask", "class_mask_highest", "crowd", "void", "overlap"):
        if name in truth:
            check_like(truth[name], name, pred, "pred")
    return truth


def _with_crowds(truth: Batch) -> Batch:
    """Crowd regions as further objects; pixels that they share with others are overlap."""
    mask, crowd = truth["mask"].long(), truth["crowd"].long()
    shared = (crowd > 0) & (mask > 0)
    truth = {**truth, "mask": crowd.where((crowd > 0) & ~shared, mask)}
    truth["overlap"] = truth["overlap"].bool() | shared if "overlap" in truth else shared
    if "category" in truth:
        truth["class_mask"] = truth["category"].long().gather(1, truth["mask"].flatten(1)).view_as(mask)
    return truth


def _per_image(values: Float64[Tensor, " b"]) -> Score:
    return Score(values, (~values.isnan()).double())


def _names(metrics: tuple[str, ...] | list[str]) -> str:
    return ", ".join(LABELS[m] for m in metrics)


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
            metrics=("fg_ari", "ari_c", *_OVERLAPS),
            masks="attention",
            published_size=256,
            background_in=_OVERLAPS,
            ignore_void=False,
            overlap_in=("fg_ari", "ari_c", *_OVERLAPS),
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
    )
}
"""All protocols by name."""

DEFAULT = "oclf"
"""The protocol used where none is named."""


def get(name: str) -> Protocol:
    """The protocol of this name; `oclf[attention]` is `oclf` scored on attention masks instead of its own.

    `savi@12` is `savi` on the first 12 frames of each video.

    Raises:
        UserError: for an unknown name.
    """
    whole, at, length = name.partition("@")
    base, _, masks = whole.removesuffix("]").partition("[")
    if base in PROTOCOLS and whole in (base, f"{base}[decoder]", f"{base}[attention]") and bool(at) == bool(length):
        protocol = PROTOCOLS[base]
        protocol = protocol.with_masks("decoder" if masks == "decoder" else "attention") if masks else protocol
        if not length:
            return protocol
        if length.isdecimal():
            return protocol.with_length(int(length))
    raise UserError(
        f"There is no protocol {name!r}. Known: {', '.join(PROTOCOLS)}; "
        "add [attention] or [decoder] to score other masks than the protocol's own, @12 for 12 frames of a video."
    )
