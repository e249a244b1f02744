"""Layers with no opinion about slots."""
