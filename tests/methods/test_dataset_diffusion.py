"""Dataset Diffusion's segmenter: loss, labels, test sizes, self-training, the published recipes, a small training."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from slotworks.configs import dataset_diffusion, recipes
from slotworks.data.scenes import ShapeScenes
from slotworks.data.stores.generated import Generated, shard_path
from slotworks.decoders import DeepLabHead, DeepLabPlusHead
from slotworks.encoders import DilatedResNet
from slotworks.evaluation.semantic import evaluate_semantic
from slotworks.methods import BlocksConfig, DatasetDiffusionConfig
from slotworks.methods.dataset_diffusion import IGNORE, pixel_loss
from slotworks.synthesis.shards import png, write_shard
from slotworks.training import Adam, Run, load_method, schedule, train
from slotworks.types import UserError

SCENES = ShapeScenes(
    image_size=32,
    max_objects=2,
    sizes=(0.44,),
    colors=("red", "blue"),
    classes="color",
    num_train=64,
    num_val=16,
    num_test=32,
)


def config(**changes):
    mini = dataset_diffusion.scenes_mini().method
    small = {"image_size": 32, "map_size": 16, "hidden_dim": 16, "class_names": SCENES.class_names}
    return replace(mini, **{**small, **changes})


def build(**changes):
    torch.manual_seed(0)
    return config(**changes).build()


# ---- loss and labels ----


def test_the_loss_is_a_mean_over_all_pixels_of_which_the_ignored_add_nothing():
    """Scores 0 and log 3 give 1/4 and 3/4; two of eight pixels are class 0, two class 1, four are not claimed."""
    scores = torch.tensor([0.0, math.log(3)]).reshape(1, 2, 1, 1).expand(1, 2, 2, 4).clone().requires_grad_()
    labels = torch.tensor([[[0, 1, IGNORE, IGNORE], [0, 1, IGNORE, IGNORE]]])
    loss = pixel_loss(scores, labels)
    assert loss.item() == pytest.approx((2 * math.log(4) + 2 * math.log(4 / 3)) / 8, abs=1e-6)
    loss.backward()
    expected = torch.tensor([[-0.75, 0.75], [0.25, -0.25]]) / 8  # softmax less one-hot, at a pixel of either class
    torch.testing.assert_close(scores.grad[0, :, 0, :2], expected.T, rtol=0, atol=1e-6)
    assert scores.grad[0, :, :, 2:].eq(0).all()
    assert pixel_loss(scores, torch.full((1, 2, 4), IGNORE)).item() == 0


def test_scores_are_brought_to_the_size_of_the_labels():
    scores = torch.randn(2, 3, 4, 4)
    labels = torch.randint(3, (2, 16, 16))
    large = F.interpolate(scores, (16, 16), mode="bilinear", align_corners=False)
    torch.testing.assert_close(pixel_loss(scores, labels), F.cross_entropy(large, labels), rtol=0, atol=1e-6)


def test_labels_are_outputs_and_uncertain_pixels_are_ignored():
    """Ids 1 and 3 have a name: outputs 1 and 2."""
    method = build(class_names=("cat", "", "dog"))
    batch = {
        "image": torch.rand(1, 3, 32, 32),
        "class_mask": torch.tensor([[[0, 1], [3, 0]]], dtype=torch.uint8),
        "void": torch.tensor([[[False, False], [False, True]]]),
    }
    assert method.labels(batch).tolist() == [[[0, 1], [2, IGNORE]]]
    with pytest.raises(UserError, match=r"holds the class 2, which has no name in the 3 of method.class_names"):
        method.labels({**batch, "class_mask": torch.full((1, 2, 2), 2)})
    with pytest.raises(UserError, match=r"masks of classes \(class_mask\), and these data have none"):
        method.labels({"image": batch["image"], "mask": batch["class_mask"]})


def test_uncertain_pixels_change_no_gradient():
    """Whatever a mask holds where nothing is claimed."""
    image = torch.rand(2, 3, 32, 32)
    void = torch.zeros(2, 32, 32, dtype=torch.bool)
    void[:, :, 16:] = True
    gradients = []
    for beyond in (0, 2):
        method = build(crop_scales=(1.0, 1.0), max_share=1.0).eval()
        mask = torch.ones(2, 32, 32, dtype=torch.int64)
        mask[:, :, 16:] = beyond
        torch.manual_seed(1)
        method.loss({"image": image, "class_mask": mask, "void": void}, 0)["cross_entropy"].backward()
        gradients.append(method.head.classifier.weight.grad)
    assert torch.equal(*gradients)
    assert gradients[0].abs().max() > 0


# ---- the head and the test ----


def test_branches_of_the_head_look_as_far_as_their_rates():
    """One tap up and left of the middle: the map moved by the rate; the branch of the mean is the same everywhere."""
    head = DeepLabHead(1, 2, hidden_dim=1, rates=(1, 3)).eval()
    x = torch.rand(1, 1, 6, 7)
    for branch, rate in zip(head.branches, (0, 1, 3), strict=True):
        conv = branch[0]
        nn.init.zeros_(conv.weight)
        conv.weight.data[0, 0, 0, 0] = 1
        expected = torch.zeros_like(x)
        expected[:, :, rate:, rate:] = x[:, :, : 6 - rate, : 7 - rate]
        torch.testing.assert_close(branch(x), expected / math.sqrt(1 + 1e-5), rtol=0, atol=1e-6)
    head.mean[0].weight.data.fill_(1)
    seen = []
    head.joined.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    head(x)
    assert seen[0].shape == (1, 4, 6, 7)
    torch.testing.assert_close(seen[0][0, 0], x.mean().expand(6, 7) / math.sqrt(1 + 1e-5), rtol=0, atol=1e-6)


def test_sizes_and_mirror_images_are_averaged_by_hand(monkeypatch):
    """Scores (0, log 3) in the right column of the map alone: 3/4 there and 1/2 on the left. In an image of twice the
    size they are doubled: 9/10. A mirrored image gives the same map, which is then turned back."""
    method = build(class_names=("cat",), test_scales=(1.0, 2.0), map_size=2)
    sizes = []

    def scores(image):
        sizes.append(image.shape[-1])
        found = torch.zeros(len(image), 2, 2, 2)
        found[:, 1, :, 1] = math.log(3) * image.shape[-1] / 32
        return found, None

    monkeypatch.setattr(method, "scores", scores)
    out = method.encode(torch.rand(3, 3, 32, 32))
    assert sizes == [32, 32, 64, 64]
    assert out.grid == (2, 2)
    expected = (1 / 2 + 3 / 4 + 1 / 2 + 9 / 10) / 4
    torch.testing.assert_close(out.attn[:, 1], torch.full((3, 4), expected), rtol=0, atol=1e-6)
    torch.testing.assert_close(out.attn.sum(1), torch.ones(3, 4), rtol=0, atol=1e-6)
    one = replace(method.config, test_scales=(1.0,), test_flip=False)
    monkeypatch.setattr(method, "config", one)
    left, right = method.encode(torch.rand(1, 3, 32, 32)).attn_maps[0, 1, 0].tolist()
    assert (left, right) == pytest.approx((1 / 2, 3 / 4), abs=1e-6)


def test_mirror_images_are_turned_back():
    """With both, an image and its mirror image have mirrored probabilities; of the image alone this is not so."""
    method = build().eval()
    image = torch.rand(1, 3, 32, 32)
    for flip in (True, False):
        how = {"scales": (1.0,), "flip": flip}
        with torch.no_grad():
            one, other = (method.probabilities(x, (16, 16), **how) for x in (image, image.flip(3)))
        assert torch.allclose(one, other.flip(3), rtol=0, atol=1e-6) == flip


def test_slots_are_classes():
    """An id without a name has nothing; the vector of a slot is its row of the classifier; parts of a batch agree."""
    method = build(class_names=("cat", "", "dog"), images_per_pass=2).eval()
    image = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        out = method.encode(image)
        single = method.encode(image[2:])
    assert out.attn.shape == (3, 4, 256)
    assert out.attn[:, 2].eq(0).all()
    assert out.slots[:, 2].eq(0).all()
    rows = method.head.classifier.weight.flatten(1)
    assert torch.equal(out.slots[1, [0, 1, 3]], rows)
    torch.testing.assert_close(out.attn[2:], single.attn, rtol=0, atol=1e-6)
    assert method.semantic_rule == "labels"


# ---- self-training ----


def test_the_teachers_view_takes_the_place_of_the_masks(monkeypatch):
    """It sees the images as they are, once, at their size; masks are not asked for and no pixel is uncertain."""
    method, teacher = build(teacher="first"), build()
    nn.init.normal_(teacher.head.classifier.weight)
    method.prepare(lambda folder: teacher)
    assert not teacher.training
    assert not any("teacher" in name for name in method.state_dict())
    image = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = F.interpolate(teacher.scores(image)[0], (32, 32), mode="bilinear").argmax(1)
    assert len(expected.unique()) > 2
    assert torch.equal(method.labels({"image": image, "class_mask": torch.zeros(2, 32, 32)}), expected)
    seen = []
    monkeypatch.setattr(method, "changed", lambda image, labels: seen.append((image, labels)) or (image, labels))
    terms = method.loss({"image": image}, 0)
    assert torch.equal(seen[0][0], image)
    assert torch.equal(seen[0][1], expected)
    assert set(terms) == {"cross_entropy"}


def test_a_teacher_of_other_classes_is_refused():
    with pytest.raises(UserError, match="The run in first knows 1 classes and this one 8, or others"):
        build(teacher="first").prepare(lambda folder: build(class_names=("cat",)))
    with pytest.raises(UserError, match=r"method.teacher is first, a run of Blocks; give a run of DatasetDiffusion"):
        build(teacher="first").prepare(lambda folder: BlocksConfig().build())
    with pytest.raises(ValueError, match="The teacher is not loaded"):
        build(teacher="first").loss({"image": torch.rand(2, 3, 32, 32)}, 0)


# ---- published recipes ----

HEAD = 2 * (2048 * 512 + 1024) + 3 * (9 * 2048 * 512 + 1024) + 9 * 5 * 512 * 512 + 1024
AUXILIARY = 9 * 1024 * 256 + 512
RESNET_101 = 42_500_160  # torchvision's without its last layer
VIT_HEAD = 2 * (768 * 512 + 1024) + 3 * (9 * 768 * 512 + 1024) + 9 * 5 * 512 * 512 + 1024


@pytest.mark.parametrize(
    ("name", "outputs", "parameters"),
    [
        ("voc", 21, RESNET_101 + HEAD + 21 * 513 + AUXILIARY + 21 * 257),
        ("voc_stage2", 21, 87_087_466),
        ("coco", 81, RESNET_101 + HEAD + 81 * 513 + AUXILIARY + 81 * 257),
        ("coco_stage2", 81, 87_133_666),
        ("coco_dinov2_100k", 81, VIT_HEAD + 81 * 513),
    ],
)
def test_published_recipes_are_the_released_configs(name, outputs, parameters):
    run = recipes()[f"dataset_diffusion.{name}"]()
    with torch.device("meta"):
        method = run.method.build()
    assert sum(p.numel() for p in method.parameters()) == parameters
    assert method.head.classifier.out_channels == outputs == len(run.method.ids)
    assert [branch[0].dilation[0] for branch in method.head.branches] == [1, 12, 24, 36]
    steps = 20_000 if name.startswith("voc") else 40_000
    assert (run.steps, run.batch_size) == (steps, 8)
    assert schedule(run.optimizer, 0, steps) == 1e-4
    assert schedule(run.optimizer, steps // 2, steps) == pytest.approx(1e-4 * 0.5**0.9, rel=1e-9)
    assert schedule(run.optimizer, steps, steps) == 0
    assert (run.optimizer.weight_decay, run.optimizer.max_grad_norm) == (1e-4, 0.01)
    assert run.optimizer.lr_scales == {"backbone": 0.1}
    assert (run.method.crop_scales, run.method.max_share, run.method.distort) == ((0.5, 2.0), 0.75, True)
    assert run.method.test_scales == (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
    assert run.data.real.mask_size == run.method.map_size
    assert run.method.teacher == (f"runs/dataset_diffusion.{name[:-7]}" if name.endswith("stage2") else None)
    if isinstance(method.backbone, DilatedResNet):
        assert run.method.loss_weights == {"auxiliary": 0.4}
        dilations = {conv.dilation for conv in method.backbone.modules() if isinstance(conv, nn.Conv2d)}
        assert dilations == {(1, 1), (2, 2), (4, 4)}


def test_the_resnet_has_two_losses_and_trains_all_its_weights():
    method = build(backbone="resnet50", loss_weights={"auxiliary": 0.4}, hidden_dim=8)
    batch = {"image": torch.rand(2, 3, 32, 32), "class_mask": torch.randint(3, (2, 32, 32))}
    terms = method.loss(batch, 0)
    assert list(terms) == ["cross_entropy", "auxiliary"]
    sum(terms.values()).backward()
    assert not [name for name, p in method.named_parameters() if p.grad is None]
    groups = method.param_groups()
    assert {name: len(group) > 0 for name, group in groups.items()} == {"backbone": True, "heads": True}
    assert sum(map(len, groups.values())) == len(list(method.parameters()))


# ---- DeepLabV3+ ----


def test_the_decoder_joins_an_early_map_and_the_pyramid():
    """Few channels of the early map beside the enlarged pyramid, and its size in the end."""
    head = DeepLabPlusHead(6, 4, 3, low_level_dim=2, hidden_dim=5, rates=(1,)).eval()
    seen = []
    head.sharpened.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    joined = []
    head.joined.register_forward_hook(lambda module, inputs, output: joined.append((inputs[0], output)))
    features, early = torch.rand(2, 6, 3, 4), torch.rand(2, 4, 6, 8)
    with torch.no_grad():
        assert head(features, early).shape == (2, 3, 6, 8)
        assert joined[0][0].shape == (2, 15, 3, 4)
        assert torch.equal(seen[0][:, :2], head.early(early))
        large = F.interpolate(joined[0][1], (6, 8), mode="bilinear", align_corners=False)
        assert torch.equal(seen[0][:, 2:], large)


def test_deep_spectrals_segmenter_is_the_released_one():
    """DINO's ResNet-50 and the decoder of `model.py`, counted by hand; its last stage and the decoder are trained."""
    run = recipes()["deep_spectral.voc_stage2"]()
    with torch.device("meta"):
        method = run.method.build()
    pyramid = 2 * (2048 * 256 + 512) + 3 * (9 * 2048 * 256 + 512) + 1280 * 256 + 512
    head = 256 * 48 + 96 + pyramid + 9 * 304 * 256 + 512 + 256 * 21 + 21
    assert sum(p.numel() for p in method.parameters()) == 23_508_032 + head
    groups = {name: sum(p.numel() for p in group) for name, group in method.param_groups().items()}
    assert groups == {"backbone": 14_964_736, "heads": head}
    assert method.auxiliary is None
    assert (run.steps, run.batch_size, run.optimizer.weight_decay) == (5_000, 96, 1e-8)
    assert [schedule(run.optimizer, step, 5_000) for step in (0, 2_500, 5_000)] == pytest.approx([2e-4, 1e-4, 0])
    assert method.head.dropout.p == 0.5
    assert run.method.crop_scales[0] * 224 == 256
    assert 1 / (run.method.crop_scales[1] * 224 / 256) ** 2 == pytest.approx(0.08, abs=1e-3)


