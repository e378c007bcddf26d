"""Networks with random weights under which every layer counts, to compare a model file with torch on."""

import torch
from torch import nn


def random_weights(model: nn.Module, x: torch.Tensor, bias: float = 0.1) -> nn.Module:
    """`model` in evaluation mode with seeded random weights: no layer is passed by, and pictures get different answers.

    New networks have near zero in the last norm of a residual block or its layer scale, so that a branch left out would
    hardly show. The batch norms are set for `x`, some normalized inputs (N, channels, H, W). `bias` is how large biases
    are: in very deep networks small ones let one picture's values grow from layer to layer, and the others' vanish.
    """
    torch.manual_seed(0)
    norms = [module for module in model.eval().modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    hooks = [norm.register_forward_pre_hook(_settle) for norm in norms]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                # What has the shape (1, tokens, D) is added, not multiplied.
                fan_in = parameter[0].numel() if parameter.shape[0] > 1 else 4
                parameter.normal_(std=(2 / fan_in) ** 0.5)
            elif name.endswith("bias"):
                parameter.normal_(std=bias)
            else:  # norms, layer scales
                parameter.uniform_(0.5, 1.5)
        model(x)
    for hook in hooks:
        hook.remove()
    return model


def _settle(norm: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    """Has `norm` bring its input as a whole to the order of 1, else values explode with depth.

    Statistics of each channel would magnify rounding, 1.3 times in each layer, where random weights happen to cancel.
    """
    square = inputs[0].square().mean()
    norm.running_mean.normal_(std=0.1 * square.sqrt().item())
    norm.running_var.uniform_(0.5, 1.5).mul_(square)
