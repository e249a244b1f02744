"""The studio as it is served: what it renders, what it refuses, and the page clicked in a browser if there is one."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.client import HTTPConnection
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from browsers import chromium
from PIL import Image
from playwright.sync_api import expect, sync_playwright
from scipy import ndimage

from slotworks import api
from slotworks.cli import main
from slotworks.configs.slot_attention import tetrominoes_mini
from slotworks.editing import remove, render_edit, render_slots
from slotworks.hub import from_pretrained
from slotworks.studio import Studio, build_page, desk, guard, views
from slotworks.studio.page import in_turn, similar
from slotworks.training import train
from slotworks.types import Method, UserError

NAME = "zoo:slot-attention-tetrominoes"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of two steps."""
    recipe = tetrominoes_mini()
    method = replace(recipe.method, channels=8, slot_dim=16, test_iterations=1)
    folder = tmp_path_factory.mktemp("studio") / "run"
    train(replace(recipe, method=method, steps=2, batch_size=2), folder)
    return folder


@pytest.fixture(scope="module")
def studio(folder) -> Studio:
    run, method = api.load(folder, device="cpu")
    return Studio(method, run)


def test_it_renders_what_editing_renders(studio):
    scene = studio.from_data(3)
    table = desk.remove(desk.choose(desk.open_picture(scene), "picture", 0, 0, (35, 35)))
    gone = [k for k in range(4) if desk.Piece("picture", k) not in table.pieces]
    edit = render_edit(studio.method, scene, remove(scene.slots[None], gone)[0])
    for shown, expected in zip(studio.rendered(table), (edit.recon, edit.edited), strict=True):
        assert shown.size == (views.SHOWN, views.SHOWN)
        small = np.asarray(shown.resize((35, 35), Image.Resampling.NEAREST), dtype=float) / 255
        np.testing.assert_allclose(small, expected[0].permute(1, 2, 0).numpy(), atol=0.5 / 255 + 1e-6)
    assert not torch.equal(edit.recon, edit.edited)


def test_a_file_and_the_test_data_are_taken_apart_alike(studio, tmp_path):
    scene = studio.from_data(5)
    pixels = (scene.image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    torch.testing.assert_close(studio.from_file(tmp_path / "a.png").slots, scene.slots)
    assert torch.equal(studio.from_data(5 + len(studio.dataset)).image, scene.image)
    (tmp_path / "b.png").write_text("no picture")
    with pytest.raises(UserError, match=r"b\.png"):
        studio.from_file(tmp_path / "b.png")


def test_the_chosen_slots_stay_bright(studio):
    scene = studio.from_data(0)
    plain, chosen = (np.asarray(views.segments(scene, slots)).astype(int) for slots in ((), (0,)))
    owner = np.asarray(views.upsampled_argmax(scene.masks, plain.shape[:2]))
    assert np.array_equal(chosen[owner == 0], plain[owner == 0])
    assert np.array_equal(chosen[owner != 0], plain[owner != 0] // 3)


def test_similar_slots_are_joined_when_a_picture_is_opened(studio):
    """With a threshold that all pass two groups are left, whose masks are the sums of those apart."""
    apart, joined = studio.from_data(2), studio.from_data(2, merge=-1.0)
    assert torch.equal(apart.slots, joined.slots)
    assert apart.owners is None
    assert len(set(joined.owners.tolist())) == 2
    for k in range(4):
        torch.testing.assert_close(joined.masks[k], apart.masks[joined.owners == k].sum(0))
    assert views.tiles(desk.open_picture(joined)).width < views.tiles(desk.open_picture(apart)).width
    with pytest.raises(UserError, match="merge is 3; it is a cosine"):
        studio.from_data(2, merge=3.0)


def test_a_run_whose_data_are_elsewhere_still_opens_files(studio, tmp_path):
    from slotworks.data import CLEVRTex

    elsewhere = Studio(studio.method, replace(studio.run, data=CLEVRTex(root=str(tmp_path / "nothing"), image_size=35)))
    with pytest.raises(UserError, match="open a picture file"):
        elsewhere.from_data(0)


class Finds(Method):
    """A method that finds slots and draws nothing."""

    def __init__(self, method):
        super().__init__()
        self.method = method

    def encode(self, image):
        return self.method.encode(image)


def test_slots_of_a_run_that_draws_no_pictures_are_compared(studio):
    finder = Studio(Finds(studio.method), studio.run)
    assert (finder.draws, studio.draws) == (False, True)
    scene, other = finder.example(0), finder.example(1)
    cosines = views.similarity(scene, other)
    norms = scene.slots.norm(dim=-1)[:, None] * other.slots.norm(dim=-1)[None]
    torch.testing.assert_close(cosines, scene.slots @ other.slots.T / norms)
    assert views.matches(scene, scene) == {k: k for k in range(4)}
    table = similar(desk.open_picture(scene, other))
    assert table.count("<td") == 16
    assert table.count("<b>") == 4
    assert "Open a second picture" in similar(desk.open_picture(scene))


def test_every_run_has_a_picture_to_begin_with(studio, tmp_path):
    from slotworks.data import CLEVRTex

    elsewhere = replace(studio.run, data=CLEVRTex(root=str(tmp_path / "nothing"), image_size=35))
    scene = Studio(studio.method, elsewhere).example(0)
    assert scene.image.shape == (3, 35, 35)
    assert scene.image.std() > 0.01


def test_a_video_is_shown_frame_by_frame_with_its_tracks(studio):
    from slotworks.data.scenes import VideoScenes

    data = VideoScenes(image_size=35, num_frames=5)
    moving = Studio(studio.method, replace(studio.run, data=data))
    assert (moving.num_frames, studio.num_frames) == (5, 1)
    frames = moving.film(0)
    assert [frame.size for frame in frames] == [(views.SHOWN, views.SHOWN)] * 5
    assert frames[0] != frames[4]
    assert moving.film(0) is frames
    with pytest.raises(UserError, match="are no videos"):
        studio.film(0)


def test_what_two_parts_of_the_page_ask_for_at_once_is_done_in_turn():
    """A page of videos asks for a film and a picture as it opens, each of which would see the other's frames."""
    inside, most = 0, 0

    def work(k: int) -> int:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.02)
        inside -= 1
        return k

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(in_turn(work), range(4))) == [0, 1, 2, 3]
    assert most == 1


