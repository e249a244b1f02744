"""The page of the studio, made with `gradio`. What the buttons do stands in `desk.py`, what is shown in `views.py`."""

import re
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Sequence
from functools import wraps
from html import escape
from pathlib import Path
from typing import Any

from slotworks.editing import Scene
from slotworks.errors import needs_extra
from slotworks.studio import desk as desks
from slotworks.studio.desk import Desk, Side
from slotworks.studio.views import SHOWN, Studio, mask_of, matches, segments, shown_size, similarity, tiles
from slotworks.types import UserError

HELP = """A slot is an object, and a number. Click one in the picture; *Take out* draws the picture without it, *Bring
in* adds the one clicked in the second picture, *Exchange* puts that in its place. Both renderings start from the same
noise."""
COMPARE = """A slot is an object, and a number. This method draws no pictures; its slots can be compared: click one in
the picture, and the one that goes with it lights up in the second."""
KEYS = """<script>
document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select")) return;
  const buttons = [...document.querySelectorAll(".key-" + event.key.toLowerCase())];
  const button = /^[a-z]$/i.test(event.key) && buttons.find(one => one.offsetParent);
  if (button) { event.preventDefault(); button.click(); }
});
</script>"""
CSS = """.similar { border-collapse: collapse; } .similar td, .similar th { padding: 4px 8px; text-align: right; }
.similar b { text-decoration: underline; }
.tall { height: min(384px, 92vw) !important; }
.sources, .words { min-height: 44px; align-items: center; } .sources { flex-wrap: nowrap; }
.sources button { min-height: 40px; } .sources input { min-width: 60px; }
.history input { text-overflow: ellipsis; }"""
VIEWS = {"both": "both", "picture": "picture alone", "slots": "slots alone"}

SIDES: tuple[tuple[Side, str], ...] = (("picture", "Picture"), ("other", "Second picture"))

EDITS: dict[str, tuple[str, Callable[[Desk], Desk]]] = {  # with their keys
    "Take out": ("t", desks.remove),
    "Bring in": ("b", desks.bring),
    "Exchange": ("x", desks.exchange),
    "Undo": ("u", desks.undo),
    "Start over": ("s", lambda desk: desks.open_picture(desk.picture, desk.other)),
    "Render again": ("r", lambda desk: desk),
}


_WORKING = threading.Lock()


def in_turn(work: Callable) -> Callable:
    """One piece of work after the other: methods keep what they saw between calls, and seeds are of the process."""

    @wraps(work)
    def run(*args: Any) -> Any:
        with _WORKING:
            return work(*args)

    return run


def build_page(studios: Sequence[Studio]) -> Any:
    """The page as `gradio.Blocks`, a tab for each run. `slotworks.studio.Server` serves it to who knows a token.

    Raises:
        UserError: if `gradio` is not installed.
    """
    with needs_extra("studio"):
        import gradio as gr

    title = f"slotworks: {', '.join(studio.name for studio in studios)}"
    with gr.Blocks(title=title, analytics_enabled=False) as page:
        if len(studios) == 1:
            _build(studios[0], page)
        else:
            for studio in studios:
                with gr.Tab(studio.name):
                    _build(studio, page)
    return page


