"""Pretext tasks: 3D-SegSync and the peers of its paper."""
