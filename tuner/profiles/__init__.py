"""What is remembered per model and per machine."""
