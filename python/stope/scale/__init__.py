"""One run on many processes and machines."""
