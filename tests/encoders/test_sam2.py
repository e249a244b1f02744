"""SAM 2 against `transformers`: the same network called directly, and the parts of its image processor."""

import importlib
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_sam2 import change_config, save_tiny_sam2
from torch.nn import functional as F

from slotworks.encoders.sam2 import EmbeddedImage, Sam2, Sam2Config, _grid, box_nms, boxes_of
from slotworks.types import UserError

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_sam2(tmp_path_factory.mktemp("sam2"))


@pytest.fixture(scope="module")
def sam2(folder):
    return Sam2(Sam2Config(str(folder)))


def picture(height, width, seed=0):
    """Noise with a red rectangle."""
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    image[height // 5 : height // 2, width // 4 : width // 2] = (250, 20, 20)
    return image


def some_boxes(height, width, count=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, 2, generator=generator).sort(1).values
    return corners.flatten(1) * torch.tensor([width, height, width, height])


@pytest.fixture
def library(monkeypatch):
    """The image processor of `transformers`. All it needs of torchvision is NMS, for which brute force stands in."""

    def nms(boxes, scores, idxs, iou_threshold):
        return slow_nms(boxes, scores, iou_threshold)

    boxes = ModuleType("torchvision.ops.boxes")
    monkeypatch.setattr(boxes, "batched_nms", nms, raising=False)
    for name, module in {"torchvision": ModuleType("torchvision"), "torchvision.ops": ModuleType("ops")}.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "torchvision.ops.boxes", boxes)
    name = "transformers.models.sam2.image_processing_sam2"
    monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module(name)
    sys.modules.pop(name, None)


def iou(a, b):
    shared = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union if union else 0.0


def slow_nms(boxes, scores, threshold):
    left = sorted(range(len(boxes)), key=lambda k: -float(scores[k]))
    kept = []
    while left:
        best = left.pop(0)
        kept.append(best)
        left = [k for k in left if iou(boxes[best].tolist(), boxes[k].tolist()) <= threshold]
    return torch.tensor(kept, dtype=torch.int64)


# Boxes


def test_masks_are_those_of_the_network_called_directly(sam2):
    """An image of the network's own size needs no resizing: nothing of ours lies between."""
    image, boxes = picture(128, 128), some_boxes(128, 128)
    pixels = ((torch.from_numpy(image).float() / 255 - MEAN) / STD).permute(2, 0, 1)[None]
    answer = sam2.network(pixel_values=pixels, input_boxes=boxes[None], multimask_output=False)
    expected = F.interpolate(answer.pred_masks[0], (128, 128), mode="bilinear", align_corners=False)[:, 0] > 0
    masks = sam2.masks_from_boxes(image, boxes)
    assert masks.dtype == torch.bool
    assert torch.equal(masks, expected)
    pairs = [(masks[i] ^ masks[j]).sum() for i in range(5) for j in range(i)]
    assert min(pairs) > 0  # a network that ignores the box would pass all of the above


def test_masks_and_boxes_of_an_image_that_is_not_square(sam2, library):
    """Both sides have a scale of their own, there and back."""
    height, width = 90, 160
    image, boxes = picture(height, width), some_boxes(height, width)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    pixels = F.interpolate(pixels, (128, 128), mode="bilinear", antialias=True)
    pixels = (pixels - MEAN[:, None, None]) / STD[:, None, None]
    scaled = boxes * torch.tensor([128 / 160, 128 / 90, 128 / 160, 128 / 90])
    answer = sam2.network(pixel_values=pixels, input_boxes=scaled[None], multimask_output=False)
    (expected,) = library.Sam2ImageProcessor.post_process_masks(None, [answer.pred_masks[0]], [(height, width)])
    assert torch.equal(sam2.masks_from_boxes(image, boxes), expected[:, 0])


@pytest.mark.parametrize("size", [(300, 200), (61, 90), (128, 400)])
def test_resizing_is_that_of_pillow(sam2, size):
    """Pillow's is the other implementation of antialiased bilinear resizing; it rounds to 8 bits."""
    image = picture(*size)
    ours = sam2._square(image, 128) * STD[:, None, None] + MEAN[:, None, None]
    pillow = np.asarray(Image.fromarray(image).resize((128, 128), Image.Resampling.BILINEAR))
    difference = 255 * ours.permute(1, 2, 0).numpy() - pillow
    assert abs(difference).max() < 1.01
    assert abs(difference).mean() < 0.3


