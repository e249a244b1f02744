import pytest
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

from slotworks.synthesis.captions import Captioner, CaptionerConfig
from slotworks.types import UserError

WORDS = ["<pad>", "<s>", "</s>", "<unk>", *(f"w{k}" for k in range(90))]


@pytest.fixture(scope="module")
def blip2(tmp_path_factory):
    """A BLIP-2 of 73,000 random weights."""
    folder = tmp_path_factory.mktemp("blip2")
    words = Tokenizer(models.WordLevel({word: k for k, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, **special)
    pictures = transformers.BlipImageProcessor(size={"height": 32, "width": 32})
    processor = transformers.Blip2Processor(pictures, tokenizer, num_query_tokens=4)
    processor.save_pretrained(folder)
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 32}
    config = transformers.Blip2Config(
        vision_config={**size, "image_size": 32, "patch_size": 8},
        qformer_config={**size, "encoder_hidden_size": 32, "cross_attention_frequency": 1, "vocab_size": 100},
        text_config={
            "model_type": "opt",
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "ffn_dim": 32,
            "vocab_size": 100,
            "word_embed_proj_dim": 32,
            "max_position_embeddings": 64,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        num_query_tokens=4,
        image_token_index=len(WORDS),
    )
    torch.manual_seed(0)
    transformers.Blip2ForConditionalGeneration(config).save_pretrained(folder)
    return str(folder)


def test_blip2_captions_images(blip2):
    captioner = Captioner(CaptionerConfig(blip2, max_new_tokens=5))
    images = [Image.new("RGB", (40, 30), color) for color in ("red", "blue", "white")]
    captions = captioner(images)
    assert len(captions) == 3
    assert all(set(caption.split()) <= set(WORDS[3:]) and len(caption.split()) <= 5 for caption in captions)
    assert any(captions)
    assert captioner(images) == captions
    asked = Captioner(CaptionerConfig(blip2, max_new_tokens=5, prompt="w7 w8"))(images)
    assert not any(caption.startswith("w7 w8") for caption in asked)


def test_mistakes_get_a_sentence():
    with pytest.raises(UserError, match=r"There is no folder './nowhere'"):
        Captioner(CaptionerConfig("./nowhere"))
    with pytest.raises(ValueError, match="num_beams is 0"):
        CaptionerConfig(num_beams=0)
