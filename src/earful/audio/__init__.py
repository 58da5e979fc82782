"""Samples and features: reading, resampling, re-chunking, log-mel."""
