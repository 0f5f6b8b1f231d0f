"""Contract suites that Madang publishes: whoever writes an engine subclasses the same tests."""
