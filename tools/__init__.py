"""Tools of the house itself: never shipped, never imported by the package."""
