"""What subnets cost: FLOPs and parameters of the whole model; measured latency."""

from .cost import model_cost

__all__ = ['model_cost']
