"""`graft`: the command. Talks gRPC only; starts services as subprocesses. One file per noun."""
