"""Shared by the C++ implementations: their compilation, the supported CPUs, and headers of products and threads."""
