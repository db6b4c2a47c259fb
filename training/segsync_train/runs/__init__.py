"""What every run needs, whatever it trains: its folder, checkpoints, device and progress."""
