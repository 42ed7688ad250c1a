"""Data sets, procedural scenes and support draws."""
