"""Slots taken out, brought in and exchanged, and the pictures that come of it."""

from slotworks.editing.pictures import edit_picture
from slotworks.editing.render import Edit, Scene, object_at, render_edit, render_slots, slot_at, take_apart
from slotworks.editing.slots import add, move, remove, swap
from slotworks.editing.videos import edit_file, edit_video

__all__ = [
    "Edit",
    "Scene",
    "add",
    "edit_file",
    "edit_picture",
    "edit_video",
    "move",
    "object_at",
    "remove",
    "render_edit",
    "render_slots",
    "slot_at",
    "swap",
    "take_apart",
]
