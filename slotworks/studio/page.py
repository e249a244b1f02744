"""The page of the studio, made with `gradio`. What the buttons do stands in `desk.py`, what is shown in `views.py`."""

import re
from collections.abc import Callable
from functools import wraps
from typing import Any

from slotworks.editing import Scene
from slotworks.errors import needs_extra
from slotworks.studio import desk as desks
from slotworks.studio.desk import Desk, Side
from slotworks.studio.views import SHOWN, Studio, segments, shown_size, tiles
from slotworks.types import UserError

HELP = """A slot is an object. **1.** Open a picture on the left. **2.** Click an object in it. **3.** *Take out* draws
the picture without it, *Bring in* adds the object clicked in the second picture, *Exchange* puts that in the place of
the one on the left. Both renderings start from the same noise: they differ by your edits alone."""

SIDES: tuple[tuple[Side, str], ...] = (("picture", "Picture"), ("other", "Second picture"))

EDITS: dict[str, Callable[[Desk], Desk]] = {
    "Take out": desks.remove,
    "Bring in": desks.bring,
    "Exchange": desks.exchange,
    "Undo": desks.undo,
    "Start over": lambda desk: desks.open_picture(desk.picture, desk.other),
    "Render again": lambda desk: desk,
}


def build_page(studio: Studio) -> Any:
    """The page as `gradio.Blocks`. `slotworks.studio.Server` serves it to those alone who know a token.

    Raises:
        UserError: if `gradio` is not installed.
    """
    with needs_extra("studio"):
        import gradio as gr
        from gradio.utils import get_upload_folder

    def told(work: Callable) -> Callable:
        """A user's mistake as a note on the page, which stays as it is."""

        @wraps(work)
        def run(*args: Any) -> Any:
            try:
                return work(*args)
            except UserError as error:
                gr.Warning(without_folders(str(error), get_upload_folder()))
                return gr.skip()

        return run

    def both(desk: Desk) -> list[Any]:
        """The pictures with their segments."""
        right = None if desk.other is None else segments(desk.other, desk.chosen.get("other", ()))
        return [segments(desk.picture, desk.chosen.get("picture", ())), right]

    def rendered(desk: Desk, given: tuple[Any, ...]) -> list[Any]:
        """The desk, and the pictures that come of it."""
        recon, edited = studio.rendered(desk, **dict(zip(settings, given, strict=True)))
        return [desk, recon, edited, tiles(desk), desks.in_words(desk)]

    def opener(side: Side, read: Callable[[Any, int, float | None], Scene]) -> Callable:
        def work(source: Any, seed: int, merge: float | None, desk: Desk | None, *given: Any) -> list[Any]:
            if side == "picture":
                desk = desks.open_picture(read(source, int(seed), merge), None if desk is None else desk.other)
            else:
                desk = desks.open_other(_there(desk), read(source, int(seed), merge))
            return [*both(desk), *rendered(desk, given)]

        return told(work)

    def chooser(side: Side) -> Callable:
        def work(desk: Desk | None, event: gr.SelectData) -> list[Any]:
            desk = _there(desk)
            x, y = event.index
            desk = desks.choose(desk, side, int(x), int(y), shown_size(desk.scene(side)))
            return [desk, *both(desk)]

        return told(work)

    def editor(change: Callable[[Desk], Desk]) -> Callable:
        def work(desk: Desk | None, *given: Any) -> list[Any]:
            desk = change(_there(desk))
            return [*both(desk), *rendered(desk, given)]

        return told(work)

    title = f"slotworks: {type(studio.method).__name__}"
    picture = {"interactive": False, "type": "pil", "format": "png", "buttons": ["download", "fullscreen"]}
    tall = {**picture, "height": SHOWN + 40}
    with gr.Blocks(title=title, analytics_enabled=False) as page:
        desk = gr.State(None)
        gr.Markdown(f"# {title}\n\n{HELP}")
        shown, sources = {}, []
        with gr.Row():
            for side, name in SIDES:
                with gr.Column(min_width=260):
                    shown[side] = gr.Image(label=f"{name}: click an object", **tall)
                    with gr.Row():
                        upload = gr.UploadButton(f"{name} from a file", file_types=["image"], size="sm", min_width=90)
                        number = gr.Number(int(side == "other"), precision=0, minimum=0, label="number", min_width=70)
                        button = gr.Button(
                            f"{name} from the test data",
                            size="sm",
                            interactive=studio.dataset is not None,
                            min_width=90,
                        )
                    sources.append((upload.upload, upload, opener(side, studio.from_file)))
                    sources.append((button.click, number, opener(side, studio.from_data)))
        with gr.Row():
            buttons = {
                name: gr.Button(name, variant="primary" if name == "Take out" else "secondary", min_width=90)
                for name in EDITS
            }
        with gr.Row():
            recon = gr.Image(label="Rendered from all slots", **tall)
            result = gr.Image(label="Edited", **tall)
        words = gr.Markdown()
        strip = gr.Image(label="Slots of the edited picture", **picture, height=190)
        with gr.Accordion("Settings", open=False), gr.Row():
            slot_seed = gr.Number(0, precision=0, label="seed of the slots, when a picture is opened")
            merge = gr.Number(
                None, minimum=-1, maximum=1, step=0.01, label="join slots whose cosine is above this; empty: none"
            )
            settings = {}
            if studio.renderer == "sample":
                settings["noise_seed"] = gr.Number(0, precision=0, label="seed of the noise")
            if studio.steps is not None:
                settings["steps"] = gr.Number(studio.steps, precision=0, minimum=1, label="steps of the sampler")
            if studio.cfg_scale is not None:
                settings["cfg_scale"] = gr.Number(studio.cfg_scale, label="guidance")

        pictures = [shown["picture"], shown["other"]]
        outputs, given = [*pictures, desk, recon, result, strip, words], list(settings.values())
        for event, source, work in sources:
            event(work, [source, slot_seed, merge, desk, *given], outputs)
        for side, _ in SIDES:
            shown[side].select(chooser(side), [desk], [desk, *pictures])
        for name, change in EDITS.items():
            buttons[name].click(editor(change), [desk, *given], outputs)
    return page


def without_folders(text: str, uploads: str) -> str:
    """A message without the folder that an upload was kept in: `cat.png` is what the person knows.

    >>> without_folders("/a/files/0aff/my cat.png cannot be read as a picture.", "/a/files")
    'my cat.png cannot be read as a picture.'
    """
    return re.sub(rf"{re.escape(uploads.rstrip('/'))}/(?:[0-9a-f]+/)?", "", text)


def _there(desk: Desk | None) -> Desk:
    if desk is None:
        raise UserError("There is no picture yet; open one on the left first.")
    return desk
