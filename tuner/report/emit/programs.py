"""The programs that a plan can be written for."""

PROGRAMS = ("llama-server", "llama-cli", "llama-cpp-python", "ollama", "lmstudio", "koboldcpp")
