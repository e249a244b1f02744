"""SegCLIP: image -> CLIP's transformer, patches gathered by learnable centres in it -> groups, compared with texts.

Luo, Bao, Wu, He, Li 2023, "SegCLIP: Patch Aggregation with Learnable Centers for Open-Vocabulary Semantic
Segmentation", arXiv 2211.14813; code ArrowLuo/SegCLIP. The last blocks of CLIP see groups in the place of patches; the
embedding of an image is the maximum over its groups. Beside the contrast with captions, three quarters of the patches
are left out and painted from what the groups know (`recon`), and patches of one superpixel should have one group
(`superpixel`).

Differences from the released code: images are square and cropped at their centre; the superpixel of a patch is the one
that covers most of it (the code takes the mean of the numbers of superpixels over its pixels). docs/methods/seg_clip.md
says where paper and code differ.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from slotworks.encoders.blank import wanted
from slotworks.encoders.clip import CLIP_MEAN, CLIP_STD
from slotworks.encoders.pretrained import start_from
from slotworks.encoders.text import CLIP_TEXT, TextConfig, TextEncoder, captions_of
from slotworks.errors import needs_extra
from slotworks.nn.contrastive import contrastive_loss
from slotworks.nn.noise import batch_uniform
from slotworks.nn.precision import without_autocast
from slotworks.nn.superpixels import felzenszwalb, most_frequent
from slotworks.nn.zero_shot import NamesClasses, a_or_an, classes_of_groups, scores_of_groups, slots_of_names
from slotworks.slots.centers import CenterGrouping, QuickGELU
from slotworks.types import Batch, Method, MethodConfig, SlotOutput
from slotworks.vocabulary import VOC_CLASSES, as_words


@dataclass(frozen=True)
class SegCLIPConfig(NamesClasses, MethodConfig):
    """Hyperparameters; the defaults are those of the released code for VOC."""

    model: str = "openai/clip-vit-base-patch16"  # hub id or folder of the image tower's first weights; "": fresh ones
    text: TextConfig = CLIP_TEXT
    max_caption: int = 32  # tokens of a caption in training
    image_size: int = 224  # pixels, square
    patch_size: int = 16  # pixels
    hidden_dim: int = 768  # width of a patch
    num_layers: int = 12  # blocks of the image tower
    num_heads: int = 12  # attention heads
    first_layers: int = 10  # blocks before the grouping; the others see groups
    num_groups: int = 8  # learnable centres
    center_layers: int = 2  # blocks in which centres look at patches
    gumbel_temperature: float = 0.9  # of the choice of a group in training
    mask_ratio: float = 0.75  # share of the patches that are left out and painted
    decoder_layers: int = 3  # blocks of the decoder that paints them
    decoder_heads: int = 8  # attention heads of this decoder, which is half as wide as the image tower
    superpixel_scale: int = 224  # of Felzenszwalb's superpixels, and the least pixels of one, where data bring none
    class_names: tuple[str, ...] = as_words(VOC_CLASSES)  # class i + 1; 0 is the background; "": no class
    template: str = "a photo of a {}."  # with {} for a name; "a" becomes "an" before a vowel
    threshold: float = 0.8  # below this score a place is background
    map_size: int = 224  # height and width of the masks

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.first_layers <= self.num_layers:
            raise ValueError(
                f"method.first_layers is {self.first_layers} of num_layers {self.num_layers} blocks; give 1 to all."
            )
        if self.image_size % self.patch_size:
            raise ValueError(
                f"method.image_size is {self.image_size}, which patches of {self.patch_size} pixels do not fill; "
                "choose a multiple."
            )

    @property
    def networks(self) -> tuple[str, ...]:
        """Hub ids or folders of the weights that training starts from."""
        return tuple(filter(None, dict.fromkeys((self.model, self.text.model))))

    def build(self) -> "SegCLIP":
        """Make the method with fresh weights; those that it starts from are read when training begins."""
        return SegCLIP(self)


class SegCLIP(Method):
    """Slot `k` is class `k`; slot 0 is the background. Batches of training have `image` and `caption`.

    `superpixels` `b y x`, one for each patch, may come with them (`ImageText(superpixels=16)`); else they are computed.
    """

    semantic_rule = "labels"  # how `evaluate_semantic` reads the slots
    config: SegCLIPConfig
    mean: Tensor
    std: Tensor

    def __init__(self, config: SegCLIPConfig):
        super().__init__()
        with needs_extra("vision"):
            from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
            from transformers.models.clip.modeling_clip import CLIPEncoderLayer
        self.config = config
        settings = CLIPVisionConfig(
            hidden_size=config.hidden_dim,
            intermediate_size=4 * config.hidden_dim,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            image_size=config.image_size,
            patch_size=config.patch_size,
            projection_dim=config.text.embed_dim,
        )
        self.vision: Any = CLIPVisionModelWithProjection(settings)
        tower = _tower(self.vision)
        tower.embeddings.class_embedding.requires_grad_(False)  # it takes no part
        self.grouping = CenterGrouping(
            config.hidden_dim,
            config.num_groups,
            config.num_heads,
            num_layers=config.center_layers,
            temperature=config.gumbel_temperature,
        )
        late = config.num_layers - config.first_layers
        self.mask_layers = nn.ModuleList(CLIPEncoderLayer(tower.config) for _ in range(late))
        self.spread = nn.Linear(config.num_groups, config.num_groups)
        self.painter = Painter(config)
        self.text = TextEncoder(config.text)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        for name, value in (("mean", CLIP_MEAN), ("std", CLIP_STD)):
            self.register_buffer(name, torch.tensor(value)[:, None, None], persistent=False)

    def prepare(self, load: Callable[[str], Method]) -> None:
        """Read CLIP's weights, which both towers start from.

        Raises:
            UserError: if they cannot be had, or are of another network.
        """
        model = self.config.model
        if model and not wanted(model):
            start_from(self.vision, model, what="CLIP of the sizes of method")
        self.text.load()

    def patches(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b p c"]:
        """Images in [0, 1] of any whole number of patches, to patches with their positions, before the first block."""
        tower = _tower(self.vision)
        tokens = tower.embeddings((image - self.mean) / self.std, interpolate_pos_encoding=True)
        return tower.pre_layrnorm(tokens)[:, 1:]

    def groups(
        self, patches: Float[Tensor, "b p c"]
    ) -> tuple[Float[Tensor, "b g d"], Float[Tensor, "b d"], Float[Tensor, "b g p"], Float[Tensor, "b g p"]]:
        """Embeddings of groups and of the whole; which group each patch is of, all or nothing, and as a softmax."""
        tower, first = _tower(self.vision), self.config.first_layers
        x = _blocks(tower.encoder.layers[:first], patches)
        x, hard, soft = self.grouping(x)
        x = _blocks(tower.encoder.layers[first:], x)
        both = torch.cat([x.amax(1, keepdim=True), x], 1)
        both = self.vision.visual_projection(tower.post_layernorm(both))
        return both[:, 1:], both[:, 0], hard, soft

    def loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """`contrastive`, `superpixel` and `recon`, each a mean over the batch.

        Raises:
            UserError: there are no captions.
        """
        patches = self.patches(batch["image"])
        _, whole, hard, _ = self.groups(patches)
        ids, mask = self.text.tokens_of(captions_of(batch), patches.device, self.config.max_caption)
        return {
            "contrastive": contrastive_loss(whole, self.text(ids, mask)[1], self.log_scale),
            "superpixel": superpixel_loss(hard, self.superpixels(batch)),
            "recon": self._painted(batch["image"], patches),
        }

    def superpixels(self, batch: Batch) -> Int64[Tensor, "b p"]:
        """The superpixel of each patch, those of the batch, or of its images by Felzenszwalb's method."""
        if "superpixels" in batch:
            return batch["superpixels"].flatten(1).long()
        scale = self.config.superpixel_scale
        images = (255 * batch["image"]).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        parts = [felzenszwalb(image, scale=scale, min_size=scale) for image in images]
        found = np.stack([most_frequent(part, self.config.patch_size) for part in parts])
        return torch.from_numpy(found).flatten(1).long().to(batch["image"].device)

    def _painted(self, image: Tensor, patches: Tensor) -> Tensor:
        """Mean squared error over the patches left out, in units of the normalised image."""
        count = patches.shape[1]
        # As the released code, whose sequence has a CLS token that always stays.
        kept = int((count + 1) * (1 - self.config.mask_ratio)) - 1
        order = batch_uniform((len(patches), count), patches.device).argsort(1)
        seen = patches.gather(1, order[:, :kept, None].expand(-1, -1, patches.shape[2]))
        return self.painter.error((image - self.mean) / self.std, self.from_groups(seen), order)

    def from_groups(self, seen: Float[Tensor, "b s c"]) -> Float[Tensor, "b s c"]:
        """Patches that were seen, as far as their groups know them."""
        x = _blocks(_tower(self.vision).encoder.layers[: self.config.first_layers], seen)
        groups, hard, _ = self.grouping(x)
        x = QuickGELU()(self.spread(hard.mT) @ groups)
        return _blocks(self.mask_layers, x)

    def encode(self, image: Float[Tensor, "b 3 h w"]) -> SlotOutput:
        """Images in [0, 1] to classes at `map_size` x `map_size` places; slots are the embeddings of the names.

        Of a place the class is that of the group it belongs to (`slotworks.nn.zero_shot`); slot 0 has the embedding 0.
        """
        config, names = self.config, tuple(filter(None, self.config.class_names))
        classes = self.text.embed([a_or_an(config.template, name) for name in names], image.device)
        groups, whole, _, soft = self.groups(self.patches(image))
        scores = scores_of_groups(groups, whole, classes, self.log_scale.exp())
        grid = (image.shape[-2] // config.patch_size, image.shape[-1] // config.patch_size)
        shares = classes_of_groups(soft, grid, scores, config.map_size, config.threshold).to(image)
        slots, attn = slots_of_names(F.normalize(classes, dim=1), shares, config.class_names)
        return SlotOutput(slots, attn, grid=(config.map_size, config.map_size))

    def param_groups(self) -> dict[str, list[nn.Parameter]]:
        """`clip`, what CLIP's weights start and the grouping leaves as it was; `new`, all else with the last blocks."""
        tower = _tower(self.vision)
        old = [*tower.embeddings.parameters(), *tower.pre_layrnorm.parameters(), self.log_scale]
        old += [*tower.encoder.layers[: self.config.first_layers].parameters(), *self.text.parameters()]
        known = {id(p) for p in old}
        return {
            "clip": [p for p in old if p.requires_grad],
            "new": [p for p in self.parameters() if p.requires_grad and id(p) not in known],
        }


class Painter(nn.Module):
    """Patches that were seen to all patches as pixels: MAE's decoder (He et al. 2022), the mean of all in front."""

    positions: Tensor

    def __init__(self, config: SegCLIPConfig):
        super().__init__()
        with needs_extra("vision"):
            from transformers import ViTConfig
            from transformers.models.vit.modeling_vit import ViTLayer
        dim, side = config.hidden_dim // 2, config.image_size // config.patch_size
        self.patch = config.patch_size
        self.embed = nn.Linear(config.hidden_dim, dim)
        self.mask_token = nn.Parameter(0.02 * torch.randn(dim))
        settings = ViTConfig(
            hidden_size=dim,
            intermediate_size=4 * dim,
            num_attention_heads=config.decoder_heads,
            layer_norm_eps=1e-6,
        )
        settings._attn_implementation = "sdpa"
        self.blocks = nn.ModuleList(ViTLayer(settings) for _ in range(config.decoder_layers))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.predict = nn.Linear(dim, 3 * config.patch_size**2)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        positions = torch.cat([torch.zeros(1, dim, device="cpu"), _mae_positions(side, dim)])
        self.register_buffer("positions", positions, persistent=False)

    def forward(self, seen: Float[Tensor, "b s c"], order: Int64[Tensor, "b p"]) -> Float[Tensor, "b p e"]:
        """Pixels of all patches, a patch row by row with its colours side by side.

        Args:
            seen: the first patches of `order`.
            order: numbers of the patches, those that were seen first.
        """
        x = self.embed(torch.cat([seen.mean(1, keepdim=True), seen], 1))
        missing = self.mask_token.expand(len(x), order.shape[1] - seen.shape[1], -1).to(x)
        patches = torch.cat([x[:, 1:], missing], 1)
        places = order.argsort(1)[..., None].expand(-1, -1, x.shape[2])
        x = torch.cat([x[:, :1], patches.gather(1, places)], 1) + self.positions
        for block in self.blocks:
            x = block(x, None)
        return self.predict(self.norm(x))[:, 1:]

    def error(
        self, image: Float[Tensor, "b 3 h w"], seen: Float[Tensor, "b s c"], order: Int64[Tensor, "b p"]
    ) -> Float[Tensor, ""]:
        """Mean squared error over the patches that were not seen."""
        true = F.unfold(image, self.patch, stride=self.patch).unflatten(1, (3, -1)).transpose(1, 2).flatten(1, 2).mT
        error = (self(seen, order) - true).square().mean(2)
        return error.gather(1, order[:, seen.shape[1] :]).mean()


def superpixel_loss(hard: Float[Tensor, "b g p"], superpixels: Int64[Tensor, "b p"]) -> Float[Tensor, ""]:
    """Divergence of each patch's choice of a group from the mean choice in its superpixel, in both directions.

    As the released code, choices go through a softmax over groups before they are compared, and the sum is divided by
    all numbers of the choices.
    """
    with without_autocast(hard.device):  # choices differ in what eight bits do not hold
        choice = hard.mT.to(torch.promote_types(hard.dtype, torch.float32))  # b p g
        same = (superpixels[:, :, None] == superpixels[:, None]).to(choice)
        mean = same @ choice / same.sum(2, keepdim=True)
    ours, theirs = choice.log_softmax(2), mean.log_softmax(2)
    both = (theirs.exp() * (theirs - ours) + ours.exp() * (ours - theirs)) / 2
    return both.mean()


def _tower(vision: Any) -> Any:
    return getattr(vision.vision_model, "vision_model", vision.vision_model)  # nested in some versions


def _blocks(layers: Any, x: Tensor) -> Tensor:
    for layer in layers:
        out = layer(x, attention_mask=None)
        x = out[0] if isinstance(out, tuple) else out
    return x


def _mae_positions(side: int, dim: int) -> Float[Tensor, "p {dim}"]:
    """Sines and cosines of column and row, a quarter of the channels each; waves as MAE's code has them."""
    speed = 10_000 ** -(torch.arange(dim // 4, device="cpu") / (dim // 4))
    row, column = torch.meshgrid(torch.arange(side, device="cpu"), torch.arange(side, device="cpu"), indexing="ij")
    across, down = column.flatten()[:, None] * speed, row.flatten()[:, None] * speed
    return torch.cat([across.sin(), across.cos(), down.sin(), down.cos()], dim=1)
