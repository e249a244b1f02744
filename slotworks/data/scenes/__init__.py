"""Pictures of simple objects, drawn on the fly with exact masks, boxes, properties and captions."""

from slotworks.data.scenes.multi_dsprites import SpriteScenes
from slotworks.data.scenes.shapes import ShapeScenes
from slotworks.data.scenes.tetrominoes import TetrominoScenes

__all__ = ["ShapeScenes", "SpriteScenes", "TetrominoScenes"]
