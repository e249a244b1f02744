"""Pictures of simple objects, drawn on the fly with exact masks, boxes, properties and captions."""

from slotworks.data.scenes.captioned import CaptionedScenes
from slotworks.data.scenes.multi_dsprites import SpriteScenes
from slotworks.data.scenes.sets import SetScenes
from slotworks.data.scenes.shapes import ShapeScenes
from slotworks.data.scenes.tetrominoes import TetrominoScenes
from slotworks.data.scenes.videos import VideoScenes

__all__ = ["CaptionedScenes", "SetScenes", "ShapeScenes", "SpriteScenes", "TetrominoScenes", "VideoScenes"]
