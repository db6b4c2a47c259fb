"""Labelled and unlabelled images: where they lie, what is read of them, and patches to train on."""
