"""What is kept on the disk: prepared stores, cached features and latents, generated shards."""
