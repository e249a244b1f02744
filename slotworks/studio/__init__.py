"""The studio, a web editor: objects in a picture are clicked, taken out, brought in from another, exchanged."""

from slotworks.studio.page import build_page
from slotworks.studio.server import Server
from slotworks.studio.views import Studio, example_run

__all__ = ["Server", "Studio", "build_page", "example_run"]
