"""What came of loads: predicted against actual, what is learned from it, where it is kept."""

from tuner.profiles.actual import Actual
from tuner.profiles.lessons import Lessons
from tuner.profiles.profiles import MachineFacts, Profile, Profiles

__all__ = ["Actual", "Lessons", "MachineFacts", "Profile", "Profiles"]
