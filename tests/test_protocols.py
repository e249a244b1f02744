"""Each protocol against the numbers its original returns on the same masks."""

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from golden_cases import Case, cases, tolerance

from slotworks import protocols
from slotworks.evaluation.discovery import score_masks
from slotworks.protocols import LABELS, PROTOCOLS
from slotworks.types import UserError

PEERS = {
    "oclf": {"ari": "oclf", "": "oclf_dinosaur"},
    "slot-attention": {"": "deepmind_tf"},
    "spot": {"": "spot_eval"},
    "glass-release": {"": "glass_eval"},
    "slot-diffusion": {"miou_i": "slotdiffusion_miou", "miou_c": "slotdiffusion_miou", "": "slotdiffusion"},
    # The code of SAVi has no overlap metrics; OCLF's, told which pixels are the background, keep and drop the same.
    **{
        name: {"fg_ari": "savi", "ari": "savi", "": "oclf_bg_channel"}
        for name in ("savi", "savi-without-first", "savi-frames")
    },
    "lsd-object": {"miou_i": "lsd_cosine_matched", "mbo_i": "lsd_matched_objects", "": "lsd"},
    "lsd-image": {"miou_i": "lsd_cosine_matched", "mbo_i": "lsd_matched_objects", "": "lsd"},
}
"""Protocol -> metric -> peer of the golden file; "" stands for all other metrics."""

LEAST = 21
"""A protocol is compared with this many golden image values or more, so that a renamed key cannot pass unnoticed; the
exact numbers are those of docs/protocols.md."""


def golden(case: Case, key: str) -> float:
    """A golden value; NaN where the original did not count the image."""
    return math.nan if case.values.get(f"{key}#counted_images") == 0 else float(case.values[key])


OWN = ("so-po-go", "so-po-go-majority", "so-po-go-combined")
"""Definitions of this project: golden `spec` values and closed forms in metrics/test_coverage.py."""


LIKE_SAVI = ("savi-without-first", "savi-frames")
"""Differ from `savi` in time alone; an image has nothing that sets them apart."""


@pytest.mark.parametrize("name", [name for name in PROTOCOLS if name not in OWN])
def test_golden(name):
    compared = 0
    for case in cases("image"):
        scores = score_masks(PROTOCOLS[name], case.pred, case.truth, num_slots=case.num_slots)
        assert tuple(scores) == PROTOCOLS[name].metrics
        for metric, score in scores.items():
            label = "ObjRecovery" if metric == "recovery" else LABELS[metric]
            key = f"{label}/{PEERS[name].get(metric, PEERS[name][''])}"
            if key not in case.values:
                continue
            expected = golden(case, key)
            if name == "slot-attention" and math.isnan(expected):
                expected = 1.0  # nothing to compare: the original divides 0 by 0
            precise = 6e-8 if metric == "recovery" else tolerance(key)  # a share that the original keeps in float32
            assert score.values.item() == pytest.approx(expected, abs=precise, nan_ok=True), (case.id, key)
            assert (score.weights.item() > 0) == (not math.isnan(expected))
            compared += 1
    assert compared >= LEAST
    page = (Path(__file__).parents[1] / "docs" / "protocols.md").read_text(encoding="utf-8")
    assert re.search(rf"^\| `{name}`.* \| {compared} \|$", page, re.MULTILINE), compared


