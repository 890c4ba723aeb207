"""The subcommands of `stope`, one file each; `stope.cli` puts them together."""
