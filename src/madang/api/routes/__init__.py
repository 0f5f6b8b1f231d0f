"""One file per noun: its handlers, and below them its lines of the table of routes."""
