"""The only code that imports torch, torchvision and timm (the extra [train])."""
