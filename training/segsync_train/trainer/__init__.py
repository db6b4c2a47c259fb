"""Fine-tuning and pretraining: their loops, losses, schedules and validation."""
