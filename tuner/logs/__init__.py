"""What other programs' logs say of a load: llama.cpp's own lines, whoever wrote them down.

    loads = read_loads(path)              # llama-server, ollama, LM Studio, llama-cpp-python, ...
    compared(model, loads[0], wishes)     # each buffer beside the predicted one

`buffers` knows the lines that state a buffer, which kvchat's own engine writes too; `stated` those
that say how the model was loaded; `loads` puts them together, load by load; `files` reads a log of
any size; `compared` predicts the same load.
"""
