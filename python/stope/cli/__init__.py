"""The subcommands of `stope`, one file each; `stope.cli.app` puts them together."""