def test_golden_of_videos():
    """ARI of SAVi and of Slot Attention, and the overlaps of OCLF, on whole videos and frame by frame."""
    compared = 0
    for case in cases("video"):
        t, h, w = case.arrays["inst"].shape
        maps = {"mask": case.truth["mask"].view(1, t, h, w), "pred": case.pred.view(1, t, h, w)}
        for name, peers in (
            ("slot-attention", {"fg_ari": "deepmind_tf"}),
            ("savi", {"fg_ari": "savi", "ari": "savi", "mbo_i": "oclf_video", "miou_i": "oclf_video"}),
            ("savi-frames", {"fg_ari": "oclf_per_frame", "mbo_i": "oclf_per_frame", "miou_i": "oclf_per_frame"}),
        ):
            flat = PROTOCOLS[name].of_video(maps)
            scores = score_masks(PROTOCOLS[name], flat.pop("pred"), flat, num_slots=case.num_slots)
            for metric, peer in peers.items():
                key, score = f"{LABELS[metric]}/{peer}", scores[metric]
                if key in case.values:
                    mean = (score.values.nan_to_num() * score.weights).sum() / score.weights.sum()
                    assert mean.item() == pytest.approx(float(case.values[key]), abs=1e-6), (case.id, key)
                    compared += 1
        later = PROTOCOLS["savi-without-first"].of_video(maps)
        torch.testing.assert_close(later["pred"], maps["pred"][:, 1:].flatten(1, 2))
    assert compared == 32


@pytest.mark.parametrize("case_id", ["void1", "void2", "void_object"])
@pytest.mark.parametrize("name", ["savi", "savi-frames"])
def test_savi_drops_void_pixels(name, case_id):
    """The padding mask of SAVi's code, of a case as a video of one frame; kept, they would move the numbers."""
    (case,) = [case for case in cases("image") if case.id == case_id]
    maps = {key: value[:, None] for key, value in {**case.truth, "pred": case.pred}.items()}
    flat = PROTOCOLS[name].of_video(maps)
    pred = flat.pop("pred")
    scores = score_masks(PROTOCOLS[name], pred, flat, num_slots=case.num_slots)
    kept = score_masks(replace(PROTOCOLS[name], ignore_void=False), pred, flat, num_slots=case.num_slots)
    for metric in ("ari", "fg_ari"):
        expected = case.values[f"{LABELS[metric]}/savi"]
        assert scores[metric].values.item() == pytest.approx(expected, abs=5e-6)
    assert abs(kept["ari"].values.item() - case.values["ARI/savi"]) > 0.01


def published_fg_ari(pred, true, num_slots):
    """FG-ARI as `multi_object_datasets` computes it, one image: the formula, and its one exception."""
    kept = true > 0
    table = torch.zeros(int(true.max()) + 1, num_slots, dtype=torch.float64)
    table.index_put_((true[kept], pred[kept]), torch.ones(int(kept.sum())).double(), accumulate=True)
    n, a, b = table.sum(), table.sum(1), table.sum(0)
    pairs, a, b = ((x * (x - 1)).sum() for x in (table, a, b))
    expected = a * b / (n * (n - 1))
    # The background has no column, so that it is taken for object 1.
    one_cluster = len(true.clamp(min=1).unique()) == 1 and len(pred.unique()) == 1
    return 1.0 if one_cluster else ((pairs - expected) / ((a + b) / 2 - expected)).item()


def test_where_the_slot_attention_code_is_nan():
    """What docs/protocols.md says of it: NaN there and 1 here where nothing can be compared, and only there."""
    empty = [case.id for case in cases("image") if case.values.get("FG-ARI/deepmind_tf") == "nan"]
    assert empty == ["empty_fg_many"]
    for case in cases("image", "video"):
        if "FG-ARI/deepmind_tf" in case.values and "overlap" not in case.truth:
            theirs = published_fg_ari(case.pred[0], case.truth["mask"][0], case.num_slots)
            assert theirs == pytest.approx(float(case.values["FG-ARI/deepmind_tf"]), abs=5e-6, nan_ok=True), case.id
    for pred, true, expected in (
        ([0, 0, 1, 1], [0, 0, 0, 0], math.nan),  # no object
        ([0, 0, 0, 0], [0, 0, 0, 0], 1),  # no object and one slot: the exception
        ([0, 0, 1, 1], [0, 0, 1, 1], math.nan),  # a single object in one slot
        ([0, 1, 1, 1], [0, 0, 1, 1], math.nan),  # the same when the slot spills
        ([0, 0, 0, 0], [0, 0, 1, 1], 1),  # unless one slot owns the whole image
        ([1, 1, 2, 0], [0, 0, 1, 1], 0),  # a single object in two slots
        ([0, 0, 1, 2], [0, 0, 1, 2], math.nan),  # objects of one pixel, each in a slot of its own
        ([0, 0, 1, 1], [0, 0, 1, 2], 0),  # objects of one pixel in one slot
    ):
        pred, true = torch.tensor([[pred]]), torch.tensor([[true]])
        assert published_fg_ari(pred[0, 0], true[0, 0], 3) == pytest.approx(expected, nan_ok=True)
        ours = score_masks(PROTOCOLS["slot-attention"], pred, {"mask": true}, num_slots=3)["fg_ari"].values.item()
        assert ours == (1 if math.isnan(expected) else expected)


