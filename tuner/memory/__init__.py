"""The bytes of any settings, per device."""
