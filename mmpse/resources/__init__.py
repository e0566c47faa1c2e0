"""What subnets cost: FLOPs and parameters of the whole model; measured latency."""

from .cost import layer_costs, model_cost
