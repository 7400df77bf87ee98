"""What the walks in C++ share: their compiler, the CPUs that they are for, and headers of products and threads."""
