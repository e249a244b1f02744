"""Where recipes of published numbers depart from their source: the setting, what the source has, what ours has, why.

Each row names a setting of the run, so that a test can read `ours` there (`tests/test_departures.py`). Where no setting
says it, as how a picture is made smaller, the row names the setting that it belongs to. `python -m slotworks.tables`
writes the rows into the pages of the methods, and `slotworks recipes NAME` prints those of a recipe.

Files without another name are of the original's repository: google-research/google-research (`slot_attention`; Slot
Attention, set prediction), google-research/slot-attention-video, singhgautam/slate and steve, Wuziyi616/SlotDiffusion
(`slotdiffusion`), amazon-science/object-centric-learning-framework (OCLF), martius-lab/videosaur, gkakogeorgiou/spot,
JindongJiang/latent-slot-diffusion, visinf/glass, VinAIResearch/Dataset-Diffusion, chongzhou96/MaskCLIP,
lukemelas/deep-spectral-segmentation, PaulCouairon/DiffCut, Cyanogenoid/dspn, weijiawu/DiffuMask, zadaianchuk/comus,
karazijal/ovdiff (its README alone), kahnchana/clippy, ArrowLuo/SegCLIP, Jazzcharles/OVSegmentor. Of EmerDiff no code
is published.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

from slotworks.configs.recipe import Recipe
from slotworks.configs.seg_clip import STEPS as STEPS_OF_SEG_CLIP
from slotworks.methods.mask_clip import TEMPLATES
from slotworks.methods.ov_segmentor import ENTITIES
from slotworks.vocabulary import COCO_CLASSES, SURROUNDINGS, VOC_CLASSES, as_words


@dataclass(frozen=True)
class Departure:
    """A setting that is not as in the source of some recipes of a method, or that the source leaves open."""

    recipes: str  # patterns of their names without the method's, a space between; only published ones count
    setting: str  # dotted name in the run
    source: str  # what stands there, and where
    ours: Any  # the value in the run
    why: str

    @property
    def value(self) -> str:
        """`ours` as a table shows it."""
        few = 8
        if isinstance(self.ours, tuple) and len(self.ours) > few:
            return f"{len(self.ours)} values"
        return f"{self.ours:,}" if isinstance(self.ours, int) and self.ours > 9_999 else str(self.ours) or "default"


LAST = "the last checkpoint; one that is chosen on images says little of a run, and those of tests must not choose"
HALF = "bfloat16 has the range of float32 and needs no scale of the loss; weights stay float32"
PILLOW = "Pillow averages over what a pixel covers, which loses less, and is the same on every machine"
FAR = "a store of whole panoramas is no array; hardly any photograph is longer"
NO_ANNOTATIONS = "470 MB of annotations are not read for training, of which nothing else is used; 0.9 % more pictures"
NOT_STATED = "not stated"
KERAS = "Slot Attention's own code is the source of this part, and of all methods here"
FLOAT16 = "float16 with a scale of the loss"
BY_LOSS = "the checkpoint of the lowest validation loss (an author in issue 8 of its repository)"
TENSORS = "as tensors, which torchvision did not antialias then"
TABLE_9 = "as all rows of table 9 here"
OPENCV = "bilinear by OpenCV, which does not antialias"
AT_320 = "320, as SPOT and the authors' page of DINOSAUR score what they compare"

_WHOLE_COCO = "without pictures that have no annotation (img_based/datasets/coco.py), 117,266"
_SEED_0 = "all recipes have 0; `--seed`, `--seeds`"
_RANGE = "gaussian, whose mean and width start in torch's range"
_WIDER = f"Keras' range, 1.4 times as wide: {KERAS}"


def _random_square(recipes: str) -> Departure:
    return Departure(
        recipes,
        "data.crop",
        "a random square of the whole picture",
        "random",
        f"of the middle 4:3 of longer ones: {FAR}",
    )


def _drawn_seed(recipes: str) -> Departure:
    return Departure(recipes, "seed", "none, drawn for each run (ocl/cli/train.py)", 0, _SEED_0)


def _clevrtex(recipes: str) -> tuple[Departure, ...]:
    """As SlotDiffusion's repository reads it."""
    return (
        Departure(
            recipes,
            "data.settings.image",
            f"resized {TENSORS} (img_based/datasets/utils.py)",
            "Pillow bilinear",
            PILLOW,
        ),
        Departure(
            recipes,
            "eval_split",
            "5,000 others, trained on here: splits are cut from a list in an order of its own, which begins with "
            "the folders 31, 46, 9, 3 and 10 (img_based/datasets/splits/CLEVRTex/full/img.pkl)",
            "test",
            "the first 5,000, as CLEVRTex' own loader cuts it",
        ),
    )


def _celeba(recipes: str) -> Departure:
    """As SlotDiffusion's repository reads it."""
    return Departure(
        recipes, "data.interpolation", f"bilinear, {TENSORS} (img_based/datasets/utils.py)", "bilinear", PILLOW
    )