def test_the_page_asks_for_films_and_pictures_in_turn(studio, tmp_path, monkeypatch):
    from slotworks.data.scenes import VideoScenes

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    moving = Studio(studio.method, replace(studio.run, data=VideoScenes(image_size=35, num_frames=3)))
    inside, most, made = 0, 0, []

    def counted(work: Callable) -> Callable:
        def run(*args: Any) -> Any:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            time.sleep(0.02)
            made.append(work(*args))
            inside -= 1
            return made[-1]

        return run

    moving.example, moving.film = counted(moving.example), counted(moving.film)
    begun = [one for one in build_page([moving]).fns.values() if any(event == "load" for _, event in one.targets)]
    given = {1: ("both",), 2: (0, 1)}  # the first pictures, a frame of a film
    assert sorted(len(one.inputs) for one in begun) == [1, 2]
    with ThreadPoolExecutor(4) as pool:
        for answer in [pool.submit(one.fn, *given[len(one.inputs)]) for one in begun * 2]:
            answer.result()
    assert (len(made), most) == (6, 1)


def test_the_same_slots_are_rendered_once(studio, monkeypatch):
    drawn = []
    monkeypatch.setattr(views, "render_slots", lambda *args, **how: drawn.append(how) or render_slots(*args, **how))
    fresh = Studio(studio.method, studio.run)
    drawn.clear()
    table = desk.open_picture(fresh.example(0))
    first = fresh.rendered(table)
    assert (first[0] is first[1], len(drawn)) == (True, 1)
    without = desk.remove(desk.choose(table, "picture", 0, 0, (35, 35)))
    recon, edited = fresh.rendered(without)
    assert (recon is first[0], edited is first[0], len(drawn)) == (True, False, 2)
    assert fresh.rendered(desk.undo(without)) == first
    assert len(drawn) == 2
    fresh.rendered(table, noise_seed=1)
    assert len(drawn) == 3
    for seed in range(views.KEPT):
        fresh.rendered(table, noise_seed=seed)
    assert len(fresh._pictures) == views.KEPT


