"""The gRPC face of the trainer: convert, delegate, convert back."""
