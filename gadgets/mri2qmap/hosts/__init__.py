"""What runs gadgets: in this process, as external nodes of a Gadgetron server, and as a server."""
