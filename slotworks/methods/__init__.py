"""The papers: one short file each, joining parts from `encoders`, `slots` and `decoders`."""

from slotworks.methods.slot_attention import SlotAttentionAutoencoder, SlotAttentionConfig

__all__ = ["SlotAttentionAutoencoder", "SlotAttentionConfig"]
