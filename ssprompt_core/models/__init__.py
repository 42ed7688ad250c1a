"""Frozen promptable segmentation models."""