def test_slot_diffusion_with_ari():
    """`ARI/slotdiffusion` turns removed pixels into background and a new cluster: same rules, one more metric."""
    rules = replace(PROTOCOLS["slot-diffusion"], metrics=("ari",))
    for case in cases("image"):
        value = score_masks(rules, case.pred, case.truth, num_slots=case.num_slots)["ari"].values.item()
        assert value == pytest.approx(case.values["ARI/slotdiffusion"], abs=5e-6), case.id


def test_slot_diffusion_foreground_miou():
    rules = replace(PROTOCOLS["slot-diffusion"], background_in=())
    for case in cases("image"):
        for metric in ("miou_i", "miou_c"):
            value = score_masks(rules, case.pred, case.truth, num_slots=case.num_slots)[metric].values.item()
            expected = golden(case, f"{LABELS[metric]}/slotdiffusion_fmiou")
            assert value == pytest.approx(expected, abs=5e-6, nan_ok=True), case.id


def test_glass_without_background():
    """`glass_eval_ignore_background`, the option of the released script; differs in overlaps from DINOSAUR's rules."""
    rules = replace(PROTOCOLS["glass-release"], background_in=())
    for case in cases("image"):
        scores = score_masks(rules, case.pred, case.truth, num_slots=case.num_slots)
        for metric in ("mbo_i", "miou_i", "mbo_c", "miou_c"):
            key = f"{LABELS[metric]}/glass_eval_ignore_background"
            assert scores[metric].values.item() == pytest.approx(golden(case, key), abs=1e-9, nan_ok=True), case.id


def test_spot_with_void_ignored():
    rules = replace(PROTOCOLS["spot"], ignore_void=True)
    for case in cases("image"):
        if "void" not in case.tags:
            continue
        scores = score_masks(rules, case.pred, case.truth, num_slots=case.num_slots)
        for metric in ("fg_ari", "mbo_i", "mbo_c"):
            expected = case.values[f"{LABELS[metric]}/spot_with_void_ignored"]
            assert scores[metric].values.item() == pytest.approx(expected, abs=1e-9), case.id


def test_batches_and_videos():
    """SlotDiffusion's mIoU, background included, of a batch and of videos; DINOSAUR's numbers of both."""
    for case in cases("batch", "video"):
        oclf, slot_diffusion = (
            score_masks(PROTOCOLS[name], case.pred, case.truth, num_slots=case.num_slots)
            for name in ("oclf", "slot-diffusion")
        )
        peer = "slotdiffusion_video" if case.kind == "video" else "slotdiffusion"
        expected = case.values[f"mIoU_i_with_bg/{peer}"]
        assert slot_diffusion["miou_i"].values.nanmean().item() == pytest.approx(expected, abs=5e-6), case.id
        for metric in ("fg_ari", "ari", "mbo_i", "miou_i"):
            assert oclf[metric].values.nanmean().item() == pytest.approx(case.expected[LABELS[metric]], abs=1e-9)


