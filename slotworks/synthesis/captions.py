"""Captions of images by BLIP-2, or by any other model of the hub that answers to an image with text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from slotworks.encoders.pretrained import load_part
from slotworks.errors import needs_extra
from slotworks.machine import Precision
from slotworks.training.numerics import DTYPES, fast_precision

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class CaptionerConfig:
    """Which captioner. Nothing is loaded by this.

    GLASS uses BLIP-2 and names neither checkpoint nor decoding; the defaults are the smallest official one, without a
    prompt, greedy. ShareGPT-4V's row takes another `model`.
    """

    model: str = "Salesforce/blip2-opt-2.7b"  # hub id or folder of any image-text-to-text model of transformers
    prompt: str = ""  # what the model is asked; empty: it captions by itself
    max_new_tokens: int = 30
    num_beams: int = 1  # 1 is greedy
    batch_size: int = 16  # images at once
    precision: Precision = "32"  # of the weights

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "num_beams", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"captioner.{name} is {getattr(self, name)}; it must be 1 or more.")


class Captioner:
    """A captioner on its device.

    Raises:
        UserError: the model cannot be found or read, or is of another kind.
    """

    def __init__(self, config: CaptionerConfig, device: torch.device | str = "cpu"):
        with needs_extra("vision"):
            from transformers import AutoModelForImageTextToText, AutoProcessor
        self.config = config
        self.device = torch.device(device)
        self.processor = load_part(AutoProcessor.from_pretrained, config.model)
        self.dtype = DTYPES[fast_precision(config.precision, self.device)]
        options: dict[str, Any] = {"dtype": self.dtype, "use_safetensors": True}
        self.model = load_part(AutoModelForImageTextToText.from_pretrained, config.model, **options).to(self.device)

    @torch.no_grad()
    def __call__(self, images: "Sequence[Image.Image]") -> list[str]:
        """One caption for each RGB image: one line, without what the model was asked."""
        config, text = self.config, self._text()
        inputs = self.processor(images=list(images), text=[text] * len(images), padding=True, return_tensors="pt").to(
            self.device, self.dtype
        )
        ids = self.model.generate(
            **inputs, max_new_tokens=config.max_new_tokens, num_beams=config.num_beams, do_sample=False
        )
        answers = self.processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return [" ".join(answer.split()) for answer in answers]

    def _text(self) -> str:
        """What is asked, in the form of a chat where the model knows chats."""
        if getattr(self.processor, "chat_template", None) is None:
            return self.config.prompt
        said = [
            {"type": "image"},
            {"type": "text", "text": self.config.prompt or "Describe the image in one sentence."},
        ]
        return self.processor.apply_chat_template([{"role": "user", "content": said}], add_generation_prompt=True)
