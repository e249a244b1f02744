import pytest
from PIL import Image
from tiny_models import save_blip2

from slotworks.synthesis.captions import Captioner, CaptionerConfig
from slotworks.types import UserError


@pytest.fixture(scope="module")
def blip2(tmp_path_factory):
    return str(save_blip2(tmp_path_factory.mktemp("blip2"), [f"w{k}" for k in range(90)]))


def test_blip2_captions_images(blip2):
    captioner = Captioner(CaptionerConfig(blip2, max_new_tokens=5))
    images = [Image.new("RGB", (40, 30), color) for color in ("red", "blue", "white")]
    captions = captioner(images)
    assert len(captions) == 3
    assert all(
        set(caption.split()) <= {f"w{k}" for k in range(90)} | {"<unk>"} and len(caption.split()) <= 5
        for caption in captions
    )
    assert any(captions)
    assert captioner(images) == captions
    asked = Captioner(CaptionerConfig(blip2, max_new_tokens=5, prompt="w7 w8"))(images)
    assert not any(caption.startswith("w7 w8") for caption in asked)


def test_mistakes_get_a_sentence():
    with pytest.raises(UserError, match=r"There is no folder './nowhere'"):
        Captioner(CaptionerConfig("./nowhere"))
    with pytest.raises(ValueError, match="num_beams is 0"):
        CaptionerConfig(num_beams=0)
