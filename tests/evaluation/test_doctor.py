"""The detector: every failure is found and nothing else; what is healthy is called healthy."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import one_hot

from slotworks.evaluation import doctor
from slotworks.evaluation.doctor import Finding, collapsed, diagnose, verdict
from slotworks.methods.dspn import DSPNConfig
from slotworks.methods.glass import GlassConfig
from slotworks.methods.savi import SAViConfig
from slotworks.methods.slot_diffusion import VideoSlotDiffusionConfig
from slotworks.methods.steve import SteveConfig
from slotworks.metrics.binding import binding_stats
from slotworks.types import DecoderOutput, Method, SlotOutput, UserError

SIZE, IMAGES = 32, 48


def scenes(num_objects=3, side=9, seed=0):
    """Squares at random places, not on top of each other as far as luck allows."""
    generator = torch.Generator().manual_seed(seed)
    true = torch.zeros(IMAGES, SIZE, SIZE, dtype=torch.long)
    for image in true:
        for k in range(num_objects):
            for _ in range(20):
                y, x = torch.randint(0, SIZE - side + 1, (2,), generator=generator).tolist()
                if not image[y : y + side, x : x + side].any():
                    break
            image[y : y + side, x : x + side] = k + 1
    return true


TRUE = scenes()


def bands(num_slots):
    return (torch.arange(SIZE) * num_slots // SIZE).expand(IMAGES, SIZE, SIZE)


def masks(pred, num_slots, *, rest=0.1, exchangeable=True):
    """Soft masks of a segmentation, with slots in an order of its own in each image."""
    if exchangeable:
        generator = torch.Generator().manual_seed(1)
        pred = torch.stack([torch.randperm(num_slots, generator=generator)[image] for image in pred])
    return one_hot(pred, num_slots).movedim(-1, 1).float() * (1 - rest) + rest / num_slots


def wrong(pred, num_slots, share):
    """The segmentation with a share of its pixels at random."""
    generator = torch.Generator().manual_seed(2)
    noise = torch.rand(pred.shape, generator=generator) < share
    return torch.where(noise, torch.randint(0, num_slots, pred.shape, generator=generator), pred)


def names(stats, **given):
    return [finding.name for finding in diagnose(stats, **given)]


WITH_TRUTH = {
    "stripes": masks(bands(4), 4),
    "stripes, slots in one order": masks(bands(4), 4, exchangeable=False),
    "stripes, a fifth of the pixels wrong": masks(wrong(bands(4), 4, 0.2), 4),
    "one_slot_takes_all": masks(torch.zeros_like(TRUE), 4),
    "uniform_attention": torch.full((IMAGES, 4, SIZE, SIZE), 0.25) + 0.01 * masks(bands(4), 4) - 0.0025,
    "background_split": masks(torch.where(TRUE == 0, bands(2), TRUE + 1), 5),
    "background_split, a part with each object": masks(torch.where(TRUE == 0, bands(3) + 1, TRUE), 4),
    "background_split, in three": masks(torch.where(TRUE == 0, bands(3), TRUE + 2), 6),
    "dead_slots": masks((TRUE > 0).long(), 8),
    "uniform_attention, on objects only": torch.where((TRUE == 0)[:, None], masks(torch.zeros_like(TRUE), 4), 0.25),
    "over_segmentation": masks(torch.where(TRUE > 0, TRUE + 3 * (torch.arange(SIZE) % 2), 0), 7),
    "merged_objects": masks((TRUE > 0).long(), 2),
    "merged_objects, one is missed": masks(torch.where(TRUE == 2, 0, TRUE), 4),
    "healthy": masks(TRUE, 4),
    "healthy, hard masks": masks(TRUE, 4, rest=0),
    "healthy, but for an empty background": torch.where(
        (TRUE > 0)[:, None], masks(TRUE, 4), 0.248 + 0.008 * one_hot(torch.zeros_like(TRUE), 4).movedim(-1, 1)
    ),
    "healthy, with spare slots": masks(TRUE, 9),
    "healthy, a tenth of the pixels wrong": masks(wrong(TRUE, 4, 0.1), 4),
}


@pytest.mark.parametrize("case", WITH_TRUTH)
def test_each_failure_is_found_and_nothing_else(case):
    stats = binding_stats(WITH_TRUTH[case], TRUE)
    assert names(stats) == [case.split(",")[0]]


WITHOUT_TRUTH = {
    "stripes": masks(bands(4), 4),
    "one_slot_takes_all": masks(torch.zeros_like(TRUE), 4),
    "uniform_attention": torch.full((IMAGES, 4, SIZE, SIZE), 0.25),
    "dead_slots": masks(TRUE, 12),
    "healthy": masks(TRUE, 5),
}


@pytest.mark.parametrize("case", WITHOUT_TRUTH)
def test_without_true_masks_too(case):
    assert names(binding_stats(WITHOUT_TRUTH[case])) == [case]


@pytest.mark.parametrize("case", ["stripes", "one_slot_takes_all", "uniform_attention"])
@pytest.mark.parametrize("truth", [TRUE, None], ids=["truth", "no truth"])
def test_a_collapsed_run_is_reported_as_collapsed(case, truth):
    findings = diagnose(binding_stats(WITH_TRUTH[case], truth))
    assert collapsed(findings)
    assert verdict(findings) == f"collapsed: {case.replace('_', ' ')}"


def test_one_object_per_image_is_no_stripe():
    true = scenes(num_objects=1, side=14)
    assert names(binding_stats(masks(true, 3), true)) == ["healthy"]
    assert names(binding_stats(masks(bands(3), 3), true)) == ["stripes"]


def test_objects_that_never_move_are_no_stripes_if_the_truth_is_known():
    same = TRUE[:1].expand_as(TRUE).contiguous()
    assert names(binding_stats(masks(same, 4), same)) == ["healthy"]
    assert names(binding_stats(masks(same, 4))) == ["stripes"]  # nothing can tell them apart then


def test_doubt_about_stripes_is_a_note():
    [finding] = diagnose({"stripes": 0.7, "num_images": 64.0})
    assert (finding.name, finding.severity) == ("stripes", "note")
    assert "0.70 (threshold 0.8) on 64 images; look at the samples" in finding.evidence
    assert not collapsed([finding])


def test_evidence_holds_number_and_threshold_and_every_finding_a_fix():
    for case, soft in WITH_TRUTH.items():
        for finding in diagnose(binding_stats(soft, TRUE)):
            if finding.name != "healthy":
                assert "threshold" in finding.evidence, case
                assert any(digit in finding.evidence for digit in "0123456789"), case
                assert len(finding.fix) > 40, case
                assert "{" not in finding.fix, case


def test_severity_grows_with_the_number():
    assert [diagnose({"slots_per_object": value})[0].severity for value in (1.59, 1.6, 1.99, 2.0)] == [
        "ok",
        "note",
        "note",
        "problem",
    ]


def test_fixes_name_the_settings_in_use():
    settings = {"steps": 100, "optimizer": {"lr": 4e-4, "warmup_steps": 0}}
    [stripes] = diagnose({"stripes": 1.0}, settings=settings)
    assert "for longer (now 0 steps)" in stripes.fix
    [merged] = diagnose({"objects_per_slot": 2.5, "num_regions": 6.0, "num_slots": 4.0}, settings=settings)
    assert "(now 4 for 6.0 regions)" in merged.fix
    [nan] = diagnose({"finite": 0.5}, settings=settings)
    assert "(now 0.0004)" in nan.fix


@pytest.mark.parametrize("case", ["one_slot_takes_all", "uniform_attention"])
def test_what_every_run_passes_through_is_a_note_early_on(case):
    stats = binding_stats(WITH_TRUTH[case], TRUE)
    settings = {"steps": 1000}
    [early] = diagnose(stats, [{"step": 100}], settings)
    [late] = diagnose(stats, [{"step": 900}], settings)
    assert (early.name, early.severity, late.name, late.severity) == (case, "note", case, "problem")
    assert "early in training" in early.evidence
    assert verdict([early]) == f"notes: {case.replace('_', ' ')}"


@pytest.mark.parametrize("case", ["one_slot_takes_all", "uniform_attention", "stripes", "over_segmentation"])
def test_after_a_few_steps_it_is_too_early(case):
    """Not for a run that starts from trained weights, nor for NaN, nor where nothing is found."""
    stats, settings = binding_stats(WITH_TRUTH[case], TRUE), {"steps": 3}
    [finding] = diagnose(stats, [{"step": 3}], settings)
    assert (finding.name, finding.severity, verdict([finding])) == ("too_early", "note", "too early")
    assert finding.evidence.startswith(f"After 3 steps masks look like {case.replace('_', ' ')}")
    assert not collapsed([finding])
    assert names(stats, curves=[{"step": 3}], settings=settings, step=100)[0] == case
    assert names(stats, settings=settings, step=99) == ["too_early"]
    trained = SAViConfig(start_from="runs/first")
    assert names(stats, curves=[{"step": 3}], settings=settings, method=trained)[0] == case
    assert names({"finite": 0.5}, curves=[{"step": 3}]) == ["nan"]
    assert names({}, curves=[{"step": 3}]) == ["healthy"]


def curve(values):
    return [{"step": 10 * i, "loss/recon": value, "total": value} for i, value in enumerate(values)]


def test_a_falling_loss_is_healthy():
    assert names({}, curves=curve([math.exp(-i / 20) for i in range(100)])) == ["healthy"]


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_a_loss_that_does_not_fall(noise):
    values = [0.5 * (1 + noise * math.sin(7 * i)) for i in range(100)]
    [finding] = diagnose({}, curve(values))
    assert (finding.name, finding.severity) == ("loss_not_falling", "problem")
    assert verdict([finding]) == "problems: loss not falling"


def test_a_loss_that_rises_again():
    values = [math.exp(-i / 20) for i in range(60)] + [0.05 + 0.002 * i for i in range(40)]
    [finding] = diagnose({}, curve(values))
    assert (finding.name, finding.severity) == ("loss_not_falling", "note")
    assert "rose from" in finding.evidence


def test_a_loss_that_changes_its_meaning_or_began_low():
    """Longer clips have a larger sum; a run that begins with trained weights has little to gain, but may get worse."""
    grows = curve([50 - 0.2 * i for i in range(50)] + [400 - i for i in range(100)])  # a row each ten steps
    assert names({}, curves=grows) == ["loss_not_falling"]
    assert names({}, curves=grows, method=SAViConfig(short_clips=((200, 1), (499, 2)))) == ["healthy"]
    assert names({}, curves=grows, method=SteveConfig(short_clips=((499, 1),))) == ["healthy"]
    flat = curve([0.5] * 100)
    for kind, setting in (
        (SAViConfig, "start_from"),
        (VideoSlotDiffusionConfig, "start_from"),
        (GlassConfig, "phase_1"),
    ):
        assert names({}, curves=flat, method=kind()) == ["loss_not_falling"]
        assert names({}, curves=flat, method=kind(**{setting: "runs/first"})) == ["healthy"]
    risen = curve([0.5] * 50 + [1.0] * 50)
    [finding] = diagnose({}, risen, method=SAViConfig(start_from="runs/first"))
    assert (finding.name, finding.severity) == ("loss_not_falling", "note")
    encoded = curve([0.03] * 50 + [0.06 - 0.0002 * i for i in range(100)])
    assert names({}, curves=encoded, method=DSPNConfig(autoencode_steps=499)) == ["healthy"]


def test_rows_without_a_loss_and_short_curves_are_not_judged():
    rows = [{"step": i, "eval/fg_ari": 0.5} for i in range(50)]
    assert names({}, curves=rows) == ["healthy"]
    assert names({}, curves=curve([0.5] * 9)) == ["healthy"]


def test_loss_terms_are_added_where_there_is_no_total():
    rows = [{"step": 10 * i, "loss/a": 1 - i / 100, "loss/b": 1 + i / 100} for i in range(50)]
    assert names({}, curves=rows) == ["loss_not_falling"]


@pytest.mark.parametrize("broken", [math.nan, math.inf, None])
def test_nan_is_found_where_it_first_appears(broken):
    rows = curve([1.0, 0.9, broken, 0.7, broken])
    [finding] = diagnose({"stripes": 1.0, "slots_per_object": 5.0}, rows)  # and hides all else
    assert (finding.name, finding.evidence) == ("nan", "The loss is not a number, first at step 20.")
    assert verdict([finding]) == "collapsed: nan"


def test_nan_in_masks():
    soft = masks(TRUE, 4)
    soft[:12] = math.nan
    [finding] = diagnose(binding_stats(soft, TRUE))
    assert (finding.name, finding.evidence) == ("nan", "Masks of 25% of the images hold NaN.")


def test_unknown_numbers_are_not_judged():
    assert names({"num_regions": 4.0, "dead_slots": 0.9}) == ["healthy"]
    assert names({"stripes": None, "entropy": math.nan, "largest_share": 0.5}) == ["healthy"]
    [nothing] = diagnose({})
    assert (nothing.name, nothing.severity, nothing.evidence) == ("healthy", "ok", "Nothing was measured yet.")


def test_verdict_names_the_worst_kind_only():
    problem = Finding("merged_objects", "problem", "")
    note = Finding("background_split", "note", "")
    assert verdict([note, problem]) == "problems: merged objects"
    assert verdict([note]) == "notes: background split"
    assert verdict([Finding("healthy", "ok", "")]) == "healthy"


def test_problems_come_before_notes():
    findings = diagnose({"background_slots": 3.0, "slots_per_object": 2.5})
    assert [finding.severity for finding in findings] == ["problem", "note"]


# stats_of


class Squares:
    """A data set of squares; images show the ids of their objects."""

    def __init__(self, length=IMAGES, **more):
        self.length, self.more = length, more

    def __len__(self):
        return self.length

    def __getitems__(self, indices):
        mask = TRUE[list(indices)].numpy()
        image = (mask[..., None] * np.array([60, 60, 60])).astype(np.uint8)
        return {"image": image, "mask": mask} | {key: value[list(indices)] for key, value in self.more.items()}


class Reads(Method):
    """Finds objects by their colour; slots come in random order, drawn anew at each call."""

    def __init__(self, decodes=True, blind=False):
        super().__init__()
        self.frozen = nn.Dropout().eval()
        self.blind = blind
        self.orders: list[list[int]] = []
        self.modes: list[bool] = []
        if decodes:
            self.decode = self._decode

    def encode(self, image):
        order = torch.randperm(4)
        self.orders.append(order.tolist())
        self.modes.append(self.training)
        ids = (image[:, 0] * 255 / 60).round().long()
        if self.blind:
            ids = bands(4)[: len(ids)]
        self.found = one_hot(order[ids], 4).movedim(-1, 1).float()
        return SlotOutput(torch.zeros(len(image), 4, 2), self.found.flatten(2))

    def _decode(self, slots):
        parts = self.found.unsqueeze(2).expand(-1, -1, 3, -1, -1)
        return DecoderOutput(parts.sum(1), self.found, parts)


@pytest.mark.parametrize("decodes", [True, False], ids=["decoder masks", "attention"])
def test_stats_of_a_method(decodes):
    assert names(doctor.stats_of(Reads(decodes), Squares())) == ["healthy"]
    stats = doctor.stats_of(Reads(decodes, blind=True), Squares(), num_images=32)
    assert stats["num_images"] == 32
    assert names(stats) == ["stripes"]


def test_all_images_start_from_the_same_slots_and_nothing_is_disturbed():
    method = Reads()
    method.train()
    method.frozen.eval()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = doctor.stats_of(method, Squares(), num_images=6, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert method.training
    assert not method.frozen.training
    assert not any(method.modes)
    assert len(method.orders) == 6
    assert all(order == method.orders[0] for order in method.orders)
    assert doctor.stats_of(method, Squares(), num_images=6, seed=3) == pytest.approx(first, nan_ok=True)


def test_void_pixels_do_not_count():
    void = TRUE.numpy() == 2
    assert doctor.stats_of(Reads(), Squares(void=void))["num_regions"] == 3
    assert doctor.stats_of(Reads(), Squares())["num_regions"] == 4


def test_masks_are_compared_at_a_bounded_size():
    small = doctor.stats_of(Reads(), Squares(), size=16)
    assert names(small) == ["healthy"]
    assert small["largest_share"] != doctor.stats_of(Reads(), Squares())["largest_share"]


def test_stats_of_needs_two_images():
    with pytest.raises(ValueError, match=r"got 1 images.*needs 2 or more"):
        doctor.stats_of(Reads(), Squares(length=1))


# doctor.json


def test_write_and_read(tmp_path):
    stats = binding_stats(WITH_TRUTH["one_slot_takes_all"], TRUE)
    findings = diagnose(stats)
    path = doctor.write(tmp_path, stats, findings, step=7)
    assert path == tmp_path / "eval" / "doctor.json"
    assert [file.name for file in path.parent.iterdir()] == ["doctor.json"]
    content = json.loads(path.read_text(), parse_constant=pytest.fail)  # strict JSON: no NaN
    assert (content["verdict"], content["step"], content["stats"]["stripes"]) == (
        "collapsed: one slot takes all",
        7,
        None,
    )
    again, found = doctor.read(tmp_path)
    assert found == findings
    assert diagnose(again) == findings


def test_read_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"doctor\.json does not exist; run `slotworks doctor"):
        doctor.read(tmp_path)
    (tmp_path / "eval").mkdir()
    for text in ("{", "[]", '{"stats": {}, "findings": [{"nonsense": 1}]}', '{"stats": 3, "findings": []}'):
        (tmp_path / "eval" / "doctor.json").write_text(text)
        with pytest.raises(UserError, match=r"doctor\.json is damaged; run `slotworks doctor"):
            doctor.read(tmp_path)


def test_what_is_of_something_else_stays(tmp_path):
    """A training replaces its own; who looks at other images later does not."""
    of = {"split": "test", "num_images": 320, "step": 9}
    for step in (4, 9):
        doctor.write(tmp_path, {"spare": float(step)}, [], step=step, looked_at=of | {"step": step})
    assert doctor.read(tmp_path)[0] == {"spare": 9}
    for number in range(2):
        path = doctor.write(tmp_path, {"spare": float(number)}, [], looked_at=of | {"num_images": 8}, replace=False)
        assert path == tmp_path / "eval" / "doctor-test-8-images-step-9.json"
    assert doctor.read(tmp_path)[0] == {"spare": 9}
    assert doctor.write(tmp_path, {"spare": 5.0}, [], looked_at=of, replace=False).name == "doctor.json"
    place = tmp_path / "eval" / "doctor.json"
    for before, name in (('{"stats": {}, "findings": []}', "doctor-test-320-images-step-9.json"), ("{", place.name)):
        place.write_text(before)  # of an older version; damaged
        assert doctor.write(tmp_path, {}, [], looked_at=of, replace=False).name == name


def test_masks_that_have_not_begun_to_differ_are_told_from_uniform_attention():
    """Nearly equal shares of six slots, whose argmax is one slot everywhere: a phase while the rate or the loss still
    moves, uniform attention where both have come to rest."""
    near = torch.full((IMAGES, 6, SIZE, SIZE), 0.165)
    near[:, 2] = 0.175
    stats = binding_stats(near)
    assert stats["confidence"] == pytest.approx(0.175)
    assert stats["largest_share"] == 1
    falling, flat = curve([math.exp(-i / 40) for i in range(60)]), curve([1 - 0.0002 * i for i in range(60)])
    assert names(stats, curves=falling) == ["not_specialised"]
    assert "uniform_attention" in names(stats, curves=flat)
    assert names(stats, curves=flat[:9], settings={"optimizer": {"warmup_steps": 10_000}}) == ["not_specialised"]
    [finding] = diagnose(stats, falling, {"optimizer": {"lr": 4e-4, "warmup_steps": 10_000}})
    assert finding.severity == "note"
    assert "largest share of a pixel is 0.17 on average, equal shares are 0.17 (threshold 0.25)" in finding.evidence
    assert "still being warmed up (step 590 of 10000)" in finding.evidence
    assert "shorten the warm-up (now 10000 steps) and raise the learning rate (now 0.0004)" in finding.fix


def test_one_slot_that_is_sure_is_no_phase_of_equal_shares():
    alone = masks(torch.zeros_like(TRUE), 6)
    stats = binding_stats(alone, TRUE)
    [finding] = diagnose(stats, curve([math.exp(-i / 40) for i in range(60)]), {})
    assert (finding.name, finding.severity) == ("one_slot_takes_all", "problem")
    assert "sure of 92% of a pixel" in finding.evidence
    assert "method.value-coordinates" in finding.fix


REAL = {
    # decoder masks of six slots on features of DINOv2 ViT-S/14, 64 collages, after 500 steps
    "photos_mlp": {"confidence": 0.79, "entropy_foreground": 0.39, "swallowed": 0.17, "stripes_foreground": 0.23,
                   "truth_agreement": 0.54, "num_regions": 4.61, "dead_slots": 0.03, "objects_per_slot": 1.35},
    # without coordinates, with a decoder that sees the place: attention masks
    "bound to places": {"confidence": 0.43, "entropy_foreground": 0.80, "swallowed": 0.30, "stripes_foreground": 0.43,
                        "truth_agreement": 0.39, "num_regions": 4.61, "dead_slots": 0.26, "objects_per_slot": 1.97},
}  # fmt: skip


@pytest.mark.parametrize(("case", "expected"), [("photos_mlp", "healthy"), ("bound to places", "stripes")])
def test_numbers_of_real_runs(case, expected):
    found = diagnose({"num_images": 64.0, "num_slots": 6.0, "finite": 1.0, **REAL[case]})
    assert [finding.name for finding in found] == [expected]
    if expected == "stripes":
        assert "Slots are bound to places" in found[0].evidence
        assert "method.value-coordinates" in found[0].fix
