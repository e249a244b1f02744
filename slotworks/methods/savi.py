"""SAVi: video -> frame features -> slots carried from frame to frame -> broadcast decoder -> flow, colours or depth.

Kipf et al. 2022, "Conditional Object-Centric Learning from Video", arXiv 2111.12594. We follow the released code
(google-research/slot-attention-video, `savi/configs/movi`), with its SAVi-S as the defaults; `configs/savi.py` has M
and L. It differs from the paper in the width of SAVi-S's encoder (32, the paper says 64). Slots start from the boxes of
the first frame, and the target is optical flow as colours; `initializer="learned"` with `targets=("rgb",)` is the
"unconditional SAVi" of later papers. SAVi++ (Elsayed et al. 2022, arXiv 2206.07764) has depth as a second target, a
Transformer over the features (`encoder_blocks`), wider parts, and random crops, which are not here. `carry=False` is
the baseline: Slot Attention frame by frame.

`parts="slot_diffusion"` is the SAVi of SlotDiffusion's tables (Wu et al. 2023, appendix D.3; released code,
`video_based/models/savi.py`): its ResNet-18, images in [-1, 1], a mean for a loss, positions as four distances, Slot
Attention's place of the epsilon, torch's initial weights, padding and Transformer.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from slotworks.decoders import SpatialBroadcastDecoder
from slotworks.encoders import ResNetEncoder
from slotworks.encoders.savi import ConvBackbone, PositionedEncoder
from slotworks.nn.flow import flow_to_rgb
from slotworks.nn.init import lecun_, torch_, unlike
from slotworks.slots import INITIALIZERS, PREDICTORS, BoxInit, LearnedInit, SlotAttention, TransformerPredictor
from slotworks.slots.predictors import PredictorBlock
from slotworks.slots.video import VideoSlotAttention, map_over_time
from slotworks.types import (
    Batch,
    DecoderOutput,
    Method,
    MethodConfig,
    ShortClips,
    SlotOutput,
    TrainsOnClips,
    UserError,
    VideoMethod,
    cut_clips,
    refuse_ignored,
)

Target = Literal["rgb", "flow", "depth"]
CHANNELS: dict[Target, int] = {"rgb": 3, "flow": 3, "depth": 1}


@dataclass(frozen=True)
class SAViConfig(TrainsOnClips, MethodConfig):
    """Hyperparameters; the defaults are SAVi-S."""

    image_size: tuple[int, int] = (64, 64)  # height and width in pixels
    num_slots: int = 24  # K: with boxes, one for each of K - 1 and one for the background
    slot_dim: int = 128  # D
    qkv_dim: int = 128  # of the corrector
    num_iterations: int = 1  # T of the corrector at every frame; descendants without boxes: 2
    mlp_dim: int | None = None  # hidden width of the corrector's residual MLP; SAVi has none
    initializer: Literal["boxes", "centers", "learned", "gaussian"] = "boxes"  # where slots start from
    absent_box: float = 0.0  # stands for a missing box: 0, as the background's, in SAVi's code; -1 tells them apart
    parts: Literal["savi", "slot_diffusion"] = "savi"  # whose; slot_diffusion: see above
    predictor: Literal["transformer", "steve", "mlp", "identity"] = "transformer"
    """what carries slots to the next frame"""
    predictor_blocks: int = 1  # of predictor="transformer"
    predictor_dropout: float = 0.0  # of predictor="transformer"; SlotDiffusion's code has torch's default, 0.1
    predictor_qkv_dim: int = 128  # of predictor="transformer"
    predictor_mlp_dim: int = 256  # of predictor="transformer"
    predictor_norm: Literal["post", "pre"] = "post"  # of predictor="transformer"; SAVi's code knows both, the other pre
    carry: bool = True  # False: every frame starts anew, without the predictor
    short_clips: ShortClips = ()  # training on pieces of clips at first: (until step, frames), ... (not in the paper)
    start_from: str | None = None  # run folder whose weights training starts from; read when it starts
    gradient: Literal["unrolled", "implicit", "bilevel"] = "unrolled"  # of the corrector's iterations
    encoder: Literal["cnn", "resnet18", "resnet34"] = "cnn"  # of each frame
    encoder_channels: int = 32  # of the CNN, or of the first stage of the ResNet
    encoder_strides: tuple[int, ...] = (1, 1, 1, 1)  # one 5x5 convolution or one stage each
    encoder_blocks: int = 0  # Transformer blocks over the features of a frame; SAVi++: 4
    encoder_hidden_dim: int = 64  # of the MLP behind the position embedding
    decoder_channels: int = 64  # of the spatial broadcast decoder
    decoder_strides: tuple[int, ...] = (2, 2, 2, 1)  # one 5x5 layer each; 2 doubles the size
    decoder_shuffle: int = 1  # the last layer renders this many pixels squared at each position (not in the paper)
    targets: tuple[Target, ...] = ("flow",)  # what the decoder renders; flow needs it among the data's extras

    def build(self) -> "SAVi":
        """Make the method with fresh weights."""
        return SAVi(self)

    @property
    def skips_weights(self) -> bool:
        """The predictor's."""
        return not self.carry or super().skips_weights

    @property
    def starts_trained(self) -> bool:
        """Whether `start_from` names a run."""
        return self.start_from is not None


