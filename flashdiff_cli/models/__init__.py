"""Model folders: found by name, loaded, converted from original checkpoints, published."""
