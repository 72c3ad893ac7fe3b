"""The trainer: data sets in, jobs that train a LoRA adapter, versions published to the adapter store."""
