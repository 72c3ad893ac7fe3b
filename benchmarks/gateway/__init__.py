"""What our gRPC and HTTP cost beside the bare engine and beside `vllm serve`."""
