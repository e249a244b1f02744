"""The studio as it is served: what it renders, what it refuses, and the page clicked in a browser if there is one."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from slotworks import api
from slotworks.cli import main
from slotworks.configs.slot_attention import tetrominoes_mini
from slotworks.editing import remove, render_edit
from slotworks.studio import Studio, desk, views
from slotworks.training import train
from slotworks.types import UserError


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


def test_a_run_whose_data_are_elsewhere_still_opens_files(studio, tmp_path):
    from slotworks.data import CLEVRTex

    elsewhere = Studio(studio.method, replace(studio.run, data=CLEVRTex(root=str(tmp_path / "nothing"), image_size=35)))
    with pytest.raises(UserError, match="open a picture file"):
        elsewhere.from_data(0)


def test_a_run_that_renders_no_pictures_is_refused(studio):
    from slotworks.methods import SetPredictionConfig

    with pytest.raises(UserError, match="cannot turn slots into pictures"):
        Studio(SetPredictionConfig().build(), studio.run)


def test_no_run_no_page(tmp_path, capsys):
    assert main(["studio", str(tmp_path / "nothing")]) == 2
    assert "nothing" in capsys.readouterr().err


def test_clicks_in_a_browser(folder):
    """The whole page in Chromium: open two pictures, click, edit, undo; a mistake is told and changes nothing."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium here")
    page = api.studio(folder, device="cpu")
    _, address, _ = page.launch(server_name="127.0.0.1", share=False, quiet=True, prevent_thread_lock=True)
    try:
        with playwright.sync_playwright() as p:
            browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            tab = browser.new_page(viewport={"width": 1280, "height": 1400})
            outside = []
            tab.on("request", lambda r: outside.append(r.url) if r.url.startswith("http") else None)
            tab.goto(address)

            def press(name: str) -> None:
                tab.get_by_role("button", name=name, exact=True).click()

            press("Take out")
            tab.get_by_text("There is no picture yet").wait_for()
            press("Picture from the test data")
            tab.get_by_text("All 4 slots of the picture.").wait_for()
            press("Second picture from the test data")
            tab.locator("img").nth(3).wait_for()
            tab.locator("img").nth(0).click()
            tab.locator("img").nth(1).click()
            tab.wait_for_timeout(1000)
            press("Bring in")
            tab.get_by_text("of the second picture.").wait_for()
            press("Undo")
            tab.get_by_text("All 4 slots of the picture.").wait_for()
            assert all(url.startswith(address) for url in outside)  # nothing is asked of other computers
            browser.close()
    finally:
        page.close()
