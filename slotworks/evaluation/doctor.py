"""What went wrong in a run, and the likely fix: statistics of masks and loss curves to findings in plain words.

    stats = stats_of(method, dataset)
    findings = diagnose(stats, curves, settings)
    print(verdict(findings))                       # collapsed: stripes
    write(run_folder, stats, findings, step=1000)

The failures are those that papers and users report. Slots cut every image into the same stripes (Slot Attention,
Locatello et al. 2020, supplement; SlotDiffusion, Wu et al. 2023, appendix E.3: one run in five, with a *lower*
reconstruction error than healthy runs, so the loss cannot tell). One slot takes everything. Attention stays uniform.
Spare slots cut the background or the objects in pieces. Each threshold below is a constant with its reason.
"""

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
from torch.nn.functional import interpolate

from slotworks.evaluation.masks import PIECE, decode, inspecting, pieces, predicted_masks
from slotworks.evaluation.records import looks_at_something_else
from slotworks.files import finite, write_text
from slotworks.json_text import read_json
from slotworks.metrics.binding import binding_stats
from slotworks.types import Dataset, Method, MethodConfig, UserError, frames_of, to_batch

Severity = Literal["ok", "note", "problem"]
Stats = Mapping[str, float | None]

COLLAPSES = ("nan", "not_specialised", "uniform_attention", "one_slot_takes_all", "stripes")
"""After these the slots mean nothing. Each hides what follows from it: dead slots, cut or merged objects."""

STRIPES_NOTE, STRIPES = 0.5, 0.8
"""Without true masks: agreement (ARI) between segmentations of different images. Objects at random places give below
0.1, an empty background always cut in the same thirds 0.6 to 0.8, stripes 1. In between, data of one layout (faces, a
fixed camera) look the same as stripes: only the pictures can tell."""
STRIPES_FOREGROUND = 0.4
"""With true masks: the same on the foreground; it must also be more than the agreement with the image's own objects.
Stripes with every fifth pixel wrong still give 0.42 to 0.45, perfect segmentations 0.18 or less."""
UNIFORM = 0.9
"""Entropy of masks relative to uniform ones. Two slots sharing each pixel equally give 0.36 (of 7 slots), 0.5 (of
4)."""
UNSPECIALISED = 1.5
"""Mean of the largest share of a pixel, relative to equal shares: 1 is uniform masks, whose largest slot is chance and
often the same everywhere. DINOSAUR as published has 1.02 after 300 steps of its 10,000 of warm-up, masks that are sure
of one slot 6 (of 6 slots)."""
LEARNING = 0.99
"""Median loss of the last fifth of the rows relative to the fifth before, below which the loss still falls."""
ONE_SLOT = 0.95
"""Without true masks: share of the largest slot. Scenes of small sprites are 0.9 background."""
SWALLOWED_NOTE, SWALLOWED, ONE_SLOT_SWALLOWS = 0.25, 0.5, 0.8
"""With true masks: share of all else that the slot of the background owns: every fourth object, every second, nearly
all."""
SHARED_NOTE, SHARED = 1.6, 2.0
"""Slots per object, objects per slot or slots on the background: two of three cut in halves (2 to the 2/3), all of
them. Masks with one wrong pixel in ten, as at an FG-ARI of 0.8, still give 1.4 to 1.55."""
DEAD = 0.6
"""Without true masks: share of slots that own nothing. Fewer spare slots are normal: 7 slots for 3 to 6 objects."""
NEEDED = 0.75
"""With true masks: slots in use relative to true regions; below it objects must share slots."""
FALL, RISE = 0.95, 1.5
"""Loss at the end relative to the start (even a method that learns only the mean colour falls by more than 5 %) and to
its lowest level (more than the noise of a fifth of a run)."""
TOO_EARLY = 100
"""Steps before which masks and losses tell nothing but whether numbers are finite: those of fresh weights look like
every collapse. A run that starts from trained weights is judged from its first step."""
EARLY = 0.25
"""Share of the steps in which uniform attention and one slot for all are a phase most runs pass through, hence
notes."""

