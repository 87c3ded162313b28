"""Kept pages to stored pages: batches, equal pages found, compression, in as many workers as pay."""
