"""Networks that timm lacks, registered with it: after importing this, `timm.create_model` knows them."""

from visiontool.pytorch.architectures import (
    alexnet,
    bn_inception,
    cifar_resnet,
    googlenet,
    lenet,
    nin,
    shufflenet,
    squeezenet,
)

__all__ = ["alexnet", "bn_inception", "cifar_resnet", "googlenet", "lenet", "nin", "shufflenet", "squeezenet"]
