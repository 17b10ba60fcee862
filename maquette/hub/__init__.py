"""Published libraries' files, read into parts of this house and written back. Knows names and formats; trains nothing."""
