"""A backbone for plain PyTorch. This file needs nothing else and may be copied anywhere."""

import functools
import json

import torch
from torch import nn


class PlainBackbone(nn.Module):
    """The backbone in a JSON file of tools/export.py: layers of ``torch.nn`` with their inputs."""

    def __init__(self, path):
        super().__init__()
        with open(path, encoding='utf-8') as file:
            self.network = json.load(file)
        for layer in self.network['layers']:
            parent, (*path, name) = self, layer['name'].split('.')
            for part in path:
                parent._modules.setdefault(part, nn.Module())
                parent = parent._modules[part]
            parent.add_module(name, getattr(nn, layer['type'])(**layer['arguments']))

    def forward(self, images):
        values = [images]  # a layer with several inputs gets their sum
        for layer in self.network['layers']:
            x = functools.reduce(torch.add, [values[k] for k in layer['inputs']])
            values.append(self.get_submodule(layer['name'])(x))
        return tuple(values[k] for k in self.network['features'])
