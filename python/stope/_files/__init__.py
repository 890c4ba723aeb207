"""Files and folders that are there whole or not at all, and what says that they are whole."""
