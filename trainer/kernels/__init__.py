"""Native CPU kernels for rows of tables and for the in-batch softmax."""
