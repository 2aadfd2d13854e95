"""The machine: threads, memory limits, devices, cache folders."""
