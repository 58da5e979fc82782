"""From logits to ids, for any model."""
