"""What gives answers to what was observed."""
