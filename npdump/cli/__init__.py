"""The process: arguments, streams, signals, exit codes. Nothing below imports it."""
