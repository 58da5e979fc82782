"""Moshi: the temporal transformer, which Kyutai Speech-To-Text is made of too."""
