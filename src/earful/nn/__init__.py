"""Leaf layers and the state that they stream with; no files, no audio, no sessions."""
