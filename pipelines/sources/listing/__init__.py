"""Which files a source has."""
