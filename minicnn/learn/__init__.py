"""To learn from: mistakes that were really made, and tests that catch them. Nothing in the library needs this package."""
