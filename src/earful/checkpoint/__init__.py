"""Checkpoint folders: weight files, JSON fields, and tables that map their tensors onto a model."""