def _build(studio: Studio, page: Any) -> None:
    """What is shown of a run."""
    import gradio as gr
    from gradio.utils import get_upload_folder

    def told(work: Callable) -> Callable:
        """A mistake as a note on the page, which stays as it is; of one of the program the terminal says where."""

        alone = in_turn(work)

        @wraps(work)
        def run(*args: Any) -> Any:
            try:
                return alone(*args)
            except UserError as error:
                gr.Warning(without_folders(str(error), get_upload_folder()))
            except (RuntimeError, ValueError, OSError, MemoryError) as error:
                traceback.print_exc(file=sys.stderr)
                gr.Warning(f"This did not work ({type(error).__name__}); the terminal of the studio says where.")
            return gr.skip()

        return run

    def both(desk: Desk, view: Any) -> list[Any]:
        """The pictures with their segments."""
        right = None if desk.other is None else segments(desk.other, desk.chosen.get("other", ()), view)
        return [segments(desk.picture, desk.chosen.get("picture", ()), view), right]

    def at_once(desk: Desk, view: Any) -> list[Any]:
        """What follows from the desk without rendering."""
        return [desk, *both(desk, view), tiles(desk), _mask_file(desk.picture, get_upload_folder())]

    def after(desk: Desk | None, *given: Any) -> list[Any]:
        """What takes longer: pictures of the slots, or a comparison. Of the same desk twice it is quick."""
        desk = _there(desk)
        if not studio.draws:
            return [similar(desk)]
        recon, edited = studio.rendered(desk, **dict(zip(settings, given, strict=True)))
        states = desks.history(desk)
        return [desks.in_words(desk), recon, edited, gr.update(choices=states, value=states[-1])]

    def opener(side: Side, read: Callable[[Any, int, float | None], Scene]) -> Callable:
        def work(source: Any, seed: int | None, merge: float | None, desk: Desk | None, view: Any) -> list[Any]:
            scene = read(source or 0, int(seed or 0), merge)  # an emptied field is 0
            if side == "picture":
                desk = desks.open_picture(scene, None if desk is None else desk.other)
            else:
                desk = desks.open_other(_there(desk), scene)
            return at_once(desk, view)

        return told(work)

    def chooser(side: Side) -> Callable:
        def work(desk: Desk | None, view: Any, event: gr.SelectData) -> list[Any]:
            desk = _there(desk)
            x, y = event.index
            desk = desks.choose(desk, side, int(x), int(y), shown_size(desk.scene(side)))
            if not studio.draws and side == "picture" and desk.other is not None:
                pairs = matches(desk.picture, desk.other)
                found = tuple(pairs[slot] for slot in desk.chosen["picture"][:1] if slot in pairs)
                desk = desks.replace(desk, chosen={**desk.chosen, "other": found})
            return [desk, *both(desk, view)]

        return told(work)

    def editor(change: Callable[[Desk], Desk]) -> Callable:
        return told(lambda desk, view: at_once(change(_there(desk)), view))

    def begun(view: Any) -> list[Any]:
        return at_once(desks.open_picture(*map(studio.example, studio.begin)), view)

    def returned(state: str, desk: Desk | None, view: Any) -> list[Any]:
        return at_once(desks.back_to(_there(desk), int(str(state).partition(":")[0])), view)

    picture = {"interactive": False, "type": "pil", "format": "png", "buttons": ["download", "fullscreen"]}
    tall = {**picture, "height": SHOWN, "min_width": 260, "elem_classes": "tall"}
    shown: dict[Side, Any] = {}
    sources, settings = [], {}
    edited, recon, history = None, None, None  # of runs that draw
    desk = gr.State(None)
    gr.Markdown(f"## {studio.name}\n\n{HELP if studio.draws else COMPARE}")

    def source_row(side: Side, name: str) -> None:
        with gr.Row(elem_classes="sources"):
            upload = gr.UploadButton(f"{name} from a file", file_types=["image"], size="sm", min_width=90)
            sources.append((upload.upload, upload, opener(side, studio.from_file)))
            if studio.dataset is not None:
                button = gr.Button(f"{name} from the test data, number", size="sm", min_width=90)
                how = {"label": f"number of the {name.lower()}", "container": False, "min_width": 60, "scale": 0}
                number = gr.Number(studio.begin[side == "other"], precision=0, minimum=0, **how)
                sources.append((button.click, number, opener(side, studio.from_data)))

    def picture_of(side: Side, name: str) -> None:
        with gr.Column(min_width=260):
            source_row(side, name)
            shown[side] = gr.Image(label=f"{name}: click an object", **tall)

    buttons: dict[str, Any] = {}
    words: Any = None  # what was done: above the edited picture, else below
    with gr.Row(equal_height=False):
        picture_of(*SIDES[0])
        if studio.draws:
            with gr.Column(min_width=260):
                words = gr.Markdown(elem_classes="words")
                edited = gr.Image(label="Edited", **tall)
        else:
            picture_of(*SIDES[1])
    if studio.draws:
        with gr.Row():
            for name, (key, _) in EDITS.items():
                kind = "primary" if name == "Take out" else "secondary"
                label = f"{name} ({key.upper()})"
                buttons[name] = gr.Button(label, variant=kind, min_width=90, elem_classes=f"key-{key}")
    else:
        words = gr.HTML()
    with gr.Row():
        view = gr.Radio([(name, key) for key, name in VIEWS.items()], value="both", label="shown", min_width=260)
        if studio.draws:
            history = gr.Dropdown([], label="history: go back to", min_width=260, elem_classes="history")
        download = gr.DownloadButton("Mask of the picture (PNG)", min_width=160)
    if studio.num_frames > 1:
        with gr.Row():
            film = gr.Image(label="Video with its tracks", **tall)
            with gr.Column(min_width=260):
                which = gr.Number(0, precision=0, minimum=0, label="number of the video in the test data")
                frame = gr.Slider(0, studio.num_frames - 1, step=1, value=0, label="frame")
        for control in (which, frame):
            work = told(lambda number, at: studio.film(int(number or 0))[int(at)])
            control.change(work, [which, frame], film, show_progress="hidden")
        page.load(work, [which, frame], film)
    if studio.draws:
        with gr.Row(equal_height=False):
            picture_of(*SIDES[1])
            with gr.Column(min_width=260):
                gr.Markdown("From the same noise, to compare with:", elem_classes="words")
                recon = gr.Image(label="Rendered from all slots", **tall)
    strip = gr.Image(label="Slots", **picture, height=190)
    with gr.Accordion("Settings", open=False), gr.Row():
        slot_seed = gr.Number(0, precision=0, label="seed of the slots, when a picture is opened")
        merge = gr.Number(
            None, minimum=-1, maximum=1, step=0.01, label="join slots whose cosine is above this; empty: none"
        )
        if studio.renderer == "sample":
            settings["noise_seed"] = gr.Number(0, precision=0, label="seed of the noise")
        if studio.steps is not None:
            settings["steps"] = gr.Number(studio.steps, precision=0, minimum=1, label="steps of the sampler")
        if studio.cfg_scale is not None:
            settings["cfg_scale"] = gr.Number(studio.cfg_scale, label="guidance")

    pictures = [shown["picture"], shown["other"]]
    now, later = [desk, *pictures, strip, download], [words, *([recon, edited, history] if studio.draws else [])]

    def on(event: Callable, work: Callable, inputs: list[Any]) -> None:
        """What can be shown at once is, before pictures are rendered."""
        event(work, inputs, now).then(told(after), [desk, *settings.values()], later)

    for event, source, work in sources:
        on(event, work, [source, slot_seed, merge, desk, view])
    for side, _ in SIDES:
        shown[side].select(chooser(side), [desk, view], [desk, *pictures])
    for name, button in buttons.items():
        on(button.click, editor(EDITS[name][1]), [desk, view])
    if history is not None:
        on(history.input, told(returned), [history, desk, view])
    view.change(told(lambda desk, view: both(_there(desk), view)), [desk, view], pictures)
    on(page.load, told(begun), [view])