FIXES = {
    "nan": (
        "Lower the learning rate{lr}, warm it up for longer{warmup}, clip the gradient norm (0.05 in SAVi, 1 in "
        "SlotDiffusion) and keep attention in float32: its 1e-8 rounds to 0 in half precision."
    ),
    "uniform_attention": (
        "Lower the learning rate{lr}, warm it up for longer{warmup}, keep attention in float32 and keep the gated "
        "update: without it attention becomes uniform (google-research issue 567)."
    ),
    "not_specialised": (
        "Train on: masks begin to differ later than the loss begins to fall. For a short training shorten the warm-up"
        "{warmup} and raise the learning rate{lr}; on features of a ViT take their principal components and start "
        "slots from k-means, as dinosaur.photos_mlp does."
    ),
    "one_slot_takes_all": (
        "Train longer if the loss still falls, since a phase of one slot for all comes first; otherwise try other "
        "seeds, a lower learning rate{lr}, or slots drawn from a shared Gaussian in place of learned ones. On features "
        "of a ViT, where one slot can paint them all, add coordinates to the values (method.value-coordinates) and "
        "give each slot one feature (method.decoder=flat)."
    ),
    "stripes": (
        "Warm the learning rate up for longer{warmup}, which avoids stripes (Slot Attention, supplement), and run "
        "several seeds: one in five still ended in stripes, with a lower error than the others (SlotDiffusion, "
        "E.3), so never choose a run by its loss. On features of a ViT slots are bound to places where the decoder can "
        "tell features by their place alone: give each slot one feature (method.decoder=flat), add coordinates to the "
        "values (method.value-coordinates), start from k-means (method.initializer=kmeans)."
    ),
    "background_split": (
        "Use fewer slots if some are spare{slots}: they move to the background. An even background can be rendered by "
        "any slot, so nothing but luck keeps it whole. FG-ARI does not see this, ARI and mIoU do: report those too."
    ),
    "dead_slots": (
        "Use fewer slots{slots} if images hold few objects; otherwise train longer, or draw slots from a shared "
        "Gaussian: a learned slot that never wins a pixel hardly learns."
    ),
    "over_segmentation": (
        "Use fewer slots if some are spare{slots}: they cut objects in pieces (MESH issue 3). Otherwise train longer."
    ),
    "merged_objects": (
        "Use more slots if there are too few{slots}; otherwise train longer and give encoder and decoder finer "
        "maps with positions added: small or dull objects cost the loss little."
    ),
    "too_early": "Train on, and look again after a few hundred steps.",
    "loss_not_falling": (
        "Change the learning rate{lr} by a factor of 3 up and down, let it decay, and check that images lie in [0, 1]."
    ),
}


@dataclass(frozen=True)
class Finding:
    """One diagnosis: what, how bad, the number that shows it beside its threshold, the likely fix and who says so."""

    name: str
    severity: Severity
    evidence: str
    fix: str = ""


