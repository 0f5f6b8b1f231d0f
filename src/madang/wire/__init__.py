"""The HTTP and file shapes, versioned. This room imports nothing of ours."""
