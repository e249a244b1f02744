import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from slotworks.configs.synthesis import find_synthesis
from slotworks.data import COCO
from slotworks.data.readers.coco import Annotated
from slotworks.data.readers.voc import color_map
from slotworks.data.scenes import PaintedScenes, ShapeScenes, SpriteScenes
from slotworks.synthesis import (
    CaptionedImages,
    ClassPrompts,
    LabelPrompts,
    SceneCaptions,
    TemplatePrompts,
    WrittenCaptions,
    sources,
)
from slotworks.synthesis.captions import CaptionerConfig
from slotworks.synthesis.prompts import Prompt
from slotworks.types import DataConfig, UserError

CPU = torch.device("cpu")
SCENES = ShapeScenes(num_train=200)


@dataclass(frozen=True)
class Labelled(DataConfig):
    """Five images with known classes of three."""

    class_names: tuple[str, ...] = ("cat", "pottedplant", "dog")

    @property
    def name(self):
        return "labelled"

    def open(self, split="train"):
        return self

    def __len__(self):
        return 5

    def __getitems__(self, indices):
        masks = np.array([[[0, 3], [3, 1]], [[1, 1], [1, 0]], [[0, 0], [0, 0]], [[1, 1], [3, 1]], [[2, 3], [0, 1]]])
        return {"image": np.zeros((len(indices), 4, 4, 3), np.uint8), "class_mask": masks[list(indices)]}


def test_drawn_scenes_caption_themselves(tmp_path):
    source = SceneCaptions(SCENES).open(tmp_path, CPU)
    assert len(source) == 200
    dataset = SCENES.open("train")
    for prompt in source.prompts(range(50)):
        assert isinstance(prompt, Prompt)
        assert prompt.caption == dataset.caption(prompt.index)
        ids = dataset[prompt.index]["classes"]
        assert set(prompt.classes) == {source.class_names[k - 1] for k in ids if k}


def test_painted_scenes_say_places(tmp_path):
    scenes = PaintedScenes(num_train=20)
    source = SceneCaptions(scenes, places=True).open(tmp_path, CPU)
    raw = scenes.open("train").__getitems__(range(20))
    for prompt in source.prompts(range(20)):
        assert isinstance(prompt, Prompt)
        said = re.findall(r" at (\d+) (\d+)", prompt.caption)
        true = np.stack([raw["x"][prompt.index], raw["y"][prompt.index]], 1)[: raw["num_objects"][prompt.index]]
        np.testing.assert_allclose(np.array(said, float), 100 * true, atol=0.51)
    with pytest.raises(UserError, match="shape_scenes_plain say none in their captions"):
        SceneCaptions(SCENES, places=True).open(tmp_path, CPU)


def test_labels_become_prompts(tmp_path):
    source = LabelPrompts(Labelled()).open(tmp_path, CPU)
    prompts = list(source.prompts(range(5)))
    assert prompts[0] == Prompt(0, "a photo of cat dog", ("cat", "dog"))
    assert prompts[4] == Prompt(4, "a photo of cat potted plant dog", ("cat", "pottedplant", "dog"))
    assert prompts[2] == "no class is named in 'a photo of '"
    with pytest.raises(UserError, match="sprite_scenes_colored_on_grayscale does not name classes"):
        LabelPrompts(SpriteScenes()).open(tmp_path, CPU)


def test_templates_follow_the_statistics(tmp_path):
    source = TemplatePrompts(Labelled(), num_prompts=4_000).open(tmp_path, CPU)
    prompts = list(source.prompts(range(4_000)))
    assert all(isinstance(prompt, Prompt) for prompt in prompts)
    counts = np.bincount([len(prompt.classes) for prompt in prompts]) / 4_000
    assert np.abs(counts - [0, 0.25, 0.5, 0.25]).max() < 0.03  # of the four images with a class
    alone = [prompt.classes[0] for prompt in prompts if len(prompt.classes) == 1]
    shares = np.array([alone.count(name) for name in source.class_names]) / len(alone)
    assert np.abs(shares - [4 / 8, 1 / 8, 3 / 8]).max() < 0.06  # cat is in 4 images, pottedplant in 1, dog in 3
    longest = next(prompt for prompt in prompts if len(prompt.classes) == 3)
    assert longest.caption.startswith("A high-quality image of ")
    assert sorted(longest.caption.removeprefix("A high-quality image of ").split(", ")) == [
        "cat",
        "dog",
        "potted plant",
    ]
    assert list(source.prompts([17, 3])) == [prompts[17], prompts[3]]
    again = list(replace(source.config, seed=1).open(tmp_path, CPU).prompts(range(20)))
    assert again != prompts[:20]


