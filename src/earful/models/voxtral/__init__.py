"""Voxtral Realtime: streaming speech-to-text with a chosen delay."""