def test_without_a_run_the_studio_opens_one_of_the_zoo_that_draws(studio, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    opened = []
    monkeypatch.setattr(api, "load", lambda folder, device: (studio.run, studio.method))
    monkeypatch.setattr(
        "slotworks.studio.Server", lambda studios, **how: opened.append([(one.name, one.begin) for one in studios])
    )
    monkeypatch.setattr(views, "find_spec", lambda name: object())
    api.studio()
    monkeypatch.setattr(views, "find_spec", lambda name: None if name == "diffusers" else object())
    api.studio()
    assert opened == [[("zoo:glass-painted", (6, 5))], [("zoo:slot-attention-tetrominoes", (0, 1))]]
    assert Studio(studio.method, studio.run, "zoo:of-another-version").begin == (0, 1)


def test_the_mask_that_is_downloaded_holds_the_numbers_of_slots(studio):
    scene = studio.from_data(0)
    mask = views.mask_of(scene)
    assert (mask.mode, mask.size) == ("P", (35, 35))
    assert np.array_equal(np.asarray(mask), views.upsampled_argmax(scene.masks, (35, 35)))


def test_views_of_a_picture(studio):
    scene = studio.from_data(0)
    owner = views.upsampled_argmax(scene.masks, (views.SHOWN, views.SHOWN))
    assert np.array_equal(np.asarray(views.segments(scene, view="slots")), views.PALETTE[owner])
    alone = views.segments(scene, view="picture")
    assert np.array_equal(np.asarray(alone), np.asarray(views.resized(views.to_picture(scene.image), views.SHOWN)))


def test_no_run_no_page(tmp_path, capsys):
    assert main(["studio", str(tmp_path / "nothing")]) == 2
    assert "nothing" in capsys.readouterr().err


@pytest.fixture(scope="module")
def page(folder):
    """The page as `slotworks studio` serves it."""
    page = api.studio(folder, device="cpu")
    yield page
    page.close()


def ask(page, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, str, dict[str, str]]:
    """Status, text and headers of an answer, over HTTP."""
    connection = HTTPConnection("127.0.0.1", page.port, timeout=600)
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, given)
    answer = connection.getresponse()
    text = answer.read().decode("utf-8", "replace")
    connection.close()
    return answer.status, text, dict(answer.getheaders())


def cookie_of(page) -> str:
    status, _, headers = ask(page, "GET", page.address.partition(str(page.port))[2])
    assert status == 303
    return headers["set-cookie"].partition(";")[0]


def upload(page, name: str, content: bytes, cookie: str) -> tuple[int, str]:
    body = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
    body += content + b"\r\n--x--\r\n"
    kind = "multipart/form-data; boundary=x"
    return ask(page, "POST", "/gradio_api/upload", body, cookie=cookie, content_type=kind)[:2]


def test_only_who_knows_the_token_sees_anything(page):
    cookie = cookie_of(page)
    for path in ("/", "/config", "/gradio_api/info", "/gradio_api/queue/data?session_hash=x", "/theme.css"):
        for headers in (
            {},
            {"cookie": cookie, "host": "evil.example"},
            {"cookie": cookie, "origin": "http://evil.example"},
            {"cookie": cookie, "host": f"evil.example:{page.port}", "origin": f"http://evil.example:{page.port}"},
        ):
            status, text, answer = ask(page, "GET", path, **headers)
            assert status == 403, (path, headers)
            assert "access-control-allow-origin" not in {name.lower() for name in answer}
            assert "Take out" not in text
    status, text, _ = ask(page, "GET", "/config", cookie=cookie)
    assert status == 200
    assert "Take out" in text
    for headers in ({"origin": "http://evil.example", "host": "evil.example"}, {"origin": "http://evil.example"}):
        asked = {**headers, "access_control_request_method": "POST"}
        status, _, answer = ask(page, "OPTIONS", "/gradio_api/queue/join", **asked)
        assert status == 403
        assert not any(name.lower().startswith("access-control") for name in answer)


def test_uploads_are_bounded_private_and_end_with_the_page(folder):
    page = api.studio(folder, device="cpu")
    try:
        cookie = cookie_of(page)
        assert upload(page, "a.png", b"x", "")[0] == 403
        assert page.folder.stat().st_mode & 0o777 == 0o700
        with ThreadPoolExecutor(32) as pool:
            answers = list(pool.map(lambda k: upload(page, f"{k}.png", b"%d" % k * 1000, cookie), range(32)))
        assert [status for status, _ in answers] == [200] * 32
        kept = list(page.folder.rglob("*.png"))
        assert len(kept) == 32
        assert all(str(path) in "".join(text for _, text in answers) for path in kept)
        status, text, _ = ask(page, "POST", "/gradio_api/upload", cookie=cookie, content_length=str(1 << 30))
        assert status == 413
        assert "at most 67" in text
        assert upload(page, "large.mp4", bytes(65 << 20), cookie)[0] == 413  # heard by who sends all of it first
    finally:
        page.close()
    assert not page.folder.exists()
    page.close()


