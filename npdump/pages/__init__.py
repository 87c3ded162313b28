"""What each page is, and whether it stays."""
