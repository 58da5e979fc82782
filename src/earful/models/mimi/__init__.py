"""Mimi: speech as 12.5 frames of a few codes per second, and back."""
