"""Live sessions: many streams in one batch, and what is read from them."""
