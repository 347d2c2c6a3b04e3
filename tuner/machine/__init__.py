"""What there is: devices, their memory, the installed engine."""
