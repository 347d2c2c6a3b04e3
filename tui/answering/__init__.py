"""One conversation and the answer that is being written."""