def _movi_frames(recipes: str) -> Departure:
    """As SlotDiffusion's repository keeps them."""
    return Departure(
        recipes,
        "data.resolution",
        "the same, kept as JPEG, and scored against that (scripts/data_utils/download_movi.py)",
        "128x128",
        "frames as the official files have them",
    )


DEPARTURES: Mapping[str, tuple[Departure, ...]] = {
    "slot_attention": (
        Departure(
            "tetrominoes multi_dsprites clevr6 clevr6_11",
            "method.norm_eps",
            "the paper does not say",
            1e-3,
            "the released model.py uses Keras' LayerNorm as it is",
        ),
        Departure(
            "clevr6 clevr6_11",
            "data.root",
            "TFDS' clevr, of which the crop cuts another part (slot_attention/data.py); CLEVR with masks in the paper",
            "data/clevr_with_masks",
            "the paper's: it has the masks to score, and the crop is meant for it",
        ),
        Departure("clevrtex celeba", "precision", FLOAT16, "bf16", HALF),
        Departure("clevrtex celeba", "keep_every", BY_LOSS, None, LAST),
        *_clevrtex("clevrtex"),
        _celeba("celeba"),
        Departure(
            "coco voc",
            "optimizer.warmup_steps",
            "2,500, at step s (s + 0.5) / 2,500 of the rate (ocl/scheduling.py)",
            2_500,
            "s / 2,500 here, as in all schedules",
        ),
        _drawn_seed("coco voc"),
        Departure("coco voc", "data.mask_size", "128 in OCLF's _preprocessing_coco.yaml", 320, AT_320),
        Departure(
            "coco voc", "data.interpolation", f"bilinear, {TENSORS} (_preprocessing_coco.yaml)", "bilinear", PILLOW
        ),
        _random_square("coco voc"),
    ),
    "slot_mlp": (
        Departure(
            "*",
            "method.feature_side",
            '"resize images" (supplement, tables 8 and 9)',
            16,
            "read as the feature map, which is what comes before in both tables",
        ),
        Departure("*", "method.norm_eps", "the paper does not say", 1e-3, "as the encoder of Slot Attention's code"),
    ),
    "set_prediction": (
        Departure(
            "*",
            "method.norm_eps",
            "the paper does not say",
            1e-3,
            "the released model.py uses Keras' LayerNorm as it is",
        ),
        Departure(
            "*",
            "eval_images",
            "500 of the validation split unless told otherwise (set_prediction/eval.py)",
            15_000,
            "the whole split, the other option of that script",
        ),
        Departure(
            "clevr10_stepwise",
            "method.stepwise_loss",
            "sum or mean over the iterations is not stated (supplement, 3.2)",
            True,
            "the sum, so that the last iteration weighs what it does in clevr10",
        ),
    ),
    "dspn": (
        Departure(
            "*",
            "method.inner_lr",
            "800 on the mean of a batch of 32 (dspn/dspn.py)",
            25.0,
            "800 / 32 for the gradient of each image: the same, and it does not depend on the batch",
        ),
        Departure(
            "*",
            "data.val_size",
            "none: trained on all 70,000 images (dspn/train.py)",
            512,
            "of the training images for validation, as Slot Attention's data.py keeps them",
        ),
        Departure(
            "*",
            "data.image_size",
            "128, squeezed by Pillow, which averages (dspn/preprocess-images.py)",
            128,
            "squeezed without antialiasing as in Slot Attention's data.py: one store for all of the table",
        ),
        Departure(
            "*",
            "eval_images",
            "14,976 of the validation split, whole batches alone (dspn/data.py); a distance may equal the threshold",
            15_000,
            "the whole split; distances below the threshold, as in Slot Attention's set_prediction/utils.py",
        ),
    ),
    "savi": (
        Departure(
            "*_small *_medium *_large *_depth",
            "seed",
            "42 (configs/movi/*.py); the table is of 5 seeds, which are not stated",
            0,
            "all recipes have 0; `--seeds 5`",
        ),
        Departure(
            "*_small",
            "method.encoder_channels",
            "64 in the paper, 32 in configs/movi/savi_conditional_small.py",
            32,
            "the README's numbers are the code's",
        ),
        Departure(
            "*_depth",
            "data.clip_length",
            "6 frames, cropped at random to 75 to 100 % of the area (configs/movi/savi++_conditional.py)",
            6,
            "nothing here crops clips with their boxes and flow",
        ),
        Departure(
            "*_large *_depth",
            "method.slot_dim",
            "wider in the README's words, 128 in the configs",
            128,
            "the README's numbers are the code's",
        ),
        Departure("*_unconditional", "precision", FLOAT16, "bf16", HALF),
        _movi_frames("*_unconditional"),
    ),
    "slate": (
        Departure(
            "shapes3d clevr_mirror shapestacks bitmoji clevrtex celeba",
            "optimizer.half_life_steps",
            "both rates are halved after four epochs without a better validation loss (train.py)",
            None,
            "a rate is a function of the step alone, or a killed run goes on otherwise than it would have",
        ),
        Departure(
            "shapes3d clevr_mirror shapestacks bitmoji clevrtex celeba",
            "keep_every",
            "the checkpoint of the lowest validation loss (train.py)",
            None,
            LAST,
        ),
        Departure(
            "shapes3d clevr_mirror shapestacks bitmoji clevrtex celeba",
            "optimizer.warmup_steps",
            "30,000, at step s (s + 1) / 30,000 of the rate",
            30_000,
            "s / 30,000 here, as in all schedules",
        ),
        Departure(
            "shapes3d clevr_mirror shapestacks bitmoji clevrtex celeba coco voc",
            "method.initializer",
            _RANGE,
            "gaussian",
            _WIDER,
        ),
        Departure(
            "clevr_mirror shapestacks bitmoji",
            "steps",
            "not in the released code",
            250_000,
            "the training of Chang et al. 2022, who print the numbers",
        ),
        Departure(
            "clevr_mirror shapestacks bitmoji clevrtex celeba",
            "method.vocab_size",
            "not in the released code",
            4096,
            "OCLF's configs/experiment/slate/_base_large.yaml and Chang et al. 2022",
        ),
        Departure(
            "clevrtex celeba",
            "method.dvae_signed",
            "[-1, 1] in SlotDiffusion's repository, [0, 1] in SLATE's",
            False,
            "these two are the paper's; clevrtex_stage2 and celeba_stage2 are the others",
        ),
        Departure(
            "coco voc",
            "method.parts",
            "OCLF's: no MLP before Slot Attention, torch's Transformer with biases and without a last norm "
            "(configs/experiment/slate/_base_large.yaml, ocl/decoding.py)",
            "slate",
            "SLATE's own network",
        ),
        _drawn_seed("coco voc"),
        Departure("coco voc", "data.mask_size", "128 in OCLF's _preprocessing_coco.yaml", 320, AT_320),
        Departure(
            "coco voc", "data.interpolation", f"bilinear, {TENSORS} (_preprocessing_coco.yaml)", "bilinear", PILLOW
        ),
        _random_square("voc"),
        Departure("*_stage2", "precision", FLOAT16, "bf16", HALF),
        Departure("*_stage2", "keep_every", BY_LOSS, None, LAST),
        *_clevrtex("clevrtex_stage2"),
        _celeba("celeba_stage2"),
    ),
    "dvae": (
        Departure("*", "precision", FLOAT16, "bf16", HALF),
        Departure("clevrtex celeba", "keep_every", BY_LOSS, None, LAST),
        *_clevrtex("clevrtex"),
        _celeba("celeba"),
        _movi_frames("movi_d movi_e"),
    ),
    "vqvae": (
        Departure(
            "movi_d movi_e",
            "steps",
            "100 epochs in the paper, 50 in the configs",
            182_800,
            "the weights behind the numbers are the code's; 50 epochs",
        ),
        Departure(
            "voc",
            "steps",
            "100 epochs in the paper, 800 in vqvae_voc_params-res224.py",
            132_000,
            "VOC is of the later code; 800 epochs",
        ),
        Departure("coco", "data.train_masks", _WHOLE_COCO, False, NO_ANNOTATIONS),
        Departure("*", "precision", FLOAT16, "bf16", HALF),
        Departure("clevrtex celeba voc coco", "keep_every", BY_LOSS, None, LAST),
        Departure(
            "voc coco",
            "data.interpolation",
            "bilinear by OpenCV, which does not antialias (coco_transforms.py, voc_transforms.py)",
            "bilinear",
            PILLOW,
        ),
        _random_square("voc"),
        *_clevrtex("clevrtex"),
        _celeba("celeba"),
        _movi_frames("movi_d movi_e"),
    ),
    "slot_diffusion": (
        Departure(
            "clevrtex clevrtex_velocity clevrtex_sample clevrtex_pixels",
            "steps",
            "100 epochs in the paper, 400 in sa_ldm_clevrtex_params-res128.py",
            62_500,
            "the table is the paper's; 100 epochs",
        ),
        Departure(
            "celeba",
            "steps",
            "50 epochs in the paper, 200 in sa_ldm_celeba_params-res128.py",
            127_150,
            "the table is the paper's; 50 epochs",
        ),
        Departure(
            "clevrtex celeba",
            "optimizer.lr",
            "2e-4 for all in the paper's table 3; 2e-4 for the U-Net and 1e-4 for the rest in the configs",
            2e-4,
            "the code's: the factor is `lr_scales`",
        ),
        Departure(
            "celeba",
            "optimizer.max_grad_norm",
            "no clipping in the paper's table 3, 1 in the config",
            1.0,
            "the code's",
        ),
        Departure(
            "clevrtex_pixels",
            "method.denoiser.dims",
            "the U-Net for pixels is not stated (appendix E.4)",
            (64, 128, 192, 256),
            "half as wide as that for latents, which are a quarter as large",
        ),
        Departure(
            "movi_d movi_e",
            "method.denoiser.num_timesteps",
            "1,000, and a solver at times between them",
            1_000,
            "whole timesteps, as `diffusers` has them: 949 for 949.05",
        ),
        Departure(
            "movi_d_t100 movi_e_t100",
            "method.denoiser.num_timesteps",
            "fewer than 1,000: the axis of figure 9 is not in its text; a solver at times between whole ones",
            100,
            "a tenth, as one point of the figure; `slotworks sweep` takes any",
        ),
        Departure("voc coco", "data.mask_size", "224 in img_based/datasets", 320, AT_320),
        Departure(
            "voc coco",
            "data.interpolation",
            "bilinear by OpenCV, which does not antialias (coco_transforms.py, voc_transforms.py)",
            "bilinear",
            PILLOW,
        ),
        Departure("coco", "data.train_masks", _WHOLE_COCO, False, NO_ANNOTATIONS),
        _random_square("voc"),
        *_clevrtex("clevrtex clevrtex_velocity clevrtex_sample clevrtex_pixels"),
        _celeba("celeba"),
        _movi_frames("movi_*"),
        Departure(
            "*",
            "method.initializer",
            "learned; all else of Slot Attention starts as torch's layers do",
            "learned",
            f"all else starts by Glorot: {KERAS}",
        ),
        Departure("*", "precision", FLOAT16, "bf16", HALF),
        Departure("clevrtex* celeba voc coco", "keep_every", BY_LOSS, None, LAST),
    ),
    "steve": (
        Departure(
            "movi_d movi_e",
            "optimizer.warmup_steps",
            "30,000, at step s (s + 1) / 30,000 of the rate",
            30_000,
            "s / 30,000 here, as in all schedules",
        ),
        Departure(
            "movi_d movi_e",
            "method.initializer",
            _RANGE,
            "gaussian",
            _WIDER,
        ),
        Departure("movi_d movi_e", "keep_every", "the checkpoint of the lowest validation loss (train.py)", None, LAST),
        Departure(
            "movi_d movi_e", "eval_split", "70, 15 and 15 % of one folder (data.py)", "test", "MOVi's official splits"
        ),
        Departure(
            "movi_d movi_e",
            "steps",
            "500 epochs; the best checkpoint of the first 200,000 steps is kept apart (train.py)",
            200_000,
            "the number that the script counts",
        ),
        Departure("*_stage2", "precision", FLOAT16, "bf16", HALF),
        _movi_frames("*_stage2"),
    ),
    "dinosaur": (
        Departure(
            "coco_mlp coco_mlp_mae coco_transformer* voc_*",
            "data.mask_size",
            "224 while training, 320 in configs/evaluation/projects/bridging and on the authors' page",
            320,
            "the evaluation's, whose numbers these are",
        ),
        Departure(
            "coco_* voc_*",
            "data.interpolation",
            f"bicubic, {TENSORS} (_preprocessing_coco_dino_feature_recon_ccrop.yaml)",
            "bicubic",
            PILLOW,
        ),
        Departure(
            "movi_*",
            "data.interpolation",
            "bicubic, as tensors, whose cubic overshoots more (_preprocessing_movi_dino_feature_recon.yaml)",
            "bicubic",
            "Pillow's, -0.5 where torch has -0.75, the same on every machine",
        ),
        Departure(
            "movi_*",
            "data.frames_per_video",
            "nine, others in each epoch (configs/dataset/movi_c_image.yaml)",
            None,
            "all frames are samples, which nine of each epoch come to",
        ),
        _random_square("voc_* coco_mlp_dinov2"),
        _drawn_seed("*"),
        Departure(
            "voc_*", "steps", "300,000 in the configs, by other accounts 250,000 in the paper", 300_000, "the code's"
        ),
        Departure(
            "voc_mlp",
            "method.decoder_dims",
            "no config of the MLP decoder on VOC is released",
            (2048, 2048, 2048),
            "COCO's",
        ),
        Departure(
            "movi_c_mlp_b8 movi_c_mlp_b16 movi_e_mlp_b8 movi_e_mlp_b8_11",
            "method.decoder_dims",
            "no config with a ViT-B on MOVi is released",
            (1024, 1024, 1024),
            "those with a ViT-S/8",
        ),
        Departure(
            "movi_c_transformer",
            "method.encoder.model",
            "ViT-S/16 in movi_c_feat_rec_auto.yaml, ViT-B/16 in the paper's table 3",
            "facebook/dino-vitb16",
            "the table's",
        ),
        Departure(
            "coco_mlp_mae",
            "method.encoder.model",
            "no config with MAE is released",
            "facebook/vit-mae-base",
            "all else as in coco_feat_rec_dino_base16.yaml",
        ),
        Departure(
            "coco_transformer_s8",
            "method.encoder.model",
            "no config with ViT-S/8 on COCO is released",
            "facebook/dino-vits8",
            "all else as in coco_feat_rec_dino_small16_auto.yaml",
        ),
        Departure(
            "coco_mlp coco_mlp_mae coco_transformer* voc_* movi_*",
            "method.initializer",
            f"{_RANGE}; all else of Slot Attention starts as torch's layers do",
            "gaussian",
            f"all else starts by Glorot; {_WIDER}",
        ),
        Departure(
            "coco_mlp_dinov2",
            "method.initializer",
            "gaussian, of mean 0 and deviation 1 / 16; all else starts as torch's layers do (videosaur/modules)",
            "gaussian",
            f"all else starts by Glorot; mean and width in Keras' range: {KERAS}",
        ),
        Departure(
            "coco_mlp_dinov2",
            "method.num_iterations",
            "3, in which the GRU holds the normalised slots (videosaur/modules/groupers.py)",
            3,
            "it holds the slots, as in the paper",
        ),
        Departure(
            "*_transformer*",
            "method.decoder_blocks",
            "4 that start as copies of one (torch's TransformerDecoder)",
            4,
            "drawn one by one: equal starts are an accident of that class",
        ),
    ),
    "spot": (
        _random_square("voc*"),
        Departure(
            "movi_*",
            "data.frame_seed",
            "nine frames of each video, drawn anew for each run and written down for the second (datasets.py)",
            0,
            "the seed is written down instead",
        ),
        Departure(
            "movi_*",
            "data.mask_size",
            "128 while training, 320 unless told otherwise in eval_spot.py, whose command in the README does not say",
            128,
            "the size of the official masks",
        ),
        Departure(
            "*",
            "optimizer.warmup_scale",
            "0, and at step s s / (warmup - 1) of the rate (utils_spot.py)",
            0.0,
            "s / warmup here, as in all schedules",
        ),
        Departure(
            "*",
            "method.mlp_dim",
            "1,024; the first layer of Slot Attention's residual MLP starts by Kaiming (slot_attn.py)",
            1024,
            f"by Glorot, as the second: {KERAS}",
        ),
        Departure(
            "coco voc movi_c movi_e coco_baseline coco_mae",
            "method.initializer",
            f"{_RANGE} (slot_attn.py)",
            "gaussian",
            _WIDER,
        ),
        Departure(
            "*",
            "method.eval_orders",
            "all nine for the README's numbers, standard in training",
            "standard",
            "`--method.eval-orders all` is the ensemble",
        ),
    ),
    "stable_lsd": (
        Departure("*", "precision", "fp16 (configs/coco/train.sh)", "bf16", HALF),
        Departure("*", "seed", "42 (configs/coco/train.sh)", 0, "all recipes have 0; `--seed 42`"),
        Departure(
            "*",
            "method.diffusion.image_size",
            "256, resized from the picture for itself (src/data/dataset.py)",
            256,
            "resized from the 448 pixels that the encoder sees, so that one picture is stored",
        ),
        Departure(
            "*",
            "data.interpolation",
            f"{OPENCV}, in GLASS's tests (src/eval/eval_datasets/coco_eval_transforms.py)",
            "bilinear",
            PILLOW,
        ),
        Departure(
            "coco voc voc_dynamic",
            "method.initializer",
            "gaussian; Slot Attention's linear layers and GRU start as torch's do (src/models/slot_attn.py)",
            "gaussian",
            f"both by Glorot, in Keras' range: {KERAS}",
        ),
        Departure("voc*", "steps", "GLASS's run, 250,000 (its supplement)", 250_000, "no script of LSD has VOC"),
        Departure(
            "voc_bbox",
            "method.box_scale",
            "pixels of a 256 crop in the evaluation (eval_metrics.py), not stated for training",
            1.0,
            "boxes in [0, 1], as everywhere here",
        ),
        Departure(
            "voc_dynamic",
            "method.drop_masked_slots_from_context",
            "slots beyond the number of objects still reach the U-Net (src/models/slot_attn.py)",
            False,
            "the code's; an image without objects keeps one slot, where the code divides zero by zero",
        ),
    ),
    "glass": (
        Departure("*", "precision", "fp16 (table 10)", "bf16", HALF),
        Departure("*", "seed", f"{NOT_STATED}; 42 in the evaluation (src/eval/scripts/coco)", 0, "all recipes have 0"),
        Departure("*", "optimizer.max_grad_norm", NOT_STATED, 1.0, "LSD's train_lsd.py, on which GLASS builds"),
        Departure("*", "optimizer.weight_decay", "Adam, constant (table 10)", 0.0, "LSD has 1e-2, which is AdamW"),
        Departure(
            "*",
            "data.images.mask_size",
            "the resolution of the generated masks (section 4)",
            512,
            "Dataset Diffusion's, whose pictures have 512 pixels",
        ),
        Departure("*", "data.flips", NOT_STATED, False, "neither the paper nor the release's datasets flip"),
        Departure(
            "*",
            "data.images.real.interpolation",
            f"{OPENCV} (src/eval/eval_datasets/coco_eval_transforms.py)",
            "bilinear",
            PILLOW,
        ),
        Departure(
            "*",
            "method.decoder_dims",
            "1,536 in table 10, 2,048 unless told otherwise in src/models/mlp_decoder.py",
            (1536, 1536, 1536),
            "the table's",
        ),
        Departure(
            "*_mae *_dino",
            "method.encoder.image_size",
            NOT_STATED,
            448,
            "as DINOv2's: 28 x 28 patches of 16 pixels",
        ),
        Departure("*", "method.match_masks", NOT_STATED, "hard", "unused helpers of eval_composition.py"),
        Departure("*", "method.match_background", NOT_STATED, True, "label 0 is a channel in these helpers"),
        Departure("*", "method.semantic_mean", NOT_STATED, "images", "pixels, then pairs, then images"),
        Departure("*", "method.decoder_input", NOT_STATED, "context", "what slot_attn.py of the release returns"),
        Departure(
            "*",
            "method.initializer",
            "gaussian (configs/coco/slot_attn/config.json); linear layers and GRU start as torch's do (slot_attn.py)",
            "gaussian",
            f"both by Glorot, in Keras' range: {KERAS}",
        ),
    ),
    "dataset_diffusion": (
        Departure(
            "voc voc_stage2",
            "data.root",
            "a caption and the names of its classes for each image (data/prompts/voc_prompts.json), seed 1111",
            "data/generated/dataset_diffusion.voc",
            '"a photo of cat dog", as some of its own are, and a seed for each image: its files are not ours',
        ),
        Departure(
            "coco coco_stage2",
            "data.root",
            "a caption and the names of its classes for each image (data/prompts/coco_prompts.json), seed 1111",
            "data/generated/dataset_diffusion.coco",
            "as for VOC",
        ),
        Departure(
            "*",
            "data.real.interpolation",
            f"{OPENCV} (mmsegmentation/configs/_base_/datasets)",
            "bilinear",
            PILLOW,
        ),
        Departure(
            "voc voc_stage2 coco coco_stage2",
            "method.resnet",
            "ResNetV1c of mmsegmentation, three convolutions first",
            "",
            "`microsoft/resnet-101`, one of 7 x 7: the network that transformers has",
        ),
        Departure(
            "*",
            "data.real.crop",
            "whole, 512 on the shorter side (mmsegmentation/configs/_base_/datasets)",
            "whole",
            f"squeezed into a square, {TABLE_9}",
        ),
        Departure("*", "data.real.mask_size", "scored at the size of each image", 320, TABLE_9),
        Departure(
            "*",
            "method.test_scales",
            "listed in the configs, not used by the scripts",
            (0.5, 0.75, 1.0, 1.25, 1.5, 1.75),
            "taken to be what the best number was made with",
        ),
        Departure(
            "coco_dinov2_100k",
            "method.image_size",
            f"{NOT_STATED} (GLASS, appendix F)",
            448,
            "as GLASS shows images to DINOv2",
        ),
    ),
    "comus": (
        Departure(
            "*", "method.image_size", "pictures of their own size", 512, "squares, so that pictures make batches"
        ),
        Departure(
            "voc",
            "method.saliency_size",
            "256, and stretched to [0, 1] over a batch (comus/saliency.py)",
            256,
            "stretched over each image: a mask does not depend on the others",
        ),
        Departure(
            "voc_segmenter voc_self_trained",
            "data.root",
            "clusters of VOC's train, 1,464 images (configs/dataset/pascal.yaml), named at the very end",
            "data/generated/comus.voc",
            "trainaug, as all recipes of VOC here; named by the validation images before the training",
        ),
        Departure(
            "voc_segmenter voc_self_trained",
            "method.crop_scales",
            "0.5 to 2 of the area (configs/self_training/pascal.yaml), more than all of it being all, and sides of 3:4 "
            "to 4:3",
            (1.0, 1.41),
            "factors on the side, drawn evenly; squares",
        ),
        Departure(
            "voc_segmenter",
            "steps",
            "260: ten epochs of 1,464 images (n_epochs + 1 in comus/semseg/self_train.py)",
            1_510,
            "ten epochs of the images that are labelled here",
        ),
        Departure(
            "voc_self_trained",
            "steps",
            "940: five epochs of trainaug",
            755,
            "five epochs of the images that are labelled here, four fifths of trainaug; the others are to validate",
        ),
    ),
    "diffu_mask": (
        Departure(
            "voc",
            "method.backbone",
            "a Mask2Former (README)",
            "resnet101",
            "DeepLabV3 and the schedule of Dataset Diffusion: one segmenter for all generated masks",
        ),
        Departure(
            "voc",
            "method.splices",
            "4,000 squares of 2 x 2 images and 4,000 of 3 x 3 beside single ones (Data_Augmentation.py)",
            (1, 2, 3),
            "drawn anew in each step, each kind equally likely",
        ),
        Departure("voc", "data.real.crop", NOT_STATED, "whole", f"squeezed into a square, {TABLE_9}"),
    ),
    "clippy": (
        Departure(
            "*",
            "method.background_names",
            "some hundred names of things and surroundings beside VOC's (src/evaluation/datasets.py)",
            ("background", *SURROUNDINGS),
            "names of ours for what is around objects, as MaskCLIP's here",
        ),
        Departure(
            "*",
            "method.patch_dropout",
            "0.5 in src/open_clip/model_configs/clippy-B-16.json, which the tower of timm never gets",
            0.0,
            "what the released training does",
        ),
        Departure(
            "*",
            "optimizer.decay",
            "a cosine over 32 epochs behind the warm-up, which 5,000 steps do not reach",
            "none",
            "the same rates in these steps",
        ),
    ),
    "seg_clip": (
        Departure(
            "*",
            "data.superpixels",
            "superpixels of the whole image; of a patch the mean of their numbers, which can be that of another "
            "(dataloaders/rawimage_util.py)",
            16,
            "superpixels of the window at its 224 pixels; the one that covers most of a patch",
        ),
        Departure("*", "precision", FLOAT16, "bf16", HALF),
        Departure(
            "*",
            "data.real.crop",
            "windows of 224 over the image, its short side 224 (seg_segmentation/configs)",
            "whole",
            "squares, seen at once",
        ),
        Departure(
            "*",
            "steps",
            "ten epochs of CC3M, of which every download has another number of pairs, and of COCO's 414,113 captions",
            STEPS_OF_SEG_CLIP,
            "for 2.8 million pairs of CC3M",
        ),
    ),
    "ov_segmentor": (
        Departure(
            "*",
            "method.entities",
            "the hundred most frequent nouns, with lemmas and synonyms, in files that come with its data",
            ENTITIES,
            "names of VOC's and COCO's classes; a plural in s or es counts",
        ),
        Departure(
            "*",
            "data.root",
            "the 4.3 million pairs of CC12M that name one of them (docs/DATA_README.md)",
            "data/cc12m",
            "what lies there: leave out the others before",
        ),
        Departure(
            "voc coco",
            "method.stage_1",
            "another image with a noun of the caption, from a list (datasets/clip_dataset.py)",
            "runs/ov_segmentor.stage_1",
            "the next image of the batch that shares one; without any an image adds nothing",
        ),
        Departure(
            "*",
            "data.real.crop",
            "windows of 448 every 224 pixels, the short side 448 (segmentation/configs)",
            "whole",
            "squares, seen at once",
        ),
        Departure(
            "*",
            "method.vit.num_layers",
            "blocks are left out at random in training, up to 10 % of the last (drop_path_rate)",
            12,
            "all blocks take part: those of transformers have no such rate",
        ),
    ),
    "ov_diff": (
        Departure(
            "*",
            "method.max_classes",
            "classes are chosen with CLIP, how is not in our sources",
            5,
            "the five nearest names, as SegCLIP's code keeps five",
        ),
        Departure("*", "method.points_per_image", NOT_STATED, 64, "COCO's 160 sets of places fit into memory"),
        Departure(
            "*",
            "method.diffusion.feature_side",
            NOT_STATED,
            32,
            "keys of nine layers are 7,680 wide; 64 x 64 of them take 126 MB for each image",
        ),
        Departure("*", "data.real.crop", "windows over the image, as in TCL's code", "whole", "squares, seen at once"),
    ),
    "deep_spectral": (
        Departure(
            "voc voc_crf",
            "data.root",
            "clusters of all 17,125 pictures (extract/data/VOC2012/lists/images.txt), cluster 0 with the background",
            "data/VOCdevkit",
            "of the images that are scored or labelled; the background is a cluster of its own",
        ),
        Departure(
            "voc voc_crf",
            "data.crop",
            "pictures of their own size (extract/extract.py)",
            "whole",
            "squares, so that pictures make batches",
        ),
        Departure("voc voc_crf", "data.mask_size", "scored at the size of each image", 320, TABLE_9),
        Departure(
            "voc voc_crf",
            "method.num_eigenvectors",
            "5 by Lanczos iteration (eigsh)",
            5,
            "all of the dense matrix, exactly; the first five are kept",
        ),
        Departure(
            "voc voc_crf",
            "method.restarts",
            "as many as scikit-learn has (10 then); over the data set one, in mini-batches of 4,096",
            8,
            "plain k-means, best of eight, for both",
        ),
        Departure("voc_stage2", "data.real.mask_size", "scored at the size of each image", 320, TABLE_9),
        Departure("voc_stage2", "seed", "1 (semantic-segmentation/config/base.yaml)", 0, "all recipes have 0"),
        Departure(
            "voc_stage2",
            "keep_every",
            "the checkpoint of the best mIoU on the validation images (semantic-segmentation/train.py)",
            None,
            LAST,
        ),
        Departure(
            "voc_stage2",
            "data.real.root",
            "trained on all pictures that are not for validation, 15,676 (semantic-segmentation/dataset/voc.py)",
            "data/VOCdevkit",
            "trainaug, as all recipes of VOC here",
        ),
        Departure(
            "voc_stage2",
            "data.real.crop",
            "pictures of their own size (semantic-segmentation/dataset)",
            "whole",
            f"squeezed into a square, {TABLE_9}",
        ),
        Departure(
            "voc_stage2", "optimizer.lr", "2e-4 in the README's command, 5e-3 in train.yaml", 2e-4, "the README's"
        ),
        Departure("voc_stage2", "batch_size", "96 in the README's command, 144 in base.yaml", 96, "the README's"),
        Departure("voc_stage2", "method.distort", "colours, grey and blur", True, "colours alone"),
        Departure(
            "voc_stage2",
            "data.root",
            "the README's steps go without the CRF",
            "data/generated/deep_spectral.voc_crf",
            "the number is that of the CRF's masks, by a guess",
        ),
    ),
    "diff_cut": (
        Departure(
            "*",
            "method.num_slots",
            "as many regions as the cuts find",
            32,
            "a tensor has a size; the smallest are given to their neighbours",
        ),
        Departure("*", "precision", "float16", "32", "one pass for each image: nothing to gain"),
        Departure(
            "*",
            "data.image_size",
            "the middle square enlarged to 1,024 at once (dataloader/iterator.py)",
            512,
            "stored at about its size and enlarged by the method",
        ),
        Departure(
            "*",
            "data.mask_size",
            "128, where void pixels count as background (datasets/prepare_pascal_voc_sem_seg.py, eval_diffcut.py)",
            128,
            "void counts nowhere, as in all scores here",
        ),
        Departure(
            "coco",
            "eval_split",
            "2,175 images of val2017 (dataloader/coco/val2017/Coco164kFull_Stuff_Coarse_7.txt)",
            "test",
            f"all 5,000, {TABLE_9}",
        ),
        Departure(
            "voc coco",
            "method.refinement",
            "10, after regions without a class were merged, known from the truth (eval_diffcut.py)",
            10,
            "of all regions: a method that is told the truth cannot be used",
        ),
    ),
    "emer_diff": (
        Departure(
            "*",
            "method.modulated_layer",
            "a cross-attention of the 16 x 16 block upwards",
            -1,
            "which of three is not in our sources",
        ),
        Departure("*", "method.blur", "a Gaussian filter", 4.0, "its width is not in our sources"),
    ),
    "mask_clip": (
        Departure(
            "voc coco",
            "method.background",
            "its README leaves the background out; GLASS does not say",
            "prompts",
            "table 9 counts a background, so someone has to be it",
        ),
        Departure(
            "*",
            "method.templates",
            "about 85 sentences around a name",
            TEMPLATES,
            "80 of our own wording: those are not ours to print",
        ),
        Departure(
            "*",
            "method.key_smoothing",
            "off in the ViT's config; affinities may be negative (maskclip_head.py)",
            None,
            "off here, too; where it is on, what is unlike counts nothing",
        ),
        Departure(
            "*",
            "data.crop",
            "pictures keep the ratio of their sides",
            "whole",
            f"squeezed into a square, {TABLE_9}",
        ),
        Departure("*", "data.interpolation", f"{OPENCV} (configs/_base_/datasets)", "bilinear", PILLOW),
        Departure("*", "data.mask_size", "scored at the size of each image", 320, TABLE_9),
        Departure(
            "*",
            "method.model",
            "ViT-B/16, shown images in ImageNet's mean and deviation (configs/_base_/datasets)",
            "openai/clip-vit-base-patch16",
            "in CLIP's own, with which it was trained",
        ),
        Departure(
            "*",
            "method.temperature",
            "cosines are enlarged to the size of the picture",
            100.0,
            "probabilities are, which masks of slots have to be",
        ),
        Departure(
            "voc voc_foreground",
            "method.class_names",
            "airplane and tv monitor, the rest as here (tools/maskclip_utils/prompt_engineering.py)",
            as_words(VOC_CLASSES),
            "VOC's own names, as words",
        ),
        Departure(
            "coco",
            "method.class_names",
            "tv, mouse, remote, the rest as here (tools/maskclip_utils/prompt_engineering.py)",
            as_words(COCO_CLASSES),
            "television, computer mouse, remote control: what is meant",
        ),
    ),
}


def value_of(run: Any, setting: str) -> Any:
    """The value of a dotted setting of a run: `optimizer.lr`, `data.settings.image`.

    Raises:
        AttributeError: or KeyError, if it has none of this name.
    """
    for name in setting.split("."):
        run = run[name] if isinstance(run, Mapping) else getattr(run, name)
    return run


def departures_of(name: str, recipe: Recipe) -> list[Departure]:
    """Those of a recipe, none of one that is not published."""
    method, _, row = name.partition(".")
    rows = DEPARTURES.get(method, ()) if recipe.published else ()
    return [one for one in rows if any(fnmatch(row, pattern) for pattern in one.recipes.split())]
