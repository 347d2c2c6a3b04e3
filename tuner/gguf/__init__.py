"""A file's own words: parts, header, types, keys."""
