"""Fitting prompts to labelled images."""
