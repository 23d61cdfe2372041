"""Rules that the central side writes and every device applies."""
