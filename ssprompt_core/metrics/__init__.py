"""Segmentation scores."""
