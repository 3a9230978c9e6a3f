"""What later work is measured against: the seed project's networks, ResNet-18, DarkCovidNet.

Same contract as `cxr_model.network`; all want three channels, and grey is repeated.
"""

from torch import Tensor, nn

from cxr_model.blocks import AveragePool, ConvUnit, PostActivationBlock, conv3x3


class SeedResNet(nn.Module):
    """The seed project's residual network: what later work is measured against.

    Three input channels (grey is repeated), convolution to 16 channels and pooling, four
    post-activation residual layers of 64, 128, 256 and 512 channels with stride two,
    linear 64, linear ``num_classes``.
    """

    def __init__(self, *, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv3x3(3, 16), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2))
        channels = (16, 64, 128, 256, 512)
        self.stages = nn.Sequential(
            *(PostActivationBlock(channels[i], channels[i + 1], stride=2) for i in range(4))
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Sequential(nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, num_classes))

    @property
    def last_feature_map(self) -> nn.Module:
        return self.stages[-1]

    def forward(self, x_NCHW: Tensor) -> Tensor:
        features_NDhw: Tensor = self.stages(self.stem(_three_channels(x_NCHW)))
        logits: Tensor = self.head(self.pool(features_NDhw).flatten(1))
        return logits


class SeedConvNet(nn.Module):
    """The seed project's plain network: five stages of convolution, ReLU and pooling."""

    def __init__(self, *, num_classes: int) -> None:
        super().__init__()
        channels = (3, 16, 32, 64, 128, 256)
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(channels[i], channels[i + 1], 3, padding=1),
                    nn.ReLU(),
                    nn.MaxPool2d(2),
                )
                for i in range(5)
            )
        )
        # The seed's 7 x 7 map at 224 px, kept at other sizes so that the head's shape is fixed.
        self.pool = AveragePool(7)
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(256 * 7 * 7, 64), nn.ReLU(), nn.Linear(64, num_classes)
        )

    @property
    def last_feature_map(self) -> nn.Module:
        return self.stages[-1]

    def forward(self, x_NCHW: Tensor) -> Tensor:
        logits: Tensor = self.head(self.pool(self.stages(_three_channels(x_NCHW))))
        return logits


class ResNet18(nn.Module):
    """torchvision's ResNet-18 (He et al. 2015, arXiv:1512.03385), from scratch."""

    def __init__(self, *, num_classes: int) -> None:
        super().__init__()
        # Not above: no other network needs torchvision, and it takes half a second to load.
        from torchvision.models import resnet18

        self.body = resnet18(num_classes=num_classes)
        for module in self.body.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = False  # Captum reads activations after the forward pass

    @property
    def last_feature_map(self) -> nn.Module:
        last: nn.Module = self.body.layer4
        return last

    def forward(self, x_NCHW: Tensor) -> Tensor:
        logits: Tensor = self.body(_three_channels(x_NCHW))
        return logits


class DarkCovidNet(nn.Module):
    """Ozturk et al. 2020, doi:10.1016/j.compbiomed.2020.103792, rebuilt from its table 2.

    Convolution, norm and leaky ReLU throughout; triples of 3x3, 1x1 and 3x3 between
    poolings; a last 3x3 convolution to one map a class, flattened into a linear layer.
    """

    def __init__(self, *, num_classes: int) -> None:
        super().__init__()
        triples: list[nn.Module] = []
        for narrow, wide in ((16, 32), (32, 64), (64, 128), (128, 256)):
            triples += [
                nn.MaxPool2d(2),
                ConvUnit(narrow, wide, 3),
                ConvUnit(wide, narrow, 1),
                ConvUnit(narrow, wide, 3),
            ]
        self.stem = nn.Sequential(ConvUnit(3, 8, 3), nn.MaxPool2d(2), ConvUnit(8, 16, 3))
        self.stages = nn.Sequential(*triples)
        self.features = nn.Sequential(ConvUnit(256, 128, 1), ConvUnit(128, 256, 3))
        self.maps = ConvUnit(256, num_classes, 3)
        # The paper's 8 x 8 map at 256 px, kept at other sizes so that the head's shape is fixed.
        self.pool = AveragePool(8)
        self.head = nn.Linear(num_classes * 8 * 8, num_classes)

    @property
    def last_feature_map(self) -> nn.Module:
        return self.features

    def forward(self, x_NCHW: Tensor) -> Tensor:
        features_NDhw = self.features(self.stages(self.stem(_three_channels(x_NCHW))))
        logits: Tensor = self.head(self.pool(self.maps(features_NDhw)).flatten(1))
        return logits


def _three_channels(x_NCHW: Tensor) -> Tensor:
    return x_NCHW.expand(-1, 3, -1, -1) if x_NCHW.shape[1] == 1 else x_NCHW
