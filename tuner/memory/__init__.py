"""The bytes of any settings, per device.

    estimator = Estimator(model, machine)           # once per model and machine
    estimator.footprint(settings)                   # what a search goes by: microseconds
    estimator.exact(settings)                       # what a plan shows: milliseconds
    reported_footprint(buffers, machine, predicted) # what the engine says, in the same terms

`estimator.Estimator` is the door. `placement` says which layer goes where and what its weights
take, `kv_cache` which rows a context keeps, `compute/` what the graphs need, `mapped_weights` how
the engine counts weights that stay pages of the file. `cache_types` has one row per type of K and
V, `footprint` the kinds of memory.

Nothing is imported here: the model process speaks of footprints but estimates none, and starts in
half the time without the estimator and its graphs.
"""