def test_a_training_step_of_it_is_one_of_the_last_stage_and_the_decoder():
    method = build(backbone="resnet50", loss_weights={"auxiliary": 0.0}, hidden_dim=8, low_level_dim=4, frozen_stages=4)
    batch = {"image": torch.rand(2, 3, 32, 32), "class_mask": torch.randint(3, (2, 32, 32))}
    terms = method.loss(batch, 0)
    assert list(terms) == ["cross_entropy"]
    terms["cross_entropy"].backward()
    with_gradient = [p for p in method.parameters() if p.grad is not None]
    assert sum(p.numel() for p in with_gradient) == sum(
        p.numel() for group in method.param_groups().values() for p in group
    )


# ---- training ----


def small_run(**changes):
    method = config(hidden_dim=32, crop_scales=(1.0, 1.0), max_share=1.0, test_scales=(1.0,), test_flip=False)
    return Run(
        method=method,
        data=SCENES,
        optimizer=Adam(lr=1e-2, decay="linear", decay_power=0.9),
        **{"steps": 60, "batch_size": 8, "log_every": 1, "tensorboard": False, **changes},
    )


def test_a_small_training_beats_the_majority_class(tmp_path):
    losses = []
    train(small_run(), tmp_path / "run", on_log=lambda step, values: losses.append(values["loss/cross_entropy"]))
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:3])
    found = evaluate_semantic(load_method(tmp_path / "run"), SCENES.open("test"), class_names=SCENES.class_names)
    masks = SCENES.open("test").__getitems__(range(32))["class_mask"]
    majority = (masks == 0).mean() / 3  # the IoU of the background where nothing else is predicted, of three classes
    assert 0.2 < majority < 0.34
    assert found.miou > 2 * majority
    assert found.protocol == "semantic-labels"


