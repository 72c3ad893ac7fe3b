"""What runs inside a job's own process. The only part of the trainer that may import torch."""
