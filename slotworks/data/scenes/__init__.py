"""Pictures that are made on the fly with exact masks, boxes, properties and captions: simple objects, collages."""

from slotworks.data.scenes.captioned import CaptionedScenes
from slotworks.data.scenes.collages import CollageScenes
from slotworks.data.scenes.multi_dsprites import SpriteScenes
from slotworks.data.scenes.painted import PaintedScenes
from slotworks.data.scenes.painted_videos import PaintedVideos
from slotworks.data.scenes.sets import SetScenes
from slotworks.data.scenes.shapes import ShapeScenes
from slotworks.data.scenes.tetrominoes import TetrominoScenes
from slotworks.data.scenes.videos import VideoScenes

__all__ = [
    "CaptionedScenes",
    "CollageScenes",
    "PaintedScenes",
    "PaintedVideos",
    "SetScenes",
    "ShapeScenes",
    "SpriteScenes",
    "TetrominoScenes",
    "VideoScenes",
]