def diagnose(
    stats: Stats,
    curves: Sequence[Mapping[str, Any]] | None = None,
    settings: Mapping[str, Any] | None = None,
    method: MethodConfig | None = None,
    *,
    step: int | None = None,
) -> list[Finding]:
    """Name what is wrong with a run.

    Args:
        stats: from `stats_of` or `metrics.binding.binding_stats`; missing or NaN entries are not judged. May be empty.
        curves: rows of `metrics.jsonl` in order; `step`, `total` and `loss/...` are read.
        settings: contents of `run.yaml`; `steps`, `warmup_steps` and `lr`, at any depth, make the answer exact.
        method: says where a loss need not fall: since when it measures the same, and whether it began with trained
            weights.
        step: of the training; by default that of the last row.

    Returns:
        Problems, then notes; exactly one finding `healthy` if there are none. One cause gives one finding. In the first
        `TOO_EARLY` steps what is found is one note, `too_early`, but for NaN.
    """
    curves, settings, method = curves or [], settings or {}, method or MethodConfig()
    known = {name: value for name, value in stats.items() if value is not None and math.isfinite(value)}
    losses = [(row.get("step", i), loss) for i, row in enumerate(curves) if (loss := _loss(row)) is not None]
    loss_findings = _loss_findings(losses, since=method.same_loss_since, trained=method.starts_trained)
    learning = _learning(losses, _setting(settings, "warmup_steps"))
    early = _progress(curves, settings) < EARLY
    found: list[tuple[str, Severity, str]] = [*loss_findings, *_mask_findings(known, early=early, learning=learning)]
    done = step if step is not None else curves[-1].get("step") if curves else None
    few = isinstance(done, int | float) and 0 < done < TOO_EARLY and not method.starts_trained
    if any(name == "nan" for name, _, _ in found):
        found = [one for one in found if one[0] == "nan"]
    elif found and few and found[-1][0] != "not_specialised":  # which says so itself
        named = ", ".join(name.replace("_", " ") for name, _, _ in found)
        text = f"After {done:.0f} steps masks look like {named}, as those of most runs (threshold {TOO_EARLY} steps)."
        found = [("too_early", "note", text)]
    lr, warmup = _setting(settings, "lr"), _setting(settings, "warmup_steps")
    slots, regions = known.get("num_slots"), known.get("num_regions")
    hints = {
        "lr": f" (now {lr:g})" if isinstance(lr, int | float) else "",
        "warmup": f" (now {warmup} steps)" if warmup is not None else "",
        "slots": f" (now {slots:.0f} for {regions:.1f} regions)" if slots and regions else "",
    }
    findings = [Finding(name, severity, text, FIXES[name].format(**hints)) for name, severity, text in found]
    if not findings:
        looked = [f"masks of {known['num_images']:.0f} images"] if "num_images" in known else []
        looked += [f"{len(losses)} losses"] if losses else []
        text = f"No check found anything in {' and '.join(looked)}." if looked else "Nothing was measured yet."
        findings = [Finding("healthy", "ok", text)]
    return sorted(findings, key=lambda finding: finding.severity != "problem")


def collapsed(findings: Sequence[Finding]) -> bool:
    """Whether the slots mean nothing: stripes, one slot for all, uniform attention or NaN."""
    return any(finding.severity == "problem" and finding.name in COLLAPSES for finding in findings)


def examine(
    run_folder: str | os.PathLike[str],
    *,
    method: Method | None,
    dataset: Dataset | None,
    num_images: int,
    curves: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any],
    split: str,
    config: MethodConfig | None = None,
    step: int | None = None,
    other: Sequence[str] = (),
    replace: bool = True,
) -> tuple[list[Finding], str]:
    """Judge masks together with the curves and settings of a run: findings, and the verdict in a line.

    Leaves `eval/doctor.json`, see `write`. Without a method, or of one image, which no other can be compared with, the
    findings are of the curves alone. `other` names what is not as in training: the data set, settings of the
    method.
    """
    stats: Stats = {}
    if method is not None and dataset is not None and min(num_images, len(dataset)) > 1:
        stats = stats_of(method, dataset, num_images=num_images)
    findings = diagnose(stats, curves, settings, config, step=step)
    of = {"split": split, "num_images": num_images, "step": step or 0} | ({"other": ", ".join(other)} if other else {})
    try:
        write(run_folder, stats, findings, step=step, looked_at=of, replace=replace)
    except UserError as error:
        said = " ".join(f"{finding.name.replace('_', ' ')}: {finding.evidence}" for finding in findings)
        raise UserError(f"{error} What was found is not saved: {said}") from None
    return findings, verdict(findings) + ("" if stats else " (by the losses alone: one image does not show more)")


def verdict(findings: Sequence[Finding]) -> str:
    """One line: `healthy`, `collapsed: stripes`, `problems: merged objects`, `notes: background split`, `too early`."""
    if any(finding.name == "too_early" for finding in findings):
        return "too early"
    for severity, word in (("problem", "collapsed" if collapsed(findings) else "problems"), ("note", "notes")):
        names = [finding.name.replace("_", " ") for finding in findings if finding.severity == severity]
        if names:
            return f"{word}: {', '.join(names)}"
    return "healthy"


