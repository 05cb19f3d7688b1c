"""Native kernels for CPUs: rows of tables, and the in-batch softmax."""