@pytest.mark.slow
def test_photographs_and_videos_all_at_once(folder, tmp_path):
    """33 uploads of 1 to 60 MB to a studio in a process of its own; one more is too large."""
    small = np.random.default_rng(0).integers(0, 256, (500, 750, 3), np.uint8)
    made = np.asarray(Image.fromarray(small).resize((3000, 2000), Image.Resampling.BICUBIC))
    photographs = []
    for k in range(20):
        stored = BytesIO()
        Image.fromarray(np.roll(made, 99 * k, 0)).save(stored, "JPEG", quality=88 + k % 8)
        photographs.append((f"photo {k} \u00e4.jpg", stored.getvalue()))
    videos = [(f"clip{k}.mp4", os.urandom(size << 20)) for k, size in enumerate((10,) * 6 + (30,) * 4 + (60,) * 3)]
    files, place, said = [*photographs, *videos], tmp_path / "temporary", tmp_path / "said"
    place.mkdir()
    environment = os.environ | {"TMPDIR": str(place), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "slotworks", "studio", str(folder.resolve()), "--device", "cpu"]
    with (
        said.open("w") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=environment, text=True) as studio,
    ):
        try:
            address = studio.stdout.readline().split()[0]
            page = SimpleNamespace(address=address, port=int(address.split(":")[2].partition("/")[0]))
            cookie = cookie_of(page)
            before = memory_of(studio.pid)
            with ThreadPoolExecutor(33) as pool:
                answers = list(pool.map(lambda file: upload(page, *file, cookie), files))
            assert [status for status, _ in answers] == [200] * len(files)
            kept = [path for path in place.rglob("*") if path.is_file() and path.stat().st_size > 1000]
            size = sum(path.stat().st_size for path in kept)
            print(
                f"{len(files)} files, {sum(len(content) for _, content in files) / 1e6:,.0f} MB; kept {len(kept)}, "
                f"{size / 1e6:,.0f} MB; memory {before:,.0f} to {memory_of(studio.pid):,.0f} MB at most"
            )
            assert size <= guard.MAX_KEPT + guard.AT_ONCE * guard.MAX_UPLOAD
            contents = {content for _, content in files}
            assert all(path.read_bytes() in contents for path in kept)
            assert memory_of(studio.pid) - before < 400
            assert upload(page, "large.mp4", bytes(65 << 20), cookie)[0] == 413
            assert upload(page, "small.jpg", photographs[0][1], cookie)[0] == 200  # room was made
            assert sum(path.stat().st_size for path in place.rglob("*") if path.is_file()) <= guard.MAX_KEPT + 10**7
            assert ask(page, "GET", "/config", cookie=cookie)[0] == 200
        finally:
            studio.send_signal(signal.SIGINT)
            studio.wait(timeout=600)
    assert studio.returncode == 130
    assert "Traceback" not in said.read_text()
    assert [path for path in place.rglob("*") if path.is_file() or path.name.startswith("slotworks")] == []


