from backbone_tester import BackboneTester
from mmpretrain.models import MobileNetV2

from mmpse.models import SlimmableMobileNetV2


class TestMobileNetV2(BackboneTester):
    backbone, stock = SlimmableMobileNetV2, MobileNetV2
    sizes = {
        '0.35x': dict(widen_factor=0.35, out_indices=(1, 2, 4, 7)),
        '1x': dict(),
        '1.5x': dict(widen_factor=1.5, out_indices=(0, 6)),
        # neighbouring stages have equal widths: residual sums join them
        '0.1x': dict(widen_factor=0.1),
    }
    frozen = dict(frozen_stages=3, grids={'layer5*': dict(ratios=[1.0])})
