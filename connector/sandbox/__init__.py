"""Local look-alikes of the services the product talks to: the other side of the wire, for trying out and for tests."""
