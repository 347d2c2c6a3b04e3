"""What came of loads: predicted against actual, what is learned from it, where it is kept."""