def test_a_file_of_captions(tmp_path):
    (tmp_path / "captions.txt").write_text("a cat\nnothing\ntwo dogs\n")
    source = WrittenCaptions(str(tmp_path / "captions.txt")).open(tmp_path, CPU)
    assert [getattr(prompt, "classes", prompt) for prompt in source.prompts(range(3))] == [
        *(("cat",), "no class is named in 'nothing'", ("dog",)),
    ]
    with pytest.raises(UserError, match="cannot be read as a text file"):
        WrittenCaptions("missing.txt").open(tmp_path, CPU)


def test_published_captions_are_read_from_their_file(tmp_path):
    """ShareGPT-4V's: records of an image and a conversation, of several data sets in one file."""

    def record(image, answer):
        turns = [{"from": "human", "value": "<image>\nWhat is this?"}, {"from": "gpt", "value": answer}]
        return {"id": "1", "image": image, "conversations": turns}

    records = [
        record("sam/images/sa_1.jpg", "A dog."),
        record("coco/train2017/000000000009.jpg", "In the image, a man\n\nrides a horse."),
        record("coco/train2017/000000000025.jpg", "A giraffe."),
    ]
    file = tmp_path / "captions.json"
    file.write_text(json.dumps(records))
    source = replace(find_synthesis("glass.coco_sharegpt")().source, file=str(file), tagger="dictionary")
    prompts = list(source.open(tmp_path, CPU).prompts(range(2)))
    assert prompts == [
        Prompt(0, "In the image, a man rides a horse.", ("person", "horse")),
        Prompt(1, "A giraffe.", ("giraffe",)),
    ]
    assert len(replace(source, images="").open(tmp_path, CPU)) == 3
    with pytest.raises(UserError, match="None of 3 images"):
        replace(source, images="flickr").open(tmp_path, CPU)
    file.write_text('["a cat", {"caption": "a dog"}]')
    assert sources.read_texts(file) == ["a cat", "a dog"]
    for text in ("{", "{}", "[1]", '[{"conversations": []}]', '[{"conversations": [{"from": "gpt", "value": 1}]}]'):
        file.write_text(text)
        with pytest.raises(UserError, match="has another form"):
            sources.read_texts(file)


@pytest.fixture
def captioner(monkeypatch):
    """Says how many pictures came at once, and which: no network."""
    calls = []

    class Fake:
        def __init__(self, config, device):
            calls.append("loaded")

        def __call__(self, images):
            calls.append(len(images))
            return [f"a cat, {len(images)} at once" for _ in images]

    monkeypatch.setattr(sources, "Captioner", Fake)
    return calls


def test_captions_are_made_once_and_in_whole_batches(tmp_path, captioner):
    config = CaptionedImages(Labelled(), CaptionerConfig(batch_size=2))
    first = list(config.open(tmp_path, CPU).prompts(range(5)))
    assert captioner == ["loaded", 2, 2, 1]
    assert first[0] == Prompt(0, "a cat, 2 at once", ("cat",))
    assert list(config.open(tmp_path, CPU).prompts(range(5))) == first
    assert captioner == ["loaded", 2, 2, 1]

    (file,) = (tmp_path / "captions").iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-70])  # killed while it wrote: line 3 is torn, line 4 missing
    assert list(config.open(tmp_path, CPU).prompts(range(5))) == first
    assert file.read_bytes() == whole
    assert captioner == ["loaded", 2, 2, 1, "loaded", 2, 1]


@pytest.mark.parametrize(("synonyms", "classes"), [(True, ("person", "horse")), (False, ("horse",))])
def test_a_man_is_a_person_or_background(tmp_path, monkeypatch, synonyms, classes):
    """Captions of a model and of a file are read alike."""
    caption = "a man riding a horse"
    monkeypatch.setattr(sources, "Captioner", lambda config, device: lambda images: [caption] * len(images))
    (tmp_path / "captions.txt").write_text(caption + "\n")
    for config in (CaptionedImages(Labelled()), WrittenCaptions(str(tmp_path / "captions.txt"))):
        (prompt,) = replace(config, synonyms=synonyms).open(tmp_path, CPU).prompts([0])
        assert prompt == Prompt(0, caption, classes)
    assert CaptionedImages(Labelled()).synonyms == WrittenCaptions("").synonyms is True


