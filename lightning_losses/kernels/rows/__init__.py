"""The walk over row-wise losses of a head, with or without a teacher."""
