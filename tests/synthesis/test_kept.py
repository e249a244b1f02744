"""What a reading of captions keeps of the classes that are in the pictures."""

import json
import math

import pytest

from slotworks.cli import main
from slotworks.configs.synthesis import find_synthesis
from slotworks.synthesis.kept import kept, read_labelled_captions
from slotworks.synthesis.nouns import SYNONYMS, NounMatcher
from slotworks.types import UserError
from slotworks.vocabulary import COCO_CLASSES

CAPTIONS = [
    ("a man walking a dog on a beach", ("person", "dog")),
    ("two women on a park bench", ("person", "bench")),
    ("a boy kicking a soccer ball", ("person", "sports ball")),
    ("a girl feeds a horse", ("person", "horse")),
    ("people waiting for a bus", ("person", "bus")),
    ("a child and a kitten on a sofa", ("person", "cat", "sofa")),
    ("a skier going down a slope", ("person", "skis")),
    ("a surfer riding a wave on a surfboard", ("person", "surfboard")),
    ("a cyclist with a red bike", ("person", "bicycle")),
    ("a person holding an umbrella", ("person", "umbrella")),
    ("an old television in an empty room", ("tvmonitor",)),
    ("a plane above the clouds", ("aeroplane",)),
    ("a motorbike in front of a garage", ("motorbike",)),
    ("a zebra and a giraffe at a water hole", ("zebra", "giraffe")),
    ("a bowl of soup next to a spoon", ("bowl", "spoon")),
    ("a bedroom with a bed and a clock on the wall", ("bed", "clock")),
    ("a herd of cattle behind a fence", ("cow",)),
    ("a plate of food", ("fork", "carrot")),
    ("an airplane on a runway", ("airplane", "truck")),
    ("a teddy bear in a suitcase", ("teddy bear", "suitcase")),
]


def test_names_alone_lose_the_persons():
    alone = kept(CAPTIONS, NounMatcher(COCO_CLASSES))
    assert (alone.pictures, alone.named, alone.classes, alone.found, alone.extra) == (20, 11, 37, 16, 0)
    assert alone.by_class["person"] == (1, 10)
    assert next(iter(alone.by_class)) == "person"
    many = kept(CAPTIONS, NounMatcher(COCO_CLASSES, synonyms=SYNONYMS))
    assert (many.named, many.found, many.extra) == (19, 32, 0)
    assert many.by_class["person"] == (10, 10)
    assert many.by_class["couch"] == (1, 1)  # VOC's sofa, as captions and COCO's names write it
    assert many.shares == {"pictures": 19 / 20, "classes": 32 / 37, "right": 1.0}


def test_what_is_named_and_not_there_counts_apart():
    one = kept([("a cat and a dog", ("cat",)), ("a dog", ())], NounMatcher(COCO_CLASSES))
    assert (one.pictures, one.found, one.extra, one.shares["right"]) == (1, 1, 1, 0.5)  # no classes: nothing is known
    assert all(math.isnan(share) for share in kept([], NounMatcher(COCO_CLASSES)).shares.values())


def test_the_recipes_have_both_readings_and_the_better_one_is_the_default():
    for name in ("glass.coco", "glass.voc"):
        more, alone = find_synthesis(name)().source, find_synthesis(f"{name}_names")().source
        assert (more.synonyms, alone.synonyms) == (True, False)
        assert more.class_names == alone.class_names == COCO_CLASSES
        assert more.tagger == "nltk"


def test_the_command_measures_a_file(tmp_path, capsys):
    file = tmp_path / "captions.jsonl"
    file.write_text("".join(json.dumps({"caption": text, "classes": names}) + "\n" for text, names in CAPTIONS))
    command = ["synthesize", "glass.voc", "--measure", str(file), "--source.tagger", "dictionary"]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["class names alone"]["by_class"]["person"] == [1, 10]
    assert found["with synonyms"]["shares"]["pictures"] == 0.95
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "pictures 55.0, classes 43.2, right 100.0" in shown
    assert "person           1 of 10, 10" in shown
    assert main([*command, "--out", "x"]) == 2
    assert "--measure generates nothing" in capsys.readouterr().err
    assert main(["synthesize", "glass.voc_labels", "--measure", str(file)]) == 2
    assert "This recipe reads no captions" in capsys.readouterr().err


def test_captions_of_coco_lie_beside_its_objects(tmp_path):
    annotations = [
        {"image_id": 1, "category_id": 1},
        {"image_id": 1, "category_id": 1},
        {"image_id": 1, "category_id": 2, "iscrowd": 1},
        {"image_id": 2, "category_id": 2},
    ]
    names = [{"id": 1, "name": "person"}, {"id": 2, "name": "kite"}]
    (tmp_path / "instances_val2017.json").write_text(json.dumps({"categories": names, "annotations": annotations}))
    rows = [{"image_id": number, "caption": f"a kite {number}"} for number in (1, 2, 3)]
    (tmp_path / "captions_val2017.json").write_text(json.dumps({"annotations": rows}))
    read = read_labelled_captions(tmp_path / "captions_val2017.json")
    assert read == [("a kite 1", ["person"]), ("a kite 2", ["kite"]), ("a kite 3", [])]


@pytest.mark.parametrize("text", ["a cat", '{"caption": 1, "classes": []}', '{"caption": "x"}', "[1]"])
def test_other_files_are_refused(tmp_path, text):
    (tmp_path / "captions.jsonl").write_text(text)
    with pytest.raises(UserError, match=r"captions\.jsonl cannot be read"):
        read_labelled_captions(tmp_path / "captions.jsonl")
    with pytest.raises(UserError, match="cannot be read"):
        read_labelled_captions(tmp_path / "captions_val2017.json")
