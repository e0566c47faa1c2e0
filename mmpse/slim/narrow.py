"""Units whose width the code of a model has as a number of its own."""

from __future__ import annotations

from .cutting import as_subnet
from .layout import Layout
from .watch import Forward


def stuck(layout: Layout, forward: Forward) -> tuple[str, list[str]] | None:
    """Where a forward fails that ran with full units, if each unit has half of its channels.

    Returns:
        The last layer that ran and put out channels of units, and these units; ``None`` if the
        forward runs, or no such layer did.
    """
    half = {
        name: max(1, unit.width // unit.step // 2) * unit.step
        for name, unit in layout.units.items()
    }
    ran: list[str] = []
    try:
        with as_subnet(forward.model, layout, half):
            forward(lambda name, *_: ran.append(name), lambda *_: None)
    except Exception:  # whatever code raises that gets fewer channels than it counts on
        for name in reversed(ran):
            sides = layout.layers.get(name)
            if sides is not None and (units := [s.unit for s in sides.outputs if s.unit]):
                return name, units
    return None
