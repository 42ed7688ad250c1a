"""Pretraining of the small SAM."""
