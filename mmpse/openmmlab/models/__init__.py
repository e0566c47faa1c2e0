"""Models of OpenMMLab asked from outside: their outputs, units, losses, size and speed."""
