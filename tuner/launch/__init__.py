"""From a path to a running model: read, measure, plan, verify, load, remember.

    launcher = Launcher(LaunchRequest(path))
    for event in launcher.start(): ...              # Stage, Planned, Retry, and Ready at the end
    event.running.generate(messages, sampling)

`launcher` is what whoever wants a model holds on to, `events` is what it hears. `loading` is what
happens in between, `running` the loaded model: both are imported by the thread that loads, since
they bring the planner along, and what is drawn meanwhile need not wait for that.

All of it blocks and belongs in a thread; what happens is told as events.
"""

from tuner.launch.events import LaunchEvent, Look, Planned, Ready, Retry, Stage
from tuner.launch.launcher import Launcher

__all__ = ["LaunchEvent", "Launcher", "Look", "Planned", "Ready", "Retry", "Stage"]
