"""Training under Transformers: the Trainer, the callback and their settings."""