def test_a_float_image_is_the_same_image(sam2):
    image, boxes = picture(70, 90), some_boxes(70, 90)
    as_batch = torch.from_numpy(image).permute(2, 0, 1).float() / 255
    expected = sam2.masks_from_boxes(image, boxes)
    assert torch.equal(sam2.masks_from_boxes(as_batch, boxes), expected)
    assert torch.equal(sam2.masks_from_boxes(torch.from_numpy(image), boxes), expected)


def test_the_answer_to_a_box_does_not_depend_on_the_others(folder, sam2):
    image, boxes = picture(100, 100), some_boxes(100, 100)
    one_by_one = Sam2(Sam2Config(str(folder), prompts_per_pass=1))
    together = sam2.masks_from_boxes(image, boxes)
    assert torch.equal(one_by_one.masks_from_boxes(image, boxes), together)
    assert torch.equal(sam2.masks_from_boxes(image, boxes.flip(0)), together.flip(0))


def test_images_of_several_sizes_are_embedded_together(sam2):
    images = [picture(100, 60, seed=1), picture(128, 128, seed=2), picture(40, 200, seed=3)]
    for image, embedded in zip(images, sam2.embed(images), strict=True):
        assert isinstance(embedded, EmbeddedImage)
        alone = sam2.embed([image])[0]
        assert embedded.size == alone.size == image.shape[:2]
        for ours, theirs in zip(embedded.maps, alone.maps, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert sam2.embed([]) == []


def test_no_box_needs_no_network():
    masks = Sam2(Sam2Config("/nowhere")).masks_from_boxes(picture(30, 40), torch.zeros(0, 4))
    assert masks.shape == (0, 30, 40)
    assert masks.dtype == torch.bool


def test_a_box_without_area_is_a_prompt_like_others(sam2):
    assert sam2.masks_from_boxes(picture(40, 40), torch.tensor([[10, 10, 10, 10]])).shape == (1, 40, 40)


@pytest.mark.parametrize("box", [[5, 5, 4, 9], [5, 5, 9, 4], [0, 0, float("nan"), 5], [0, 0, float("inf"), 5]])
def test_wrong_boxes_are_named(sam2, box):
    with pytest.raises(ValueError, match="x0 y0 x1 y1 with x0 <= x1 and y0 <= y1"):
        sam2.masks_from_boxes(picture(40, 40), torch.tensor([[1.0, 1, 3, 3], box]))


# Automatic masks


@pytest.mark.parametrize(("iou_thresh", "stability_thresh"), [(0.0, 0.0), (0.6, 0.0), (0.0, 0.963), (0.6, 0.963)])
def test_automatic_masks_are_those_of_the_library(sam2, library, iou_thresh, stability_thresh):
    """Its own grid, filters and code of runs, on a square image: for others its grid is that of SAM 1."""
    image = picture(128, 128)
    pixels = torch.from_numpy(image).permute(2, 0, 1)
    crops, points, _, labels = library._generate_crop_boxes(pixels, 128, points_per_crop=5)
    pixels = ((pixels.float() / 255 - MEAN[:, None, None]) / STD[:, None, None])[None]
    answer = sam2.network(pixel_values=pixels, input_points=points.transpose(1, 2).reshape(1, -1, 1, 2),
                          input_labels=labels.reshape(1, -1, 1))  # fmt: skip
    processor = library.Sam2ImageProcessor
    (logits,) = processor.post_process_masks(None, [answer.pred_masks[0]], [(128, 128)], binarize=False)
    runs, scores, boxes = processor.filter_masks(
        None, logits, answer.iou_scores[0], (128, 128), crops[0], iou_thresh, stability_thresh
    )
    masks, scores, *_ = library._post_process_for_mask_generation(runs, scores, boxes, 1.0)
    found = sam2.automatic_masks(
        image, points_per_side=5, pred_iou_thresh=iou_thresh, stability_score_thresh=stability_thresh,
        box_nms_thresh=1.0,
    )  # fmt: skip
    assert 3 < len(masks) <= (75 if iou_thresh == stability_thresh == 0 else 74)
    assert torch.equal(torch.stack(masks), found.masks)
    torch.testing.assert_close(found.predicted_iou, scores, rtol=0, atol=1e-6)
    assert found.predicted_iou.diff().max() <= 0


def discs(image_embeddings, input_points, **_):
    """In place of the network: for each point discs of three radii; small ones score best, the lower right least."""
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    points = input_points[0, :, 0] / 4  # logits have a quarter of the resolution
    distance = ((x - points[:, 0, None, None]) ** 2 + (y - points[:, 1, None, None]) ** 2).sqrt()[:, None]
    radii = torch.tensor([4.0, 8.0, 12.0])
    scores = 0.9 - 0.02 * radii - points.sum(1, keepdim=True) / 1000
    return SimpleNamespace(pred_masks=2 * (radii[:, None, None] - distance)[None], iou_scores=scores[None])


@pytest.mark.parametrize("nms", [0.1, 0.4, 0.7])
def test_overlapping_automatic_masks(sam2, library, monkeypatch, nms):
    """Discs on a grid of 16 x 16 pixels: their boxes overlap in many ways, with each other and across passes."""
    monkeypatch.setattr(sam2, "_decode", lambda image, **prompts: discs(image.maps, **prompts))
    monkeypatch.setattr(sam2, "config", Sam2Config(sam2.config.model, prompts_per_pass=7))
    found = sam2.automatic_masks(
        picture(128, 128), points_per_side=8, pred_iou_thresh=0.68, stability_score_thresh=0.5, box_nms_thresh=nms
    )
    points = sam2._scaled(_grid(8, (128, 128)), (128, 128))
    answer = discs(None, points[None, :, None])
    processor = library.Sam2ImageProcessor
    (logits,) = processor.post_process_masks(None, [answer.pred_masks[0]], [(128, 128)], binarize=False)
    runs, scores, boxes = processor.filter_masks(
        None, logits, answer.iou_scores[0], (128, 128), torch.tensor([0.0, 0, 128, 128]), 0.68, 0.5
    )
    masks, scores, *_ = library._post_process_for_mask_generation(runs, scores, boxes, nms)
    assert 10 < len(masks) < len(runs) - 10
    assert torch.equal(found.masks, torch.stack(masks))
    torch.testing.assert_close(found.predicted_iou, scores, rtol=0, atol=0)
    radius = (found.masks.flatten(1).sum(1) / torch.pi).sqrt() / 4  # of whole discs; at the edge they are cut
    inside = (boxes_of(found.masks)[:, :2].amin(1) > 0) & (boxes_of(found.masks)[:, 2:].amax(1) < 127)
    expected = ((radius - 0.5) / (radius + 0.5)) ** 2  # cut at logits 1 and -1, half a cell inside and outside
    torch.testing.assert_close(found.stability[inside], expected[inside], rtol=0, atol=0.02)


def test_the_filters_of_automatic_masks(sam2):
    def find(**thresholds):
        loose = {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "box_nms_thresh": 1.0}
        return sam2.automatic_masks(picture(96, 128), points_per_side=4, **loose | thresholds)

    everything = find()
    assert len(everything.masks) == 3 * 4 * 4
    assert everything.masks.flatten(1).any(1).all()
    better = everything.predicted_iou > 0.6
    assert 0 < better.sum() < 48
    torch.testing.assert_close(find(pred_iou_thresh=0.6).predicted_iou, everything.predicted_iou[better])
    stable = everything.stability >= 0.95
    assert 0 < stable.sum() < 48
    torch.testing.assert_close(find(stability_score_thresh=0.95).stability, everything.stability[stable])
    assert len(find(pred_iou_thresh=1.0).masks) == 0  # a sigmoid stays below


def test_the_grid_covers_an_image_that_is_not_square(sam2, monkeypatch):
    asked = []
    monkeypatch.setattr(sam2, "_scaled", lambda points, size: asked.append((points, size)) or points)
    sam2.automatic_masks(picture(40, 80), points_per_side=2)
    ((points, size),) = asked
    assert size == (40, 80)
    assert points.tolist() == [[20, 10], [60, 10], [20, 30], [60, 30]]
    monkeypatch.undo()
    assert sam2._scaled(points, size).tolist() == [[32, 32], [96, 32], [32, 96], [96, 96]]


# Boxes of masks, and non-maximum suppression


def test_boxes_of_masks():
    masks = torch.zeros(4, 6, 8, dtype=torch.bool)
    masks[0, 2:4, 3:7] = True
    masks[1, 5, 7] = True
    masks[2, 0, 0] = masks[2, 5, 2] = True
    assert boxes_of(masks).tolist() == [[3, 2, 6, 3], [7, 5, 7, 5], [0, 0, 2, 5], [0, 0, 0, 0]]
    assert boxes_of(masks[:0]).shape == (0, 4)


def test_nms_by_hand():
    """IoU of neighbours: 50 / 150 = 1/3; the second is suppressed by the first and so does not suppress the third."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10], [100, 0, 110, 10]])
    scores = torch.tensor([0.7, 0.6, 0.5, 0.9])
    assert box_nms(boxes, scores, 0.3).tolist() == [3, 0, 2]
    assert box_nms(boxes, scores, 0.34).tolist() == [3, 0, 1, 2]
    assert box_nms(boxes, torch.tensor([0.6, 0.7, 0.5, 0.9]), 0.3).tolist() == [3, 1]
    same = boxes[:1].repeat(3, 1)
    assert box_nms(same, torch.ones(3), 0.5).tolist() == [0]  # of equals the first
    assert box_nms(same, torch.ones(3), 1.0).tolist() == [0, 1, 2]
    flat = torch.tensor([[3.0, 3, 3, 9]]).repeat(2, 1)
    assert box_nms(flat, torch.ones(2), 0.5).tolist() == [0, 1]  # without area nothing overlaps
    assert box_nms(boxes[:0], scores[:0], 0.5).tolist() == []


@pytest.mark.parametrize("seed", range(10))
def test_nms_against_brute_force(seed):
    boxes = some_boxes(20, 20, count=40, seed=seed).round()
    scores = torch.rand(40, generator=torch.Generator().manual_seed(seed))
    kept = box_nms(boxes, scores, 0.35)
    assert kept.tolist() == slow_nms(boxes, scores, 0.35).tolist()
    assert 1 < len(kept) < 40


# Loading


def test_a_folder_of_the_video_model_fits(folder, sam2, tmp_path, capfd):
    """The hub's folders are of this kind; `transformers` warns about them."""
    video = Sam2(Sam2Config(str(save_tiny_sam2(tmp_path / "video", video=True))))
    capfd.readouterr()
    image, boxes = picture(80, 90), some_boxes(80, 90)
    assert torch.equal(video.masks_from_boxes(image, boxes), sam2.masks_from_boxes(image, boxes))
    assert capfd.readouterr() == ("", "")


def test_the_network_is_frozen_and_loaded_without_a_trace(folder):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    network = Sam2(Sam2Config(str(folder))).network
    assert torch.equal(torch.rand(3), expected)
    assert not network.training
    assert not any(weights.requires_grad for weights in network.parameters())
    assert {weights.dtype for weights in network.parameters()} == {torch.float32}


def test_hashes_are_those_of_the_files(folder, sam2):
    import hashlib

    expected = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in sorted(sam2.file_hashes())}
    assert set(expected) == {"config.json", "model.safetensors"}
    assert sam2.file_hashes() == expected


