"""What is made of what the core shows: metrics, traces, the access log. Nothing here changes what a request does."""
