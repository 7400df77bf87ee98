"""A student learns from a teacher, from a peer, or from itself."""
