"""The ablations of Slot Attention's supplement (section 2), and the small runs that they change.

`slotworks sweep ablations.discovery_mini --ablation all --seeds 3` trains one run for each variant and seed. The same
list fits any recipe of `slot_attention` and `set_prediction`, the paper's own included.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from slotworks.configs import set_prediction
from slotworks.configs.recipe import recipe
from slotworks.data.scenes import SetScenes, TetrominoScenes
from slotworks.methods import SlotAttentionConfig
from slotworks.training import Adam, Run

Task = Literal["discovery", "sets"]


@dataclass(frozen=True)
class Ablation:
    """One figure: what is changed, and how; the recipe itself is the first bar of each."""

    about: str
    default: str  # what the recipe does
    variants: Mapping[str, tuple[str, ...]]  # settings by label, as for `--set`
    tasks: tuple[Task, ...] = ("discovery", "sets")
    set_variants: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # those of set prediction, if others

    def of(self, task: Task) -> Mapping[str, tuple[str, ...]]:
        """The variants of a task."""
        return self.set_variants if task == "sets" and self.set_variants else self.variants


ABLATIONS: dict[str, Ablation] = {
    "aggregation": Ablation(
        "figure 1: how a slot sums what it won",
        "weighted mean",
        {"sum": ("method.aggregation=sum",), "sum and LayerNorm": ("method.aggregation=sum_norm",)},
    ),
    "position_embedding": Ablation(
        "figure 2: of the encoder's features", "with", {"without": ("method.position-embedding=False",)}
    ),
    "slot_init": Ablation(
        "figure 3: the Gaussian that slots start from",
        "shared",
        {"one for each slot": ("method.initializer=per_slot",)},
    ),
    "softmax_axis": Ablation(
        "figure 4: what the attention sums to one over", "slots", {"positions": ("method.softmax-over=positions",)}
    ),
    "update": Ablation("figure 5: the recurrent update", "GRU", {"replace": ("method.update=replace",)}),
    "iterations": Ablation(
        "figure 6: attention iterations in training",
        "3",
        {str(count): (f"method.num-iterations={count}",) for count in (1, 2, 4, 5)},
    ),
    "layer_norm": Ablation(
        "figure 7: LayerNorms inside Slot Attention", "with", {"without": ("method.layer-norm=False",)}
    ),
    "mlp": Ablation("figure 8: the MLP after the GRU", "with", {"without": ("method.mlp-dim=None",)}),
    "temperature": Ablation(
        "figure 9: divisor of the attention's logits", "sqrt(D)", {"1": ("method.attention-scale=1",)}
    ),
    "epsilon": Ablation(
        "figure 10: where the offset is added", "attention", {"denominator": ("method.eps-in=denominator",)}
    ),
    "decay": Ablation(
        "figure 11: decay of the learning rate", "with", {"without": ("optimizer.half-life-steps=None",)}
    ),
    "warmup": Ablation("figure 12: warmup of the learning rate", "with", {"without": ("optimizer.warmup-steps=0",)}),
    "num_slots": Ablation(
        "figure 13: slots in training, as many as six objects need and as ten do",
        "the recipe's",
        {str(count): (f"method.num-slots={count}",) for count in (7, 11)},  # one more than objects in discovery
        set_variants={str(count): (f"method.num-slots={count}",) for count in (6, 10)},
    ),
    "soft_kmeans": Ablation(
        "the limit of soft k-means, without GRU, MLP, LayerNorms and projections",
        "Slot Attention",
        {"soft k-means": ("method.soft-kmeans=True",)},
        tasks=("discovery",),
    ),
    "stepwise_loss": Ablation(
        "figure 17: a loss after every iteration, through all of them",
        "last only",
        {"every": ("method.stepwise-loss=True", "method.gradient=unrolled")},
        tasks=("sets",),
    ),
    "coordinate_scale": Ablation(
        "figure 17: range of the coordinates in the loss",
        "1",
        {f"{scale}": (f"method.coordinate-scale={scale}",) for scale in (2, 5)},
        tasks=("sets",),
    ),
}


@recipe(takes="23 to 55 seconds of training on one busy CPU core")
def discovery_mini() -> Run:
    """Object discovery that the ablations change: Tetrominoes drawn on the fly, the paper's method, a short training.

    Gaussian slots and three iterations as in the paper, but only the last is differentiated (`gradient="bilevel"`):
    unrolled, the same network had not separated objects by then. Features and masks at a quarter of the resolution,
    slots as wide as features so that soft k-means fits; steps, batch and schedule are far below the paper's.
    """
    return Run(
        method=SlotAttentionConfig(
            image_size=(35, 35),
            num_slots=4,
            slot_dim=32,
            mlp_dim=64,
            encoder_strides=(2, 2, 1, 1),
            decoder_shuffle=4,
            gradient="bilevel",
            position_gain=2.0,
        ),
        data=TetrominoScenes(),
        optimizer=Adam(lr=1e-3, warmup_steps=200, half_life_steps=500, max_grad_norm=1.0),
        steps=800,
        batch_size=16,
        precision="auto",
        channels_last="auto",
        ema_decay=0.995,
        eval_every=800,
        save_every=800,
    )


sets_mini = set_prediction.scenes_mini.but(
    "Set prediction that the ablations change: `set_prediction.scenes_mini` with as many slots as objects, shortened.",
    takes="four minutes of training on one busy CPU core",
    method={"num_slots": SetScenes().max_objects},
    optimizer=Adam(lr=1e-3, warmup_steps=200, half_life_steps=1_500, max_grad_norm=1.0),
    steps=2_000,
    eval_every=2_000,
)
