"""One reader a format; each streams where it can and names file and line of what it refuses."""
