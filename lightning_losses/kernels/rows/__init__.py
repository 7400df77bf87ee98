"""Row-wise losses of a head by chunks, with or without a teacher."""
