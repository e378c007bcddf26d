"""Networks that timm lacks, registered with it: after importing this, `timm.create_model` knows them."""

from visiontool.pytorch.architectures import bn_inception, cifar_resnet, lenet, nin, torchvision_networks

__all__ = ["bn_inception", "cifar_resnet", "lenet", "nin", "torchvision_networks"]
