"""Learnable prompts: spatial, semantic and their union."""
