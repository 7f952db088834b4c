"""The command `l2l`: parse, call, print, map errors to exit codes."""
