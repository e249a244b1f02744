"""The papers: one short file each, joining parts from `encoders`, `slots` and `decoders`."""

from slotworks.methods.blocks import Blocks, BlocksConfig
from slotworks.methods.clippy import CLIPpy, CLIPpyConfig
from slotworks.methods.comus import Comus, ComusConfig
from slotworks.methods.dataset_diffusion import DatasetDiffusion, DatasetDiffusionConfig
from slotworks.methods.deep_spectral import DeepSpectral, DeepSpectralConfig
from slotworks.methods.diff_cut import DiffCut, DiffCutConfig
from slotworks.methods.dinosaur import Dinosaur, DinosaurConfig, DinosaurStudent, DinosaurStudentConfig
from slotworks.methods.dspn import DSPN, DSPNConfig
from slotworks.methods.dvae import DVAE, DVAEConfig
from slotworks.methods.emer_diff import EmerDiff, EmerDiffConfig
from slotworks.methods.feature_kmeans import FeatureKMeans, FeatureKMeansConfig
from slotworks.methods.glass import Glass, GlassConfig
from slotworks.methods.mae import MAEConfig, MaskedAutoencoder
from slotworks.methods.mask_clip import MaskCLIP, MaskCLIPConfig
from slotworks.methods.ov_diff import OVDiff, OVDiffConfig
from slotworks.methods.ov_segmentor import OVSegmentor, OVSegmentorConfig
from slotworks.methods.painted_diffusion import PaintedDiffusion, PaintedDiffusionConfig
from slotworks.methods.savi import SAVi, SAViConfig
from slotworks.methods.seg_clip import SegCLIP, SegCLIPConfig
from slotworks.methods.set_prediction import SetPrediction, SetPredictionConfig
from slotworks.methods.slate import Slate, SlateConfig
from slotworks.methods.slot_attention import SlotAttentionAutoencoder, SlotAttentionConfig
from slotworks.methods.slot_diffusion import (
    SlotDiffusion,
    SlotDiffusionConfig,
    VideoSlotDiffusion,
    VideoSlotDiffusionConfig,
)
from slotworks.methods.slot_mlp import SlotMLPAutoencoder, SlotMLPAutoencoderConfig, SlotMLPConfig, SlotMLPSets
from slotworks.methods.spot import Spot, SpotConfig, SpotStudent, SpotStudentConfig
from slotworks.methods.stable_lsd import StableLSD, StableLSDConfig
from slotworks.methods.steve import Steve, SteveConfig
from slotworks.methods.tiny_clip import TinyCLIP, TinyCLIPConfig
from slotworks.methods.tiny_diffusion import TinyDiffusion, TinyDiffusionConfig
from slotworks.methods.vqvae import VQVAE, VQVAEConfig

__all__ = [
    "DSPN",
    "DVAE",
    "VQVAE",
    "Blocks",
    "BlocksConfig",
    "CLIPpy",
    "CLIPpyConfig",
    "Comus",
    "ComusConfig",
    "DSPNConfig",
    "DVAEConfig",
    "DatasetDiffusion",
    "DatasetDiffusionConfig",
    "DeepSpectral",
    "DeepSpectralConfig",
    "DiffCut",
    "DiffCutConfig",
    "Dinosaur",
    "DinosaurConfig",
    "DinosaurStudent",
    "DinosaurStudentConfig",
    "EmerDiff",
    "EmerDiffConfig",
    "FeatureKMeans",
    "FeatureKMeansConfig",
    "Glass",
    "GlassConfig",
    "MAEConfig",
    "MaskCLIP",
    "MaskCLIPConfig",
    "MaskedAutoencoder",
    "OVDiff",
    "OVDiffConfig",
    "OVSegmentor",
    "OVSegmentorConfig",
    "PaintedDiffusion",
    "PaintedDiffusionConfig",
    "SAVi",
    "SAViConfig",
    "SegCLIP",
    "SegCLIPConfig",
    "SetPrediction",
    "SetPredictionConfig",
    "Slate",
    "SlateConfig",
    "SlotAttentionAutoencoder",
    "SlotAttentionConfig",
    "SlotDiffusion",
    "SlotDiffusionConfig",
    "SlotMLPAutoencoder",
    "SlotMLPAutoencoderConfig",
    "SlotMLPConfig",
    "SlotMLPSets",
    "Spot",
    "SpotConfig",
    "SpotStudent",
    "SpotStudentConfig",
    "StableLSD",
    "StableLSDConfig",
    "Steve",
    "SteveConfig",
    "TinyCLIP",
    "TinyCLIPConfig",
    "TinyDiffusion",
    "TinyDiffusionConfig",
    "VQVAEConfig",
    "VideoSlotDiffusion",
    "VideoSlotDiffusionConfig",
]