def test_a_training_that_was_stopped_ends_with_the_same_weights(tmp_path):
    """The statistics of BatchNorm are kept."""
    run = small_run(steps=4)
    train(run, tmp_path / "whole")
    train(run, tmp_path / "parts", stop_after=2)
    train(run, tmp_path / "parts")
    whole, parts = (load_method(tmp_path / name).state_dict() for name in ("whole", "parts"))
    assert any("running_mean" in name and value.abs().max() > 0 for name, value in whole.items())
    for name, value in whole.items():
        assert torch.equal(value, parts[name]), name


# ---- mistakes ----


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"class_names": ()}, "method.class_names has 0 names; give 1 to 254, of which one is not empty."),
        ({"class_names": ("", "")}, "method.class_names has 2 names"),
        ({"backbone": "vgg"}, "method.backbone is 'vgg'; choose resnet50, resnet101, vit."),
        ({"crop_scales": (2.0, 0.5)}, "method.crop_scales is"),
        ({"test_scales": ()}, "method.test_scales is"),
        ({"max_share": 1.5}, "method.max_share is 1.5; it must be from 0 to 1."),
        (
            {"frozen_stages": 4},
            "method.frozen_stages is 4, which means nothing with method.backbone=vit; leave it out.",
        ),
        ({"backbone": "resnet50", "frozen_stages": 6}, "method.frozen_stages is 6; a ResNet has a stem and four"),
        ({"rates": (0,)}, "method.rates is 0; it must be 1 or more."),
        ({"image_size": 30}, "method.image_size is 30, which patches of 4 pixels do not fill"),
        ({"loss_weights": {"auxiliary": 0.4}}, "a loss on the third stage of a ResNet; leave it out"),
    ],
)
def test_settings_that_cannot_be(changes, sentence):
    with pytest.raises(ValueError) as error:  # noqa: PT011  (the sentence is looked at)
        config(**changes)
    assert sentence in str(error.value)


