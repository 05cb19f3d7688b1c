"""TFRecord files of tf.train.Example: records of files, features of records, columns of features."""
