"""What there is: devices, the memory they draw from, the installed engine.

    machine = measure.measure()                     # this machine, as it is now
    machine = stated.stated([24 << 30], 64 << 30)   # one that somebody describes
    machine.devices, machine.pools, machine.limits  # who draws, from where, and how much
    backend("CUDA").layout                          # a row of what is known of each GPU backend

`machine` is the data, `backends` the table of backends, `cards` that of cards by their names;
`nvidia` reads NVML, `host` the system, `control_groups` the kernel's, `engine_build` the engine's
files and its own list of devices. `estimates` says what a card is taken for that does not say
itself, `usable` what of it a plan may use. `measure` makes a machine of it all, `stated` one of a
user's words, whose cards `stated_gpus` reads.

Nothing is imported here: the command line reads cards, and need not know machines.
"""
