"""Models of OpenMMLab asked from outside: their outputs, units and losses."""
