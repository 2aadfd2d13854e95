"""Hosts that run the gadgets: in process, as external Gadgetron nodes, and as a server."""