# What the masks tell. With true masks the foreground decides: an empty background may be shared at will.


def _mask_findings(stats: Mapping[str, float], *, early: bool, learning: str) -> list[tuple[str, Severity, str]]:
    collapse = _collapse(stats, early=early, learning=learning)
    if collapse is None:
        return _sharing(stats)
    in_doubt = collapse[:2] == ("stripes", "note")
    return [collapse, *(_sharing(stats) if in_doubt else [])]


def _collapse(stats: Mapping[str, float], *, early: bool, learning: str) -> tuple[str, Severity, str] | None:
    """The first collapse that the numbers show."""
    phase: Severity = "note" if early else "problem"
    on = f" on {stats.get('num_images', 0):.0f} images" + (", early in training" if early else "")
    if (finite := stats.get("finite", 1)) < 1:
        return "nan", "problem", f"Masks of {1 - finite:.0%} of the images hold NaN."
    spread, sure = stats.get("entropy_foreground", stats.get("entropy", 0)), stats.get("confidence", 1.0)
    equal = 1 / stats.get("num_slots", 1)
    if learning and stats.get("num_slots", 1) > 1 and (spread >= UNIFORM or sure < UNSPECIALISED * equal):
        text = (
            f"Masks do not differ yet: the largest share of a pixel is {sure:.2f} on average, equal shares are "
            f"{equal:.2f} (threshold {UNSPECIALISED * equal:.2f}){on}; {learning}."
        )
        return "not_specialised", "note", text
    if spread >= UNIFORM:
        text = (
            f"All slots share each pixel: entropy is {spread:.2f} of that of uniform masks (threshold {UNIFORM}){on}."
        )
        return "uniform_attention", phase, text
    if "swallowed" in stats:
        if (share := stats["swallowed"]) >= ONE_SLOT_SWALLOWS:
            certain = f", sure of {sure:.0%} of a pixel" if "confidence" in stats else ""
            text = (
                f"The slot of the background owns {share:.0%} of all else (threshold {ONE_SLOT_SWALLOWS:.0%})"
                f"{certain}{on}."
            )
            return "one_slot_takes_all", phase, text
    elif (share := stats.get("largest_share", 0)) >= ONE_SLOT:
        return "one_slot_takes_all", phase, f"One slot owns {share:.0%} of the pixels (threshold {ONE_SLOT:.0%}){on}."
    if "num_regions" in stats:
        score, own = stats.get("stripes_foreground", 0), stats.get("truth_agreement", 0)
        if score >= STRIPES_FOREGROUND and score > own:
            text = (
                f"Slots are bound to places: objects are cut as in all other images (agreement {score:.2f}, threshold "
                f"{STRIPES_FOREGROUND}) and not as they lie in their own (agreement {own:.2f}){on}."
            )
            return "stripes", "problem", text
    elif (score := stats.get("stripes", 0)) >= STRIPES_NOTE:
        severity: Severity = "problem" if score >= STRIPES else "note"
        doubt = "" if severity == "problem" else "; look at the samples, since data of one layout do the same"
        text = f"Images are cut alike: agreement {score:.2f} (threshold {STRIPES}){on}{doubt}."
        return "stripes", severity, text
    return None


