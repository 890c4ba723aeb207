"""stope inside other people's frameworks: one module per framework, imported by name."""
