"""What happens between the steps of the trainer: log, evaluate, refresh, write a checkpoint."""
