"""The machine: threads, memory limits, devices, folders."""
