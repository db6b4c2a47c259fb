"""Scores of segmentations, the operating point, and what an encoder tells a linear classifier."""
