"""What there is: devices, the memory they draw from, the installed engine.

    machine = measure.measure()                     # this machine, as it is now
    machine = measure.stated([24 << 30], 64 << 30)  # one that somebody describes
    machine.devices, machine.pools, machine.limits  # who draws, from where, and how much
    backend("CUDA").layout                          # a row of what is known of each GPU backend

`machine` is the data, `backends` the table of backends; `nvidia` reads NVML, `host` the system and
its control groups, `engine_build` the engine's files and its own list of devices, and `measure`
makes a machine of it all.
"""

from tuner.machine.backends import BACKENDS, Backend, backend
from tuner.machine.machine import Device, Machine, Pool, Process

__all__ = ["BACKENDS", "Backend", "Device", "Machine", "Pool", "Process", "backend"]
