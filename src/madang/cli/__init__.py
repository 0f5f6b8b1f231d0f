"""The command line. `table.py` holds every verb; a verb's module loads when it runs."""