def test_a_damaged_picture_is_left_out_and_remembered(tmp_path, captioner, monkeypatch):
    def picture(index):
        if index == 1:
            raise UserError("b.jpg cannot be read as a picture.")
        return index

    monkeypatch.setattr(sources, "_pictures", lambda data, split: (3, picture))
    config = CaptionedImages(Labelled(), CaptionerConfig(batch_size=4))
    prompts = list(config.open(tmp_path, CPU).prompts(range(3)))
    assert [prompt if isinstance(prompt, str) else prompt.index for prompt in prompts] == [
        *(0, "b.jpg cannot be read as a picture.", 2),
    ]
    (file,) = (tmp_path / "captions").iterdir()
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["index"] for line in lines] == [0, 1, 2]
    assert list(config.open(tmp_path, CPU).prompts(range(3))) == prompts
    assert captioner == ["loaded", 2]


@pytest.mark.parametrize(
    "line",
    [
        "hello",
        '{"index": 1e400, "caption": "x"}',
        '{"index": "1", "caption": "x"}',
        '{"index": 1, "caption": 2}',
        '{"index": 1}',
        "[1]",
        "[" * 100_000,
    ],
)
def test_damaged_captions_are_named(tmp_path, line):
    (tmp_path / "rank-0.jsonl").write_text(f'{{"index": 0, "caption": "x"}}\n{line}\n')
    with pytest.raises(UserError, match=r"rank-0\.jsonl is damaged in line 2"):
        sources.read_captions(tmp_path)


def test_classes_are_those_of_the_whole_picture(tmp_path):
    """A person at the left edge of 500 x 375 pixels, which the middle square does not show."""
    year = tmp_path / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "SegmentationObject", "ImageSets/Segmentation"):
        (year / folder).mkdir(parents=True)
    classes = np.zeros((375, 500), np.uint8)
    classes[:, :40], classes[100:200, 200:300], classes[:, 40:42] = 15, 8, 255
    for folder in ("SegmentationClass", "SegmentationObject"):
        picture = Image.fromarray(classes)
        picture.putpalette(color_map().tobytes())
        picture.save(year / folder / "2099_000001.png")
    Image.new("RGB", (500, 375)).save(year / "JPEGImages" / "2099_000001.jpg")
    (year / "ImageSets" / "Segmentation" / "train.txt").write_text("2099_000001\n")
    (year / "ImageSets" / "Segmentation" / "val.txt").write_text("2099_000002\n")
    config = find_synthesis("glass.voc_labels")()
    data = replace(config.source.data, root=str(tmp_path))
    (prompt,) = replace(config.source, data=data).open(tmp_path, CPU).prompts([0])
    assert prompt == Prompt(0, "a photo of cat person", ("cat", "person"))
    seen = np.unique(data.labels("trainaug", "2099_000001", (500, 375))["class_mask"])
    assert 15 not in seen  # which is why a crop cannot say


def test_classes_of_coco_stand_in_the_order_of_its_annotations():
    """Each once; a crowd is no object."""
    found = ({"category_id": 18}, {"category_id": 3, "iscrowd": 1}, {"category_id": 1}, {"category_id": 18})
    assert COCO().classes_in("train2017", Annotated(Path("a.jpg"), (640, 480), found)) == [18, 1]


def test_photographs_are_read_from_their_files(tmp_path):
    root = Path(__file__).parents[1] / "fixtures" / "coco"
    count, picture = sources._pictures(COCO(root=str(root)), "val")
    data = COCO(root=str(root), train_masks=True)
    entries = data.entries("val2017")[0]
    assert count == len(entries)
    assert picture(0).size == entries[0].size
    source = LabelPrompts(data, split="val").open(tmp_path, CPU)
    wanted = [a["category_id"] for a in entries[0].annotations if not a.get("iscrowd")]
    first = next(iter(source.prompts([0])))
    names = [source.class_names[k - 1] for k in dict.fromkeys(wanted)]
    assert first.classes == tuple(names) if names else first.startswith("no class")


def test_prompts_of_each_class_in_turn(tmp_path):
    """Two captions, three prompts of each class: the class is in the prompt's words, VOC's names as captions write."""
    source = ClassPrompts(("cat", "", "tvmonitor"), 3, ("a {class}", "one {class} here")).open(tmp_path, CPU)
    assert len(source) == 6
    found = [(prompt.index, prompt.caption, prompt.classes) for prompt in source.prompts([0, 1, 2, 3, 4])]
    assert found == [
        (0, "a cat", ("cat",)),
        (1, "one cat here", ("cat",)),
        (2, "a cat", ("cat",)),
        (3, "a tv", ("tvmonitor",)),
        (4, "one tv here", ("tvmonitor",)),
    ]
    with pytest.raises(UserError, match="0 class names"):
        ClassPrompts(()).open(tmp_path, CPU)
    with pytest.raises(ValueError, match="per_class is 0"):
        ClassPrompts(per_class=0)
    with pytest.raises(ValueError, match=r"\{class\} where the name goes"):
        ClassPrompts(captions=("a cat",))
