"""Weights that others have pretrained, brought into this project's checkpoints: `segsync-train import`."""