def test_lsd_counts_matched_objects():
    for case in cases("image"):
        if "n_matched/lsd" in case.values:
            score = score_masks(PROTOCOLS["lsd-object"], case.pred, case.truth, num_slots=case.num_slots)["miou_i"]
            assert score.weights.item() == case.values["n_matched/lsd"], case.id


def test_crowds_are_objects_for_spot_alone():
    """Object 1 (four pixels), crowd 2 (three, one of them shared with object 1, which is dropped); slot 0 has all."""
    truth = {
        "mask": torch.tensor([[[1, 1, 1, 1, 0, 0, 0, 0]]]),
        "crowd": torch.tensor([[[0, 0, 0, 2, 2, 2, 0, 0]]], dtype=torch.uint8),
        "class_mask": torch.tensor([[[7, 7, 7, 7, 0, 0, 0, 0]]]),
        "category": torch.tensor([[0, 7, 9]], dtype=torch.uint8),
    }
    pred = torch.tensor([[[0, 0, 0, 0, 0, 0, 1, 1]]])
    spot = score_masks(PROTOCOLS["spot"], pred, truth, num_slots=2)
    assert spot["mbo_i"].values.item() == pytest.approx((3 / 5 + 2 / 5) / 2)  # the shared pixel counts for nobody
    assert spot["miou_i"].values.item() == pytest.approx(3 / 5 / 2)
    assert spot["mbo_c"].values.item() == pytest.approx((3 / 5 + 2 / 5) / 2)
    assert spot["fg_ari"].values.item() == 0
    for name, values in (("oclf", 4 / 6), ("lsd-image", 4 / 6)):
        assert score_masks(PROTOCOLS[name], pred, truth, num_slots=2)["mbo_i"].values.item() == pytest.approx(values)
    without = {key: value for key, value in truth.items() if key not in ("crowd", "category")}
    assert score_masks(PROTOCOLS["spot"], pred, without, num_slots=2)["mbo_i"].values.item() == pytest.approx(4 / 6)


def test_glass_counts_the_background_among_what_is_found():
    """Its script never tells CorLoc to leave the background out, and recovery only if asked to."""
    truth = {"mask": torch.tensor([[[1, 1, 0, 0, 0, 0, 0, 2]]])}
    pred = torch.tensor([[[0, 1, 1, 1, 1, 1, 1, 1]]])  # object 1: IoU 1/2, which is not above it; 2: 1/7; rest: 5/7
    for name, corloc, recovery in (("glass-release", 1, 1 / 3), ("oclf", 0, 0)):
        scores = score_masks(PROTOCOLS[name], pred, truth, num_slots=2)
        assert scores["corloc"].values.item() == corloc
        assert scores["recovery"].values.item() == pytest.approx(recovery)


def test_numbers_without_classes_and_with_other_integers():
    """A data set without classes gets no class metrics; masks may be stored in small integers."""
    (case,) = [case for case in cases("image") if case.id == "blob2"]
    scores = score_masks(PROTOCOLS["oclf"], case.pred, {"mask": case.truth["mask"].to(torch.uint8)}, num_slots=6)
    assert tuple(scores) == ("fg_ari", "ari", "mbo_i", "miou_i", "corloc", "recovery")
    assert scores["miou_i"].values.item() == pytest.approx(case.expected["mIoU_i"], abs=1e-9)


def test_missing_owner_of_overlaps_is_not_guessed():
    (case,) = [case for case in cases("image") if case.id == "overlap1"]
    truth = {key: value for key, value in case.truth.items() if key != "class_mask_highest"}
    with pytest.raises(ValueError, match="mbo_c under protocol oclf gives overlap pixels to the highest class id"):
        score_masks(PROTOCOLS["oclf"], case.pred, truth, num_slots=case.num_slots)
    truth["overlap"] = torch.zeros_like(truth["overlap"])
    assert "mbo_c" in score_masks(PROTOCOLS["oclf"], case.pred, truth, num_slots=case.num_slots)