def _sharing(stats: Mapping[str, float]) -> list[tuple[str, Severity, str]]:
    """How slots that work share what they see: too many for the background or an object, or too few."""
    found: list[tuple[str, Severity, str]] = []
    on = f" on {stats.get('num_images', 0):.0f} images"
    num_slots, regions = stats.get("num_slots", 0), stats.get("num_regions")
    used = num_slots * (1 - stats.get("dead_slots", 0))

    def shared(name: str, value: float, what: str, worst: Severity) -> None:
        if value >= SHARED_NOTE:
            text = f"{value:.1f} {what} (threshold {SHARED_NOTE}){on}."
            found.append((name, worst if value >= SHARED else "note", text))

    background = stats.get("background_slots", 1.0)
    shared("background_split", background, "slots share the background", "note")
    shared("over_segmentation", stats.get("slots_per_object", 1.0), "slots share an object", "problem")
    if regions is None:
        if (dead := stats.get("dead_slots", 0)) >= DEAD:
            found.append(("dead_slots", "note", f"{dead:.0%} of the slots own nothing (threshold {DEAD:.0%}){on}."))
    elif used < NEEDED * regions <= NEEDED * num_slots:  # objects share slots, but not for lack of slots
        text = f"{used:.1f} slots are in use for {regions:.1f} true regions (threshold {NEEDED:.0%}){on}."
        found.append(("dead_slots", "problem", text))
    elif (lost := stats.get("swallowed", 0)) >= SWALLOWED_NOTE and background < SHARED_NOTE:
        text = (
            f"{lost:.0%} of the object pixels lie in the slot of the background (threshold {SWALLOWED_NOTE:.0%}){on}."
        )
        found.append(("merged_objects", "problem" if lost >= SWALLOWED else "note", text))
    else:
        shared("merged_objects", stats.get("objects_per_slot", 1.0), "objects share a slot", "problem")
    return found


# What the curves tell.


def _learning(losses: Sequence[tuple[Any, float]], warmup: Any) -> str:
    """Why masks may still change: in the warm-up, or while the loss falls; empty where neither is so."""
    if not losses or any(not math.isfinite(loss) for _, loss in losses):
        return ""
    last = losses[-1][0]
    if isinstance(warmup, int) and isinstance(last, int | float) and last < warmup:
        return f"the learning rate is still being warmed up (step {last} of {warmup})"
    fifth = len(losses) // 5
    if fifth < 2:
        return ""
    values = [loss for _, loss in losses]
    before, now = median(values[-2 * fifth : -fifth]), median(values[-fifth:])
    return f"the loss still falls (from {before:.4g} to {now:.4g})" if now < LEARNING * before else ""


