"""The process and its machine: threads, memory limits, devices, folders; checks of values."""