def test_what_is_no_sam2_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = save_tiny_sam2(tmp_path / "tiny")

    def refused(match):
        with pytest.raises(UserError, match=match):
            Sam2(Sam2Config(str(folder))).embed([picture(20, 20)])

    change_config(folder, model_type="vit")
    refused("is a network of the kind 'vit'; choose a SAM 2 such as facebook/sam2.1-hiera-large")
    (folder / "config.json").write_text("{")
    refused("config.json is damaged")
    save_tiny_sam2(folder)
    weights = load_file(folder / "model.safetensors")
    del weights["mask_decoder.iou_token.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    refused("is not a whole SAM 2: 1 tensors are missing, such as mask_decoder.iou_token.weight")
    (folder / "model.safetensors").write_bytes(b"nonsense")
    refused("cannot be read")
    (folder / "model.safetensors").unlink()
    refused("is not a complete Hugging Face model")
    with pytest.raises(UserError, match="There is no folder"):
        Sam2(Sam2Config("/nowhere")).embed([picture(20, 20)])


def test_wrong_arguments_are_named(sam2):
    with pytest.raises(ValueError, match="prompts_per_pass is 0"):
        Sam2Config(prompts_per_pass=0)
    with pytest.raises(ValueError, match="points_per_side is 0"):
        sam2.automatic_masks(picture(20, 20), points_per_side=0)
