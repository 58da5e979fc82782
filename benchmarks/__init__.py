"""Speed and memory beside transformers; see README.md here."""