def test_one_image_alone_is_refused():
    with pytest.raises(UserError, match="cached features are not enough"):
        build().loss({"features": torch.rand(2, 64, 128)}, 0)
    with pytest.raises(UserError, match="BatchNorm needs two images or more"):
        build().loss({"image": torch.rand(1, 3, 32, 32), "class_mask": torch.zeros(1, 32, 32)}, 0)


def test_shards_of_other_classes_or_of_segments_are_refused(tmp_path):
    pixels = np.zeros((8, 8), np.uint8)
    row = {"image": png(np.zeros((8, 8, 3), np.uint8)), "mask": png(pixels), "index": 0, "seed": 0}
    facts = {"start": 0, "stop": 1, "settings": "", "left_out": []}
    for folder, masks in (("classes", "classes"), ("segments", "segments")):
        names = ["red", "blue"]
        (tmp_path / folder).mkdir()
        write_shard(shard_path(tmp_path / folder, 0), [row], {**facts, "masks": masks, "class_names": names})
    data = Generated(root=str(tmp_path / "classes"), image_size=32)
    data.check_method(config(class_names=("red", "blue")))
    data.check_method(BlocksConfig())
    with pytest.raises(UserError, match=r"method.class_names names 3 classes, the masks in .* are of 2, or of others"):
        data.check_method(config(class_names=("red", "blue", "green")))
    with pytest.raises(UserError, match=r"are segments, and DatasetDiffusionConfig learns classes; synthesize with"):
        replace(data, root=str(tmp_path / "segments")).check_method(config(class_names=("red", "blue")))


def test_a_checkpoint_of_another_number_of_classes_is_refused(tmp_path):
    run = small_run(steps=1)
    train(run, tmp_path / "run")
    with pytest.raises(UserError, match=r"head.classifier.weight with shape \(9, .* ask for \(2, "):
        load_method(tmp_path / "run", config=replace(run.method, class_names=("red",)))


def test_defaults_are_the_published_ones():
    assert DatasetDiffusionConfig() == recipes()["dataset_diffusion.voc"]().method
