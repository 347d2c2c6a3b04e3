"""The model process: the only code that imports llama_cpp. It may die, nothing else does then.

`client.EngineClient` is the door: it starts the process, loads, asks dry runs, generates, stops,
and tells a death as an `EngineError`. `protocol` has the messages between the two processes,
`probe` the devices that the engine sees. The process itself runs `worker.main`, which hands each
request to `service.Service`, and that to `loaded_model.LoadedModel`; `llama` wraps the library's C
functions, `sampler` those that choose tokens.

Nothing is imported here: the messages are needed where the client is not, the client where the
engine must not be.
"""
