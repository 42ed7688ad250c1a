"""Learned prompts after the study: prediction and transfer."""