def _loss_findings(
    losses: Sequence[tuple[Any, float]], *, since: int, trained: bool
) -> list[tuple[str, Severity, str]]:
    broken = [step for step, loss in losses if not math.isfinite(loss)]
    if broken:
        return [("nan", "problem", f"The loss is not a number, first at step {broken[0]}.")]
    losses = [(step, loss) for step, loss in losses if step > since]
    if len(losses) < 10:  # too few to call anything a trend
        return []
    values, fifth = [loss for _, loss in losses], len(losses) // 5
    first, last = median(values[: len(values) // 10]), median(values[-fifth:])
    lowest = min(median(values[i : i + fifth]) for i in range(0, len(values) - fifth + 1, fifth))
    if first > 0 and last > FALL * first and not trained:
        text = (
            f"The loss went from {first:.4g} to {last:.4g} in {len(values)} rows (threshold {FALL:.0%} of the first)."
        )
        return [("loss_not_falling", "problem", text)]
    if lowest > 0 and last > RISE * lowest:
        text = f"The loss rose from {lowest:.4g} back to {last:.4g} (threshold {RISE} times its lowest level)."
        return [("loss_not_falling", "note", text)]
    return []


def _loss(row: Mapping[str, Any]) -> float | None:
    """The loss of a row of `metrics.jsonl`; NaN where it was written as null, None for a row without one."""
    terms = [row["total"]] if "total" in row else [value for name, value in row.items() if name.startswith("loss/")]
    return sum(math.nan if term is None else float(term) for term in terms) if terms else None


def _progress(curves: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> float:
    """The share of all steps that are done; 1 if unknown."""
    step, steps = (curves[-1].get("step") if curves else None), _setting(settings, "steps")
    return step / steps if isinstance(step, int | float) and isinstance(steps, int) and steps > 0 else 1.0


def _setting(settings: Mapping[str, Any], name: str) -> Any:
    """The first setting of this name, however deep; None if there is none."""
    if name in settings:
        return settings[name]
    inside = (_setting(value, name) for value in settings.values() if isinstance(value, Mapping))
    return next((value for value in inside if value is not None), None)


def stats_of(
    method: Method, dataset: Dataset, *, num_images: int = 64, seed: int = 0, size: int = 64
) -> dict[str, float]:
    """`binding_stats` of a method on the first images of a data set.

    Each image is encoded alone from the same random slots, so where segmentations differ the content is the reason.
    Masks are the decoder's, or the attention where there is no direct decoder.

    Args:
        method: on any device. Its mode and the random state are left as they were.
        dataset: `mask` is used if there, without `void` pixels. Of a video it is the frame that ends its first piece.
        num_images: 32 or more give steady numbers.
        seed: of the random slots.
        size: masks are compared at no more than this height and width in pixels.

    Raises:
        ValueError: for fewer than two images, among which nothing can be compared.
    """
    count = min(num_images, len(dataset))
    if count < 2:
        raise ValueError(f"stats_of got {count} images; it compares images and needs 2 or more.")
    masks = []
    with inspecting(method, seed=seed) as device:
        raw = dataset.__getitems__(range(count))
        batch = to_batch(frames_of(raw, 0, PIECE) if "video" in raw else raw, device)
        height, width = (min(side, size) for side in batch["video" if "video" in batch else "image"].shape[-2:])
        for i in range(count):
            torch.manual_seed(seed)
            one = {name: values[i : i + 1] for name, values in batch.items()}
            outputs = [output for _, output in pieces(method, one)] if "video" in one else [method.encode_batch(one)]
            options = {"size": (height, width), "checked": False}  # NaN is one of the findings
            found = [predicted_masks(output, decode(method, output), **options) for output in outputs]
            masks.append(found[0][:, -1] if "video" in one else found[0])  # by its last frame all is in place
        if "video" in batch:
            last = {name: batch[name][:, -1] for name in ("mask", "void") if name in batch}
            batch = {**batch, **last}
    true, valid = (
        interpolate(batch[key][:, None].double(), (height, width), mode="nearest-exact").long()[:, 0]
        if key in batch
        else None
        for key in ("mask", "void")
    )
    return binding_stats(torch.cat(masks), true, valid=None if valid is None else valid == 0)


def write(
    run_folder: str | os.PathLike[str],
    stats: Stats,
    findings: Sequence[Finding],
    *,
    step: int | None = None,
    looked_at: Mapping[str, str | int] | None = None,
    replace: bool = True,
) -> Path:
    """Write `eval/doctor.json` of a run folder, for `read` and the report page. NaN becomes null.

    Args:
        run_folder: `eval` is made in it.
        stats: as `stats_of` gives them.
        findings: as `diagnose` gives them.
        step: of the training.
        looked_at: what the statistics are of, such as the split and the number of images.
        replace: also a file that is of something else, as a training does with that of its earlier steps. Otherwise
            that one stays, and the new one gets a name that says what it is of: `doctor-test-8-images.json`.
    """
    path = Path(run_folder) / "eval" / "doctor.json"
    if not replace and looks_at_something_else(path, looked_at):
        path = path.with_stem("-".join(["doctor", *(_words(name, value) for name, value in (looked_at or {}).items())]))
    content = {
        "verdict": verdict(findings),
        "step": step,
        "looked_at": looked_at,
        "findings": [asdict(finding) for finding in findings],
        "stats": finite(stats),
    }
    return write_text(path, json.dumps(content, indent=1) + "\n")


def _words(name: str, value: str | int) -> str:
    known = {"num_images": f"{value}-images", "step": f"step-{value}"}
    return re.sub(r"[^\w.]+", "-", known.get(name, str(value)))


def read(run_folder: str | os.PathLike[str]) -> tuple[dict[str, float | None], list[Finding]]:
    """Statistics and findings that `write` left in a run folder.

    Raises:
        UserError: if there are none, or the file is damaged.
    """
    path = Path(run_folder) / "eval" / "doctor.json"
    again = f"run `slotworks doctor {run_folder}` to write it anew."
    try:
        content = read_json(path.read_text(encoding="utf-8"))
        return dict(content["stats"]), [Finding(**finding) for finding in content["findings"]]
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; {again}") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is damaged; {again}") from None
