"""Kyutai Speech-To-Text: streaming transcription from the codes of Mimi, with a fixed delay."""
