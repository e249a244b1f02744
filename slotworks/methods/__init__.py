"""The papers: one short file each, joining parts from `encoders`, `slots` and `decoders`."""

from slotworks.methods.deep_spectral import DeepSpectral, DeepSpectralConfig
from slotworks.methods.diff_cut import DiffCut, DiffCutConfig
from slotworks.methods.dinosaur import Dinosaur, DinosaurConfig
from slotworks.methods.emer_diff import EmerDiff, EmerDiffConfig
from slotworks.methods.feature_kmeans import FeatureKMeans, FeatureKMeansConfig
from slotworks.methods.glass import Glass, GlassConfig
from slotworks.methods.mask_clip import MaskCLIP, MaskCLIPConfig
from slotworks.methods.slot_attention import SlotAttentionAutoencoder, SlotAttentionConfig
from slotworks.methods.spot import Spot, SpotConfig, SpotStudent, SpotStudentConfig
from slotworks.methods.stable_lsd import StableLSD, StableLSDConfig

__all__ = [
    "DeepSpectral",
    "DeepSpectralConfig",
    "DiffCut",
    "DiffCutConfig",
    "Dinosaur",
    "DinosaurConfig",
    "EmerDiff",
    "EmerDiffConfig",
    "FeatureKMeans",
    "FeatureKMeansConfig",
    "Glass",
    "GlassConfig",
    "MaskCLIP",
    "MaskCLIPConfig",
    "SlotAttentionAutoencoder",
    "SlotAttentionConfig",
    "Spot",
    "SpotConfig",
    "SpotStudent",
    "SpotStudentConfig",
    "StableLSD",
    "StableLSDConfig",
]
