"""Linear operators with an adjoint and a gram."""
