"""Training: word-timed speech to packed examples, and the loop that learns from them."""
