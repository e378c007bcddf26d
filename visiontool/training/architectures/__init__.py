"""Networks that timm lacks, registered with it: after importing this, `timm.create_model` knows them."""

from visiontool.training.architectures import lenet, squeezenet

__all__ = ["lenet", "squeezenet"]