class SAVi(VideoMethod):
    """Slot Attention for Video."""

    config: SAViConfig

    def __init__(self, config: SAViConfig):
        super().__init__()
        if not config.targets or any(target not in CHANNELS for target in config.targets):
            raise ValueError(f"targets is {config.targets}; give one or more of {', '.join(CHANNELS)}.")
        self.config = config
        other = config.parts == "slot_diffusion"
        if other:
            own = ("encoder", "encoder_channels", "encoder_strides", "encoder_blocks", "encoder_hidden_dim")
            refuse_ignored(config, "parts='slot_diffusion'", (*own, "qkv_dim", "predictor_qkv_dim", "predictor_norm"))
            self.encoder = PositionedEncoder.slot_diffusion(config.slot_dim)
        else:
            self.encoder = PositionedEncoder(_backbone(config), config.encoder_hidden_dim)
        feature_dim = self.encoder.feature_dim
        self.transformer: nn.Module = nn.Identity()
        if config.encoder_blocks:  # SAVi++: 64 wide whatever the network
            blocks = [PredictorBlock(64, mlp_dim=1024, norm="pre") for _ in range(config.encoder_blocks)]
            self.transformer = nn.Sequential(nn.Linear(feature_dim, 64), nn.ReLU(), *blocks)
            feature_dim = 64
        if config.initializer in ("boxes", "centers"):
            self.initializer = BoxInit(config.slot_dim, input_dim=4 if config.initializer == "boxes" else 2)
        else:
            self.initializer = INITIALIZERS[config.initializer](config.num_slots, config.slot_dim)
        corrector = SlotAttention(
            feature_dim,
            config.slot_dim,
            config.num_iterations,
            mlp_dim=config.mlp_dim,
            qkv_dim=None if other else config.qkv_dim,
            eps=1e-6 if other else 1e-8,
            eps_in="attention" if other else "denominator",
            norm_eps=1e-5 if other else 1e-6,
            gradient=config.gradient,
        )
        predictor = PREDICTORS[config.predictor](config.slot_dim)
        size: dict[str, Any] = {"num_blocks": config.predictor_blocks, "mlp_dim": config.predictor_mlp_dim}
        if config.predictor == "transformer" and other:
            predictor = TransformerPredictor.slot_diffusion(config.slot_dim, dropout=config.predictor_dropout, **size)
        elif config.predictor == "transformer":
            predictor = TransformerPredictor(
                config.slot_dim,
                qkv_dim=config.predictor_qkv_dim,
                norm=config.predictor_norm,
                dropout=config.predictor_dropout,
                **size,
            )
        self.video_slots = VideoSlotAttention(corrector, predictor, carry=config.carry)
        self.decoder = SpatialBroadcastDecoder(
            config.slot_dim,
            config.image_size,
            channels=config.decoder_channels,
            strides=config.decoder_strides,
            shuffle=config.decoder_shuffle,
            out_channels=sum(CHANNELS[target] for target in config.targets),
            last_kernel_size=1,
            signed_position=not other,
            make="torch" if other else "keras",
        )
        if other:
            torch_(corrector)
        else:
            lecun_(self)
        if isinstance(self.initializer, LearnedInit):
            nn.init.normal_(self.initializer.slots)

    def prepare(self, load: Callable[[str], Method]) -> None:
        """Take over the weights of an earlier run, if the config names one; one on single frames, for example.

        Raises:
            UserError: if that run is no SAVi, or one with other sizes.
        """
        folder = self.config.start_from
        if folder is None:
            return
        first = load(folder)
        if not isinstance(first, SAVi):
            raise UserError(f"method.start_from is {folder}, a run of {type(first).__name__}; give a run of SAVi.")
        if wrong := unlike(self.state_dict(), first.state_dict()):
            raise UserError(f"The run in {folder} and this one differ in {wrong[0]}; give both the same networks.")
        self.load_state_dict(first.state_dict())

    @property
    def takes_boxes(self) -> bool:
        """Whether slots start from boxes of the first frame."""
        return isinstance(self.initializer, BoxInit)

    def encode(
        self,
        video: Float[Tensor, "b t 3 h w"],
        *,
        state: Float[Tensor, "b n d"] | None = None,
        boxes: Float[Tensor, "b m 4"] | None = None,
        num_slots: int | None = None,
        num_iterations: int | None = None,
        ends: bool = False,
    ) -> SlotOutput:
        """Videos in [0, 1] to slots of every frame.

        Args:
            video: all frames, or the next ones of a video of which `state` knows the frames before.
            state: what an earlier call returned.
            boxes: of the first frame, `x0 y0 x1 y1` in [0, 1], -1 where there is none; read where slots start from
                them.
            num_slots: may differ from training where the initialiser is shared by all slots.
            num_iterations: of the corrector, if not as in training.
            ends: nothing comes after this video, so that nobody asks for `state`.
        """
        if boxes is not None and not self.takes_boxes:
            raise UserError(
                f"This SAVi starts from slots of its own (method.initializer {self.config.initializer!r}) and takes no "
                'boxes; leave them out, or train with method.initializer "boxes".'
            )
        if state is not None:
            slots = state
        elif self.takes_boxes:
            slots = self.initializer(self._conditions(boxes, num_slots or self.config.num_slots))
        else:
            slots = self.initializer(video.shape[0], num_slots)
        features = map_over_time(lambda frame: self.transformer(self.encoder(frame)), video)
        out = self.video_slots(features, slots, first=state is None, num_iterations=num_iterations, ends=ends)
        return replace(out, grid=self.encoder.grid(video.shape[-2], video.shape[-1]))

    def encode_batch(
        self, batch: Batch, *, state: Float[Tensor, "b n d"] | None = None, ends: bool = False
    ) -> SlotOutput:
        """`encode`; the boxes of a video's first frame are read from the batch."""
        boxes = batch["boxes"][:, 0].float() if self.takes_boxes and state is None and "boxes" in batch else None
        return self.encode(batch["video"], state=state, boxes=boxes, ends=ends)

    def _conditions(self, boxes: Float[Tensor, "b m 4"] | None, num_slots: int) -> Float[Tensor, "b n x"]:
        """What the initialiser takes, exactly one for each slot but the background's."""
        if boxes is None:
            raise UserError(
                "This SAVi starts its slots from the boxes of the objects in the first frame, and none were given; "
                'give boxes, or train with method.initializer "learned".'
            )
        present = ~(boxes == -1).all(dim=-1, keepdim=True)
        most = int(present.sum(dim=1).max()) if present.numel() else 0
        if most > num_slots - 1:
            raise UserError(
                f"{most} boxes were given, but of {num_slots} slots only {num_slots - 1} can follow one, the first is "
                f"the background's; give fewer boxes or train with method.num_slots {most + 1}."
            )
        if boxes.shape[1] > num_slots - 1:  # rows of nothing: those that are something move up
            order = present.int().argsort(dim=1, descending=True, stable=True)[:, : num_slots - 1]
            boxes, present = boxes.gather(1, order.expand(-1, -1, 4)), present.gather(1, order)
        if not (((boxes >= 0) & (boxes <= 1)) | ~present).all():
            wrong = boxes[(((boxes < 0) | (boxes > 1)) & present).any(dim=-1)][0].tolist()
            raise UserError(f"The box {[round(v, 4) for v in wrong]} leaves the image; x0 y0 x1 y1 lie in [0, 1].")
        if self.config.initializer == "centers":
            boxes = (boxes[..., :2] + boxes[..., 2:]) / 2
        boxes = torch.where(present, boxes, self.config.absent_box)
        missing = num_slots - 1 - boxes.shape[1]
        return nn.functional.pad(boxes, (0, 0, 0, missing), value=self.config.absent_box)

    def decode(self, slots: Float[Tensor, "b t n d"]) -> DecoderOutput:
        """Slots of every frame to what the targets are, channels one after the other."""
        out = map_over_time(self.decoder, slots)
        if self.config.parts == "slot_diffusion":
            return DecoderOutput((out.recon + 1) / 2, out.masks, (out.parts + 1) / 2)
        return out

    @property
    def color_channels(self) -> slice | None:
        """The channels of `recon` that are colours; None without that target."""
        if "rgb" not in self.config.targets:
            return None
        start = sum(CHANNELS[target] for target in self.config.targets[: self.config.targets.index("rgb")])
        return slice(start, start + 3)

    def target(self, batch: Batch) -> Float[Tensor, "b t c h w"]:
        """What the decoder should render: colours and flow in [0, 1], depth as `log(1 + depth)`."""
        parts = []
        for name in self.config.targets:
            if name == "rgb":
                parts.append(batch["video"])
                continue
            keys = ("backward_flow", "forward_flow") if name == "flow" else ("depth",)
            key = next((key for key in keys if key in batch), None)
            if key is None:
                raise UserError(
                    f"The target {name!r} needs data with {' or '.join(keys)}; set data.extras, for example to "
                    f"{keys[0]}."
                )
            parts.append(flow_to_rgb(batch[key]) if name == "flow" else batch[key].log1p()[:, :, None])
        return torch.cat(parts, dim=2)

    def loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Squared error by target, summed over frames, pixels and channels, mean over videos.

        With SlotDiffusion's parts it is the mean over all values in [-1, 1], four times that in [0, 1].
        """
        batch = cut_clips(batch, self.config.short_clips, step)
        recon = self.decode(self.encode_batch(batch, ends=True).slots).recon
        error = (recon - self.target(batch)).square()  # b t c h w
        terms = dict(zip(self.config.targets, error.split([CHANNELS[t] for t in self.config.targets], 2), strict=True))
        if self.config.parts == "slot_diffusion":
            return {target: 4 * term.mean() for target, term in terms.items()}
        return {target: term.sum() / len(error) for target, term in terms.items()}


def _backbone(config: SAViConfig):
    if config.encoder == "cnn":
        return ConvBackbone(config.encoder_channels, strides=config.encoder_strides)
    return ResNetEncoder(
        18 if config.encoder == "resnet18" else 34,
        strides=config.encoder_strides,
        width=config.encoder_channels,
        stem_relu=False,
        zero_init=True,
        padding="same",
        init="lecun",
        norm_eps=1e-6,
    )
