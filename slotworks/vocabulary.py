"""The class names of VOC and COCO, which data sets, captions and text encoders share."""

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""VOC's own names in the order of their ids, from 1."""

COCO_CLASSES = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light"),
    *("fire hydrant", "", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow"),
    *("elephant", "bear", "zebra", "giraffe", "", "backpack", "umbrella", "", "", "handbag", "tie", "suitcase"),
    *("frisbee", "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard"),
    *("surfboard", "tennis racket", "bottle", "", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana"),
    *("apple", "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch"),
    *("potted plant", "bed", "", "dining table", "", "", "toilet", "", "tv", "laptop", "mouse", "remote", "keyboard"),
    *("cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "", "book", "clock", "vase", "scissors"),
    *("teddy bear", "hair drier", "toothbrush"),
)
"""COCO's own names in the order of their ids, from 1 to 90; an empty name is an id that no class has."""

WORDS = {
    "diningtable": "dining table",
    "pottedplant": "potted plant",
    "tvmonitor": "television monitor",
    "tv": "television",
    "mouse": "computer mouse",
    "remote": "remote control",
}
"""Class names that a text encoder would not understand as they are written in the data sets."""


def as_words(class_names: tuple[str, ...]) -> tuple[str, ...]:
    """Names of a data set as words that a text encoder knows."""
    return tuple(WORDS.get(name, name) for name in class_names)


SURROUNDINGS = (
    *("sky", "cloud", "ground", "grass", "field", "forest", "mountain", "snow", "sand", "sea", "river", "road"),
    *("pavement", "wall", "floor", "ceiling", "window", "door", "curtain", "carpet", "building", "fence", "bridge"),
    *("railway", "shelf"),
)
"""What is around objects: the names that count as background where a method knows classes by their names alone."""