def test_too_few_slots_are_refused():
    """Slot ids from `num_slots` up would be taken for removed pixels."""
    with pytest.raises(ValueError, match="slot id 4; with num_slots=4 ids must be below 4"):
        score_masks(PROTOCOLS["oclf"], torch.full((1, 2, 2), 4), {"mask": torch.ones(1, 2, 2).long()}, num_slots=4)


def test_get():
    assert protocols.get("oclf") is PROTOCOLS[protocols.DEFAULT]
    attention = protocols.get("oclf[attention]")
    assert attention == replace(PROTOCOLS["oclf"], name="oclf[attention]", masks="attention")
    assert protocols.get("glass-release").masks == "attention"
    assert protocols.get("spot[decoder]") is PROTOCOLS["spot"]
    for wrong in ("OCLF", "olcf"):
        with pytest.raises(UserError, match=rf"There is no protocol '{wrong}'. Nearest: oclf, "):
            protocols.get(wrong)
    for wrong in ("oclf[", "oclf[slots]", "oclf]", "oclf@", "oclf+", "oclf[attention]+ari", "@3"):
        with pytest.raises(UserError, match=r"There is no protocol .* Known: oclf, slot-attention, spot"):
            protocols.get(wrong)


def test_descriptions_are_one_line_and_tell_protocols_apart():
    lines = [protocol.describe() for protocol in PROTOCOLS.values()]
    assert all("\n" not in line for line in lines)
    assert len({line.split(": ", 1)[1] for line in lines}) == len(lines)
    assert protocols.get("oclf[attention]").describe().startswith("oclf[attention]: ")
    assert PROTOCOLS["glass-release"].describe() == (
        "glass-release: FG-ARI, ARI_c, mBO_i, mIoU_i, mBO_c, mIoU_c, CorLoc, recovery; background is one more object "
        "in mBO_i, mIoU_i, mBO_c, mIoU_c, CorLoc, recovery; void pixels as labelled; overlap pixels kept (owner: last "
        "object); background is the lowest id of an image; attention masks at the truth's size (VOC and COCO tables: "
        "256 px); mean over images"
    )


def test_documentation_quotes_every_protocol():
    page = " ".join((Path(__file__).parents[1] / "docs" / "protocols.md").read_text(encoding="utf-8").split())
    for protocol in PROTOCOLS.values():
        assert protocol.describe() in page


EXAMPLES = {
    "batch0": "**A batch of six plain images** (five slots, up to five objects, one image without objects):",
    "fewer_slots0": "**Fewer slots than objects** (two slots, six objects):",
    "void2": "**A void border around every object, as in VOC** (28 x 28 pixels, so the border is a large share):",
    "overlap2": "**Overlapping instances, as in COCO**:",
}


def example_table(case_id: str) -> str:
    """One case scored under every protocol, as a table of percentages."""
    (case,) = [case for case in cases("image", "batch") if case.id == case_id]
    metrics = ("fg_ari", "mbo_i", "miou_i", "mbo_c", "miou_c")
    rows = ["| protocol | " + " | ".join(LABELS[m] for m in metrics) + " |", "| --- |" + " ---: |" * len(metrics)]
    for name, protocol in PROTOCOLS.items():
        if name in OWN + LIKE_SAVI:
            continue
        scores = score_masks(protocol, case.pred, case.truth, num_slots=case.num_slots)
        means = {m: (s.values.nan_to_num() * s.weights).sum() / s.weights.sum() for m, s in scores.items()}
        rows.append(
            f"| `{name}` | " + " | ".join(f"{100 * means[m]:.1f}" if m in means else "-" for m in metrics) + " |"
        )
    return "\n".join(rows)


@pytest.mark.parametrize("case_id", EXAMPLES)
def test_documentation_shows_these_numbers(case_id):
    page = (Path(__file__).parents[1] / "docs" / "protocols.md").read_text(encoding="utf-8")
    assert f"{EXAMPLES[case_id]}\n\n{example_table(case_id)}\n" in page
