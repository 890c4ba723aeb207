"""The operations: meaning and allocation in Python, arithmetic in the core."""
