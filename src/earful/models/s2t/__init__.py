"""Speech2Text: transcription and translation of whole utterances, with beam search."""