def similar(desk: Desk) -> str:
    """Cosines of the slots of both pictures as a table, those that go with each other underlined."""
    if desk.other is None:
        return "Open a second picture to compare slots."
    values, pairs = similarity(desk.picture, desk.other).tolist(), matches(desk.picture, desk.other)
    head = "".join(f"<th>{other}</th>" for other in range(len(values[0])))
    rows = []
    for slot, row in enumerate(values):
        cells = (
            f'<td style="background: rgb(0 114 178 / {0.5 * max(value, 0):.2f})">'
            + (f"<b>{value:.2f}</b>" if pairs.get(slot) == other else f"{value:.2f}")
            + "</td>"
            for other, value in enumerate(row)
        )
        rows.append(f"<tr><th>{slot}</th>{''.join(cells)}</tr>")
    said = "Cosine of the slots of the picture (rows) and of the second one (columns); underlined: one to one."
    return f'<p>{escape(said)}</p><table class="similar"><tr><th></th>{head}</tr>{"".join(rows)}</table>'


def _mask_file(scene: Scene, folder: str) -> str:
    """The mask of a picture in a file that the page may hand out."""
    path = Path(tempfile.mkdtemp(dir=folder)) / "mask.png"
    mask_of(scene).save(path)
    return str(path)


def without_folders(text: str, uploads: str) -> str:
    """A message without folders of this computer: `cat.png` is what the person knows.

    >>> without_folders("/a/files/0aff/my cat.png cannot be read as a picture.", "/a/files")
    'my cat.png cannot be read as a picture.'
    >>> without_folders("/mnt/data/clevr is missing a.hdf5; see data/README.", "/a/files")
    'clevr is missing a.hdf5; see data/README.'
    """
    text = re.sub(rf"{re.escape(uploads.rstrip('/'))}/(?:[0-9a-f]+/)?", "", text)
    return re.sub(r"(?<![\w.:/~-])/(?:[^\s/'\"`;,]+/)+", "", text)


def _there(desk: Desk | None) -> Desk:
    if desk is None:
        raise UserError("There is no picture yet; open one first.")
    return desk
