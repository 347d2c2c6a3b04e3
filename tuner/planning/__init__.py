"""What is best: plans, their worth, the search, the reasons."""
