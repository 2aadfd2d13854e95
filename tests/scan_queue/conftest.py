from helpers.fixtures import fake_gadgets

__all__ = ["fake_gadgets"]
