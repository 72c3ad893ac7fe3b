"""The merged fast path: engines of merged weights beside the backbone, and which requests they answer."""