def memory_of(process: int) -> float:
    """Most that a process had in memory, in MB."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def test_uploads_of_a_studio_that_was_killed_are_deleted_at_the_next_start(studio, tmp_path, monkeypatch):
    from slotworks.files import locked
    from slotworks.studio import server

    monkeypatch.setattr(server.tempfile, "tempdir", str(tmp_path))
    for name in ("slotworks-studio-left", "slotworks-studio-used", "other"):
        (tmp_path / name / "files").mkdir(parents=True)
        (tmp_path / name / "files" / "cat.png").touch()
    with locked(tmp_path / "slotworks-studio-used"):
        server.Server(studio).close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "slotworks-studio-used"]


def test_a_port_that_is_taken(folder, page, capsys):
    assert main(["studio", str(folder), "--device", "cpu", "--port", str(page.port)]) == 2
    assert f"cannot be served at 127.0.0.1, port {page.port}" in capsys.readouterr().err


def test_other_computers_get_in_only_with_a_warning(folder, monkeypatch, capsys):
    from slotworks.studio import Server

    monkeypatch.setattr(Server, "wait", lambda page: None)
    monkeypatch.setattr("signal.signal", lambda *arguments: None)
    assert main(["studio", str(folder), "--device", "cpu", "--host", "0.0.0.0"]) == 0
    printed = capsys.readouterr()
    assert "whoever on this network has the address with its token can use it" in printed.err.replace("\n", " ")
    assert "/?token=" in printed.out


def test_clicks_in_a_browser(folder, tmp_path, monkeypatch):
    """The whole page in Chromium, a run of the zoo and another: a click takes an object out; keys, history, errors."""
    path = chromium()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "no picture.png").write_text("no picture")
    page = api.studio(NAME, folder, device="cpu")
    address = f"http://127.0.0.1:{page.port}/"
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=path, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        tab.set_default_timeout(120_000)
        outside = []
        tab.on("request", lambda r: outside.append(r.url) if r.url.startswith("http") else None)
        tab.goto(address)
        tab.get_by_text("Open the address that `slotworks studio` printed").wait_for()
        tab.goto(page.address)
        assert tab.url == address  # the token does not stay in the address bar
        shown = tab.get_by_role("tabpanel").first

        def said(text: str) -> None:
            shown.locator("p", has_text=text).first.wait_for()

        said("All 4 slots of the picture.")
        assert tab.get_by_role("tab").all_inner_texts() == [NAME, "run"]

        def changes(place: int, act: Callable[[Any], None]) -> None:
            """What is done to the page is heard when a picture of it has changed."""
            image = shown.locator("img").nth(place)
            before = image.get_attribute("src") or ""
            act(image)
            expect(image).not_to_have_attribute("src", before, timeout=120_000)

        def choose(place: int, x: float = 0.5, y: float = 0.5) -> None:
            """A click at a share of the picture: other objects are dimmed."""
            box = shown.locator("img").nth(place).bounding_box()
            side = min(box["width"], box["height"])  # the square picture stands in the middle of its frame
            at = {"x": box["width"] / 2 + (x - 0.5) * side, "y": box["height"] / 2 + (y - 0.5) * side}
            changes(place, lambda image: image.click(position=at))

        def pixel(place: int, x: float, y: float) -> list[int]:
            """Red, green and blue of a shown picture."""
            stored = tab.request.get(shown.locator("img").nth(place).get_attribute("src")).body()
            picture = Image.open(BytesIO(stored)).convert("RGB")
            return list(picture.getpixel((int(x * picture.width), int(y * picture.height))))

        edited = shown.locator("img").nth(1).bounding_box()
        assert edited["y"] + edited["height"] < 900  # beside the picture, without scrolling
        shown.get_by_label("number of the picture", exact=True).fill("1")
        changes(1, lambda _: shown.get_by_role("button", name="Picture from the test data, number", exact=True).click())
        run, method = from_pretrained(NAME, device="cpu")
        scene = Studio(method, run).example(1)
        depth = ndimage.distance_transform_edt(scene.image.sum(0) > 0)  # the ground is black
        row, column = np.unravel_index(depth.argmax(), depth.shape)
        place = ((column + 0.5) / 35, (row + 0.5) / 35)
        assert max(pixel(1, *place)) > 100

        choose(0, *place)
        tab.keyboard.press("t")
        shown.locator("p", has_text=re.compile(r"^Slots? [0-9, ]+ of the picture\.$")).wait_for()
        expect(shown.get_by_label("history")).to_have_value(re.compile("^1: "))
        assert max(pixel(1, *place)) < 50  # where it was, the ground is drawn
        shown.get_by_label("history").click()
        assert tab.get_by_role("option").count() == 2
        tab.keyboard.press("Escape")
        shown.get_by_role("button", name="Undo (U)").click()
        said("All 4 slots of the picture.")
        choose(2)
        shown.get_by_role("button", name="Bring in (B)").click()
        said("of the second picture.")
        shown.locator("input[type=file]").first.set_input_files(tmp_path / "no picture.png")
        told = tab.get_by_text("cannot be read as a picture")
        told.wait_for()
        assert "no picture.png" in told.inner_text()
        assert "/" not in told.inner_text()
        said("of the second picture.")
        shown.get_by_text("Settings").click()
        shown.get_by_label("join slots").fill("3")
        shown.get_by_role("button", name="Picture from the test data, number", exact=True).click()
        tab.get_by_text("3 is greater than maximum value 1").wait_for()
        said("of the second picture.")
        with tab.expect_download() as download:
            shown.get_by_text("Mask of the picture (PNG)").click()
        assert Image.open(download.value.path()).mode == "P"
        tab.set_viewport_size({"width": 390, "height": 844})
        tab.wait_for_timeout(500)
        assert tab.evaluate("document.documentElement.scrollWidth") == 390
        if place := os.environ.get("SLOTWORKS_SCREENSHOTS"):
            tab.set_viewport_size({"width": 1280, "height": 1400})
            tab.screenshot(path=Path(place) / "studio.png")
        assert all(url.startswith(address) for url in outside)  # nothing is asked of other computers
        browser.close()
    page.close()
