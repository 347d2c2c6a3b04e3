"""What llama.cpp will build from a file."""
